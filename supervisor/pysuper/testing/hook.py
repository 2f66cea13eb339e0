"""
Rules for hooks.
"""

from __future__ import annotations

import inspect
from typing import cast

import pytest

from pysuper.drivers import Hook
from pysuper.errors import PysuperError
from pysuper.spec import DriverChoice
from pysuper.testing.lives import LifeTests
from pysuper.testing.plugin import create
from pysuper.testing.rules import require, rule
from pysuper.testing.stage import IDLE, Stage

__all__ = ["HookTests"]

_METHODS = ("before_create", "created", "started", "ready", "exited", "stopped", "restarted", "failed")

#: What a container does, and what it is told to its hooks by.
_LIVES = {
    "exits": "it exits with 0: ready, exited, stopped",
    "fails": "it exits with 3: exited, failed",
    "missing": "its command does not exist: created, exited, failed",
    "refused": "its root is missing: before_create, exited, failed, and nothing in between",
    "killed": "it is killed: exited, failed",
    "stopped": "it is stopped: exited, stopped",
    "restarted": "it is started again: exited, restarted, before_create, with the number of the run",
    "two": "it is one of two at once, whose events come in between each other",
}


class HookTests(LifeTests):
    """What holds for hooks: they are told everything, and hinder nobody."""

    kind = "hook"

    @rule(
        "What it declares is something that pysuper can act on.",
        because="`after`, written as a string, would be a list of letters; a method that is no coroutine cannot wait, "
        "and what it returns is awaited.",
    )
    def test_declares_what_can_be_acted_on(self) -> None:
        self.require_working()
        hook = cast("Hook", create(self.kind, self.choice))
        require(hook.on_failure in ("fail", "log"), f"on_failure is {hook.on_failure!r}", do='write "fail" or "log"')
        require(hook.timeout > 0, f"timeout is {hook.timeout!r}", do="give it some seconds")
        names = isinstance(hook.after, tuple) and all(isinstance(name, str) for name in hook.after)
        require(names, f"after is {hook.after!r}", do='write a tuple of names, such as after = ("journal",)')
        wrong = [name for name in _METHODS if not inspect.iscoroutinefunction(getattr(type(hook), name))]
        require(not wrong, f"{', '.join(wrong)} is no coroutine function", do="write async def")

    @pytest.mark.parametrize("life", list(_LIVES))
    @rule(
        "Whatever becomes of a container, it takes what it is told, in time, and hinders nobody.",
        because="a hook that fails in the rare case, such as at an exit without a start, is a warning at each crash, "
        "or with on_failure a container that never comes up.",
    )
    async def test_takes_whatever_becomes_of_a_container(self, life: str) -> None:
        self.require_working()
        async with self.stage() as stage:
            await getattr(self, f"_{life}")(stage)
        do = "see LifecycleEvent for what an event of each kind has, and take what is None for None"
        require(not self.warned, f"when {_LIVES[life]}: {'; '.join(self.warned)}", do=do)

    async def _exits(self, stage: Stage) -> None:
        record = await stage.run(self.spec("exit 0"))
        require(record.exit_code == 0, f"the container ended with {record.describe()}", do="leave its processes alone")

    async def _fails(self, stage: Stage) -> None:
        record = await stage.run(self.spec("exit 3"))
        require(record.exit_code == 3, f"the container ended with {record.describe()}", do="leave its processes alone")

    async def _missing(self, stage: Stage) -> None:
        try:
            await stage.run(self.spec(command=("/no/such/command",)))
        except PysuperError:
            return

    async def _refused(self, stage: Stage) -> None:
        try:
            await stage.run(self.spec(rootfs=DriverChoice("dir", argument="/no/such/directory")))
        except PysuperError:
            return

    async def _killed(self, stage: Stage) -> None:
        container = await stage.start(self.spec(IDLE))
        container.kill()
        await container.wait()

    async def _stopped(self, stage: Stage) -> None:
        container = await stage.start(self.spec(IDLE))
        await container.stop()
        await container.wait()

    async def _restarted(self, stage: Stage) -> None:
        spec = self.spec("exit 3")
        subject = stage.supervisor.subject(spec.name)
        for run in (1, 2):
            subject.run = run
            container = await stage.start(spec, subject=subject)
            subject.ready()
            await container.wait()
            if run == 1:
                subject.restarted(0.01, "it exited with 3")
        subject.failed("it exited with 3, twice")

    async def _two(self, stage: Stage) -> None:
        first, second = [await stage.start(self.spec(IDLE)) for _ in range(2)]
        first.kill()
        await first.wait()
        await second.stop()
        await second.wait()
