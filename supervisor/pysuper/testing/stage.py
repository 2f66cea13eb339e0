"""
Containers for the rules: under names by which what they leave can be told from what others have, and watched.
"""

from __future__ import annotations

import itertools
import os
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from io import FileIO
from typing import Any

import attrs
import trio
import trio.testing

from pysuper import registry
from pysuper.container import Container
from pysuper.drivers import Launched, Launcher, NamespaceDriver, Trace
from pysuper.hooks import Subject
from pysuper.plan import Phase, Plan
from pysuper.record import ExitRecord
from pysuper.spec import BindMount, ContainerSpec, DriverChoice
from pysuper.steps import Step, WriteFile
from pysuper.supervisor import Supervisor, open_supervisor
from pysuper.testing.changes import note, watched
from pysuper.testing.machine import PATIENCE, SETTLED, Snapshot
from pysuper.testing.rules import require

__all__ = [
    "IDLE",
    "MARK",
    "STAGE_BOUND",
    "Stage",
    "forget",
    "interpreter",
    "nothing_left",
    "open_stage",
    "spec_with",
]

#: Begins the name of every container of this test run, and so is in the names of what they leave.
MARK = f"check{os.getpid()}x"
#: Seconds that a rule may take, unless it says otherwise.
STAGE_BOUND = 60.0
#: A shell script that runs until its container is ended, on a stage.
IDLE = "read line"
#: A step that fails wherever it stands.
_FAILING = WriteFile(path="/proc/no/such/file", content="1")

_numbers = itertools.count()


def spec_with(kind: str, choice: DriverChoice, command: tuple[str, ...], **fields: Any) -> ContainerSpec:
    """A container that has the driver under test, and defaults otherwise; a hook is its supervisor's."""
    fields.setdefault("name", f"{MARK}{next(_numbers)}")
    fields.setdefault("stop_timeout", 0.1)
    if kind == "namespace":
        driver: type[NamespaceDriver] = registry.load("pysuper.namespace", choice.name, choice.distribution)
        fields["namespaces"] = {driver.namespace or choice.name: choice}
    elif kind != "hook":
        fields[kind] = choice
    return ContainerSpec(command=command, **fields)


def interpreter(code: str) -> dict[str, Any]:
    """The fields of a spec by which a container with the host's root runs Python code: command and mounts."""
    # It may lie where the host's view is empty, such as below /root.
    needed = sorted({sys.base_prefix, sys.base_exec_prefix})
    return {
        "command": (os.path.realpath(sys.executable), "-I", "-S", "-c", code),
        "mounts": tuple(BindMount(source=path, target=path, read_only=True) for path in needed),
    }


class Observer(Launcher):
    """
    The launcher of a supervisor on the stage: it passes everything on to the one that was there.

    Attributes:
        failing: The number of the step that fails in each plan of the stage's containers, or None.
        failed: The last one that was made to fail, as the plan had it.
    """

    def __init__(self, launcher: Launcher) -> None:
        self.failing: int | None = None
        self.failed: Step | None = None
        self._launcher = launcher

    async def serve(self, task_status: trio.TaskStatus[None]) -> None:
        """See `Launcher.serve`."""
        await self._launcher.serve(task_status)

    def launch(
        self, plan: Plan, files: Mapping[int, int], namespaces: Mapping[str, int]
    ) -> AbstractAsyncContextManager[Launched]:
        """See `Launcher.launch`."""
        if self.failing is not None and plan.name.startswith(MARK):
            self.failed = plan.steps[self.failing]
            before, after = plan.steps[: self.failing], plan.steps[self.failing + 1 :]
            # In one phase, since it is all the same to the launcher.
            plan = attrs.evolve(plan, phases={Phase.SESSION: (*before, _FAILING, *after)})
        return self._launcher.launch(plan, files, namespaces)

    async def remember(self, *traces: Trace) -> None:
        """See `Launcher.remember`."""
        for trace in traces:
            note(trace.path)
        await self._launcher.remember(*traces)

    async def forget(self, *traces: Trace) -> None:
        """See `Launcher.forget`."""
        await self._launcher.forget(*traces)


class Stage:
    """
    A supervisor whose containers are watched. Made by `open_stage`.

    Attributes:
        supervisor: The supervisor.
        observer: Its launcher.
    """

    def __init__(self, supervisor: Supervisor, idle: int) -> None:
        """
        Args:
            idle: A descriptor at which there is nothing to read, and no end.
        """
        self.observer = Observer(supervisor._launcher)
        supervisor._launcher = self.observer
        self.supervisor = supervisor
        self._idle = idle

    async def start(
        self, spec: ContainerSpec, *, stdout: int | None = None, subject: Subject | None = None
    ) -> Container:
        """Start a container, whose standard error is dropped."""
        return await self.supervisor.start(spec, stdin=self._idle, stdout=stdout, stderr=None, subject=subject)

    @asynccontextmanager
    async def place(self, spec: ContainerSpec) -> AsyncIterator[Callable[[], Awaitable[Container]]]:
        """What starts containers that come into one place of a pool, one after the other."""
        async with self.supervisor.pool(spec, size=0) as pool:
            yield partial(pool.start, stdin=self._idle, stdout=None, stderr=None)

    async def run(self, spec: ContainerSpec) -> ExitRecord:
        """Run one to its end."""
        return await (await self.start(spec)).wait()

    async def recorded(self, spec: ContainerSpec) -> tuple[ExitRecord, str]:
        """Run one to its end; its record, and its standard output."""
        async with _pipe() as (stream, write):
            container = await self.start(spec, stdout=write.fileno())
            text = await _everything(stream, write)
            return await container.wait(), text

    async def output(self, spec: ContainerSpec) -> str:
        """Run one to its end, which has to be a good one; its standard output."""
        record, text = await self.recorded(spec)
        ended = f"ended with {record.exit_code or record.signal}, reason {record.reason}; its output: {text!r}"
        do = "see what the command lacks in a container with this driver"
        require(record.exit_code == 0, f"the command {spec.command[-1]!r} {ended}", do=do)
        return text

    async def told(self, spec: ContainerSpec) -> tuple[Container, str]:
        """Start one, and wait until it has said a line; the container, which runs on, and the line."""
        async with _pipe() as (stream, write):
            container = await self.start(spec, stdout=write.fileno())
            write.close()
            text = b""
            while not text.endswith(b"\n"):
                more = await stream.receive_some()
                do = "see what the command lacks in a container with this driver"
                require(more, f"the command {spec.command[-1]!r} ended before it said anything", do=do)
                text += more
        return container, text.decode(errors="replace")

    async def executed(self, container: Container, *command: str) -> str:
        """The standard output of one more command in a container."""
        async with _pipe() as (stream, write), container.execute(command, stdout=write.fileno()) as execution:
            text = await _everything(stream, write)
            await execution.wait()
            return text


@asynccontextmanager
async def _pipe() -> AsyncIterator[tuple[trio.lowlevel.FdStream, FileIO]]:
    """Both ends; the one to write to may be closed before."""
    read, write = os.pipe()
    async with trio.lowlevel.FdStream(read) as stream:
        with FileIO(write, "w") as file:
            yield stream, file


async def _everything(stream: trio.lowlevel.FdStream, write: FileIO) -> str:
    """What others write, until the last of them has ended."""
    write.close()
    return b"".join([chunk async for chunk in stream]).decode(errors="replace")


def _ignore(_line: str) -> None:
    """What warnings are for is not always under test."""


@asynccontextmanager
async def open_stage(
    bound: float = STAGE_BOUND, *, hooks: Sequence[DriverChoice] = (), warn: Callable[[str], None] = _ignore
) -> AsyncIterator[Stage]:
    """
    A supervisor, with its launcher process, as long as the block lasts.

    Args:
        bound: Seconds that the block may take.
        hooks, warn: See `open_supervisor`.

    Raises:
        TooSlowError: It took longer.
    """
    idle, kept = os.pipe()
    try:
        with trio.fail_after(bound * PATIENCE):
            async with open_supervisor(hooks=hooks, warn=warn) as supervisor:
                yield Stage(supervisor, idle)
    finally:
        os.close(idle)
        os.close(kept)


def forget(paths: Sequence[str]) -> None:
    """Remove what a driver would find done already."""
    for path in paths:
        shutil.rmtree(path, ignore_errors=True)


@asynccontextmanager
async def nothing_left(after: str, keeps: Sequence[str]) -> AsyncIterator[None]:
    """
    At the end of the block nothing is left of what has been made inside.

    Args:
        after: What has happened in the block, in words.
        keeps: Directories of what stays on purpose, such as a cache; but not what is named after a container.

    Raises:
        Broken: Something is left.
    """
    await trio.testing.wait_all_tasks_blocked()  # such as hooks, which are told of the last container still
    before = Snapshot.take(MARK)
    with watched() as changes:
        yield
        leftovers = before.watch(lambda: changes.left(keeps, MARK))
        with trio.move_on_after(SETTLED * PATIENCE):
            while not leftovers.gone():
                await trio.sleep(0.01)
    changes.clean_up(changes.left(keeps, MARK))
    left = leftovers.names()
    do = "undo in `host`, in a `finally`, all that it did before; `keeps` of the test's class names a cache"
    require(not left, f"after {after} there is still {', '.join(left)}", do=do)
