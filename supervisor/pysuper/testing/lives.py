"""
Rules for the life of a container, and of its supervisor: whatever is done to them, nothing is left, and nobody waits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable

import pytest
import trio

from pysuper.contexts import is_privileged
from pysuper.errors import CommandNotFound, PysuperError
from pysuper.testing import apart
from pysuper.testing.faults import cancelled_at, few_descriptors
from pysuper.testing.interface import InterfaceTests
from pysuper.testing.machine import PATIENCE
from pysuper.testing.rules import Broken, NotHere, require, rule
from pysuper.testing.stage import IDLE, Stage

__all__ = ["LifeTests"]

#: Seconds in which nothing else runs; what a start takes on an idle machine is a hundredth of it.
_STRETCH = 1.0
_ATTEMPTS = 3
#: More than any start needs, of task steps and of descriptors.
_MANY = 2000

#: How a container ends, and what has happened then.
_ENDS = {
    "normal": "a normal end",
    "failed": "a command that failed",
    "missing": "a start whose command does not exist",
    "stopped": "a stop, by a signal that the command ignores",
    "killed": "a kill",
}


class LifeTests(InterfaceTests):
    """What holds for drivers and hooks."""

    def require_host_side(self) -> None:
        """Raise NotHere if it does nothing that could be left, and waits for nothing."""

    @pytest.mark.parametrize("end", list(_ENDS))
    @rule(
        "Nothing of a container is left, however it ends.",
        because="what is left of each container adds up, until the machine has no room for another one.",
    )
    async def test_nothing_is_left(self, end: str) -> None:
        self.require_working()
        async with self.nothing_left(_ENDS[end]), self.stage() as stage:
            if end == "missing":
                await self._start_nothing(stage)
            elif end in ("stopped", "killed"):
                container = await stage.start(self.spec(f"trap '' TERM; {IDLE}"))
                if end == "killed":
                    container.kill()
                await container.stop()
                await container.wait()
            else:
                await stage.run(self.spec("exit 0" if end == "normal" else "exit 3"))

    async def _start_nothing(self, stage: Stage) -> None:
        command = "/no/such/command"
        try:
            await stage.run(self.spec(command=(command,)))
        except CommandNotFound:
            return
        raise Broken(f"{command} was found", do="let the container have a root of its own, or that of the host")

    @rule(
        "A start can be cancelled at every await, and so can what follows it; nothing is left.",
        because="a container is a scope: Ctrl-C, a time limit or a failing neighbour ends it wherever it just is.",
    )
    async def test_cancellation_at_every_task_step_leaves_nothing(self) -> None:
        self.require_working()
        self.require_host_side()

        async def live() -> None:
            async with self.stage() as stage:
                await stage.run(self.spec())

        await self.cancel_everywhere(live)

    async def cancel_everywhere(self, live: Callable[[], Awaitable[None]]) -> None:
        """Cancel a life at each task step in turn, after which nothing may be left."""
        await live()
        for step in range(1, _MANY):
            async with self.nothing_left(f"cancellation at task step {step}"):
                if not await cancelled_at(step, live):
                    return
        do = "wait for what happens, instead of polling for it"
        raise Broken(f"a life takes more than {_MANY} task steps", do=do)

    @rule(
        "A start for which there are no descriptors left fails with an error of pysuper's, and nothing is left.",
        because="a supervisor of many containers runs out of them at some time, at any of the calls that need one; the "
        "next start, when there are some again, has to work.",
    )
    async def test_out_of_descriptors_is_an_error_and_leaves_nothing(self) -> None:
        self.require_working()
        self.require_host_side()
        async with self.stage(math.inf) as stage:
            await stage.run(self.spec())  # the first one takes what a supervisor keeps, such as a block of ids
            for free in range(_MANY):
                async with self.nothing_left(f"a start with {free} free descriptors"):
                    try:
                        with few_descriptors(free):
                            await stage.run(self.spec())
                    except PysuperError:
                        continue
                return
        raise Broken(f"a start takes more than {_MANY} descriptors", do="close what is not needed any more")

    @rule(
        "kill -9 of the supervisor, at any moment, leaves nothing for longer than a second.",
        because="nobody can promise that a supervisor ends in good order. The launcher cleans up after it, and knows "
        "of the host side only what `traces` has announced.",
    )
    def test_kill_9_of_the_supervisor_leaves_nothing(self) -> None:
        self.require_working()
        self.require_host_side()
        self.kill_everywhere(pooled=False)

    def kill_everywhere(self, *, pooled: bool) -> None:
        """Kill a supervisor at each task step in turn, whose container is in a pool or not."""
        found = apart.killed(self.kind, self.choice, self.keeps, self.forgets, pooled=pooled)
        do = "announce in `traces` each directory and cgroup that `host` is going to make; or make it of what ends "
        do += "with the process that has it, as a descriptor does"
        left = ", ".join(found.left)
        require(not left, f"a second after a kill at task step {found.step} there is still {left}", do=do)

    @rule(
        "It does not keep the event loop from running.",
        because="one supervisor serves all containers in one thread: while a driver computes, reads or waits without "
        "`await`, no other container is started, stopped, or answered.",
    )
    async def test_does_not_block_the_event_loop(self) -> None:
        self.require_working()
        longest = []
        for _ in range(_ATTEMPTS):  # since machines are busy with other things at times
            watch = Stopwatch()
            async with self.stage() as stage:
                trio.lowlevel.add_instrument(watch)
                await stage.run(self.spec())
                trio.lowlevel.remove_instrument(watch)
            longest.append(watch.longest)
            if watch.longest < _STRETCH * PATIENCE:
                return
        do = f"let one stretch take less than {_STRETCH:g} s: trio.to_thread.run_sync, trio.run_process, trio.sleep"
        raise Broken(f"nothing else ran for {min(longest):.1f} s", do=do)

    @rule(
        "An ordinary user can have it, or is told why not.",
        because="not everybody is root; and what only fails somewhere, with an error of Python's, helps nobody.",
    )
    def test_an_ordinary_user_can_have_it_or_is_told_why_not(self) -> None:
        if not is_privileged():
            raise NotHere("all of these tests are run by an ordinary user")
        lived = apart.lived_as_user(self.kind, self.choice)
        do = "let detect() or contribute() say what takes privileges: `context.privileged` tells whether there are any"
        require(lived.meant and lived.error != "", f"an ordinary user gets: {lived.error}", do=do)


class Stopwatch(trio.abc.Instrument):
    """
    Attributes:
        longest: Seconds that the longest task step took.
    """

    def __init__(self) -> None:
        self.longest = 0.0
        self._began = math.inf  # until the first step that is seen from its begin

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._began = time.monotonic()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.longest = max(self.longest, time.monotonic() - self._began)
