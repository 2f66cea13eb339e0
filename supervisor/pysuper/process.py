"""
One process of a plan, from the clone to its exit status: the first of a container, or one that joins it.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from resource import struct_rusage
from types import MappingProxyType
from typing import Any, TypeGuard

import attrs
import trio

from pysuper import receipts
from pysuper.drivers import Launched
from pysuper.errors import (
    CommandNotExecutable,
    CommandNotFound,
    ConfigError,
    LaunchError,
    LimitError,
    StuckError,
    describe_errno,
)
from pysuper.launcher import wire
from pysuper.launcher.client import launch_error, reap, receive, send
from pysuper.plan import Phase, Plan
from pysuper.spec import ContainerSpec
from pysuper.steps import Fork
from pysuper.tracing import SILENT, Tracer

__all__ = ["STUCK_BOUND", "Ended", "Process", "command_files", "standard_files"]

#: Seconds after SIGKILL in which the kernel must have let go of a process; it does not in state D.
STUCK_BOUND = 10.0
#: The numbers for which the launcher leaves room.
_EXTRA = frozenset(range(3, 10))
#: Seconds between the moment in which a process leaves its cgroups, and the one in which it has ended.
_DYING = 0.1


@attrs.frozen
class Ended:
    """
    What a process left, once it is reaped.

    Attributes:
        status: Of the command, as of waitpid(2).
        usage: Of all that the process has reaped.
        seconds: From the start of the command to its end.
    """

    status: int
    usage: struct_rusage
    seconds: float


#: See `Process.start`.
AtBarrier = Callable[[str], Awaitable[Mapping[int, int]]]


class Process:
    """
    A process that the launcher has cloned, or the child that goes on in its place (`steps.Fork`).

    Attributes:
        pid: As the supervisor sees it.
        exited: Set when it has ended; it is still to be reaped then.
        ended: Set when its command is known to have ended, see `ends`.
        receipts: What its plan promised and was found in force.
        opened: Descriptors that it has sent, by what they are; `close` closes those that nobody took.
    """

    def __init__(self, launched: Launched, plan: Plan, title: str, tracer: Tracer = SILENT) -> None:
        """
        Args:
            launched: By the launcher, whose context has to last until this has ended.
            plan: Of the process.
            title: For messages, such as "the first process of web".
            tracer: Told what it does on its way to the command.
        """
        self.pid = launched.pid
        self.exited = trio.Event()
        self.ended = trio.Event()
        self.receipts: tuple[receipts.Receipt, ...] = ()
        self.opened: dict[str, int] = {}
        self._launched = launched
        self._plan = plan
        self._title = title
        self._tracer = tracer
        self._pidfd = launched.pidfd
        self._ready = False
        self._alone = trio.Event()
        self._told: int | None = None
        # First of the steps, then of the command.
        self._began = self._ended = time.monotonic() if launched.times is None else launched.times[-1]

    @trio.lowlevel.enable_ki_protection
    async def watch(self) -> None:
        """Wait for its end, as a task; shielded, since what was cloned has to be reaped."""
        # A process that was stuck is given up: its descriptor is closed.
        with trio.CancelScope(shield=True), suppress(trio.ClosedResourceError):
            await trio.lowlevel.wait_readable(self._launched.pidfd)
            if self._has_forked():
                await reap(self._launched.pid, self._launched.pidfd)
                self._alone.set()
                await trio.lowlevel.wait_readable(self._pidfd)
            if not self.ended.is_set():
                self._ended = time.monotonic()
        self.exited.set()

    async def ends(self) -> None:
        """
        Wait until the command has ended, once it has been started.

        An init says so at once. Then it ends, and with it the kernel ends all that is left, and the namespaces, which
        takes several times as long.
        """
        assert self._plan.command is not None
        if self._plan.command.init:
            while self._told is None and await self._hear():
                pass
        if self._told is None:
            await self.exited.wait()
        else:
            self._ended = time.monotonic()
        self.ended.set()

    async def start(self, at_barrier: AtBarrier | None = None) -> None:
        """
        From the clone to the running command, or to the end of a plan without one.

        Args:
            at_barrier: Called when it waits, with the name of the barrier; returns what its command shall have for
                descriptors, by number, if that is not what it was launched with.

        Raises:
            LaunchError: A step failed; CommandNotFound and CommandNotExecutable among them.
            LimitError: Something that was promised is not in force.
        """
        try:
            while not await self._heed(at_barrier):
                pass
            if self._has_forked():  # and what has forked it counts for the limits of the container until it is reaped
                await self._alone.wait()
        except ConnectionError as error:
            raise self._killed() from error

    async def _heed(self, at_barrier: AtBarrier | None) -> bool:
        """Act on one message; whether it was the last one before the command."""
        message, descriptors, _ = await receive(self._launched.status)
        match message:
            case None if self._ready and (self._plan.command is None or not self._plan.command.init):
                return True  # exit or execve closed the socket
            case {"started": _}:
                return True
            case {"orphaned": _}:
                await self._go()
            case {"barrier": str(name)}:
                await self._pass(name, at_barrier)
            case {"opened": str(what)}:
                self.opened[what] = self._only(descriptors)
            case {"forked": int(pid)}:
                await self._follow(pid, self._only(descriptors))
            case {"done": int(index), "after": float(after), "seconds": float(seconds)} if self._has_step(index):
                step = self._plan.steps[index].describe()
                self._tracer.done("step", step, self._began + after, seconds, index=index)
            case {"failed": {"step": step, "errno": number, "message": str()} as failed} if (
                isinstance(step, str) or self._has_step(step)
            ) and (number is None or _is_errno(number)):
                raise self._failed(failed)
            case _:  # also what no process of ours says: it is in the hands of somebody else
                raise self._killed()
        return False

    def _has_step(self, index: object) -> bool:
        return isinstance(index, int) and 0 <= index < len(self._plan.steps)

    async def _follow(self, pid: int, pidfd: int) -> None:
        """Let a child take its place."""
        if self.exited.is_set():  # too late: nobody would wait for the child
            os.close(pidfd)
            raise self._killed()
        self.pid, self._pidfd = pid, pidfd
        with trio.CancelScope(shield=True):  # it ends when it is told that its child is known
            await self._go()

    async def _pass(self, barrier: str, at_barrier: AtBarrier | None) -> None:
        if barrier == "ready":
            self._ready = True
            with self._tracer.span("receipts", f"check that {len(self._plan.checks)} promises are in force"):
                self.receipts = await self._take_receipts()
        files = {} if at_barrier is None else await at_barrier(barrier)
        if barrier == "ready":
            self._began = time.monotonic()
            self._tracer.executes(self._plan)
        await self._go(files)

    async def _take_receipts(self) -> tuple[receipts.Receipt, ...]:
        try:
            return receipts.take(self._plan.checks, self.pid)
        except LimitError:
            # Of a process that is being killed nothing holds any more, and nothing is wrong with that.
            with trio.move_on_after(_DYING):
                await self.exited.wait()
                raise self._killed() from None
            raise

    async def _go(self, files: Mapping[int, int] = MappingProxyType({})) -> None:
        await send(self._launched.status, wire.encode({"files": list(files)}), tuple(files.values()))

    def _only(self, descriptors: list[int]) -> int:
        if not descriptors:  # there was no room for one
            raise LaunchError(f"{self._title}: {describe_errno(errno.EMFILE)}", errno=errno.EMFILE)
        return descriptors[0]

    def _has_forked(self) -> bool:
        """Whether its child has taken its place."""
        return self._pidfd != self._launched.pidfd

    def _failed(self, failed: dict[str, Any]) -> LaunchError:
        """The error of a `failed` message."""
        step = failed["step"]
        if isinstance(step, int):
            self._tracer.failed("step", self._plan.steps[step].describe(), index=step)
        elif step == "execute" and self._plan.command is not None:
            self._tracer.failed("command", self._plan.command.describe())
        return _execution_error(failed) or launch_error(failed, self._plan)

    def _killed(self) -> LaunchError:
        return LaunchError(f"{self._title} was killed while it was set up")

    def send_signal(self, number: int) -> None:
        """Send a signal; nothing happens if it has ended."""
        if not self.exited.is_set():
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def kill_group(self) -> None:
        """Send SIGKILL to it and its process group; nothing happens if it has ended."""
        if not self.exited.is_set():
            # Of whom it is the leader, or will be: no other group has this number before it is reaped.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            self.send_signal(signal.SIGKILL)

    async def reap(self) -> Ended:
        """
        Wait until it has ended, which it must have been told before, and reap it.

        Raises:
            StuckError: It has not within ten seconds.
        """
        if not self.exited.is_set():  # or else a turn of the loop for nothing
            with trio.move_on_after(STUCK_BOUND):
                await self.exited.wait()
        if not self.exited.is_set():
            raise StuckError(
                f"{self._title}, process {self.pid}, has not ended {STUCK_BOUND:g} s after SIGKILL "
                f"(state {_state(self.pid)})",
                remedy="the kernel has to let go of it",
            )
        status, usage = await reap(self.pid, self._pidfd)
        identity = self._plan.phases.get(Phase.IDENTITY, ())
        if not self._has_forked() and any(isinstance(step, Fork) for step in identity):
            await _reap_group(self.pid)
        while await self._hear():
            pass
        return Ended(status if self._told is None else self._told, usage, self._ended - self._began)

    async def _hear(self) -> bool:
        """
        Take what it has to say while, or after, its command runs, and whether there was something.

        It is the wait status of the command, if an init is in front of it.
        """
        try:
            message, descriptors, _ = await receive(self._launched.status)
        except OSError:
            return False
        for descriptor in descriptors:
            os.close(descriptor)
        if message is None:
            return False
        if _is_wait_status(status := message.get("exited")):
            self._told = status
        return True

    def close(self) -> None:
        """Close what it has sent."""
        while self.opened:
            os.close(self.opened.popitem()[1])
        if self._has_forked():
            trio.lowlevel.notify_closing(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = self._launched.pidfd


@contextmanager
def standard_files(*given: int | None) -> Iterator[dict[int, int]]:
    """The descriptors 0 to 2 for a command, where None is /dev/null."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        yield {number: null if descriptor is None else descriptor for number, descriptor in enumerate(given)}
    finally:
        os.close(null)


@contextmanager
def command_files(
    spec: ContainerSpec, stdin: int | None, stdout: int | None, stderr: int | None, descriptors: Mapping[int, int]
) -> Iterator[dict[int, int]]:
    """
    All descriptors for the command of a container, see `Supervisor.start`; an OSError in the block is a LaunchError.

    Raises:
        ConfigError: There is no room for one.
    """
    if not set(descriptors) <= _EXTRA:
        raise ConfigError(f"{spec.name}: descriptors: the numbers must be from 3 to 9")
    given = (None, None, None) if spec.terminal else (stdin, stdout, stderr)
    try:
        with standard_files(*given) as standard:
            yield standard | dict(descriptors)
    except OSError as error:
        raise LaunchError.of(f"start {spec.name}", error) from error


async def _reap_group(leader: int) -> None:
    """
    Reap a child that was forked, but not known yet when its maker was killed; it has not left the maker's group.

    A pid namespace does not end before everything in it is reaped, pid_namespaces(7).
    """
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)
    with suppress(ChildProcessError):
        while os.waitpid(-leader, os.WNOHANG) == (0, 0):  # noqa: ASYNC222 - it does not block
            await trio.sleep(0.001)


def _is_errno(number: object) -> bool:
    return isinstance(number, int) and 0 <= number <= 4095  # MAX_ERRNO of linux/err.h


def _is_wait_status(number: object) -> TypeGuard[int]:
    """Whether it is the status of a process that has ended, waitpid(2)."""
    return isinstance(number, int) and 0 <= number <= 0xFFFF and (os.WIFEXITED(number) or os.WIFSIGNALED(number))


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
