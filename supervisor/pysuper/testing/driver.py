"""
Rules for drivers of all kinds: their containers start, keep what is promised, and do not disturb each other.
"""

from __future__ import annotations

import math

import pytest
import trio

from pysuper import receipts
from pysuper.drivers import Driver
from pysuper.errors import LaunchError, LimitError, PysuperError
from pysuper.plan import Plan
from pysuper.testing.lives import LifeTests
from pysuper.testing.machine import PATIENCE
from pysuper.testing.plans import PlanTests
from pysuper.testing.plugin import contribution
from pysuper.testing.rules import Broken, NotHere, require, rule
from pysuper.testing.stage import IDLE, Stage

__all__ = ["DriverTests"]

#: That is no failure of pysuper's, nor of a shell's.
_STATUS = 7
_DO_NOT_REUSE = "keep nothing of a container in the driver, or do not say `reusable`"


class DriverTests(PlanTests, LifeTests):
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
                async with self.nothing_left(failure):
                    with trio.fail_after(30 * PATIENCE):
                        await self._require_launch_error(stage)

    @property
    def has_host_side(self) -> bool:
        """Whether it does something on the host, where things can be left, and waits be interrupted."""
        cls = self.load()
        return any(getattr(cls, name) is not getattr(Driver, name) for name in ("host", "keep", "traces", "at_barrier"))

    def require_host_side(self) -> None:
        """Raise NotHere if it has none."""
        if not self.has_host_side:
            raise NotHere(f"{self.title} has no host side: all that it does is data in the plan")

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
        "Two containers at once do not disturb each other.",
        because="whatever is named after something else than context.id belongs to both of them.",
    )
    async def test_two_containers_at_once_do_not_meet(self) -> None:
        self.require_working()
        do = "name what `host` makes after context.id"
        async with self.stage() as stage:
            # Of the same name, as two supervisors may well have.
            name = self.spec().name
            first, second = [await stage.start(self.spec(IDLE, name=name, init=False)) for _ in range(2)]
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
        "A driver that says it is reusable serves one container after the other.",
        because="a pool does not ask it again for the next container, which has the same plan; only `host` is entered.",
    )
    async def test_one_that_is_reusable_serves_again(self) -> None:
        self.require_working()
        if not vars(self.load()).get("reusable", False):
            raise NotHere(f"{self.title} does not say that it is reusable: each container has one of its own")
        plans = []
        async with (
            self.nothing_left("a pool"),
            self.stage() as stage,
            stage.place(self.spec(f"exit {_STATUS}")) as start,
        ):
            for number in ("first", "second", "third"):
                try:
                    container = await start()
                    record = await container.wait()
                except PysuperError as error:
                    raise Broken(f"the {number} container failed: {error}", do=_DO_NOT_REUSE) from error
                found = f"the {number} container exits with {record.exit_code}, its command with {_STATUS}"
                require(record.exit_code == _STATUS, found, do=_DO_NOT_REUSE)
                plans.append(container.plan)
        require(plans[0] is plans[2], "it is not used again", do="let the other drivers of `spec` be reusable ones")

    @rule(
        "What it keeps for the next container of a pool is dropped when the pool is closed or cancelled, at any await.",
        because="a place is left when nobody needs it any more, and may be left before anybody has used it.",
    )
    async def test_what_it_keeps_is_dropped(self) -> None:
        self.require_keeping()

        async def live() -> None:
            async with self.stage() as stage, stage.place(self.spec()) as start:
                for _ in range(2):
                    await (await start()).wait()

        await self.cancel_everywhere(live)

    @rule(
        "kill -9 of the supervisor leaves nothing of what it keeps, either.",
        because="the launcher knows only what `traces` has announced, before `keep` is called.",
    )
    def test_kill_9_leaves_nothing_that_is_kept(self) -> None:
        self.require_keeping()
        self.kill_everywhere(pooled=True)

    def require_keeping(self) -> None:
        """Raise NotHere if it keeps nothing for other containers."""
        self.require_working()
        cls = self.load()
        if not (vars(cls).get("reusable", False) and issubclass(cls, Driver) and cls.keeps()):
            raise NotHere(f"{self.title} keeps nothing for the next container of a pool")
