"""
The supervisor: containers as tasks of one trio nursery.

    async with pysuper.open_supervisor() as supervisor:
        container = await supervisor.start(ContainerSpec(name="web", command=("httpd",)))
        record = await container.wait()

When the block ends, or is cancelled, every container in it is stopped, reaped and cleaned up before it is left.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from types import MappingProxyType
from typing import Any

import attrs
import trio

from pysuper import registry
from pysuper.container import Container, live
from pysuper.contexts import Contexts, new_id
from pysuper.drivers import Launcher
from pysuper.errors import ConfigError, PysuperError, alone
from pysuper.guard import together
from pysuper.hooks import Hooks, Subject, Told
from pysuper.network import shared_network
from pysuper.places import Place, Places
from pysuper.planning import build_plan, choose_drivers
from pysuper.pool import Pool, opened
from pysuper.process import command_files
from pysuper.record import ExitRecord
from pysuper.spec import ContainerSpec, DriverChoice
from pysuper.subids import SubIdsRefused
from pysuper.tracing import Traced, Tracer
from pysuper.validation import command_problem, derived_name, validate

__all__ = ["Completed", "Supervisor", "open_supervisor", "run"]

#: Bytes that are kept of what a sandboxed command says: it may be in the hands of what it reads.
_MOST_SAID = 2**20


class Supervisor:
    """Starts containers; made by `open_supervisor`."""

    def __init__(
        self,
        launcher: Launcher,
        hooks: Hooks,
        nursery: trio.Nursery,
        watchers: trio.Nursery,
        contexts: Contexts,
        warn: Callable[[str], None],
    ) -> None:
        self._launcher = launcher
        self._hooks = hooks
        self._nursery = nursery
        self._watchers = watchers
        self._contexts = contexts
        self._warn = warn

    async def start(
        self,
        spec: ContainerSpec,
        *,
        stdin: int | None = None,
        stdout: int | None = 1,
        stderr: int | None = 2,
        descriptors: Mapping[int, int] = MappingProxyType({}),
        subject: Subject | None = None,
        trace: Callable[[Traced], None] | None = None,
    ) -> Container:
        """
        Start a container; returns when its command is being executed. Cancelled before that, nothing of it is left.

        Args:
            spec: What to start.
            stdin, stdout, stderr: Descriptors for the command, or None for /dev/null. It shares them with the
                caller, who may close them when this returns. Not used with `spec.terminal`.
            descriptors: More of them, by the numbers from 3 to 9 that the command knows them by.
            subject: Who this is to the hooks, of whoever supervises it: then it is for them to tell what follows when
                it has ended, and when it is ready. None is a container that is started once.
            trace: Called with each thing that has been done for it, until its command runs; must not block.

        Raises:
            ConfigError: The spec contradicts itself.
            DriverError: A driver is missing or cannot do what is asked, or a hook objects.
            LaunchError: A step of the set-up failed; CommandNotFound and CommandNotExecutable among them.
            LimitError: Something that was promised is not in force.
        """
        validate(spec)
        given = stdin, stdout, stderr
        return await self._start(spec, None, given, descriptors, subject, Tracer(trace))

    @trio.lowlevel.enable_ki_protection
    async def _start(
        self,
        spec: ContainerSpec,
        places: Places | None,
        given: tuple[int | None, int | None, int | None],
        descriptors: Mapping[int, int],
        subject: Subject | None,
        tracer: Tracer,
    ) -> Container:
        """The same, in one of these places, of a spec that is right."""
        with command_files(spec, *given, descriptors) as files:
            told = subject or self._hooks.subject(spec.name, supervised=False)
            container: Container = await self._nursery.start(
                self._live, spec, places, files, told, tracer, name=spec.name
            )
            return container

    def pool(self, spec: ContainerSpec, *, size: int) -> AbstractAsyncContextManager[Pool]:
        """
        Containers that are prepared up to their command, which `Pool.start` starts in a fraction of the time:

            async with supervisor.pool(spec, size=4) as pool:
                container = await pool.start(stdin=job, stdout=answer)

        The block is entered when there are so many, and ends those that were not used; what was started goes on. A
        spare is as confined as any container, and uses as much memory as one that sleeps.

        Where all drivers are `reusable`, containers that follow each other have the same plan, user ids and names of
        cgroups: what the plan depends on outside of the spec, such as a seccomp profile in a file, is read once.

        Args:
            spec: Of all of them.
            size: How many wait; each that is used is replaced, one at a time, beside everything else.

        Raises:
            PysuperError: One cannot be prepared, see `start`.
        """
        validate(spec)
        places = Places(self._give_up)

        async def live(told: Told, task_status: trio.TaskStatus[Container]) -> None:
            with command_files(spec, None, None, None, {}) as files:
                await self._live(spec, places, files, told, Tracer(), task_status)

        async def start(
            given: tuple[int | None, int | None, int | None], descriptors: Mapping[int, int], subject: Subject | None
        ) -> Container:
            return await self._start(spec, places, given, descriptors, subject, Tracer())

        subject = partial(self._hooks.subject, spec.name, supervised=False)
        return opened(Pool(spec, size, self._nursery, live, start, subject, places))

    def shared_network(self) -> AbstractAsyncContextManager[str]:
        """
        A network namespace that containers can share, for as long as the context lasts; see `network.shared_network`.
        """
        return shared_network(self._launcher, self._watchers)

    def subject(self, name: str) -> Subject:
        """Who is started again and again under one name, for the hooks; for a supervisor above this one."""
        return self._hooks.subject(name, supervised=True)

    @trio.lowlevel.enable_ki_protection
    async def _live(
        self,
        spec: ContainerSpec,
        places: Places | None,
        files: Mapping[int, int],
        subject: Told,
        tracer: Tracer,
        task_status: trio.TaskStatus[Container],
    ) -> None:
        """The task of one container, in one of these places if any is free."""
        place = None if places is None else places.take()
        run_id = new_id(spec)
        if place is None:
            place = Place(self._contexts.make(run_id, spec, self._sandbox))
        left = False
        try:
            await subject.begin(run_id, spec)
            try:
                left = await self._live_in(place, places is not None, files, subject, tracer, task_status)
            except SubIdsRefused as reason:
                await self._drop(place)
                place.context, place.plan = self._contexts.without_subids(place.context, reason), None
                left = await self._live_in(place, places is not None, files, subject, tracer, task_status)
        except PysuperError as error:
            subject.exited(ExitRecord.start_failed(spec, error))
            raise
        finally:
            if places is not None and left and place.reusable:
                await places.give_back(place)
            else:
                await self._give_up(place)
            # If it has not been told already; so this is a start that was cancelled.
            subject.exited(ExitRecord(name=spec.name, argv=spec.command, reason="stopped"))

    async def _give_up(self, place: Place) -> None:
        """Remove what is kept there, and let others have its ids."""
        await self._drop(place)
        self._contexts.release(place.context)

    async def _drop(self, place: Place) -> None:
        if place.kept:
            with trio.CancelScope(shield=True):
                for error in await place.drop(self._launcher):
                    self._warn(f"{place.context.spec.name}: {error}")

    async def _live_in(
        self,
        place: Place,
        keep: bool,
        files: Mapping[int, int],
        subject: Told,
        tracer: Tracer,
        task_status: trio.TaskStatus[Container],
    ) -> bool:
        """
        From its drivers to its end.

        Args:
            keep: Whether there will be others in that place.

        Returns:
            See `live`.
        """
        if place.drivers is None or place.plan is None:
            with together():
                with tracer.span("planning", "choose the drivers"):
                    place.drivers = choose_drivers(place.context.spec)
                with tracer.span("planning", "make the plan"):
                    place.plan = build_plan(place.context, place.drivers)
                    if tracer.wanted or keep:
                        place.plan = attrs.evolve(place.plan, trace=tracer.wanted, memory={} if keep else None)
            if keep:
                await place.keep(self._launcher)
        told = self._launcher, keep, files, self._watchers, subject, tracer, task_status
        return await live(place.context, place.drivers, place.plan, *told)

    async def _sandbox(self, spec: ContainerSpec, *, stdin: int) -> tuple[int, str, str]:
        """See `plan.Sandbox`."""
        done = await _communicate(self, spec, stdin=stdin, capture=(True, True), most=_MOST_SAID)
        decoded = [(part or b"").decode(errors="backslashreplace") for part in (done.stdout, done.stderr)]
        return done.record.status, decoded[0], decoded[1]


def _log(line: str) -> None:
    logging.getLogger("pysuper").warning(line)


@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def open_supervisor(
    *, hooks: Sequence[DriverChoice] = (), warn: Callable[[str], None] = _log, launcher: str | None = None
) -> AsyncIterator[Supervisor]:
    """
    Start a supervisor, with its launcher process; on exit every container that still runs is stopped.

    An exception of the block is raised as it is, not in an exception group, if nothing else failed meanwhile. Ctrl-C is
    such an exception: tasks of the supervisor, and what plugins do in them, are not interrupted but cancelled.

    Args:
        hooks: Who is told what happens to its containers.
        warn: Called with each line that somebody should read, such as that a hook has failed.
        launcher: Which one makes the processes, by its name; None is the best one that works here.

    Raises:
        DriverError: A hook, or the launcher, cannot be had.
        PysuperError: SIGCHLD is ignored: then the kernel reaps processes by itself, wait(2), and nobody learns how they
            ended.
    """
    if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
        remedy = "signal.signal(signal.SIGCHLD, signal.SIG_DFL) before it"
        raise PysuperError("SIGCHLD is ignored, so that no container could be waited for", remedy=remedy)
    contexts = Contexts()
    maker = registry.load_launcher(launcher)[0]()
    told = Hooks(hooks, warn)
    try:
        # Four scopes, left from the inside out: containers, those who wait for processes, the launcher, the hooks.
        async with (
            _served(told.serve, told.close),
            _served(maker.serve),
            trio.open_nursery() as watchers,
            trio.open_nursery() as containers,
        ):
            try:
                yield Supervisor(maker, told, containers, watchers, contexts, warn)
            finally:
                containers.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        error = alone(group)
        if isinstance(error, BaseExceptionGroup):
            raise
        raise error from error.__cause__
    finally:
        contexts.close()


@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def _served(
    serve: Callable[[trio.TaskStatus[None]], Awaitable[None]], close: Callable[[], None] | None = None
) -> AsyncIterator[None]:
    """
    Run a service for as long as the block lasts, however that is left: it is shielded from cancellation.

    Args:
        close: Makes the service end; None cancels it.
    """
    scope = trio.CancelScope(shield=True)
    ready = trio.Event()

    @trio.lowlevel.enable_ki_protection
    async def run() -> None:
        with scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(serve)
                ready.set()

    async with trio.open_nursery() as outer:
        outer.start_soon(run)
        try:
            await ready.wait()
            yield
        finally:
            (close or scope.cancel)()


@attrs.frozen
class Completed:
    """What `run` returns: the exit record, and what was captured of its output (None if it was not)."""

    record: ExitRecord
    stdout: bytes | None
    stderr: bytes | None


async def run(
    command: Sequence[str],
    *,
    stdin: bytes = b"",
    capture_stdout: bool = False,
    capture_stderr: bool = False,
    check: bool = True,
    **spec: Any,
) -> Completed:
    """
    Run one container to its end, in the manner of `trio.run_process`.

    Args:
        command: The argument vector; empty is a login shell.
        stdin: What the command reads.
        capture_stdout, capture_stderr: Return the output instead of passing it through.
        check: Raise if the command fails.
        spec: The other fields of `ContainerSpec`, but for `terminal`; `name` is made from the command if it is not
            given.

    Raises:
        subprocess.CalledProcessError: With `check`, the command did not exit with 0.
        PysuperError: It was not run.
    """
    if message := command_problem(command):
        raise ConfigError(f"command: {message}")
    spec.setdefault("name", derived_name(command))
    wanted = ContainerSpec(command=tuple(command), **spec)
    if wanted.terminal:
        remedy = "use open_supervisor, and Container.terminal of what it starts"
        raise ConfigError("terminal: nobody would read it while run waits for the end", remedy=remedy)
    with os.fdopen(os.memfd_create("stdin", os.MFD_CLOEXEC), "w+b") as file:
        file.write(stdin)
        file.seek(0)
        async with open_supervisor() as supervisor:
            capture = (capture_stdout, capture_stderr)
            done = await _communicate(supervisor, wanted, stdin=file.fileno(), capture=capture)
    if check and done.record.status != 0:
        raise subprocess.CalledProcessError(done.record.status, list(command), done.stdout, done.stderr)
    return done


async def _communicate(
    supervisor: Supervisor, spec: ContainerSpec, *, stdin: int, capture: tuple[bool, bool], most: int | None = None
) -> Completed:
    """Start a container, collect its output (of each the first `most` bytes), and wait for its end."""
    outputs: list[bytes | None] = [None, None]
    given = [1, 2]

    async def read_all(number: int, reader: trio.lowlevel.FdStream) -> None:
        kept = bytearray()
        async for chunk in reader:
            kept += chunk if most is None else chunk[: most - len(kept)]
        outputs[number] = bytes(kept)

    async with AsyncExitStack() as stack:
        readers = {}
        try:
            for number in (n for n in (0, 1) if capture[n]):
                read, given[number] = os.pipe()
                readers[number] = await stack.enter_async_context(trio.lowlevel.FdStream(read))
            container = await supervisor.start(spec, stdin=stdin, stdout=given[0], stderr=given[1])
        finally:
            for number in readers:
                os.close(given[number])
        async with trio.open_nursery() as nursery:
            for number, reader in readers.items():
                nursery.start_soon(read_all, number, reader)
        return Completed(await container.wait(), outputs[0], outputs[1])
