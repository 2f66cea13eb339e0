"""
What can be wrong in a spec, however it was made: by flags, by a file, or by a program.

Whether it can be had on this machine is for the drivers to say.
"""

from __future__ import annotations

import math
import posixpath
import re
import resource
import signal
from collections.abc import Iterator, Mapping, Sequence

from pysuper.capabilities import NAMES as CAPABILITIES
from pysuper.errors import ConfigError
from pysuper.shorthand import did_you_mean
from pysuper.spec import (
    DEFAULT_SECCOMP,
    NAMESPACES,
    UNCONFINED,
    BindMount,
    ContainerSpec,
    Limits,
    Rlimit,
    TmpfsMount,
)
from pysuper.units import MAX_CPU, MAX_INT, parse_cpuset, shown

__all__ = [
    "MAX_NAME",
    "NAME",
    "Problem",
    "command_problem",
    "derived_name",
    "problems",
    "share_problem",
    "sysctl_namespace",
    "user_problem",
    "validate",
    "validate_execution",
]

#: PID_MAX_LIMIT of 64-bit kernels, include/linux/threads.h; pids.max refuses more.
_PIDS_MAX = 2**22
#: The least quota that the scheduler takes (1 ms) in a period of 100 ms.
_CPU_MIN = 0.01
#: A name of a container, and its most characters.
NAME = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
MAX_NAME = 63
_MAX_HOSTNAME = 64
#: The highest id; the one above is "no id" in chown(2) and setresuid(2).
_ID_MAX = 2**32 - 2
#: Characters of the value of a kernel parameter; the kernel takes a page less one, proc_sys_call_handler().
MAX_SYSCTL = 4095
#: PATH_MAX of limits.h without its NUL, which counts bytes: the kernel may still refuse what is shorter.
_MAX_PATH = 4095
_SIGNALS = frozenset(map(int, signal.valid_signals()))
_IO_KEYS = ("rbps", "wbps", "riops", "wiops")

#: The path of an attribute of the spec, such as `("limits", "pids_max")`, and what is wrong with it.
Problem = tuple[tuple[str, ...], str]


def validate(spec: ContainerSpec) -> None:
    """
    Refuse a spec that is wrong whatever the machine.

    Raises:
        ConfigError: It names everything that is wrong.
    """
    _refuse(problems(spec))


def validate_execution(
    command: Sequence[str], environment: Mapping[str, str], working_dir: str | None, user: str | None
) -> None:
    """The same for one more command in a container; None is that of the first one."""
    _refuse(_execution_problems(command, environment, working_dir, user))


def _refuse(found: Iterator[Problem]) -> None:
    if messages := [f"{'.'.join(path)}: {message}" for path, message in found]:
        raise ConfigError("; ".join(messages))


def problems(spec: ContainerSpec) -> Iterator[Problem]:
    """Everything that is wrong, each with the path of the attribute."""
    yield from _name_problems(spec)
    yield from _command_problems(spec)
    yield from _namespace_problems(spec)
    yield from _privilege_problems(spec)
    yield from _limit_problems(spec.limits)
    yield from _rlimit_problems(spec.rlimits)
    yield from _mount_problems(spec.mounts)
    yield from _ending_problems(spec)


def _name_problems(spec: ContainerSpec) -> Iterator[Problem]:
    for attribute, name, most in (("name", spec.name, MAX_NAME), ("hostname", spec.hostname, _MAX_HOSTNAME)):
        if name is None:
            continue
        if not re.fullmatch(NAME, name):
            rule = "must be letters, digits, '_', '.' and '-', and begin with a letter or digit"
            yield (attribute,), f"{shown(name)} {rule}"
        elif len(name) > most:
            yield (attribute,), f"{shown(name)} has {len(name)} characters; {most} is the most"


def _execution_problems(
    command: Sequence[str], environment: Mapping[str, str], working_dir: str | None, user: str | None
) -> Iterator[Problem]:
    if message := command_problem(command):
        yield ("command",), message
    for name, value in environment.items():
        if not name or re.search(r"[=\0\s]", name) or _text_problem(name):
            yield ("environment",), f"{shown(name)} is not a name of a variable"
        elif message := _text_problem(value):
            yield ("environment",), f"the value of {shown(name)} {message}"
    if working_dir is not None and (message := _path_problem(working_dir)):
        yield ("working_dir",), message
    if user is not None and (message := user_problem(user)):
        yield ("user",), message


def _command_problems(spec: ContainerSpec) -> Iterator[Problem]:
    yield from _execution_problems(spec.command, spec.environment, spec.working_dir, spec.user)
    for capability in spec.capabilities:
        if capability not in CAPABILITIES:
            known = did_you_mean(capability, CAPABILITIES)
            yield ("capabilities",), f"there is no capability {shown(capability)}; {known}"
    if spec.seccomp not in (DEFAULT_SECCOMP, UNCONFINED) and (message := _path_problem(spec.seccomp)):
        yield ("seccomp",), f"{message}, nor {DEFAULT_SECCOMP} or {UNCONFINED}"


def command_problem(command: Sequence[str]) -> str | None:
    """What is wrong with an argument vector; an empty one is right."""
    if isinstance(command, str):
        return "is a string; give a list of strings, or use shlex.split"
    for argument in command:
        if not isinstance(argument, str):
            return f"the argument {shown(argument)} is not a string"
        if message := _text_problem(argument):
            return f"an argument {message}"
    return "the program is an empty string" if command and not command[0] else None


def derived_name(command: Sequence[str]) -> str:
    """The name of a container that is called as its command is."""
    program = re.sub(r"[^A-Za-z0-9_.-]+", "-", posixpath.basename(command[0])) if command else ""
    return program.strip("._-")[:MAX_NAME] or "run"


def _text_problem(text: str) -> str | None:
    """What is wrong with a string that becomes one of C."""
    if "\0" in text:
        return "contains a NUL character"
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return "contains a surrogate that stands for no byte"
    return None


def user_problem(user: str) -> str | None:
    """What is wrong with a `USER[:GROUP]`."""
    name, colon, group = user.partition(":")
    if _is_account(name) and (not colon or _is_account(group)):
        return None
    return f"{shown(user)} is not a user, such as nobody, 1000 or 1000:1000"


def _is_account(text: str) -> bool:
    """Whether a text may be a name of passwd(5) or group(5), or an id."""
    if re.fullmatch(r"[0-9]+", text):
        return len(text) <= len(str(_ID_MAX)) and int(text) <= _ID_MAX
    return text.isprintable() and bool(re.fullmatch(r"[^-:/\s][^:/\s]{0,255}", text))


def sysctl_namespace(name: str) -> str | None:
    """
    The namespace that a kernel parameter belongs to, sysctl(8); None is none, so that it is the host's.

    Kernel: Documentation/admin-guide/sysctl; ipc_namespaces(7), network_namespaces(7).
    """
    dotted = name.replace("/", ".")
    if dotted.startswith("net."):
        return "net"
    if dotted.startswith("fs.mqueue.") or re.fullmatch(r"kernel\.(?:msg|sem|shm)[a-z_]*", dotted):
        return "ipc"
    return "uts" if dotted in {"kernel.hostname", "kernel.domainname"} else None


def _privilege_problems(spec: ContainerSpec) -> Iterator[Problem]:
    for name, value in spec.sysctls.items():
        if not re.fullmatch(r"[A-Za-z0-9_.@:/-]{1,255}", name) or ".." in name or name.startswith(("/", ".")):
            yield ("sysctls",), f"{shown(name)} is not a kernel parameter, such as net.ipv4.ip_forward"
        elif sysctl_namespace(name) is None:
            yield ("sysctls",), f"{shown(name)} is not of a namespace; set it on the host: sysctl {name}=..."
        elif not value or _text_problem(value) or "\n" in value or len(value) > MAX_SYSCTL:
            yield ("sysctls",), f"the value of {shown(name)} is not a line of text"
    for device in spec.devices:
        if message := _path_problem(device.target):
            yield ("devices",), message
        elif not device.source.startswith("/") or _text_problem(device.source):
            yield ("devices",), f"the device {shown(device.source)} is not an absolute path"
    for path in spec.unmask:
        if path != "ALL" and (_text_problem(path) or not re.fullmatch(r"/(?:proc|sys)(?:/[^/]+)*", path)):
            yield ("unmask",), f"{shown(path)} is not ALL, or a path below /proc or /sys"


def share_problem(name: str) -> str | None:
    """What is wrong with a namespace of the host's that a container is to be in."""
    if name == "mnt":
        return "mnt cannot be shared: all mounts of a container are made in its own"
    return None if name in NAMESPACES else f"there is no namespace {shown(name)}; {did_you_mean(name, NAMESPACES)}"


def _namespace_problems(spec: ContainerSpec) -> Iterator[Problem]:
    yield from ((("share",), message) for name in sorted(spec.share) if (message := share_problem(name)))
    for name in spec.namespaces:
        if name not in NAMESPACES:
            yield ("namespaces",), f"there is no namespace {shown(name)}; {did_you_mean(name, NAMESPACES)}"
        elif name in spec.share:
            yield ("namespaces",), f"the {name} namespace is shared, so nobody makes one"
    if "uts" in spec.share and spec.hostname is not None:
        yield ("hostname",), "a container that shares the uts namespace has the host's name"


def _limit_problems(limits: Limits) -> Iterator[Problem]:
    checks = (
        ("pids_max", limits.pids_max, 1, _PIDS_MAX),
        ("memory_max", limits.memory_max, 1, MAX_INT),
        ("memory_swap_max", limits.memory_swap_max, 0, MAX_INT),
        ("cpu_max", limits.cpu_max, _CPU_MIN, MAX_CPU),
    )
    for name, value, least, most in checks:
        unlimited = name == "pids_max" and value == -1
        # Written so that nan, which no comparison holds for, is refused.
        if value is not None and not unlimited and not least <= value <= most:
            yield ("limits", name), f"{shown(value)} is not between {least} and {most}"
    if limits.cpuset_cpus is not None:
        try:
            parse_cpuset(limits.cpuset_cpus)
        except ValueError as error:
            yield ("limits", "cpuset_cpus"), str(error)
    for device, rates in limits.io_max.items():
        yield from _io_problems(device, rates)


def _io_problems(device: str, rates: Mapping[str, int]) -> Iterator[Problem]:
    path = ("limits", "io_max")
    if not re.fullmatch(r"[0-9]{1,7}:[0-9]{1,7}|/[^\0]+", device):
        yield path, f"{shown(device)} is not a device, such as 8:0 or /dev/sda"
    for key, rate in rates.items():
        if key not in _IO_KEYS:
            yield path, f"there is no {shown(key)}; {did_you_mean(key, _IO_KEYS)}"
        elif not 1 <= rate <= MAX_INT:
            yield path, f"{shown(rate)} is not between 1 and {MAX_INT}"


def _rlimit_problems(rlimits: tuple[Rlimit, ...]) -> Iterator[Problem]:
    known = [name[7:].lower() for name in dir(resource) if name.startswith("RLIMIT_")]
    seen: set[str] = set()
    for limit in rlimits:
        if limit.name not in known:
            hint = did_you_mean(limit.name, known)
            yield ("rlimits",), f"there is no resource limit {shown(limit.name)}; {hint}"
        elif limit.name in seen:
            yield ("rlimits",), f"{limit.name} is given twice"
        elif not (-1 <= limit.soft <= MAX_INT and -1 <= limit.hard <= MAX_INT):
            yield ("rlimits",), f"{limit.name} is not between 0 and {MAX_INT}, or -1"
        elif limit.hard != -1 and not 0 <= limit.soft <= limit.hard:
            both = f"the soft limit {limit.soft} is above the hard one {limit.hard}"
            yield ("rlimits",), f"{limit.name}: {both}"
        seen.add(limit.name)


def _mount_problems(mounts: tuple[BindMount | TmpfsMount, ...]) -> Iterator[Problem]:
    seen: set[str] = set()
    for mount in mounts:
        target = posixpath.normpath(mount.target)
        if message := _path_problem(mount.target):
            yield ("mounts",), message
        elif target == "/":
            yield ("mounts",), "a mount at / would hide the root file system; choose it with rootfs"
        elif target in seen:
            yield ("mounts",), f"{shown(target)} is mounted twice"
        seen.add(target)
        if isinstance(mount, BindMount):
            if not mount.source.startswith("/") or _text_problem(mount.source):
                yield ("mounts",), f"the source {shown(mount.source)} is not an absolute path"
        else:
            if mount.size is not None and not 1 <= mount.size <= MAX_INT:
                yield ("mounts",), f"the size {mount.size} is not between 1 and {MAX_INT}"
            if not 0 <= mount.mode <= 0o7777:
                yield ("mounts",), f"the mode {mount.mode:o} is not between 0 and 7777"


def _path_problem(path: str) -> str | None:
    """What is wrong with a path in the container."""
    if len(path) > _MAX_PATH:
        return f"{shown(path)} has {len(path)} characters; {_MAX_PATH} is the most"
    if message := _text_problem(path):
        return f"{shown(path)} {message}"
    if not path.startswith("/"):
        return f"{shown(path)} is not an absolute path"
    if path.startswith("//"):  # which POSIX leaves open, so that nobody makes one of the two
        return f"{shown(path)} begins with two slashes"
    if ".." in path.split("/"):
        return f"{shown(path)} contains '..'"
    return None


def _ending_problems(spec: ContainerSpec) -> Iterator[Problem]:
    if spec.notify_socket is not None and (message := _text_problem(spec.notify_socket)):
        yield ("notify_socket",), f"{shown(spec.notify_socket)} {message}"
    if spec.stop_signal not in _SIGNALS:
        yield ("stop_signal",), f"there is no signal {spec.stop_signal}"
    if not 0 <= spec.stop_timeout < math.inf:
        yield ("stop_timeout",), f"{spec.stop_timeout} is not a number of seconds"
    if spec.timeout is not None and not 0 < spec.timeout < math.inf:
        yield ("timeout",), f"{spec.timeout} is not a number of seconds above 0"
