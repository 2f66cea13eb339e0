"""Stacks for tests: a file, a project in a directory of the test's, and the stack that runs it."""

from __future__ import annotations

import textwrap
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from machine import PATIENCE, cgroup_driver
from pysuper.config import load_stack
from pysuper.stack.instance import Instance
from pysuper.stack.lifecycle import State
from pysuper.stack.postmortem import Because
from pysuper.stack.project import Project
from pysuper.stack.reading import records
from pysuper.stack.spec import StackSpec
from pysuper.stack.stack import Stack, open_stack


def with_defaults(text: str) -> str:
    """A file in which every container has this machine's cgroup driver, and is stopped soon."""
    text = textwrap.dedent(text)
    defaults = f'[defaults]\nstop_grace_period = "1s"\ncgroup = {{ driver = "{cgroup_driver()}" }}\n'
    return text.replace("[defaults]\n", defaults) if "[defaults]" in text else defaults + text


class Stacks:
    """Writes files, and runs them in this process."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.file = directory / "stack.toml"
        self.project = Project.of(file=str(self.file))

    def load(self, text: str) -> StackSpec:
        """The stack of a file's text; every container has this machine's cgroup driver."""
        self.file.write_text(with_defaults(text))
        return load_stack(str(self.file))

    @asynccontextmanager
    async def run(self, text: str) -> AsyncIterator[Stack]:
        """Start a stack, and stop it at the end, in order."""
        spec = self.load(text)
        with self.project.lock(), trio.fail_after(60 * PATIENCE):
            async with open_stack(spec, self.project) as stack:
                stack.begin()
                yield stack
                await stack.stop(list(stack.instances.values()), Because(by="stack"))

    def journal(self, *kinds: str) -> list[dict]:
        """What has been written so far, of these kinds or all."""
        return [record for record in records(Path(self.project.state)) if not kinds or record["kind"] in kinds]

    def happened(self, *kinds: str) -> list[str]:
        """`web started` and so on, in order."""
        return [f"{record.get('container')} {record['kind']}" for record in self.journal(*kinds)]

    def output(self, container: str) -> list[str]:
        """The lines of a container."""
        return [r["text"] for r in self.journal("stdout", "stderr") if r["container"] == container]


async def reaches(stack: Stack, name: str, *states: State, run: int = 1) -> Instance:
    """Wait until an instance is in one of these states, in this run or a later one."""
    instance = stack.instances[name]
    with trio.move_on_after(20 * PATIENCE) as scope:
        await stack.until(lambda: instance.state in states and instance.run >= run)
    seen = {i.name: (i.state.value, i.run, i.detail) for i in stack.instances.values()}
    assert not scope.cancelled_caught, seen
    return instance


async def holds(condition: Callable[[], bool]) -> None:
    """Wait until something is true that nobody tells us of."""
    with trio.fail_after(20 * PATIENCE):
        while not condition():
            await trio.sleep(0.01)
