"""
The short forms that docker and Compose users write: `SRC:DST:ro`, `nofile=1024:2048`, `NAME=VALUE`.

The command line and the TOML file share them. Every function raises ValueError with one line.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

import attrs

from pysuper.spec import DEFAULT_SECCOMP, UNCONFINED, BindMount, Device, DriverChoice, Rlimit, TmpfsMount
from pysuper.units import parse_count, parse_size, shown

__all__ = [
    "SECURITY_OPTION",
    "Mount",
    "absolute_rootfs",
    "absolute_security_option",
    "absolute_source",
    "did_you_mean",
    "host_path",
    "make_mount",
    "merge_rlimits",
    "parse_device",
    "parse_environment",
    "parse_mode",
    "parse_mount",
    "parse_namespace",
    "parse_security_option",
    "parse_soft_hard",
    "parse_sysctl",
    "parse_tmpfs",
    "parse_ulimit",
    "parse_volume",
    "read_env_file",
]

Mount = BindMount | TmpfsMount

_MOUNT_FIELDS = {
    "bind": ("type", "source", "target", "read_only"),
    "tmpfs": ("type", "target", "size", "mode"),
}
#: What docker's `--mount` calls the fields of `make_mount`.
_MOUNT_ALIASES = {
    "src": "source",
    "dst": "target",
    "destination": "target",
    "readonly": "read_only",
    "ro": "read_only",
    "tmpfs-size": "size",
    "tmpfs-mode": "mode",
}


#: How `parse_security_option` has it; docker's older files have a colon.
SECURITY_OPTION = "unmask[=:].+|seccomp[=:].+|landlock[=:](?:on|off)|no-new-privileges(?:[=:](?:true|false|1|0))?"
_SECCOMP_WORDS = (DEFAULT_SECCOMP, UNCONFINED)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """What follows after a word that is not known: the nearest one that is, or all of them, or a line of them."""
    import difflib  # needed only when something is wrong
    import textwrap

    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1)
    names = textwrap.shorten(", ".join(known), 200, placeholder=" ...")
    return f"did you mean {near[0]!r}?" if near else f"there are {names or 'none'}"


def parse_volume(text: str) -> BindMount:
    """`SRC:DST[:ro|rw]`."""
    source, target, mode, *rest = *text.split(":"), "", ""
    if not source or not target or len(rest) > 2 or mode not in ("", "ro", "rw"):
        raise ValueError(f"{shown(text)} is not SOURCE:TARGET or SOURCE:TARGET:ro")
    return BindMount(source=source, target=target, read_only=mode == "ro")


def parse_tmpfs(text: str) -> TmpfsMount:
    """`TARGET[:size=64M,mode=1777]`."""
    target, _, options = text.partition(":")
    fields = _fields(options) if options else {}
    mount = make_mount({"type": "tmpfs", "target": target, **fields})
    assert isinstance(mount, TmpfsMount)
    return mount


def parse_mount(text: str) -> Mount:
    """`type=bind,source=SRC,target=DST,readonly` or `type=tmpfs,target=DST,tmpfs-size=64M`."""
    return make_mount({_MOUNT_ALIASES.get(k, k): v for k, v in _fields(text).items()})


def _fields(text: str) -> dict[str, Any]:
    """`a=1,b` is `{"a": "1", "b": True}`."""
    parts = (part.partition("=") for part in text.split(","))
    return {key: value if equals else True for key, equals, value in parts}


def make_mount(fields: Mapping[str, Any]) -> Mount:
    """
    A mount of named fields, strings or as TOML has them.

    Args:
        fields: `type`, which is `bind` if it is missing, and what `BindMount` or `TmpfsMount` have.
    """
    kind = fields.get("type", "bind")
    if not isinstance(kind, str) or kind not in _MOUNT_FIELDS:
        raise ValueError(f"{shown(kind)} is not a type of mount, such as bind or tmpfs")
    for key, value in fields.items():
        if key not in _MOUNT_FIELDS[kind]:
            known = did_you_mean(key, _MOUNT_FIELDS[kind])
            raise ValueError(f"a {kind} mount has no {shown(key)}; {known}")
        if key in ("source", "target") and not (isinstance(value, str) and value):
            raise ValueError(f"{key} is not a path: {shown(value)}")
    needed = {"bind": ("source", "target"), "tmpfs": ("target",)}[kind]
    if missing := [key for key in needed if key not in fields]:
        raise ValueError(f"a {kind} mount needs {' and '.join(missing)}")
    if kind == "bind":
        return BindMount(
            source=fields["source"],
            target=fields["target"],
            read_only=_flag(fields.get("read_only", False)),
        )
    return TmpfsMount(
        target=fields["target"],
        size=parse_size(fields["size"]) if "size" in fields else None,
        mode=parse_mode(fields.get("mode", 0o1777)),
    )


def _flag(value: object) -> bool:
    words = {True: True, False: False, "true": True, "1": True, "false": False, "0": False}
    if not isinstance(value, str | bool) or value not in words:
        raise ValueError(f"{shown(value)} is not true or false")
    return words[value]


def parse_mode(value: object) -> int:
    """Permission bits; in a string they are octal."""
    try:
        mode = int(value, 8) if isinstance(value, str) else value
    except ValueError:
        mode = None
    if not isinstance(mode, int) or isinstance(mode, bool) or not 0 <= mode <= 0o7777:
        raise ValueError(f"{shown(value)} is not a mode, such as 1777 (octal)")
    return mode


def parse_ulimit(text: str) -> Rlimit:
    """`NAME=SOFT[:HARD]`."""
    name, _, values = text.partition("=")
    if not name or not values:
        raise ValueError(f"{shown(text)} is not NAME=SOFT[:HARD], such as nofile=1024:2048")
    return Rlimit(name, *parse_soft_hard(values))


def parse_soft_hard(value: str | int) -> tuple[int, int]:
    """`SOFT[:HARD]`."""
    soft, colon, hard = str(value).partition(":")
    if not soft or (colon and not hard):
        raise ValueError(f"{shown(value)} is not SOFT[:HARD], such as 1024:2048")
    return parse_count(soft, zero=True), parse_count(hard or soft, zero=True)


def parse_environment(entries: Iterable[str], host: Mapping[str, str] = os.environ) -> dict[str, str]:
    """`NAME=VALUE`; `NAME` alone has the host's value, and is left out if the host has none."""
    split = [entry.partition("=") for entry in entries]
    given = {name: value if equals else host.get(name) for name, equals, value in split}
    return {name: value for name, value in given.items() if value is not None}


def read_env_file(path: str, host: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Lines as in `parse_environment`; empty lines and those that begin with `#` do not count."""
    try:
        with open(path, errors="surrogateescape") as file:
            lines = [line.lstrip().rstrip("\n") for line in file]
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    return parse_environment((line for line in lines if line and not line.startswith("#")), host)


def host_path(text: str, directory: str) -> str:
    """An absolute path: `text` is relative to `directory`, and `~` is the user's home."""
    return str(PurePath(directory, os.path.expanduser(text)))


def _real_path(text: str, directory: str) -> str:
    """
    A `host_path` without links.

    They are followed here and now, while the user's words are read, and not when a container starts: by then another
    one may have put links of its own there.
    """
    return os.path.realpath(host_path(text, directory))


def absolute_source(mount: Mount, directory: str) -> Mount:
    """The mount, with a source that is a `host_path` without links."""
    if isinstance(mount, TmpfsMount):
        return mount
    return attrs.evolve(mount, source=_real_path(mount.source, directory))


def absolute_rootfs(choice: DriverChoice, directory: str) -> DriverChoice:
    """The choice; its argument, unless that is a URL, and its option `path` become `host_path`s without links."""
    options = dict(choice.options)
    if isinstance(options.get("path"), str):
        options["path"] = _real_path(options["path"], directory)
    argument = choice.argument
    if argument == "" or options.get("path") == "":
        raise ValueError(f"the path of {choice.name} is empty; give that of a root, such as {choice.name}:/srv/root")
    if argument is not None and "://" not in argument:
        argument = _real_path(argument, directory)
    return attrs.evolve(choice, options=options, argument=argument)


def parse_namespace(text: str) -> tuple[str, DriverChoice]:
    """`NAMESPACE=DRIVER[:ARGUMENT]`."""
    namespace, equals, driver = text.partition("=")
    if not equals or not driver:
        raise ValueError(f"{shown(text)} is not NAMESPACE=DRIVER[:ARGUMENT], such as time=uptime:7d")
    return namespace, DriverChoice.parse(driver)


def parse_device(text: str) -> Device:
    """`SOURCE[:TARGET][:rwm]`."""
    source, *rest = text.split(":")
    access = rest.pop() if rest and rest[-1] and not rest[-1].startswith("/") else "rwm"
    if not source.startswith("/") or len(rest) > 1 or (rest and not rest[0]):
        raise ValueError(f"{shown(text)} is not SOURCE or SOURCE:TARGET, such as /dev/fuse")
    if sorted(access) != sorted("rwm"):
        raise ValueError(f"{shown(text)}: a device is given for reading and writing; leave {shown(access)} out")
    source = source.rstrip("/")
    return Device(source=source, target=(rest[0].rstrip("/") if rest else source))


def parse_sysctl(text: str) -> tuple[str, str]:
    """`NAME=VALUE`."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ValueError(f"{shown(text)} is not NAME=VALUE, such as net.ipv4.ip_forward=1")
    return name.strip(), value.strip()


def parse_security_option(text: str) -> tuple[str, Any]:
    """
    `unmask=PATH`, `seccomp=default|unconfined|FILE`, `landlock=on|off`, `no-new-privileges[=true|false]`.

    Returns:
        The attribute of a spec, and its value.
    """
    name, _, value = text.partition("=" if "=" in text else ":")
    match name:
        case "seccomp" if value:
            return "seccomp", DEFAULT_SECCOMP if value == "builtin" else value  # docker's word for its own
        case "landlock" if value in {"on", "off"}:
            return "landlock", value == "on"
        case "unmask" if value:
            return "unmask", value if value == "ALL" else value.rstrip("/")
        case "no-new-privileges":
            return "no_new_privileges", _flag(value or True)
    known = "seccomp=default|unconfined|FILE, landlock=on|off, unmask=PATH|ALL or no-new-privileges=true|false"
    raise ValueError(f"{shown(text)} is not {known}")


def absolute_security_option(option: tuple[str, Any], directory: str) -> tuple[str, Any]:
    """The option, with a `host_path` for a file of seccomp's."""
    name, value = option
    is_file = name == "seccomp" and value not in _SECCOMP_WORDS
    return name, host_path(value, directory) if is_file else value


def merge_rlimits(*limits: Rlimit) -> tuple[Rlimit, ...]:
    """Each name once; the last one counts."""
    return tuple({limit.name: limit for limit in limits}.values())
