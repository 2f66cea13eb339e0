"""
One container, from its drivers' set-up to its exit record; its lifetime is a scope.

States as the OCI runtime specification has them: *creating* in `_start`, *created* at the barrier "ready", while
receipts are taken, *running* from `started` on, *stopped* once its record is there.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial

import trio

from pysuper import registry
from pysuper.drivers import Cgroup, Context, Launcher, Statistics, Trace
from pysuper.errors import LaunchError, PysuperError
from pysuper.execution import Execution, Executions
from pysuper.freezer import Freezer
from pysuper.guard import GuardedCgroup, bounded, entered, guarded
from pysuper.hooks import Told
from pysuper.joining import command_plan
from pysuper.plan import Plan
from pysuper.planning import Drivers
from pysuper.process import STUCK_BOUND, Ended, Process
from pysuper.protections import protections
from pysuper.receipts import Receipt
from pysuper.record import ExitRecord, exit_status
from pysuper.spec import ContainerSpec
from pysuper.tracing import Tracer
from pysuper.validation import validate_execution

__all__ = ["Container", "live"]


class Container:
    """
    A running container. Made by `Supervisor.start`.

    Attributes:
        spec: What was asked for.
        plan: What was done.
    """

    def __init__(
        self,
        spec: ContainerSpec,
        plan: Plan,
        process: Process,
        cgroup: Cgroup,
        launcher: Launcher,
        watchers: trio.Nursery,
    ) -> None:
        self.spec = spec
        self.plan = plan
        self._process = process
        self._cgroup = cgroup
        self._freezer = Freezer(cgroup)
        self._executions = Executions(plan, process, launcher, watchers, self._freezer.awake)
        self._stopped = trio.Event()
        self._reason: str | None = None
        self._killed = False
        self._protections: tuple[str, ...] = ()
        self._outcome: ExitRecord | PysuperError | None = None

    @property
    def pid(self) -> int:
        """Of its first process, as the supervisor sees it."""
        return self._process.pid

    @property
    def terminal(self) -> int | None:
        """The master of its pseudo-terminal, closed when the container ends; None without one."""
        return self._process.opened.get("terminal")

    @property
    def receipts(self) -> tuple[Receipt, ...]:
        """What was promised and found in force."""
        return self._process.receipts

    @property
    def paused(self) -> bool:
        """Whether its processes are kept from running."""
        return self._freezer.paused

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the user should know about this container, a line each."""
        return self.plan.warnings

    @property
    def name(self) -> str:
        """As in the spec."""
        return self.spec.name

    async def wait(self) -> ExitRecord:
        """
        Wait until the container has ended and everything it had is cleaned up.

        Raises:
            PysuperError: The clean-up failed; the message says what is left.
        """
        await self._stopped.wait()
        if isinstance(self._outcome, PysuperError):
            raise self._outcome
        assert self._outcome is not None
        return self._outcome

    def send_signal(self, number: int) -> None:
        """Send a signal to the command; nothing happens if it has ended."""
        self._killed |= number == signal.SIGKILL and not self._has_ended()
        self._process.send_signal(number)

    async def stop(self, reason: str = "stopped", *, stop_signal: int | None = None) -> None:
        """
        Send the stop signal, wait `spec.stop_timeout` seconds, kill what is left, and wait for its end.

        Args:
            reason: For the exit record.
            stop_signal: Instead of `spec.stop_signal`.
        """
        if self._outcome is not None:
            return
        if not self._has_ended():
            self._reason = self._reason or reason
        self.resume()
        self.send_signal(stop_signal or self.spec.stop_signal)
        with trio.move_on_after(self.spec.stop_timeout):
            await self._process.exited.wait()
            return
        self.kill()
        with trio.move_on_after(STUCK_BOUND):
            await self._process.exited.wait()

    def kill(self) -> None:
        """Send SIGKILL to every process of the container, also to a frozen one; nothing happens if it has ended."""
        if self._outcome is None:
            self.send_signal(signal.SIGKILL)
            self._cgroup.kill()

    def _has_ended(self) -> bool:
        """Whether its command has, and only the clean-up is left."""
        return self._process.ended.is_set() or self._process.exited.is_set()

    def pause(self) -> None:
        """
        Keep every process of the container from running, until `resume` or its end.

        Raises:
            DriverError: Its cgroup driver cannot.
            LaunchError: It has ended.
        """
        self._executions.require_running()
        self._freezer.pause()

    def resume(self) -> None:
        """Let its processes run again; nothing happens if they do."""
        self._freezer.resume()

    def statistics(self) -> Statistics:
        """What its cgroup has counted so far."""
        return self._cgroup.statistics()

    @asynccontextmanager
    @trio.lowlevel.enable_ki_protection
    async def execute(
        self,
        command: Sequence[str],
        *,
        terminal: bool = False,
        terminal_size: tuple[int, int] | None = None,
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
        user: str | None = None,
        environment: Mapping[str, str] | None = None,
        working_dir: str | None = None,
    ) -> AsyncIterator[Execution]:
        """
        Run one more command in the container, confined as its first one is, as long as the block lasts:

            async with container.execute(["ls"], stdout=1) as execution:
                status = await execution.wait()

        The block is entered when the command is being executed. If it still runs when the block is left, or when the
        container ends, it is killed with its process group.

        Args:
            command: The argument vector; empty is the user's login shell.
            terminal: It gets a pseudo-terminal of its own.
            terminal_size: Rows and columns of that.
            stdin, stdout, stderr: Descriptors, or None for /dev/null. The caller may close them inside of the block.
                Not used with `terminal`.
            user: `NAME|UID[:GROUP|GID]`, as the container knows it; None is the user of its first command.
            environment: On top of what its first command has got.
            working_dir: None is that of the first command.

        Raises:
            ConfigError: What is asked for contradicts itself.
            LaunchError: The container has ended or is paused, or the command could not be started; CommandNotFound
                and CommandNotExecutable among them.
            LimitError: Something that the container promises would not be in force.
        """
        validate_execution(command, environment or {}, working_dir, user)
        if self.paused:
            raise LaunchError(f"cannot execute a command in {self.name}: it is paused", remedy="resume it first")
        plan = command_plan(
            self.plan,
            command,
            terminal=terminal,
            terminal_size=terminal_size,
            user=user,
            environment=environment,
            working_dir=working_dir,
        )
        given = (None, None, None) if terminal else (stdin, stdout, stderr)
        async with self._executions.joined(plan, given) as execution:
            yield execution

    async def open_socket(
        self,
        family: int = socket.AF_INET,
        type: int = socket.SOCK_STREAM,  # noqa: A002 - as in socket(2)
    ) -> trio.socket.SocketType:
        """
        Open a socket in the container's network namespace, not connected; it is the caller's to close.

        Raises:
            LaunchError: The container has ended, or the socket cannot be had.
        """
        self._executions.require_running()
        if "net" in self.plan.namespaces:
            return await self._executions.open_socket(family, type)
        try:
            return trio.socket.socket(family, type)
        except OSError as error:
            raise LaunchError.of("open a socket", error) from error

    async def _start(self, drivers: Drivers, subject: Told) -> None:
        """From the clone to the running command."""

        async def at_barrier(name: str) -> Mapping[int, int]:
            if name == "ready":
                self._executions.keep_namespaces()
                await subject.created(self.pid)
                return subject.descriptors
            for driver in drivers.in_order():
                waits = driver.at_barrier(name, self.pid)
                await bounded(registry.title(driver), "at_barrier", waits, driver.patience)
            return {}

        await self._process.start(at_barrier)

    async def _run(self) -> None:
        """While the command runs."""
        self._protections = self.plan.once("protections", lambda: protections(self.plan))  # now, as nobody waits for it
        try:
            if self.spec.timeout is None:
                await self._process.ends()
                return
            with trio.move_on_after(self.spec.timeout) as scope:
                await self._process.ends()
            if scope.cancelled_caught:
                await self.stop("timeout")
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await self.stop("stopped")
            raise

    async def _end(self) -> ExitRecord:
        """Kill what is left, reap it, and say what became of it. Shielded by the caller."""
        try:
            self._process.send_signal(signal.SIGKILL)
            # With the first process of a pid namespace the kernel kills all others in it, pid_namespaces(7). An init
            # ends with its command; should it be frozen just then, that is undone below.
            if not (self._process.ended.is_set() and "pid" in self.plan.namespaces):
                self._cgroup.kill()
        finally:  # a cgroup driver may fail, but the process has got its signal
            with suppress(PysuperError):
                self.resume()  # as it cannot run any more
            await self._executions.end()
            ended = await self._process.reap()
        return self._record(ended, self._cgroup.statistics())

    def _judged(self) -> ExitRecord:
        """Its record, also if it could not be cleaned up."""
        if isinstance(self._outcome, ExitRecord):
            return self._outcome
        return ExitRecord.stuck(self.spec, str(self._outcome))

    def _record(self, ended: Ended, counted: Statistics) -> ExitRecord:
        how = exit_status(ended.status)
        reason = "exited" if how.signal is None else "signaled"
        # A shell whose command was killed exits with 128 and the signal.
        if counted.oom_kills and not self._killed and how.status == 128 + signal.SIGKILL:
            reason = "oom"
        peak = counted.memory_peak
        return ExitRecord(
            name=self.name,
            argv=self.spec.command,
            exit_code=how.exit_code,
            signal=how.signal,
            reason=self._reason or reason,
            wall_seconds=ended.seconds,
            user_seconds=ended.usage.ru_utime if counted.cpu_user is None else counted.cpu_user,
            system_seconds=ended.usage.ru_stime if counted.cpu_system is None else counted.cpu_system,
            memory_peak=ended.usage.ru_maxrss * 1024 if peak is None else peak,
            pids_max_hits=counted.pids_max_hits,
            oom_kills=counted.oom_kills,
            receipts=self.receipts,
            protections=self._protections,
        )


async def live(
    context: Context,
    drivers: Drivers,
    plan: Plan,
    launcher: Launcher,
    kept: bool,
    files: Mapping[int, int],
    watchers: trio.Nursery,
    subject: Told,
    tracer: Tracer,
    task_status: trio.TaskStatus[Container] = trio.TASK_STATUS_IGNORED,
) -> bool:
    """
    The whole life of one container, as a task; cancelled, it stops the container first.

    Args:
        kept: Whether its place is kept (`places.kept`), of which the launcher knows everything already.
        files: Descriptors for its command, by number.
        watchers: A nursery that outlives this task.
        subject: Told from the last barrier on, but not of a start that fails.
        tracer: Told of all that is done until the command runs.

    Returns:
        Whether it was cleaned up, so that nothing of it is left.

    Raises:
        PysuperError: The container did not start. What fails later is for `Container.wait` to raise.
    """
    container: Container | None = None
    running = False
    try:
        try:
            host_side = _host_side(context, drivers, None if kept else launcher, tracer)
            async with host_side as cgroup, AsyncExitStack() as stack:
                with tracer.failing("launch", "have the launcher make the first process"):
                    launched = await stack.enter_async_context(launcher.launch(plan, files, {}))
                process = Process(launched, plan, f"the first process of {context.spec.name}", tracer)
                container = Container(context.spec, plan, process, cgroup, launcher, watchers)
                watchers.start_soon(process.watch)
                try:
                    tracer.launched(plan, launched)  # which may raise whatever its owner does
                    await container._start(drivers, subject)
                    running = True
                    subject.started()
                    task_status.started(container)
                    # The command may be over already. Its starter runs in the next turn of the loop; the end is told,
                    # and the terminal closed, in the one after that.
                    for _ in range(2):
                        await trio.lowlevel.cancel_shielded_checkpoint()
                    await container._run()
                finally:
                    with trio.CancelScope(shield=True):  # also from a nursery of a driver's
                        container._outcome = await container._end()
        except PysuperError as error:
            if container is None or not running:
                raise
            container._outcome = error
    finally:
        if container is not None:
            if running:
                subject.exited(container._judged())
            container._stopped.set()
            container._executions.close()
            container._process.close()
    return isinstance(container._outcome, ExitRecord)


@asynccontextmanager
async def _host_side(
    context: Context, drivers: Drivers, launcher: Launcher | None, tracer: Tracer
) -> AsyncIterator[Cgroup]:
    """
    Enter every driver, in order; leave them in reverse, whatever happens, shielded from cancellation.

    Args:
        launcher: Who has to be told of their traces.
    """
    cgroup: Cgroup | None = None
    async with AsyncExitStack() as stack:
        for driver in drivers.in_order():
            if not driver.acts_on_host():
                continue
            title = registry.title(driver)
            if launcher is not None:
                with guarded(title, "traces"):
                    traces = driver.traces(context)
                if traces:
                    stack.push_async_callback(_forget, launcher, traces)
                    await launcher.remember(*traces)
            with tracer.span("driver", f"enter {title}"):
                made = await stack.enter_async_context(entered(title, partial(driver.host, context), driver.patience))
            if driver is drivers.cgroup:
                cgroup = GuardedCgroup(made, title)
        assert cgroup is not None
        yield cgroup


async def _forget(launcher: Launcher, traces: Sequence[Trace]) -> None:
    with trio.CancelScope(shield=True):
        await launcher.forget(*traces)
