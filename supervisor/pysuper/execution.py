"""
Processes that join a running container, from the launch to the exit status: to execute a command, or to open a socket.

The scope of each is the block that it was started for, and at most the life of the container: whichever ends first
ends it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, contextmanager, nullcontext

import trio

from pysuper.drivers import Launcher
from pysuper.errors import LaunchError, PysuperError
from pysuper.joining import socket_plan
from pysuper.plan import Plan
from pysuper.process import Process, standard_files
from pysuper.receipts import Receipt
from pysuper.record import ExitStatus, exit_status
from pysuper.steps import JoinNamespace

__all__ = ["Execution", "Executions"]

#: Seconds in which a process that is killed ends, unless it is frozen, or the kernel is in the middle of something.
_PROMPT = 0.05


class Execution:
    """
    A command that is executed in a running container. Made by `Container.execute`.

    Attributes:
        receipts: What was promised of the container's processes, and found in force for this one.
        terminal: The master of its pseudo-terminal, closed when the block is left; None without one.
    """

    def __init__(self, plan: Plan) -> None:
        self.receipts: tuple[Receipt, ...] = ()
        self.terminal: int | None = None
        self._plan = plan
        self._process: Process | None = None
        self._scope = trio.CancelScope()
        self._over = trio.Event()
        self._outcome: ExitStatus | PysuperError | None = None

    async def wait(self) -> ExitStatus:
        """
        Wait until the command has ended; what it left running in the container goes on.

        Raises:
            StuckError: It was killed, but the kernel does not let go of it.
        """
        await self._over.wait()
        if isinstance(self._outcome, PysuperError):
            raise self._outcome
        assert self._outcome is not None
        return self._outcome

    def send_signal(self, number: int) -> None:
        """Send a signal to the command; nothing happens if it has ended."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """Send SIGKILL to the command and its process group; nothing happens if it has ended."""
        assert self._process is not None
        self._process.kill_group()

    async def _end(self) -> None:
        """Kill it, and wait until nothing of it is left."""
        self._scope.cancel()
        await self._over.wait()

    def _close(self) -> None:
        """Close what the process has sent, and nobody has taken."""
        if self._process is not None:
            self._process.close()

    @trio.lowlevel.enable_ki_protection
    async def _live(
        self,
        launcher: Launcher,
        files: Mapping[int, int],
        namespaces: Mapping[str, int],
        watchers: trio.Nursery,
        awake: Callable[[], AbstractContextManager[None]],
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """
        Its whole life, as a task; cancelled, it kills the command first.

        Args:
            launcher, files, namespaces: See `Launcher.launch`.
            watchers: Outlives this task.
            awake: While entered, no process of the container is frozen.

        Raises:
            PysuperError: The command did not start. What fails later is for `wait` to raise.
        """
        started = False
        try:
            with self._scope:
                async with launcher.launch(self._plan, files, namespaces) as launched:
                    self._process = Process(launched, self._plan, f"the process that joins {self._plan.name}")
                    watchers.start_soon(self._process.watch)
                    try:
                        await self._process.start()
                        self.receipts = self._process.receipts
                        self.terminal = self._process.opened.get("terminal")
                        started = True
                        task_status.started()
                        await self._process.exited.wait()
                    finally:
                        with trio.CancelScope(shield=True):
                            self._outcome = await _finish(self._process, awake)
            if not started:
                raise LaunchError(f"{self._plan.name} has ended meanwhile")
        except PysuperError as error:
            if not started:
                raise
            self._outcome = error
        finally:
            self._over.set()


async def _finish(process: Process, awake: Callable[[], AbstractContextManager[None]]) -> ExitStatus:
    """Kill it, and reap it."""
    process.kill_group()
    with trio.move_on_after(_PROMPT):
        await process.exited.wait()
    with nullcontext() if process.exited.is_set() else awake():
        return exit_status((await process.reap()).status)


class Executions:
    """All processes that join one container."""

    def __init__(
        self,
        plan: Plan,
        process: Process,
        launcher: Launcher,
        watchers: trio.Nursery,
        awake: Callable[[], AbstractContextManager[None]],
    ) -> None:
        """
        Args:
            plan: The container's.
            process: Its first one.
            launcher: Clones them.
            watchers: Outlives the container.
            awake: While entered, no process of the container is frozen.
        """
        self._plan = plan
        self._process = process
        self._launcher = launcher
        self._watchers = watchers
        self._awake = awake
        self._running: set[Execution] = set()
        self._kept: dict[str, int] = {}

    def require_running(self) -> None:
        """Raises LaunchError if the container has ended."""
        if self._process.exited.is_set():
            raise self._has_ended()

    def _has_ended(self) -> LaunchError:
        return LaunchError(f"{self._plan.name} has ended")

    def keep_namespaces(self) -> None:
        """
        Take what will be needed, while the container's first process waits for its command.

        Only host root can take it later, since our init is not dumpable; and where there is no init, it is the
        command that is the first process, and may move to other namespaces.
        """
        assert self._plan.command is not None
        if self._plan.ids is not None or not self._plan.command.init:
            for name in self._plan.namespaces:
                self._kept[name] = self._open(name)

    def close(self) -> None:
        """When the container has ended."""
        while self._kept:
            os.close(self._kept.popitem()[1])

    async def end(self) -> None:
        """End all of them, and wait until they have."""
        for execution in list(self._running):
            execution._scope.cancel()
        for execution in list(self._running):
            await execution._over.wait()

    async def open_socket(self, family: int, kind: int) -> trio.socket.SocketType:
        """Open one in the container's network namespace; see `Container.open_socket`."""
        async with self.joined(socket_plan(self._plan, family, kind), (None, None, None)) as opener:
            assert opener._process is not None
            return trio.socket.from_stdlib_socket(socket.socket(fileno=opener._process.opened.pop("socket")))

    @asynccontextmanager
    @trio.lowlevel.enable_ki_protection
    async def joined(self, plan: Plan, given: tuple[int | None, int | None, int | None]) -> AsyncIterator[Execution]:
        """
        Start one; it is ended with this block, or with the container.

        Args:
            plan: See `pysuper.joining`.
            given: Its descriptors 0 to 2.

        Raises:
            PysuperError: It did not start.
        """
        self.require_running()
        execution = Execution(plan)
        self._running.add(execution)
        try:
            await self._start(execution, plan, given)
            try:
                yield execution
            finally:
                with trio.CancelScope(shield=True):
                    await execution._end()
        finally:
            self._running.remove(execution)
            execution._close()

    async def _start(self, execution: Execution, plan: Plan, given: tuple[int | None, int | None, int | None]) -> None:
        try:
            with standard_files(*given) as files, self._namespaces_for(plan) as namespaces:
                await self._watchers.start(
                    execution._live, self._launcher, files, namespaces, self._watchers, self._awake
                )
        except OSError as error:
            raise LaunchError.of(f"join {plan.name}", error) from error

    @contextmanager
    def _namespaces_for(self, plan: Plan) -> Iterator[dict[str, int]]:
        """Descriptors of the namespaces that the plan enters."""
        names = [step.namespace for step in plan.steps if isinstance(step, JoinNamespace)]
        with ExitStack() as stack:
            taken = {}
            for name in names:
                if name in self._kept:
                    taken[name] = self._kept[name]
                else:
                    taken[name] = self._open(name)
                    stack.callback(os.close, taken[name])
            yield taken

    def _open(self, namespace: str) -> int:
        # The number is nobody else's: a process that has not been seen to end has not been reaped.
        try:
            return os.open(f"/proc/{self._process.pid}/ns/{namespace}", os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise self._has_ended() from None
