"""Stacks for tests: a file, a project in a directory of the test's, and the stack that runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
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


PYSUPER = str(Path(sys.executable).parent / "pysuper")


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


class Up:
    """A file, and the commands that are typed about it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.file = directory / "stack.toml"
        self.environment = {
            **os.environ,
            "PYSUPER_RUNTIME_DIR": str(directory / "run"),
            "PYSUPER_STATE_DIR": str(directory / "state"),
        }
        self._started: list[subprocess.Popen[str]] = []

    def write(self, text: str) -> None:
        """The file, with this machine's cgroup driver for every container."""
        self.file.write_text(with_defaults(text))

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """`pysuper up` in the foreground."""
        process = subprocess.Popen(
            [PYSUPER, "up", *arguments, str(self.file)],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        return process

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`pysuper up` to its end."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=60 * PATIENCE)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def call(self, command: str, *arguments: str, check: bool = True) -> str:
        """A client command's output."""
        done = subprocess.run(
            [PYSUPER, command, "--file", str(self.file), *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60 * PATIENCE,
            check=False,
        )
        assert not check or done.returncode == 0, (done.returncode, done.stdout, done.stderr)
        return done.stdout if check else f"{done.returncode} {done.stderr}"

    def ps(self) -> dict[str, dict]:
        """What `ps` tells, by name; nothing if nothing runs."""
        listed = subprocess.run(
            [PYSUPER, "ps", "--file", str(self.file), "--json"],
            timeout=60 * PATIENCE,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        return {row["name"]: row for row in json.loads(listed.stdout)} if listed.returncode == 0 else {}

    def reaches(self, name: str, state: str, *, run: int = 1) -> dict:
        """Wait until a container is in a state."""
        deadline = time.monotonic() + 20 * PATIENCE
        while time.monotonic() < deadline:
            row = self.ps().get(name)
            if row and row["state"] == state and row["run"] >= run:
                return row
            time.sleep(0.05)
        raise AssertionError(self.ps())

    def clean_up(self) -> None:
        """End what a failed test has left."""
        subprocess.run([PYSUPER, "down", "--file", self.file], env=self.environment, capture_output=True, check=False)
        for process in self._started:
            process.kill()
            process.communicate()


@pytest.fixture
def stacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stacks:
    """Stacks whose files, sockets and journals are in a directory of the test's."""
    monkeypatch.setenv("PYSUPER_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("PYSUPER_STATE_DIR", str(tmp_path / "state"))
    return Stacks(tmp_path)


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    """A file of the test's own; nothing of it runs afterwards."""
    made = Up(tmp_path)
    yield made
    made.clean_up()
