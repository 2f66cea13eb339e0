"""
Tells hooks what happens to containers: in order, side by side, in bounded time, and so that nobody waits but who must.

Each hook has a task of its own, in which its `host` is entered, and a queue for each container that it has not been
told all about yet. An event goes into the queues of all hooks that define its method; a hook is called when those that
it comes after have been.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from graphlib import CycleError, TopologicalSorter
from types import MappingProxyType
from typing import Any, Protocol

import attrs
import trio

from pysuper import registry
from pysuper.drivers import Hook, LifecycleEvent
from pysuper.errors import DriverError, PysuperError
from pysuper.guard import called, entered
from pysuper.record import ExitRecord
from pysuper.spec import ContainerSpec, DriverChoice

__all__ = ["Hooks", "Subject", "Told"]

#: Seconds, in units of a hook's timeout, for all that is still to be told when the supervisor ends.
_LAST_WORDS = 3.0


class Hooks:
    """The hooks of a supervisor. `serve` runs them; `subject` makes one to tell them about."""

    def __init__(self, choices: Sequence[DriverChoice], warn: Callable[[str], None]) -> None:
        """
        Args:
            choices: The hooks.
            warn: Called with each line that somebody should read.

        Raises:
            DriverError: One cannot be loaded or cannot work here, or they wait for each other.
        """
        hooks = [(choice.name, registry.create("pysuper.hook", choice, Hook)) for choice in choices]
        self._containers = _Containers()
        self._listeners = [_Listener(name, hook, self._containers.view, warn) for name, hook in _sorted(hooks)]
        self._closing = trio.Event()

    @trio.lowlevel.enable_ki_protection
    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """
        Run until closed and everything has been told; `started` once all hooks are there.

        Raises:
            PysuperError: One could not be set up. What fails later is a warning.
        """
        async with trio.open_nursery() as nursery:
            for listener in self._listeners:
                await nursery.start(listener.serve)
            task_status.started()
            await self._closing.wait()
            for listener in reversed(self._listeners):
                await listener.close()

    def close(self) -> None:
        """No more events will come."""
        self._closing.set()

    def subject(self, name: str, *, supervised: bool) -> Subject:
        """
        Somebody to tell about.

        Args:
            supervised: Whether somebody starts it again and again under this name, and tells when it is ready, and
                what follows when it has exited.
        """
        return Subject(name, self._listeners, self._containers, supervised=supervised)


class _Containers:
    """
    Those that there are; several may have one name.

    Attributes:
        view: For hooks: what happened last to one of each name.
    """

    def __init__(self) -> None:
        self._last: dict[str, LifecycleEvent | None] = {}
        self.view = MappingProxyType(self._last)
        self._namesakes: dict[str, dict[Subject, LifecycleEvent | None]] = {}  # that of the last event is the last one

    def put(self, name: str, subject: Subject, event: LifecycleEvent | None) -> None:
        """It is there, and this has happened to it."""
        namesakes = self._namesakes.setdefault(name, {})
        namesakes.pop(subject, None)
        namesakes[subject] = self._last[name] = event

    def remove(self, name: str, subject: Subject) -> None:
        """It is not there any more; nothing happens if it was not."""
        namesakes = self._namesakes.get(name, {})
        namesakes.pop(subject, None)
        if namesakes:
            self._last[name] = next(reversed(namesakes.values()))
        else:
            self._namesakes.pop(name, None)
            self._last.pop(name, None)


class Told(Protocol):
    """
    Who is told of one run of a container.

    Attributes:
        descriptors: For its command, by number, instead of those that its process was launched with; read when its
            creation has been told.
    """

    descriptors: Mapping[int, int]

    async def begin(self, run_id: str, spec: ContainerSpec) -> None:
        """It is to be made; raises PysuperError if somebody objects."""

    async def created(self, pid: int) -> None:
        """Its command is the next thing to be executed; raises PysuperError if somebody objects."""

    def started(self) -> None:
        """Its command is being executed."""

    def exited(self, record: ExitRecord) -> None:
        """It is over; nothing happens if that was told before."""


class Subject:
    """
    What hooks are told of one container, over all of its runs (`Told`).

    Attributes:
        run: The number of the current or last run; counted by the owner.
        record: What became of the last run.
    """

    def __init__(
        self,
        name: str,
        listeners: Sequence[_Listener],
        containers: _Containers,
        *,
        supervised: bool,
    ) -> None:
        """
        Args:
            containers: Of all subjects.
            supervised: See `Hooks.subject`.
        """
        self.run = 1
        self.record: ExitRecord | None = None
        self.descriptors: Mapping[int, int] = {}
        self._name = name
        self._listeners = listeners
        self._containers = containers
        self._supervised = supervised
        self._spec: ContainerSpec | None = None
        self._id = ""
        self._pid: int | None = None
        self._open = False
        if supervised:  # others may never begin, and then nobody would say that they end
            containers.put(name, self, None)

    async def begin(self, run_id: str, spec: ContainerSpec) -> None:
        """
        A run is to be made.

        Raises:
            DriverError: A hook objects.
        """
        self._id, self._spec = run_id, spec
        self._pid, self.record = None, None
        self._open = True
        await self._ask("before_create")

    async def created(self, pid: int) -> None:
        """Its command is the next thing to be executed. Raises DriverError: a hook objects."""
        self._pid = pid
        await self._ask("created")

    def started(self) -> None:
        """The command is being executed."""
        self._tell("started")
        if not self._supervised:
            self.ready()

    def ready(self) -> None:
        """It serves."""
        self._tell("ready")

    def exited(self, record: ExitRecord) -> None:
        """The run is over; nothing happens if that was told before."""
        if self._open:
            self._open, self._pid, self.record = False, None, record
            self._tell("exited")
            if not self._supervised:
                self.settled()
                self.forget()

    def forget(self) -> None:
        """It will not be started again."""
        self._containers.remove(self._name, self)

    def stopped(self) -> None:
        """It is down, and meant to be."""
        self._tell("stopped")

    def restarted(self, delay: float, detail: str) -> None:
        """It will be started again after so many seconds."""
        self._tell("restarted", delay=delay, detail=detail or None)

    def failed(self, detail: str) -> None:
        """It is down, and not meant to be."""
        self._tell("failed", detail=detail)

    def settled(self) -> None:
        """Nothing follows the last run: whether that is a failure depends on how it ended."""
        if self.record is not None:
            if self.record.success or self.record.reason == "stopped":
                self.stopped()
            else:
                self.failed(self.record.describe())

    async def _ask(self, kind: str) -> None:
        """Tell, and wait until everybody has heard it; cancelled, nobody needs to hear it any more."""
        if (delivery := self._tell(kind)) is None:
            return
        try:
            for done in delivery.done.values():
                await done.wait()
        except trio.Cancelled:
            for call in delivery.calls.values():
                call.cancel()
            raise
        if delivery.objections:
            raise delivery.objections[0]

    def _tell(self, kind: str, **fields: Any) -> _Delivery | None:
        """None if there is nobody who could listen."""
        if not self._listeners:
            return None
        event = LifecycleEvent(
            kind=kind,
            container=self._name,
            id=self._id,
            run=self.run,
            at=time.monotonic(),
            time=time.time(),
            spec=self._spec or ContainerSpec(name=self._name),
            pid=self._pid,
            record=self.record,
            **fields,
        )
        self._containers.put(self._name, self, event)
        listening = [listener for listener in self._listeners if listener.listens_to(kind)]
        delivery = _Delivery(
            event,
            done={listener: trio.Event() for listener in listening},
            calls={listener: trio.CancelScope() for listener in listening},
        )
        for listener in listening:
            listener.put(delivery)
        return delivery


@attrs.frozen
class _Delivery:
    """
    An event on its way.

    Attributes:
        done: Who is told, and whether that is over.
        calls: The same calls, to be cancelled.
        objections: Of hooks whose failure ends the start.
    """

    event: LifecycleEvent
    done: Mapping[_Listener, trio.Event]
    calls: Mapping[_Listener, trio.CancelScope]
    objections: list[DriverError] = attrs.field(factory=list)


class _Listener:
    """One hook, and what it is still to be told."""

    def __init__(
        self, name: str, hook: Hook, containers: Mapping[str, LifecycleEvent | None], warn: Callable[[str], None]
    ) -> None:
        self._name = name
        self._hook = hook
        self._containers = containers
        self._title = registry.title(hook)
        self._warn = warn
        self._queues: dict[str, deque[_Delivery]] = {}
        self._nursery: trio.Nursery | None = None
        self._idle = trio.Event()
        self._closing = trio.Event()
        self._over = trio.Event()

    def listens_to(self, kind: str) -> bool:
        """Whether the hook defines the method, and is there."""
        return self._nursery is not None and getattr(type(self._hook), kind) is not getattr(Hook, kind)

    @trio.lowlevel.enable_ki_protection
    async def serve(self, task_status: trio.TaskStatus[None]) -> None:
        """From its set-up to its clean-up."""
        begun = False
        try:
            host = partial(self._hook.host, self._containers)
            async with entered(self._title, host, self._hook.timeout), trio.open_nursery() as nursery:
                self._nursery = nursery
                begun = True
                task_status.started()
                await self._closing.wait()
                await self._say_last_words()
                nursery.cancel_scope.cancel()
        except PysuperError as error:
            if not begun:
                raise
            self._warn(str(error))
        finally:
            self._nursery = None
            self._give_up()
            self._over.set()

    async def close(self) -> None:
        """Tell what is left to be told, and clean up."""
        self._closing.set()
        await self._over.wait()

    async def _say_last_words(self) -> None:
        with trio.move_on_after(_LAST_WORDS * self._hook.timeout):
            while self._queues:
                self._idle = trio.Event()
                await self._idle.wait()

    def _give_up(self) -> None:
        """Nobody is told any more, and nobody is to wait for that."""
        if lost := sum(map(len, self._queues.values())):
            self._warn(f"{self._title} was not told of {lost} events")
        for queue in self._queues.values():
            for delivery in queue:
                delivery.done[self].set()
        self._queues.clear()

    def put(self, delivery: _Delivery) -> None:
        """Queue an event; a task that empties the queue is there as long as it is not empty."""
        assert self._nursery is not None
        container = delivery.event.container
        if container in self._queues:
            self._queues[container].append(delivery)
        else:
            self._queues[container] = deque([delivery])
            self._nursery.start_soon(self._empty, container)

    @trio.lowlevel.enable_ki_protection
    async def _empty(self, container: str) -> None:
        queue = self._queues[container]
        while queue:
            await self._deliver(queue[0])
            queue.popleft().done[self].set()
        del self._queues[container]
        self._idle.set()

    async def _deliver(self, delivery: _Delivery) -> None:
        for other, done in delivery.done.items():
            if other._name in self._hook.after:
                await done.wait()
        try:
            with delivery.calls[self]:
                await self._call(delivery.event)
        except DriverError as error:
            if self._hook.on_failure == "fail" and delivery.event.kind in {"before_create", "created"}:
                delivery.objections.append(error)
            else:
                self._warn(str(error))

    async def _call(self, event: LifecycleEvent) -> None:
        """Call the method; raises DriverError, whatever is wrong."""
        doing = f"{event.kind} of {event.container}"
        method: Callable[[LifecycleEvent], Awaitable[None]] = getattr(self._hook, event.kind)
        try:
            with trio.fail_after(self._hook.timeout):
                await called(self._title, doing, method(event))
        except trio.TooSlowError:
            raise DriverError(f"{self._title} took more than {self._hook.timeout:g} s in {doing}") from None
        except DriverError:
            raise
        except PysuperError as error:
            raise DriverError(f"{self._title} failed in {doing}: {error}") from error


def _sorted(hooks: Sequence[tuple[str, Hook]]) -> list[tuple[str, Hook]]:
    """In an order in which each comes behind those that it is told after; otherwise as given."""
    names = {name for name, _ in hooks}
    sorter = TopologicalSorter({name: set[str]() for name, _ in hooks})
    for name, hook in hooks:
        sorter.add(name, *(other for other in hook.after if other in names))
    try:
        order = list(sorter.static_order())
    except CycleError as error:
        raise DriverError(f"hooks wait for each other: {' after '.join(error.args[1])}") from error
    return sorted(hooks, key=lambda named: order.index(named[0]))
