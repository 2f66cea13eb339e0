"""
Rules for the containers of a driver of any kind: they start and end, whatever is done to them on the way, and nothing
of them is left.
"""

from __future__ import annotations

import math
import time

import pytest
import trio

from pysuper import receipts
from pysuper.errors import CommandNotFound, LaunchError, LimitError, PysuperError
from pysuper.plan import Plan
from pysuper.planning import is_privileged
from pysuper.testing import apart
from pysuper.testing.faults import cancelled_at, few_descriptors
from pysuper.testing.interface import InterfaceTests
from pysuper.testing.machine import PATIENCE
from pysuper.testing.rules import Broken, NotHere, require, rule
from pysuper.testing.stage import IDLE, Stage
from pysuper.testing.subject import contribution

__all__ = ["DriverTests"]

#: Seconds in which nothing else runs; what a start takes on an idle machine is a hundredth of it.
_STRETCH = 1.0
_ATTEMPTS = 3
#: More than any start needs, of task steps and of descriptors.
_MANY = 2000
_STATUS = 7

#: How a container ends, and what has happened then.
_ENDS = {
    "normal": "a normal end",
    "failed": "a command that failed",
    "missing": "a start whose command does not exist",
    "stopped": "a stop, by a signal that the command ignores",
    "killed": "a kill",
}


class DriverTests(InterfaceTests):
    """What holds for drivers of all kinds; each kind adds to it."""

    @pytest.mark.parametrize("init", [True, False], ids=["init", "no-init"])
    @rule(
        "A container with it starts, what it promises holds, and it ends as its command does.",
        because="this is what a driver is for. With an init in front of the command, and without: then it is PID 1.",
    )
    async def test_a_container_starts_and_ends(self, init: bool) -> None:
        self.require_working()
        async with self.stage() as stage:
            record = await stage.run(self.spec(f"exit {_STATUS}", init=init))
        found = f"its command exits with {_STATUS}, the container with {record.exit_code}, signal {record.signal}"
        require(record.exit_code == _STATUS, found, do="look for a step that keeps the command from running")
        require(record.receipts, "no receipt was taken", do="let each promise be a check: plan.check()")

    @pytest.mark.parametrize("end", list(_ENDS))
    @rule(
        "Nothing of a container is left, however it ends.",
        because="what is left of each container adds up, until the machine has no room for another one.",
    )
    async def test_nothing_is_left(self, end: str) -> None:
        self.require_working()
        with self.nothing_left(_ENDS[end]):
            async with self.stage() as stage:
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
        "If any step fails, the start fails with that step's name, and nothing is left.",
        because="the kernel may refuse every single step, on some machine; what has been made until then is undone, "
        "and the user is told what was refused.",
    )
    async def test_failure_of_every_step_is_a_launch_error(self) -> None:
        self.require_working()
        async with self.stage(math.inf) as stage:
            container = await stage.start(self.spec())
            await container.wait()
            for index in self._steps_to_fail(container.plan):
                stage.observer.failing = index
                failure = f"the failure of the step {container.plan.steps[index].describe()!r}"
                with self.nothing_left(failure), trio.fail_after(30 * PATIENCE):
                    await self._require_launch_error(stage)

    def _steps_to_fail(self, plan: Plan) -> list[int]:
        """All of them, if there is something on the host to be undone; otherwise the driver's own."""
        if self.has_host_side:
            return list(range(len(plan.steps)))
        own = contribution(self.create(), self.context()).steps
        return [index for index, step in enumerate(plan.steps) if step in own]

    async def _require_launch_error(self, stage: Stage) -> None:
        do = "let nothing in `host` or at a barrier replace the error that passes through it"
        error: PysuperError | None = None
        try:
            await stage.run(self.spec())
        except PysuperError as raised:
            error = raised
        failed = stage.observer.failed
        step = "" if failed is None else failed.describe()
        require(error is not None, f"the step {step!r} failed, and the command ran", do=do)
        told = isinstance(error, LaunchError) and error.step == step
        require(told, f"the step {step!r} failed, but the error is {type(error).__name__}: {error}", do=do)

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

        await live()
        for step in range(1, _MANY):
            with self.nothing_left(f"cancellation at task step {step}"):
                if not await cancelled_at(step, live):
                    return
        raise Broken(
            f"a life takes more than {_MANY} task steps", do="wait for what happens, instead of polling for it"
        )

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
                with self.nothing_left(f"a start with {free} free descriptors"):
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
        found = apart.killed(self.kind, self.choice, self.keeps, self.forgets)
        do = (
            "announce in `traces` each directory and cgroup that `host` is going to make; or make it of what ends with "
        )
        do += "the process that has it, as a descriptor does"
        require(not found.left, f"killed at task step {found.step}: {'; '.join(found.left)}", do=do)

    @rule(
        "Two containers at once do not disturb each other.",
        because="whatever is named after something else than context.id belongs to both of them.",
    )
    async def test_two_containers_at_once_do_not_meet(self) -> None:
        self.require_working()
        do = "name what `host` makes after context.id"
        async with self.stage() as stage:
            # Of the same name, as two supervisors may well have.
            name = self.spec().name
            first, second = [await stage.start(self.spec(IDLE, name=name)) for _ in range(2)]
            first.kill()
            await first.wait()
            try:
                receipts.take(second.plan.checks, second.pid)
            except LimitError as error:
                raise Broken(f"when one has ended, the other's promises do not hold: {error}", do=do) from error
            await second.stop()
            record = await second.wait()
        require(record.reason == "stopped", f"when one had ended, the other did by {record.reason}", do=do)

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
