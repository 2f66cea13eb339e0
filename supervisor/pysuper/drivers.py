"""
The interfaces of drivers: the mechanisms that a container is made of, each an entry point that can be swapped.

A complete driver, with its registration in the pyproject.toml of its distribution:

    [project.entry-points."pysuper.namespace"]
    uts = "my_package:UtsNamespace"

    class UtsNamespace(NamespaceDriver):
        \"\"\"An own host name.\"\"\"

        def contribute(self, plan: PlanBuilder) -> None:
            plan.namespace("uts")
            plan.add(Phase.NAMESPACES, SetHostname(hostname=plan.context.spec.hostname or "box"))

A driver acts at two places. *Child side* is data: `contribute` adds steps to the plan, and the launcher runs them in
the new process; no code of a driver ever runs there. *Host side* is code: `host` is an asynchronous context manager
in the supervisor, entered before the launch and left after the last process of the container is gone.

    host:   enter drivers ---- launch ------- at_barrier ---------- receipts taken --- running --- leave drivers
    child:                     clone, join cgroup, steps ... wait ... steps ... wait, exec

A driver is made once a container, with its options structured from the container's TOML table. It is entered in the
order rootfs, cgroup, network, namespaces, and left in reverse, also when the start failed or was cancelled half way.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, ClassVar, Literal

import attrs
import trio

from pysuper.plan import Context, IdMap, Phase, Plan, PlanBuilder

__all__ = [
    "API_VERSION",
    "Cgroup",
    "CgroupDriver",
    "Context",
    "Detection",
    "Driver",
    "IdMap",
    "Launched",
    "Launcher",
    "NamespaceDriver",
    "NetworkDriver",
    "NoOptions",
    "Phase",
    "PlanBuilder",
    "RootfsDriver",
    "Statistics",
    "Trace",
]

#: The version of these interfaces; a driver that declares another one is refused.
API_VERSION = 1


@attrs.frozen
class Detection:
    """Whether a driver can work on this machine for this user, and if not, why and what would help."""

    works: bool
    reason: str = ""


@attrs.frozen
class NoOptions:
    """The options of a driver that has none."""


@attrs.frozen
class Trace:
    """
    Something that stays on the machine if the supervisor is killed; the launcher then removes it.

    `cgroup` is a cgroup directory, in which everything is killed first; `directory` is removed with its content.
    """

    kind: Literal["cgroup", "directory"]
    path: str


class Driver(ABC):
    """
    The base of all drivers.

    Attributes:
        api_version: The version of the interface that the driver was written for.
        Options: An attrs class; its fields are the keys of the driver's TOML table.
        argument: The option that the short form `NAME:ARGUMENT` sets, or None if there is no short form.
    """

    api_version: ClassVar[int] = API_VERSION
    Options: ClassVar[type[Any]] = NoOptions
    argument: ClassVar[str | None] = None

    def __init__(self, options: Any) -> None:
        self.options = options

    @classmethod
    def detect(cls) -> Detection:
        """Say whether this driver can work here. Must be quick, and change nothing."""
        return Detection(True)

    @abstractmethod
    def contribute(self, plan: PlanBuilder) -> None:
        """
        Add steps and checks to the plan. Must not change anything on the machine: `pysuper plan` calls it too.

        Raises:
            PysuperError: What the spec asks for cannot be had from this driver.
        """

    def traces(self, context: Context) -> tuple[Trace, ...]:
        """What `host` is going to make that could outlive the supervisor."""
        return ()

    def host(self, context: Context) -> AbstractAsyncContextManager[Any]:
        """Set up on the host; on exit, clean up. The exit is shielded from cancellation and must be bounded."""
        return _nothing()

    async def at_barrier(self, name: str, pid: int) -> None:
        """The container's first process (its pid as the supervisor sees it) waits at this driver's `Barrier`."""


@asynccontextmanager
async def _nothing() -> AsyncIterator[None]:
    yield


@attrs.frozen
class Launched:
    """
    The process of a plan, a child of the supervisor.

    Attributes:
        pid: As the supervisor sees it.
        pidfd: To signal, wait for and reap it.
        status: The messages of `pysuper.launcher.wire`.
    """

    pid: int
    pidfd: int
    status: trio.socket.SocketType


class Launcher(ABC):
    """How a plan becomes a process; one for all containers of a supervisor (group `pysuper.launcher`)."""

    api_version: ClassVar[int] = API_VERSION

    @abstractmethod
    async def serve(self, task_status: trio.TaskStatus[None]) -> None:
        """Run until cancelled; `started` once `launch` may be called. On exit nothing it started is left."""

    @abstractmethod
    def launch(
        self, plan: Plan, files: Mapping[int, int], namespaces: Mapping[str, int]
    ) -> AbstractAsyncContextManager[Launched]:
        """
        Clone the process of a plan, which then runs the plan's steps.

        Inside the context the caller waits for the process and reaps it; on exit its descriptors are closed. If
        entering is cancelled or fails, no process is left.

        Args:
            plan: Of a container, or of a process that joins one.
            files: Descriptors for the command, by the numbers from 0 to 9 that they have there; 0 to 2 are among
                them. The caller keeps its own, and may close them once inside the context.
            namespaces: The same of namespaces, by name, for the plan's steps.

        Raises:
            LaunchError: The kernel refused the clone or a namespace.
        """

    @abstractmethod
    async def remember(self, trace: Trace) -> None:
        """Remove `trace` if the supervisor dies. Called before it is made."""

    @abstractmethod
    async def forget(self, trace: Trace) -> None:
        """`trace` has been removed."""


class NamespaceDriver(Driver):
    """One kernel namespace; the entry point's name is the kernel's abbreviation."""


class RootfsDriver(Driver):
    """Where the root of the container comes from: it adds the step that mounts at "/", in Phase.ROOTFS."""

    #: The step that enters the new root; "chroot" is for learning and old kernels, and no boundary.
    enter: ClassVar[Literal["pivot_root", "chroot"]] = "pivot_root"


class NetworkDriver(Driver):
    """What the container's network namespace is connected to."""

    #: "own" has the driver `net` of the group pysuper.namespace make one; "joined" is one that exists already, which
    #: this driver enters; "host" is the supervisor's.
    namespace: ClassVar[Literal["own", "joined", "host"]] = "own"


@attrs.frozen(kw_only=True)
class Statistics:
    """
    What a cgroup counted; None where the kernel does not count it here.

    Attributes:
        cpu_user, cpu_system: Seconds.
        memory_current, memory_peak: Bytes.
        pids_current: Processes and threads.
        pids_max_hits: Times that a fork was refused by pids_max.
        oom_kills: Processes that the kernel killed because of memory_max.
        pressure: How many percent of the last ten seconds some process waited for `cpu`, `memory`, `io`;
            Documentation/accounting/psi.rst.
    """

    cpu_user: float | None = None
    cpu_system: float | None = None
    memory_current: int | None = None
    memory_peak: int | None = None
    pids_current: int | None = None
    pids_max_hits: int | None = None
    oom_kills: int | None = None
    pressure: Mapping[str, float] | None = None


class Cgroup(ABC):
    """The live cgroup of one container, yielded by `CgroupDriver.host`. Every call is quick and synchronous."""

    @abstractmethod
    def processes(self) -> list[int]:
        """The processes in it, as the supervisor sees them; empty if it holds none, or cannot know."""

    @abstractmethod
    def kill(self) -> None:
        """Send SIGKILL to every process in it, also to a frozen one. Does not wait."""

    @abstractmethod
    def freeze(self) -> None:
        """Stop every process in it from running."""

    @abstractmethod
    def thaw(self) -> None:
        """Undo `freeze`."""

    @abstractmethod
    def statistics(self) -> Statistics:
        """What has been counted so far."""


class CgroupDriver(Driver):
    """
    Who holds the limits.

    `contribute` makes the first process join (or be born in) the cgroup and promises the limits; `host` makes the
    cgroup, applies the limits, yields a `Cgroup` and removes it. Limits that cannot be had here are a
    `DriverError` in `contribute`, before anything was made.
    """

    @abstractmethod
    def host(self, context: Context) -> AbstractAsyncContextManager[Cgroup]:
        """Make the cgroup and yield it."""
