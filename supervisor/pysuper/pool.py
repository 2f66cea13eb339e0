"""
Warm spares: containers that are prepared up to their last barrier, and wait there until somebody needs one.

    async with supervisor.pool(spec, size=4) as pool:
        container = await pool.start(stdin=job, stdout=answer)

A spare is a container like any other: its plan has been carried out, its promises have been read back, and all that
is missing is that its command is executed. Its process waits for an answer of the supervisor's, and runs nothing of the
container's. Each spare is used once; then another one is prepared.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from types import MappingProxyType
from typing import Any

import trio

from pysuper.container import Container
from pysuper.errors import PysuperError
from pysuper.hooks import Subject, Told
from pysuper.places import Places
from pysuper.process import command_files
from pysuper.record import ExitRecord
from pysuper.spec import ContainerSpec

__all__ = ["Pool", "opened"]

#: Seconds until a spare that could not be prepared is tried again; twice as long each time, up to the second number.
_AGAIN, _LATEST = 0.1, 10.0

#: The whole life of one container, as a task: its descriptors, who is told, and who is told that it runs.
Live = Callable[[Told, trio.TaskStatus[Container]], Awaitable[None]]
#: Starts one, given its descriptors 0 to 2, others, and who is told of it.
Start = Callable[[tuple[int | None, int | None, int | None], Mapping[int, int], Subject | None], Awaitable[Container]]


class Pool:
    """
    Spares of one kind; made by `Supervisor.pool`.

    Attributes:
        spec: What they are.
        size: How many there should be.
    """

    def __init__(
        self,
        spec: ContainerSpec,
        size: int,
        tasks: trio.Nursery,
        live: Live,
        start: Start,
        subject: Callable[[], Subject],
        places: Places,
    ) -> None:
        """
        Args:
            tasks: Of the supervisor, where its containers live.
            live: See `Live`.
            start: Starts one that was not prepared.
            subject: Makes one for a container that nobody else supervises.
            places: Of all of them.
        """
        self.spec = spec
        self.size = size
        self._tasks = tasks
        self._live = live
        self._start = start
        self._subject = subject
        self._places = places
        self._spares: deque[_Spare] = deque()
        self._missing = trio.Event()
        self._scope = trio.CancelScope()
        self._over: trio.Event | None = None

    @property
    def ready(self) -> int:
        """How many spares wait."""
        return len(self._spares)

    @trio.lowlevel.enable_ki_protection
    async def start(
        self,
        *,
        stdin: int | None = None,
        stdout: int | None = 1,
        stderr: int | None = 2,
        descriptors: Mapping[int, int] = MappingProxyType({}),
        subject: Subject | None = None,
    ) -> Container:
        """
        Start a container: a spare if one waits, otherwise as `Supervisor.start` does, whose arguments and errors these
        are.

        Hooks are told of a spare's creation now; what they veto was prepared in vain. `ContainerSpec.timeout` counts
        from now, too.
        """
        told = self._subject() if subject is None else subject
        while self._spares:
            with command_files(self.spec, stdin, stdout, stderr, descriptors) as files:  # before one is taken for it
                spare = self._spares.popleft()
                try:
                    if spare.waits():
                        return await spare.take(files if not self.spec.terminal else descriptors, told)
                finally:  # not before, since it would be in the way
                    self._missing.set()
        return await self._start((stdin, stdout, stderr), descriptors, subject)

    async def _fill(self) -> None:
        """Prepare what is missing, one after the other; raises what `Supervisor.start` does."""
        while len(self._spares) < self.size:
            spare = _Spare()
            await self._tasks.start(spare.run, self._live)
            self._spares.append(spare)
            self._tasks.start_soon(self._watch, spare)

    async def open(self) -> None:
        """Have as many as there should be, and see that this stays so; raises what `Supervisor.start` does."""
        await self._fill()
        self._over = trio.Event()
        self._tasks.start_soon(self._keep_full)

    @trio.lowlevel.enable_ki_protection
    async def _keep_full(self) -> None:
        """Replace what is taken or has died, one at a time, as a task; who starts meanwhile hears what is wrong."""
        pause = _AGAIN
        assert self._over is not None
        try:
            with self._scope:
                while True:
                    try:
                        await self._fill()
                    except PysuperError:
                        await trio.sleep(pause)
                        pause = min(2 * pause, _LATEST)
                    else:
                        pause = _AGAIN
                        self._missing = trio.Event()
                        await self._missing.wait()
        finally:
            self._over.set()

    @trio.lowlevel.enable_ki_protection
    async def _watch(self, spare: _Spare) -> None:
        """Replace a spare that does not live until it is taken."""
        if await spare.died():
            with suppress(ValueError):
                self._spares.remove(spare)
                self._missing.set()
            await spare.end()

    async def close(self) -> None:
        """End all spares, and wait until nothing of them is left."""
        self._scope.cancel()
        if self._over is not None:
            await self._over.wait()
        spares, self._spares = self._spares, deque()  # of which nobody can take one any more
        for spare in spares:
            spare.scope.cancel()
        for spare in spares:
            await spare.end()
        await self._places.close()


@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def opened(pool: Pool) -> AsyncIterator[Pool]:
    """Fill a pool, and keep it full as long as the block lasts; see `Supervisor.pool`."""
    try:
        await pool.open()
        yield pool
    finally:
        with trio.CancelScope(shield=True):
            await pool.close()


class _Spare:
    """
    One container that waits, and then is somebody's; until then there is nobody to tell of it (`hooks.Told`).

    Attributes:
        descriptors: For its command.
        scope: Around its life.
        pid: Of its process, once it waits.
    """

    def __init__(self) -> None:
        self.pid = 0
        self.descriptors: Mapping[int, int] = {}
        self.scope = trio.CancelScope()
        self._watching = trio.CancelScope()
        self._prepared: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
        self._pidfd: int | None = None
        self._begun: tuple[str, ContainerSpec] | None = None
        self._subject: Subject | None = None
        self._taken = trio.Event()
        self._status = _Status()
        self._over = trio.Event()

    @trio.lowlevel.enable_ki_protection
    async def run(self, live: Live, task_status: trio.TaskStatus[None]) -> None:
        """Its whole life, as a task; `started` when it waits."""
        self._prepared = task_status
        try:
            with self.scope:
                await live(self, self._status)
        except (PysuperError, OSError) as error:
            if self._pidfd is None:  # it could not be prepared
                raise
            self._status.failed(error)
        finally:
            self._watching.cancel()
            if self._pidfd is not None:
                os.close(self._pidfd)
            self._over.set()

    def waits(self) -> bool:
        """Whether it still does, and can be taken."""
        assert self._pidfd is not None
        return os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    async def take(self, descriptors: Mapping[int, int], subject: Subject) -> Container:
        """Let its command run; raises what `Supervisor.start` does."""
        self.descriptors, self._subject = descriptors, subject
        self._watching.cancel()
        self._taken.set()
        try:
            return await self._status.wait()
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await self.end()
            raise

    async def died(self) -> bool:
        """Wait until its process has ended; false if it was taken before."""
        assert self._pidfd is not None
        with self._watching:
            await trio.lowlevel.wait_readable(self._pidfd)
            return True
        return False

    async def end(self) -> None:
        """Stop it, and wait until nothing of it is left."""
        self.scope.cancel()
        await self._over.wait()

    # --- what its container tells ---

    async def begin(self, run_id: str, spec: ContainerSpec) -> None:
        """To be told when it is taken."""
        self._begun = run_id, spec

    async def created(self, pid: int) -> None:
        """It waits, here."""
        self.pid, self._pidfd = pid, os.pidfd_open(pid)
        self._prepared.started()
        await self._taken.wait()
        assert self._subject is not None
        assert self._begun is not None
        await self._subject.begin(*self._begun)
        await self._subject.created(pid)

    def started(self) -> None:
        """Its command is being executed."""
        assert self._subject is not None
        self._subject.started()

    def exited(self, record: ExitRecord) -> None:
        """The run is over; nobody hears of a spare that was not taken."""
        if self._subject is not None:
            self._subject.exited(record)


class _Status:
    """Told that a container runs, or why it does not (trio.TaskStatus)."""

    def __init__(self) -> None:
        self._settled = trio.Event()
        self._outcome: Container | Exception | None = None

    def started(self, value: Any = None) -> None:
        self._outcome = value
        self._settled.set()

    def failed(self, error: Exception) -> None:
        if not self._settled.is_set():
            self._outcome = error
            self._settled.set()

    async def wait(self) -> Container:
        await self._settled.wait()
        if isinstance(self._outcome, Exception):
            raise self._outcome
        assert self._outcome is not None
        return self._outcome
