"""
What docker's words for privileges mean for a spec; the command line and files share them.

    grant(spec, cap_add=["NET_RAW"], security_opt=[("unmask", "/proc/kcore")])
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from pysuper.capabilities import DEFAULT, NAMES
from pysuper.shorthand import did_you_mean
from pysuper.spec import UNCONFINED, ContainerSpec, Device, DriverChoice

__all__ = ["IDS", "PRIVILEGED", "USERNS", "SecurityOption", "changed_capabilities", "grant"]

#: An option of `--security-opt`: the attribute of the spec, and a value for it.
SecurityOption = tuple[str, Any]

#: How many ids there can be in a user namespace, as the driver `user` calls it.
IDS = ("range", "one")
#: What `--userns` can be.
USERNS = ("host", "own", *IDS)

#: What `--privileged` stands for, beside all capabilities and the host's user namespace.
PRIVILEGED: tuple[SecurityOption, ...] = (
    ("unmask", "ALL"),
    ("seccomp", UNCONFINED),
    ("landlock", False),
    ("no_new_privileges", False),
)


def grant(
    spec: ContainerSpec,
    *,
    cap_add: Iterable[str] = (),
    cap_drop: Iterable[str] = (),
    security_opt: Iterable[SecurityOption] = (),
    devices: Iterable[Device] = (),
    sysctls: Mapping[str, str] | None = None,
    userns: str | None = None,
    privileged: bool = False,
) -> ContainerSpec:
    """
    The spec, with more privileges or less.

    Args:
        userns: `host` shares the user namespace of this machine, `own` does not; nor do `range` and `one`, which say
            how many ids there are in it.
        privileged: Everything at once.

    Raises:
        ValueError: There is no such capability.
    """
    options = (*(PRIVILEGED if privileged else ()), *security_opt)
    settings = {name: value for name, value in options if name != "unmask"}
    unmask = dict.fromkeys((*spec.unmask, *(value for name, value in options if name == "unmask")))
    host = userns == "host" or (privileged and userns is None)
    given = {device.target: device for device in (*spec.devices, *devices)}
    if privileged:
        given.setdefault("/dev", Device(source="/dev", target="/dev"))
    namespaces = spec.namespaces
    if userns in IDS:
        user = namespaces.get("user", DriverChoice("user"))
        namespaces = {**namespaces, "user": attrs.evolve(user, options={**user.options, "ids": userns})}
    return attrs.evolve(
        spec,
        capabilities=changed_capabilities(
            ["ALL"] if privileged else cap_add, cap_drop, spec.capabilities, all_of=_own() if host else None
        ),
        devices=tuple(given.values()),
        sysctls={**spec.sysctls, **(sysctls or {})},
        namespaces=namespaces,
        share=spec.share | {"user"} if host else spec.share - {"user"} if userns else spec.share,
        unmask=tuple(unmask),
        **settings,
    )


def changed_capabilities(
    add: Iterable[str] = (),
    drop: Iterable[str] = (),
    base: Iterable[str] = DEFAULT,
    all_of: Iterable[str] | None = None,
) -> tuple[str, ...]:
    """
    A set of capabilities, with some more and some less.

    What is both added and dropped is dropped; but `drop=["ALL"]` is what to begin with, as docker has it.

    Args:
        all_of: What `ALL` adds; None is all that this kernel has.

    Raises:
        ValueError: There is no such capability.
    """
    more, less = [_known(name) for name in add], [_known(name) for name in drop]
    kept = set() if "ALL" in less else set(base)
    kept |= set(NAMES[: _last() + 1] if all_of is None else all_of) if "ALL" in more else set(more)
    return tuple(name for name in NAMES if name in kept and name not in less)


def _known(text: str) -> str:
    """`SYS_ADMIN` for `cap_sys_admin`."""
    name = text.strip().upper().removeprefix("CAP_")
    if name != "ALL" and name not in NAMES:
        raise ValueError(f"there is no capability {text!r}; {did_you_mean(name, NAMES)}")
    return name


def _own() -> tuple[str, ...]:
    """What this process has, and so can give away in its own user namespace."""
    with open("/proc/self/status") as file:
        (bits,) = (int(line.split()[1], 16) for line in file if line.startswith("CapPrm:"))
    return tuple(name for number, name in enumerate(NAMES) if bits >> number & 1)


def _last() -> int:
    """The number of the last one that the kernel knows; proc_sys_kernel(5)."""
    with open("/proc/sys/kernel/cap_last_cap") as file:
        return int(file.read())
