"""
Calls into plugins: whatever goes wrong in one is a DriverError that names it, and none holds up the supervisor.

A plugin runs in the supervisor's thread. One that keeps it for `BLOCKED` seconds in one stretch is interrupted by
SIGALRM, whose handler raises in the middle of it, be it in a loop or in a system call, signal(7). That takes the main
thread, and a SIGALRM that the program has no use of its own for; elsewhere nothing interrupts.
"""

from __future__ import annotations

import math
import signal
import threading
import types

# That of `signal` looks for a member of an enumeration, which takes a hundred times as long.
from _signal import getsignal  # type: ignore[import-not-found]
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar

import trio

from pysuper.drivers import Cgroup, Statistics
from pysuper.errors import DriverError, PysuperError, alone

__all__ = ["BLOCKED", "GuardedCgroup", "bounded", "called", "entered", "guarded", "together"]

#: Seconds.
BLOCKED = 10.0

T = TypeVar("T")


#: Whether a plugin is being timed.
_armed = False


class _Interrupt(BaseException):
    """Raised in a plugin that blocks."""


class guarded:  # noqa: N801 - a context manager, and no generator, since there are dozens of calls for a container
    """
    A call that does not wait.

    Args:
        title: Of the plugin, such as "the cgroup driver 'v1' of pysuper-containers 0.1.0".
        doing: What it is asked, such as the name of the method.

    Raises:
        DriverError: It raised anything else than a PysuperError, wanted to exit, or blocked.
    """

    __slots__ = ("_armed", "_doing", "_title")

    def __init__(self, title: str, doing: str) -> None:
        self._title = title
        self._doing = doing
        self._armed = False

    def __enter__(self) -> None:
        self._armed = _arm()

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _at: types.TracebackType | None
    ) -> None:
        try:
            if self._armed:
                _disarm()
        except _Interrupt as late:
            error = late
        if error is None or isinstance(error, PysuperError):
            return
        if isinstance(error, _Interrupt):
            raise DriverError(
                f"{self._title} blocked for {BLOCKED:g} s in {self._doing}, and everything else with it",
                remedy="it has to await what takes long, or to do it in a thread; do without it until then",
            ) from None
        if isinstance(error, Exception | SystemExit):
            first = alone(error)
            if isinstance(first, PysuperError):
                raise first from error
            raise DriverError(
                f"{self._title} failed in {self._doing}: {type(first).__name__}: {first}",
                remedy="report it to its authors, or do without it",
            ) from error


class together:  # noqa: N801 - as above
    """
    Guarded calls one after the other, which may take `BLOCKED` seconds in all, so that the timer is set once.

    Raises:
        DriverError: They took longer, and none of them was under way when that was noticed.
    """

    __slots__ = ("_armed",)

    def __enter__(self) -> None:
        self._armed = _arm()

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _at: types.TracebackType | None
    ) -> None:
        try:
            if self._armed:
                _disarm()
        except _Interrupt as late:
            error = late
        if isinstance(error, _Interrupt):
            raise DriverError(f"the drivers of a container took {BLOCKED:g} s to decide what they do") from None


async def called(title: str, doing: str, awaitable: Awaitable[T]) -> T:
    """
    The same for a call that waits: each stretch between two waits is guarded.

    What it takes in all is for the caller to bound.
    """
    return await _stretches(title, doing, _as_coroutine(awaitable))


async def _as_coroutine(awaitable: Awaitable[T]) -> T:
    return await awaitable


@types.coroutine
def _stretches(title: str, doing: str, coroutine: Coroutine[Any, Any, T]) -> Generator[Any, Any, T]:
    step, given = coroutine.send, None
    while True:
        with guarded(title, doing):
            try:
                waits_for = step(given)
            except StopIteration as end:
                result: T = end.value
                return result
        try:
            given = yield waits_for
            step = coroutine.send
        except BaseException as error:  # such as Cancelled
            given = error
            step = coroutine.throw


def _arm() -> bool:
    """Interrupt what follows if it takes too long; whether that was begun here."""
    global _armed  # noqa: PLW0603 - as there is one SIGALRM
    if _armed or not _may_use_alarm():
        return False
    _armed = True
    signal.setitimer(signal.ITIMER_REAL, BLOCKED)
    return True


def _disarm() -> None:
    global _armed  # noqa: PLW0603 - as there is one SIGALRM
    _armed = False
    signal.setitimer(signal.ITIMER_REAL, 0)


def _may_use_alarm() -> bool:
    if threading.get_ident() != threading.main_thread().ident:
        return False
    handler = getsignal(signal.SIGALRM)
    if handler == signal.SIG_DFL:
        signal.signal(signal.SIGALRM, _interrupt)
        return True
    return handler is _interrupt


def _interrupt(_number: int, _frame: types.FrameType | None) -> None:
    if _armed:  # Python calls this a little later than the kernel
        raise _Interrupt


@asynccontextmanager
async def entered(title: str, make: Callable[[], AbstractAsyncContextManager[T]], patience: float) -> AsyncIterator[T]:
    """
    A plugin's `host`, which may keep a nursery open. It is told of no exception when it is left, nor of a cancellation.

    Args:
        make: Makes the context manager.
        patience: Seconds that entering may take, and leaving.

    Raises:
        DriverError: It failed, blocked, took longer, or has cancelled a scope of its own, and the block with it.
    """
    doing = "set up"
    cancelled = False
    try:
        with trio.CancelScope() as scope:
            scope.deadline = trio.current_time() + patience
            with guarded(title, "host"):
                manager = make()
            value = await called(title, "host", manager.__aenter__())
            scope.deadline = math.inf
            try:
                yield value
            finally:
                doing = "clean up"
                scope.shield = True  # also from a nursery of another plugin's
                scope.deadline = trio.current_time() + patience
                await called(title, "host", manager.__aexit__(None, None, None))
    except* trio.Cancelled:
        cancelled = True
    if scope.cancelled_caught:
        raise _slow(title, f"to {doing}", patience)
    if cancelled:
        await trio.lowlevel.checkpoint_if_cancelled()  # if it was somebody else, that is still so
        raise DriverError(f"{title} has cancelled itself", remedy="report it to its authors, or do without it")


async def bounded(title: str, doing: str, awaitable: Awaitable[T], patience: float) -> T:
    """
    See `called`.

    Args:
        patience: Seconds that it may take.

    Raises:
        DriverError: It failed, blocked, or took longer.
    """
    with trio.move_on_after(patience):
        return await called(title, doing, awaitable)
    raise _slow(title, f"in {doing}", patience)


def _slow(title: str, doing: str, patience: float) -> DriverError:
    return DriverError(f"{title} took more than {patience:g} s {doing}", remedy="do without it, or report it")


class GuardedCgroup(Cgroup):
    """The cgroup that a driver has made, whose faults are the driver's."""

    def __init__(self, made: object, title: str) -> None:
        """
        Args:
            made: What the driver's `host` has yielded.
            title: Of the driver.

        Raises:
            DriverError: It is no Cgroup.
        """
        if not isinstance(made, Cgroup):
            raise DriverError(f"{title} yielded {type(made).__name__}, not a Cgroup", remedy="report it to its authors")
        self._made = made
        self._title = title

    def processes(self) -> list[int]:
        with guarded(self._title, "processes"):
            return self._made.processes()

    def kill(self) -> None:
        with guarded(self._title, "kill"):
            self._made.kill()

    def freeze(self) -> None:
        with guarded(self._title, "freeze"):
            self._made.freeze()

    def thaw(self) -> None:
        with guarded(self._title, "thaw"):
            self._made.thaw()

    def statistics(self) -> Statistics:
        with guarded(self._title, "statistics"):
            counted = self._made.statistics()
            if not isinstance(counted, Statistics):
                raise TypeError(f"it returned {type(counted).__name__}, not Statistics")
            return counted
