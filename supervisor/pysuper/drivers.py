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

In a pool a driver serves several containers that follow each other in one *place*, if all of their drivers are
`reusable`. What costs much to make, and carries nothing of one container over to the next, may stay there meanwhile:

    keep --> host entered, container, host left --> host entered, container, host left --> ... --> drop

A *hook* is told what happens to containers, and makes nothing of them. It is made once a supervisor, for all of them:

    [project.entry-points."pysuper.hook"]
    ledger = "my_package:Ledger"

    class Ledger(Hook):
        \"\"\"Appends a line to a file whenever a container has ended.\"\"\"

        async def exited(self, event: LifecycleEvent) -> None:
            async with await trio.open_file("/var/log/ledger", "a") as file:
                await file.write(f"{event.container} {event.record.reason}\\n")

What a container goes through, and what a hook is told of it:

    before_create --> created --> started --> ready --> exited --> stopped | restarted | failed
    may veto          may veto    the command runs      it is      what becomes of it
                                                        cleaned up

A start waits for `before_create` and `created` of the hooks that define them. All other events are put into a queue
for each container and hook: told in order, and nobody waits for that. Each `before_create` is followed by one
`exited`, also if the start fails, and that by one of the last three.
"""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, ClassVar, Literal

import attrs
import trio

from pysuper.plan import Context, IdMap, Phase, Plan, PlanBuilder
from pysuper.record import ExitRecord
from pysuper.spec import ContainerSpec

__all__ = [
    "API_VERSION",
    "GROUPS",
    "Cgroup",
    "CgroupDriver",
    "Context",
    "Detection",
    "Driver",
    "Hook",
    "IdMap",
    "Launched",
    "Launcher",
    "LifecycleEvent",
    "NamespaceDriver",
    "NetworkDriver",
    "NoOptions",
    "Phase",
    "PlanBuilder",
    "Plugin",
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


class Plugin(ABC):  # noqa: B024 - its kinds say what is to be defined
    """
    What drivers and hooks have in common.

    Attributes:
        api_version: The version of the interface that it was written for.
        Options: An attrs class; its fields are the keys of the plugin's TOML table.
        argument: The option that the short form `NAME:ARGUMENT` sets, or None if there is no short form.
    """

    api_version: ClassVar[int] = API_VERSION
    Options: ClassVar[type[Any]] = NoOptions
    argument: ClassVar[str | None] = None

    def __init__(self, options: Any) -> None:
        self.options = options

    @classmethod
    def detect(cls) -> Detection:
        """Say whether it can work here. Must be quick, and change nothing."""
        return Detection(True)


class Driver(Plugin):
    """
    The base of all drivers.

    Attributes:
        patience: Seconds that `host` may take to be entered, and again to be left; the same for each call of `keep`,
            `drop` and `at_barrier`. What takes longer fails.
        reusable: Whether it may serve one container of a pool after the other: what it has contributed for the first
            is right for the next one, which has the same context, and `host` can be entered again once it was left.
            Not inherited.

    One that keeps what it has made, such as a directory that is empty at the end of each container:

        _kept = False

        async def keep(self, context: Context) -> None:
            os.mkdir(_path(context))
            self._kept = True

        async def drop(self, context: Context) -> None:
            if self._kept:
                os.rmdir(_path(context))

        @asynccontextmanager
        async def host(self, context: Context) -> AsyncIterator[None]:
            if not self._kept:  # there will be no other container
                os.mkdir(_path(context))
            try:
                yield
            finally:
                _empty(_path(context))
                if not self._kept:
                    os.rmdir(_path(context))
    """

    patience: ClassVar[float] = 60.0
    reusable: ClassVar[bool] = False

    @abstractmethod
    def contribute(self, plan: PlanBuilder) -> None:
        """
        Add steps and checks to the plan. Must not change anything on the machine: `pysuper plan` calls it too.

        Raises:
            PysuperError: What the spec asks for cannot be had from this driver.
        """

    def traces(self, context: Context) -> tuple[Trace, ...]:
        """What `keep` and `host` are going to make that could outlive the supervisor."""
        return ()

    async def keep(self, context: Context) -> None:
        """
        Make what stays until `drop`, before the first container of a place in a pool; not called for others.

        What stays must be as it was made whenever `host` is left; if it cannot be, `host` has to raise: then the
        place is given up.
        """

    async def drop(self, context: Context) -> None:
        """Remove it; shielded from cancellation. Called after `keep`, also if that has failed or was cancelled."""

    @classmethod
    def keeps(cls) -> bool:
        """Whether it defines `keep`."""
        return cls.keep is not Driver.keep

    def host(self, context: Context) -> AbstractAsyncContextManager[Any]:
        """
        Set up on the host; on exit, clean up. The exit is shielded from cancellation, and is told of no exception.

        A nursery may be open in between. If one of its tasks fails, or it is cancelled, the container is
        stopped.
        """
        return _nothing()

    @classmethod
    def acts_on_host(cls) -> bool:
        """Whether it defines `host` or `traces`; most drivers only add to the plan."""
        return cls.host is not Driver.host or cls.traces is not Driver.traces

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
        status: A socket that does not block, with the messages of `pysuper.launcher.wire`.
        times: When its launcher heard of it, had the namespaces that it is not born in, and had cloned it, on the
            monotonic clock; None if it does not say.
    """

    pid: int
    pidfd: int
    status: socket.socket
    times: tuple[float, float, float] | None = None


class Launcher(ABC):
    """How a plan becomes a process; one for all containers of a supervisor (group `pysuper.launcher`)."""

    api_version: ClassVar[int] = API_VERSION

    @classmethod
    def detect(cls) -> Detection:
        """Say whether it can work here. Must be quick, and change nothing."""
        return Detection(True)

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
    async def remember(self, *traces: Trace) -> None:
        """Remove them if the supervisor dies. Called before they are made."""

    @abstractmethod
    async def forget(self, *traces: Trace) -> None:
        """They have been removed."""


class NamespaceDriver(Driver):
    """
    One kernel namespace.

    Attributes:
        namespace: Which one, as the kernel abbreviates it; None is the name of the entry point. A container has the
            driver of that name, unless its spec chooses another one (`ContainerSpec.namespaces`).
    """

    namespace: ClassVar[str | None] = None


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


@attrs.frozen(kw_only=True)
class LifecycleEvent:
    """
    What happened to a container.

    Attributes:
        kind: The name of the method of `Hook` that is told.
        container: Its name.
        id: Of this run; unique on this machine.
        run: Its number, from 1 on; those of an instance of a stack are counted.
        at: When, in seconds on the monotonic clock.
        time: The same on the wall clock, in seconds since 1970.
        spec: What was asked for.
        pid: Of its first process, as the supervisor sees it; from `created` to `ready`.
        record: What became of the run; from `exited` on.
        delay: Seconds until it is started again; of `restarted`.
        detail: Why, in words; of `restarted` and `failed`.
    """

    kind: str
    container: str
    id: str
    run: int
    at: float
    time: float
    spec: ContainerSpec
    pid: int | None = None
    record: ExitRecord | None = None
    delay: float | None = None
    detail: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """For JSON: without what is None, the spec, and the receipts of the record."""
        told = {a.name: getattr(self, a.name) for a in attrs.fields(LifecycleEvent) if a.name not in {"spec", "record"}}
        if self.record is not None:
            told["record"] = self.record.to_dict(receipts=False)
        return {key: value for key, value in told.items() if value is not None}


class Hook(Plugin):
    """
    Somebody who is told what happens to the containers of a supervisor; see the module's docstring.

    Only the methods that a hook defines are called. Hooks are told side by side, and containers do not wait for each
    other; one hook is told of one container in order.

    Attributes:
        on_failure: What a call is that raises, or takes longer than `timeout`: "fail" ends the start (of
            `before_create` and `created`; later it is logged, too), "log" is a warning.
        timeout: Seconds that a call may take.
        after: Names of hooks that are told of an event first, where they are there.
    """

    on_failure: Literal["fail", "log"] = "log"
    timeout: float = 5.0
    after: ClassVar[tuple[str, ...]] = ()

    def host(self, containers: Mapping[str, LifecycleEvent | None]) -> AbstractAsyncContextManager[Any]:
        """
        Entered with the supervisor, before any container; left when the last one is gone and everything is told.

        Each takes `timeout` at most. A nursery may be open in between.

        Args:
            containers: A live view of the containers that there are, each with what happened to it last; None is one
                that is still to be started for the first time.
        """
        return _nothing()

    async def before_create(self, event: LifecycleEvent) -> None:
        """Nothing of the container is there yet."""

    async def created(self, event: LifecycleEvent) -> None:
        """It is set up, and what was promised is in force; the command is not executed before this returns."""

    async def started(self, event: LifecycleEvent) -> None:
        """The command is being executed."""

    async def ready(self, event: LifecycleEvent) -> None:
        """It serves: its readiness probe has succeeded, or it has none and was started."""

    async def exited(self, event: LifecycleEvent) -> None:
        """The run is over and cleaned up, or has failed to start."""

    async def stopped(self, event: LifecycleEvent) -> None:
        """It is down, and meant to be: it was stopped, or its work is done."""

    async def restarted(self, event: LifecycleEvent) -> None:
        """It will be started again."""

    async def failed(self, event: LifecycleEvent) -> None:
        """It is down, and not meant to be."""


#: The entry-point groups, and the interface that each asks for.
GROUPS: dict[str, type[Any]] = {
    "pysuper.namespace": NamespaceDriver,
    "pysuper.rootfs": RootfsDriver,
    "pysuper.cgroup": CgroupDriver,
    "pysuper.network": NetworkDriver,
    "pysuper.hook": Hook,
    "pysuper.launcher": Launcher,
}
