"""
What the user asked for: frozen values without behaviour, in the kernel's words.

    ContainerSpec(name="shell", command=("/bin/bash",), limits=Limits(pids_max=20))

Units: bytes are int, durations are float seconds, CPU is in cores.
"""

from __future__ import annotations

import resource
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import attrs

from pysuper.capabilities import DEFAULT as DEFAULT_CAPABILITIES

__all__ = [
    "DEFAULT_PIDS_MAX",
    "DEFAULT_SECCOMP",
    "NAMESPACES",
    "UNCONFINED",
    "BindMount",
    "ContainerSpec",
    "Device",
    "DriverChoice",
    "Limits",
    "Rlimit",
    "TmpfsMount",
]

#: What a container gets that asked for no pids_max.
DEFAULT_PIDS_MAX = 1024

#: Open files of each process of a container that asked for no other number, if its caller may have as many.
_NOFILE = 1024

#: What `ContainerSpec.seccomp` can be, other than a path.
DEFAULT_SECCOMP, UNCONFINED = "default", "unconfined"

#: The kernel's namespaces, in the order in which a container enters them.
NAMESPACES = ("mnt", "pid", "net", "uts", "ipc", "user", "cgroup", "time")


@attrs.frozen
class DriverChoice:
    """
    A driver by its entry-point name, with the options of its own TOML table.

    `parse` takes the short form of the command line, `NAME[:ARGUMENT]`; which option the argument sets is the
    driver's to say (`Plugin.argument`).

    Attributes:
        distribution: Whose driver is meant, where several distributions have one of that name; None is the only one.
    """

    name: str
    options: Mapping[str, Any] = attrs.field(factory=dict)
    argument: str | None = None
    distribution: str | None = None

    @classmethod
    def parse(cls, text: str) -> DriverChoice:
        """`tar:/images/debian.tar.gz` is the driver `tar` with that argument."""
        name, colon, argument = text.partition(":")
        return cls(name, argument=argument if colon else None)

    def __str__(self) -> str:
        return self.name if self.argument is None else f"{self.name}:{self.argument}"


@attrs.frozen(kw_only=True)
class Limits:
    """
    Limits of the container's cgroup, named as cgroup v2 names its files; None is unlimited.

    Attributes:
        pids_max: Processes and threads; -1 is unlimited. None is a guard, not a promise: `DEFAULT_PIDS_MAX` where
            there is a pids controller, and nothing where there is none.
        memory_max: Bytes. Above it the kernel reclaims, then kills inside the cgroup.
        memory_swap_max: Bytes of swap on top of `memory_max`; 0 is none.
        cpu_max: Cores; 0.5 is half the time of one.
        cpuset_cpus: Cores by number, `0-2,4`.
        io_max: Per device (`8:0` or a path) a mapping of `rbps`, `wbps`, `riops`, `wiops` to a number a second.
    """

    pids_max: int | None = None
    memory_max: int | None = None
    memory_swap_max: int | None = None
    cpu_max: float | None = None
    cpuset_cpus: str | None = None
    io_max: Mapping[str, Mapping[str, int]] = attrs.field(factory=dict)

    @property
    def wanted(self) -> tuple[str, ...]:
        """The names of the limits that the user set."""
        return tuple(a.name for a in attrs.fields(Limits) if getattr(self, a.name) not in (None, {}))


@attrs.frozen
class Rlimit:
    """A resource limit of the process, getrlimit(2): `nofile`, soft and hard value; -1 is unlimited."""

    name: str
    soft: int
    hard: int


def _default_rlimits() -> tuple[Rlimit, ...]:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = _NOFILE if most == resource.RLIM_INFINITY else min(_NOFILE, most)
    return (Rlimit("nofile", count, count),)


@attrs.frozen(kw_only=True)
class BindMount:
    """
    A file or directory of the host, visible in the container at `target` (absolute).

    The path of the source must not lead through symbolic links: they are followed before anything runs, as the command
    line and the TOML file do, and not when a container starts, when another one may have put its own there.
    """

    source: str
    target: str
    read_only: bool = False


@attrs.frozen(kw_only=True)
class TmpfsMount:
    """A memory file system at `target` (absolute); `size` in bytes, None is the kernel's half of RAM."""

    target: str
    size: int | None = None
    mode: int = 0o1777


@attrs.frozen(kw_only=True)
class Device:
    """
    A device of the host that the container may read and write.

    Attributes:
        source: The device node of the host, or a directory of which all nodes are meant.
        target: Where it is in the container.
    """

    source: str
    target: str


@attrs.frozen(kw_only=True)
class ContainerSpec:
    """
    One container, as the user asked for it.

    Attributes:
        name: Also the default host name: letters, digits, `_`, `.` and `-`, at most 63, first a letter or digit.
        command: The argument vector; empty is the login shell of `user` in the container.
        environment: On top of PATH, HOME, TERM and LANG; nothing else of the host's environment is passed.
        share: Namespaces (`NAMESPACES`) that the container shares with the supervisor.
        namespaces: Which driver makes a namespace, where it is not the one that is called as the kernel calls it.
        user: `NAME|UID[:GROUP|GID]` as the container's own /etc/passwd knows it; None is its root.
        rlimits: Of each process; 1024 open files if nothing else is said, or what the caller may have if that is less.
        mounts: In the given order.
        capabilities: What the container's root may do, capabilities(7), without `CAP_`.
        seccomp: Which system calls its processes may make: `default`, `unconfined` (all), or a JSON file (absolute) as
            docker and the OCI runtime specification have it.
        landlock: Rules of the kernel's that stand behind the namespaces (`pysuper.landlock`), where it has them.
        no_new_privileges: No execve gains privileges, PR_SET_NO_NEW_PRIVS(2const).
        devices: Beside those of the private /dev.
        sysctls: Settings of the container's own namespaces, such as `net.ipv4.ip_forward`; sysctl(8).
        unmask: Paths below /proc and /sys that are neither hidden nor made read-only; `ALL` are all.
        init: PID 1 is a small reaper that runs the command as its child; otherwise the command is PID 1.
        terminal: The command gets a pseudo-terminal of its own.
        terminal_size: Its rows and columns at the start; None is unknown, which the kernel writes as 0 and 0.
        stop_signal: What `stop` sends first; after `stop_timeout` seconds everything left is killed.
        notify_socket: A unix datagram socket of the host at which the container may report, sd_notify(3); it finds it
            in $NOTIFY_SOCKET. None is none.
        timeout: Seconds after which a running container is stopped, or None.
        best_effort: A limit that cannot be had is left out with a warning instead of failing the start.
    """

    name: str
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = attrs.field(factory=lambda: MappingProxyType({}))
    rootfs: DriverChoice = DriverChoice("host")
    cgroup: DriverChoice = DriverChoice("auto")
    network: DriverChoice = DriverChoice("none")
    share: frozenset[str] = frozenset()
    namespaces: Mapping[str, DriverChoice] = attrs.field(factory=lambda: MappingProxyType({}))
    limits: Limits = Limits()
    rlimits: tuple[Rlimit, ...] = attrs.field(factory=_default_rlimits)
    mounts: tuple[BindMount | TmpfsMount, ...] = ()
    capabilities: tuple[str, ...] = DEFAULT_CAPABILITIES
    seccomp: str = DEFAULT_SECCOMP
    landlock: bool = True
    no_new_privileges: bool = True
    devices: tuple[Device, ...] = ()
    sysctls: Mapping[str, str] = attrs.field(factory=lambda: MappingProxyType({}))
    unmask: tuple[str, ...] = ()
    read_only: bool = False
    working_dir: str = "/"
    user: str | None = None
    hostname: str | None = None
    init: bool = True
    terminal: bool = False
    terminal_size: tuple[int, int] | None = None
    stop_signal: int = 15
    stop_timeout: float = 10.0
    notify_socket: str | None = None
    timeout: float | None = None
    best_effort: bool = False
