"""
One container, from its drivers' set-up to its exit record; its lifetime is a scope.

States as the OCI runtime specification has them: *creating* in `_start`, *created* at the barrier "ready", while
receipts are taken, *running* from `started` on, *stopped* once its record is there.
"""

from __future__ import annotations

import errno
import math
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import trio

from pysuper import receipts, syscalls
from pysuper.drivers import Cgroup, Driver, Launched, Launcher, Statistics
from pysuper.errors import CommandNotExecutable, CommandNotFound, LaunchError, PysuperError, StuckError
from pysuper.launcher import wire
from pysuper.launcher.client import launch_error, reap, receive
from pysuper.plan import Context, Plan
from pysuper.planning import Drivers, blame
from pysuper.record import ExitRecord
from pysuper.spec import ContainerSpec

__all__ = ["Container", "live"]

#: Seconds after SIGKILL in which the kernel must have let go of a process; it does not in state D.
_STUCK_BOUND = 10.0


class Container:
    """
    A running container. Made by `Supervisor.start`.

    Attributes:
        spec: What was asked for.
        plan: What was done.
        pid: Of its first process, as the supervisor sees it.
        terminal: The master of its pseudo-terminal, closed when the container ends; None without one.
        receipts: What was promised and found in force.
    """

    def __init__(self, spec: ContainerSpec, plan: Plan, launched: Launched, cgroup: Cgroup) -> None:
        self.spec = spec
        self.plan = plan
        self.pid = launched.pid
        self.terminal: int | None = None
        self.receipts: tuple[receipts.Receipt, ...] = ()
        self._pidfd = launched.pidfd
        self._status = launched.status
        self._cgroup = cgroup
        self._exited = trio.Event()
        self._stopped = trio.Event()
        self._reason: str | None = None
        self._started_at = time.monotonic()
        self._outcome: ExitRecord | PysuperError | None = None

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
        if not self._exited.is_set():
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    async def stop(self, reason: str = "stopped", *, stop_signal: int | None = None) -> None:
        """
        Send the stop signal, wait `spec.stop_timeout` seconds, kill what is left, and wait for its end.

        Args:
            reason: For the exit record.
            stop_signal: Instead of `spec.stop_signal`.
        """
        if self._outcome is not None:
            return
        self._reason = self._reason or reason
        self._cgroup.thaw()
        self.send_signal(stop_signal or self.spec.stop_signal)
        with trio.move_on_after(self.spec.stop_timeout):
            await self._exited.wait()
            return
        self.kill()
        with trio.move_on_after(_STUCK_BOUND):
            await self._exited.wait()

    def kill(self) -> None:
        """Send SIGKILL to every process of the container, also to a frozen one; nothing happens if it has ended."""
        if self._outcome is None:
            self.send_signal(signal.SIGKILL)
            self._cgroup.kill()

    async def _watch(self) -> None:
        """Wait for the first process; shielded, since a process that was cloned has to be reaped."""
        with trio.CancelScope(shield=True):
            await trio.lowlevel.wait_readable(self._pidfd)
            self._exited.set()

    async def _start(self, drivers: Drivers) -> None:
        """From the clone to the running command."""
        ready = False
        while True:
            message, descriptors, _ = await receive(self._status)
            if message is None:
                if ready and not self.spec.init:
                    return  # execve closed the socket
                raise LaunchError(f"the first process of {self.name} was killed while it was set up")
            if "terminal" in message:
                (self.terminal,) = descriptors
            elif "failed" in message:
                raise _execution_error(message["failed"]) or launch_error(message["failed"], self.plan)
            elif "started" in message:
                return
            else:
                if message["barrier"] == "ready":
                    ready = True
                    self.receipts = receipts.take(self.plan.checks, self.pid)
                    self._started_at = time.monotonic()
                else:
                    for driver in drivers.in_order():
                        with blame(driver):
                            await driver.at_barrier(message["barrier"], self.pid)
                await self._status.send(wire.encode({"go": True}))

    async def _run(self) -> None:
        """While the command runs."""
        try:
            with trio.move_on_after(self.spec.timeout or math.inf) as scope:
                await self._exited.wait()
            if scope.cancelled_caught:
                await self.stop("timeout")
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await self.stop("stopped")
            raise

    async def _end(self) -> ExitRecord:
        """Kill what is left, reap it, and say what became of it. Shielded by the caller."""
        self.kill()
        with trio.move_on_after(_STUCK_BOUND):
            await self._exited.wait()
        if not self._exited.is_set():
            raise StuckError(
                f"process {self.pid} of {self.name} has not ended {_STUCK_BOUND:g} s after SIGKILL "
                f"(state {_state(self.pid)})",
                remedy="the kernel has to let go of it",
            )
        wall = time.monotonic() - self._started_at
        reaped = await reap(self._pidfd)
        return self._record(reaped, await self._told_status(), self._cgroup.statistics(), wall)

    async def _told_status(self) -> int | None:
        """The wait status of the command, if an init was in front of it and lived to tell."""
        told = None
        while True:
            try:
                message, _, _ = await receive(self._status)
            except OSError:
                return told
            if message is None:
                return told
            told = message.get("exited", told)

    def _record(self, reaped: syscalls.Exit, told: int | None, counted: Statistics, wall: float) -> ExitRecord:
        code = os.waitstatus_to_exitcode(reaped.status if told is None else told)
        number = -code if code < 0 else None
        reason = "exited" if number is None else "signaled"
        # A shell whose command was killed exits with 128 and the signal.
        if counted.oom_kills and signal.SIGKILL in (number, code - 128):
            reason = "oom"
        peak = counted.memory_peak
        return ExitRecord(
            name=self.name,
            argv=self.spec.command,
            exit_code=code if number is None else None,
            signal=number,
            reason=self._reason or reason,
            wall_seconds=wall,
            user_seconds=reaped.user if counted.cpu_user is None else counted.cpu_user,
            system_seconds=reaped.system if counted.cpu_system is None else counted.cpu_system,
            memory_peak=reaped.maxrss * 1024 if peak is None else peak,
            pids_max_hits=counted.pids_max_hits,
            oom_kills=counted.oom_kills,
            receipts=self.receipts,
        )


async def live(
    context: Context,
    drivers: Drivers,
    plan: Plan,
    launcher: Launcher,
    stdio: tuple[int, int, int],
    spawn: Callable[..., None],
    task_status: trio.TaskStatus[Container] = trio.TASK_STATUS_IGNORED,
) -> None:
    """
    The whole life of one container, as a task; cancelled, it stops the container first.

    Args:
        spawn: `start_soon` of a nursery that outlives this task.

    Raises:
        PysuperError: The container did not start. What fails later is for `Container.wait` to raise.
    """
    container: Container | None = None
    running = False
    try:
        try:
            async with (
                _host_side(context, drivers, launcher) as cgroup,
                launcher.launch(plan, stdio) as launched,
            ):
                container = Container(context.spec, plan, launched, cgroup)
                spawn(container._watch)
                try:
                    await container._start(drivers)
                    running = True
                    task_status.started(container)
                    await container._run()
                finally:
                    with trio.CancelScope(shield=True):
                        container._outcome = await container._end()
        except PysuperError as error:
            if container is None or not running:
                raise
            container._outcome = error
    finally:
        if container is not None:
            container._stopped.set()
            if container.terminal is not None:
                os.close(container.terminal)


@asynccontextmanager
async def _host_side(context: Context, drivers: Drivers, launcher: Launcher) -> AsyncIterator[Cgroup]:
    """Enter every driver, in order; leave them in reverse, whatever happens, shielded from cancellation."""
    stack = AsyncExitStack()
    cgroup: Cgroup | None = None
    try:
        for driver in drivers.in_order():
            for trace in driver.traces(context):
                stack.push_async_callback(launcher.forget, trace)
                await launcher.remember(trace)
            entered = await _enter(stack, driver, context)
            if driver is drivers.cgroup:
                cgroup = entered
        assert cgroup is not None
        yield cgroup
    finally:
        with trio.CancelScope(shield=True):
            await stack.aclose()


async def _enter(stack: AsyncExitStack, driver: Driver, context: Context) -> Any:
    """Enter one driver, and let the stack leave it; what goes wrong in either is the driver's."""
    with blame(driver):
        manager = driver.host(context)
        entered = await manager.__aenter__()

    async def leave() -> None:
        with blame(driver):
            await manager.__aexit__(None, None, None)

    stack.push_async_callback(leave)
    return entered


def _execution_error(failed: dict[str, object]) -> LaunchError | None:
    """The error of a command that could not be executed, or None if it was something else that failed."""
    if failed["step"] != "execute":
        return None
    number, message = failed["errno"], str(failed["message"])
    if message.startswith("working directory"):
        return LaunchError(message, errno=number if isinstance(number, int) else None)
    cls = CommandNotFound if number in (errno.ENOENT, errno.ENOTDIR) else CommandNotExecutable
    return cls(message, step="execute", errno=number if isinstance(number, int) else None)


def _state(pid: int) -> str:
    """The one-letter state of a process, proc_pid_stat(5)."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0]
    except OSError:
        return "unknown"
