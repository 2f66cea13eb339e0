"""
What is done to a container while it starts: it is cancelled, or its supervisor killed, at each of trio's task steps in
turn; or the supervisor runs out of descriptors.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress

import trio

from pysuper.testing.machine import PATIENCE

__all__ = ["act_at", "cancelled_at", "few_descriptors"]

#: Seconds that an attempt may take, even if it is the only one that is not cancelled.
_BOUND = 30.0


class _ActAt(trio.abc.Instrument):
    """Does something when the n-th task step since its making begins."""

    def __init__(self, step: int, act: Callable[[], None]) -> None:
        self._left = step
        self._act = act

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._left -= 1
        if self._left == 0:
            self._act()


@contextmanager
def act_at(step: int, act: Callable[[], None]) -> Iterator[None]:
    """Do something when the n-th task step inside of the block begins."""
    instrument = _ActAt(step, act)
    trio.lowlevel.add_instrument(instrument)
    try:
        yield
    finally:
        trio.lowlevel.remove_instrument(instrument)


async def cancelled_at(step: int, attempt: Callable[[], Awaitable[object]]) -> bool:
    """Cancel something at a task step; whether it had that many."""
    with trio.fail_after(_BOUND * PATIENCE), trio.CancelScope() as scope, act_at(step, scope.cancel):
        await attempt()
    return scope.cancel_called


@contextmanager
def few_descriptors(free: int) -> Iterator[None]:
    """Let this process open only that many descriptors more, getrlimit(2)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    highest = max(map(int, os.listdir("/proc/self/fd")))
    # Some above the highest, so that there are enough to give back.
    wanted = highest + 100
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))
    try:
        with suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        for _ in range(free):
            os.close(taken.pop())
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in taken:
            os.close(descriptor)
