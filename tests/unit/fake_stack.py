"""
A stack for tests of what talks to one: real instances, project, journal and sockets, and processes for containers.

`FakeStack` has what `Stack` has for operators. Its containers are nothing but names; a command that is executed in one
is a plain process of this machine.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from pysuper.drivers import Statistics
from pysuper.errors import CommandNotFound, ConfigError, LaunchError
from pysuper.hooks import Hooks, Subject
from pysuper.receipts import Receipt
from pysuper.record import ExitStatus, exit_status
from pysuper.shorthand import did_you_mean
from pysuper.spec import ContainerSpec, Limits
from pysuper.stack.control import serve_control
from pysuper.stack.instance import Instance
from pysuper.stack.journal import Journal
from pysuper.stack.lifecycle import State
from pysuper.stack.postmortem import Because
from pysuper.stack.project import Project
from pysuper.stack.spec import JournalSpec, MemberSpec, StackSpec


@attrs.frozen
class FakePlan:
    """What `inspect` shows of a plan."""

    def describe(self) -> list[str]:
        """In words."""
        return ["clone", "execute"]


class FakeExecution:
    """A process of this machine, as `Execution` shows one."""

    def __init__(self, process: subprocess.Popen[bytes], terminal: int | None) -> None:
        self.process = process
        self.terminal = terminal

    async def wait(self) -> ExitStatus:
        """Poll it: it is nobody's child but ours, and nothing depends on microseconds."""
        while self.process.poll() is None:
            await trio.sleep(0.005)
        code = self.process.returncode
        return exit_status(-code if code < 0 else code << 8)

    def send_signal(self, number: int) -> None:
        """Send a signal."""
        self.process.send_signal(number)


@attrs.define
class FakeContainer:
    """A container that is paused by a flag, and counts what it is told to have counted."""

    pid: int = 4711
    paused: bool = False
    counted: Statistics = attrs.field(factory=Statistics)
    plan: FakePlan = attrs.field(factory=FakePlan)
    warnings: tuple[str, ...] = ()
    receipts: tuple[Receipt, ...] = (Receipt(promise="pids.max", source="/sys/fs/x", expected="20", actual="20"),)
    executed: list[dict[str, Any]] = attrs.field(factory=list)
    processes: list[subprocess.Popen[bytes]] = attrs.field(factory=list)

    def pause(self) -> None:
        """Only noted."""
        self.paused = True

    def resume(self) -> None:
        """Only noted."""
        self.paused = False

    def statistics(self) -> Statistics:
        """What it was told to have counted."""
        return self.counted

    @asynccontextmanager
    async def execute(
        self,
        command: Sequence[str],
        *,
        terminal: bool,
        terminal_size: tuple[int, int] | None,
        stdin: int | None,
        stdout: int | None,
        stderr: int | None,
        **settings: Any,
    ) -> AsyncIterator[FakeExecution]:
        """Start a process, and kill it at the end, as `Container.execute` does."""
        if self.paused:
            raise LaunchError("it is paused")
        self.executed.append({"command": list(command), "terminal_size": terminal_size, **settings})
        master, slave = os.openpty() if terminal else (None, None)
        stdio = (stdin, stdout, stderr) if slave is None else (slave,) * 3
        # A session of its own, whose terminal this is; setsid(1) does not fork, since it leads no process group yet.
        program = list(command) if slave is None else ["setsid", "--ctty", *command]
        try:
            process = subprocess.Popen(program, stdin=stdio[0], stdout=stdio[1], stderr=stdio[2])
        except FileNotFoundError:
            raise CommandNotFound(f"{command[0]} is not there") from None
        finally:
            if slave is not None:
                os.close(slave)
        self.processes.append(process)
        try:
            yield FakeExecution(process, master)
        finally:
            if master is not None:
                os.close(master)
            with trio.CancelScope(shield=True):
                process.send_signal(signal.SIGKILL)
                await FakeExecution(process, None).wait()


class FakeSupervisor:
    """One without hooks."""

    def subject(self, name: str) -> Subject:
        """Somebody whom nobody is told about."""
        return Hooks([], print).subject(name, supervised=True)


class FakeStack:
    """
    What operators can do with a `Stack`, done at once, or when `gate` is opened.

    Attributes:
        calls: What was asked for, in words.
        gate: Changes wait for it; open at first.
    """

    def __init__(self, members: Iterable[MemberSpec], journal: Journal, nursery: trio.Nursery) -> None:
        self.journal = journal
        self.supervisor = FakeSupervisor()
        self.calls: list[str] = []
        self.gate = trio.Event()
        self.gate.set()
        self.becauses: list[Because] = []
        self._nursery = nursery
        self._changed = trio.Event()
        self.instances: dict[str, Instance] = {}
        for member in members:
            names = [f"{member.name}-{n + 1}" for n in range(member.replicas)]
            for name in names if member.replicas > 1 else [member.name]:
                self.instances[name] = Instance(name, member, self)  # type: ignore[arg-type]

    def spawn(self, function: Callable[[], Awaitable[None]], name: str) -> None:
        """Run a task that ends with the stack."""
        self._nursery.start_soon(function, name=name)

    def container_spec(self, member: MemberSpec, name: str) -> ContainerSpec:
        """What its runs would be started from."""
        return attrs.evolve(member.container, name=name)

    def select(self, names: Sequence[str]) -> list[Instance]:
        """As `Stack.select`."""
        found = [i for name in names for i in self.instances.values() if name in (i.name, i.member.name)]
        known = {name for i in self.instances.values() for name in (i.name, i.member.name)}
        for name in names:
            if name not in known:
                raise ConfigError(f"there is no container {name!r} in this stack", remedy=did_you_mean(name, known))
        return found or list(self.instances.values())

    def become(self, name: str, state: State, container: FakeContainer | None = None, **attributes: Any) -> Instance:
        """Put an instance in a state."""
        instance = self.instances[name]
        instance.state = state
        instance.container = container  # type: ignore[assignment]
        for key, value in attributes.items():
            setattr(instance, key, value)
        changed, self._changed = self._changed, trio.Event()
        changed.set()
        return instance

    def start(self, instances: Iterable[Instance], because: Because) -> None:
        """They wait."""
        self._note("start", instances, because)
        for instance in instances:
            self.become(instance.name, State.WAITING)

    async def stop(self, instances: Sequence[Instance], because: Because) -> None:
        """They are down, when the gate is open."""
        self._note("stop", instances, because)
        await self.gate.wait()
        for instance in instances:
            self.become(instance.name, State.STOPPED)
        self._note("stopped", instances, because)

    async def restart(self, instances: Sequence[Instance], because: Because) -> None:
        """Both."""
        await self.stop(instances, because)
        self.start(instances, because)

    async def reload(self, spec: StackSpec) -> dict[str, list[str]]:
        """Changes nothing."""
        self.calls.append("reload")
        await self.gate.wait()
        self.calls.append("reloaded")
        return {"removed": [], "changed": [], "added": sorted(spec.members), "kept": sorted(self.instances)}

    async def until(self, condition: Callable[[], bool]) -> None:
        """As `Stack.until`."""
        while not condition():
            await self._changed.wait()

    def settled(self, instances: Iterable[Instance]) -> bool:
        """Whether all are ready."""
        return all(instance.state is State.READY for instance in instances)

    def _note(self, what: str, instances: Iterable[Instance], because: Because) -> None:
        self.calls.append(f"{what} {' '.join(instance.name for instance in instances)}")
        self.becauses.append(because)


def member(name: str, replicas: int = 1, **limits: Any) -> MemberSpec:
    """A member that is called so."""
    container = ContainerSpec(name=name, command=("httpd",), limits=Limits(**limits))
    return MemberSpec(container=container, replicas=replicas, labels={"tier": "front"})


@attrs.define
class Served:
    """
    A fake stack behind a real control socket.

    Attributes:
        load: What `pysuper reload` reads the file with.
        downs: Who has asked for the end.
    """

    project: Project
    stack: FakeStack
    load: Callable[[], StackSpec]
    downs: list[Because] = attrs.field(factory=list)
    _scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Serve until somebody wants the end."""
        with self._scope:
            await serve_control(self.stack, self.project, self._load, self._down, task_status)  # type: ignore[arg-type]

    def _load(self) -> StackSpec:
        return self.load()

    def _down(self, because: Because) -> None:
        """Quicker than a stack ever ends."""
        self.downs.append(because)
        self._scope.cancel()


@asynccontextmanager
async def serve(project: Project, *members: MemberSpec) -> AsyncIterator[Served]:
    """Serve a stack with these members, whose containers all run."""
    with project.lock():
        async with trio.open_nursery() as nursery:
            journal = Journal(project.state, JournalSpec())
            stack = FakeStack(members, journal, nursery)
            for name in stack.instances:
                stack.become(name, State.READY, FakeContainer(), run=1)
            spec = StackSpec(path="/demo.toml", members={"new": member("new")})
            served = Served(project, stack, lambda: spec)
            await nursery.start(served.run)
            yield served
            nursery.cancel_scope.cancel()
        journal.close()


def variables(directory: os.PathLike[str]) -> Mapping[str, str]:
    """The environment in which projects are in a directory of the test's."""
    return {"PYSUPER_RUNTIME_DIR": f"{directory}/run", "PYSUPER_STATE_DIR": f"{directory}/state"}
