"""
The instances of a file together: who may start, who is stopped first, who is restarted with whom.

    async with open_stack(spec, project) as stack:
        await stack.ended()

Dependencies are a live graph: whenever an instance changes, those that wait for it are asked again. A stop goes the
other way round: an instance is stopped when those that depend on it are down.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing, contextmanager

import attrs
import trio

from pysuper.contexts import is_privileged
from pysuper.errors import ConfigError, PysuperError
from pysuper.shorthand import did_you_mean
from pysuper.spec import ContainerSpec
from pysuper.stack import graph
from pysuper.stack.instance import Instance
from pysuper.stack.journal import Journal
from pysuper.stack.lifecycle import ACTIVE, DOWN, Event, State, satisfies
from pysuper.stack.postmortem import Because
from pysuper.stack.project import Project
from pysuper.stack.spec import JournalSpec, Kind, MemberSpec, Restart, StackSpec, Strategy
from pysuper.supervisor import Supervisor, open_supervisor

__all__ = ["Stack", "instance_spec", "open_stack"]

#: More would only wait for the launcher, and hold descriptors meanwhile.
_STARTS_AT_ONCE = 16
#: Post-mortems are few and small next to output, and have files of their own, so that no flood pushes them out.
_POSTMORTEMS = JournalSpec(max_size=4 * 2**20, max_files=2)


class Stack:
    """
    A running stack; made by `open_stack`.

    Attributes:
        instances: By name, in the order of the file.
        first_failure: The instance that failed for good first, or None: its status is that of `up`.
        ending: Whether it is being stopped as a whole, so that nothing may be started any more.
    """

    def __init__(
        self,
        spec: StackSpec,
        project: Project,
        supervisor: Supervisor,
        journals: tuple[Journal, Journal],
        nursery: trio.Nursery,
        namespace: str | None,
    ) -> None:
        self.spec = spec
        self.instances: dict[str, Instance] = {}
        self.first_failure: Instance | None = None
        self.ending = False
        self.supervisor = supervisor
        self.journal, self.postmortems = journals
        self.notify_directory = str(project.notify)
        self.starting = trio.CapacityLimiter(_STARTS_AT_ONCE)
        self.turns = trio.Lock()
        self._project = project
        self._nursery = nursery
        self._namespace = namespace
        self._dirty: deque[Instance] = deque()
        self._settling = False
        self._returning: Counter[str] = Counter()
        self._changed = trio.Event()
        self._add(spec.members.values())

    # --- what an instance needs (`Hub`) ---

    def spawn(self, function: Callable[[], Awaitable[None]], name: str) -> None:
        """Run a task that ends with the stack."""
        self._nursery.start_soon(function, name=name)

    def container_spec(self, member: MemberSpec, name: str) -> ContainerSpec:
        """What all runs of an instance are started from."""
        return instance_spec(member, name, self._namespace, str(self._project.hosts))

    def changed(self, instance: Instance) -> None:
        """Let what follows from a change happen, and what follows from that."""
        self._dirty.append(instance)
        if not self._settling:
            with self._together():
                pass

    @contextmanager
    def _together(self) -> Iterator[None]:
        """
        Take all changes of the block for one: what follows from them happens at its end.

        Not recursively, since chains of dependencies may be long.
        """
        self._settling = True
        try:
            yield
            while self._dirty:
                self._settle(self._dirty.popleft())
        finally:
            self._settling = False
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    def _settle(self, instance: Instance) -> None:
        if instance.state is State.FAILED and self.first_failure is None:
            self.first_failure = instance
        if instance.state in {State.BACKOFF, State.FAILED}:
            self._apply_strategy(instance)
        for waiter in self._waiting_for(instance):
            self._try_start(waiter)

    def _waiting_for(self, instance: Instance) -> list[Instance]:
        """Those that wait, and whom the change of an instance may concern; itself too."""
        names: Iterable[str] = (instance.member.name, *self._dependents.get(instance.member.name, ()))
        if self.spec.strategy is Strategy.ONE_FOR_ALL:
            names = self._members
        return [other for name in names for other in self._of(name) if other.state is State.WAITING]

    def _try_start(self, instance: Instance) -> None:
        """Start an instance if its dependencies let it, or give up on it if they never will."""
        if self.spec.strategy is Strategy.ONE_FOR_ALL and self._active(State.RESTARTING):
            return  # all of them are down before the first is started again
        waits = []
        for name, condition in instance.member.depends_on.items():
            for other in self._of(name):
                met = satisfies(condition, other.state, healthy=other.healthy is True)
                if met is None and not self._returning[other.name]:
                    self._give_up(instance, other)
                    return
                if not met:
                    waits.append(f"{other.name} ({condition})")
        if waits:
            instance.wait_for(", ".join(waits))
        else:
            instance.post(Event.DEPENDENCIES_MET)

    def _give_up(self, instance: Instance, dependency: Instance) -> None:
        because = Because(by="dependency", container=dependency.name, run=dependency.run)
        why = f": {dependency.detail}" if dependency.detail else ""
        last = self.journal.tail(dependency.name, 3, run=dependency.run)
        said = f"; it last said: {' / '.join(last)}" if last else ""
        detail = f"{dependency.name}, which it depends on, is {dependency.state}{why}{said}"
        instance.post(Event.DEPENDENCY_FAILED, because, detail)

    # --- names ---

    def _add(self, members: Iterable[MemberSpec]) -> list[Instance]:
        added = []
        for member in members:
            for name in graph.instance_names(member):
                self.instances[name] = Instance(name, member, self)
                added.append(self.instances[name])
        self._index()
        return added

    def _index(self) -> None:
        self._members: dict[str, list[Instance]] = {name: [] for name in self.spec.members}
        self._dependents: dict[str, list[str]] = {name: [] for name in self.spec.members}
        for instance in self.instances.values():
            self._members.setdefault(instance.member.name, []).append(instance)
        for member in self.spec.members.values():
            for name in member.depends_on:
                self._dependents[name].append(member.name)

    def _of(self, member: str) -> Sequence[Instance]:
        return self._members.get(member, ())

    def _active(self, state: State) -> bool:
        return any(instance.state is state for instance in self.instances.values())

    def select(self, names: Iterable[str]) -> list[Instance]:
        """
        The instances of these names, each of an instance or a member; all if there are none.

        Raises:
            ConfigError: There is no such name.
        """
        found: dict[str, Instance] = {}
        for name in names:
            if name in self.instances:
                found[name] = self.instances[name]
            elif self._of(name):
                found.update({instance.name: instance for instance in self._of(name)})
            else:
                known = {*self.instances, *self._members}
                raise ConfigError(f"there is no container {name!r} in this stack", remedy=did_you_mean(name, known))
        return list(found.values()) or list(self.instances.values())

    # --- what the operator does ---

    def begin(self) -> None:
        """Start everything; returns at once."""
        self._write_hosts()
        self._start(list(self.instances.values()), Because())

    def start(self, instances: Iterable[Instance], because: Because) -> None:
        """
        Start instances, and what they depend on; returns at once. Nothing happens to one that is up.

        Raises:
            PysuperError: The stack is ending.
        """
        named = list(instances)
        needed = {name for i in named for name in graph.dependencies(self.spec.members, i.member.name)}
        others = (i for i in self.instances.values() if i.member.name in needed and i not in named)
        # A task that is done is done; what it prepared is there.
        self._start([*(i for i in others if i.state in {State.STOPPED, State.FAILED}), *named], because)

    def _start(self, instances: Iterable[Instance], because: Because) -> None:
        if self.ending:
            raise PysuperError("the stack is being stopped, and starts nothing any more")
        with self._together():  # nobody is to give up on one that only comes later
            for instance in instances:
                schedule = instance.member.schedule
                if schedule is not None and schedule.cron is not None and because.by is None:
                    instance.post(Event.DEFER)
                else:
                    instance.post(Event.START, because)

    async def stop(self, instances: Sequence[Instance], because: Because) -> None:
        """Stop instances, each when those of them that depend on it are down; returns when all are."""
        down = {instance.name: trio.Event() for instance in instances}
        members = {instance.member.name for instance in instances}
        dependents = {name: graph.dependents(self.spec.members, name) & members for name in members}

        async def stop_one(instance: Instance) -> None:
            for member in dependents.get(instance.member.name, ()):
                for other in self._of(member):
                    if other.name in down:
                        await down[other.name].wait()
            instance.post(Event.STOP, because)
            await instance.inactive()
            down[instance.name].set()

        async with trio.open_nursery() as nursery:
            for instance in instances:
                nursery.start_soon(stop_one, instance)

    async def restart(self, instances: Sequence[Instance], because: Because) -> None:
        """
        Stop instances in order, and start them again.

        Raises:
            PysuperError: The stack is ending.
        """
        with self._expected_back(instances):
            await self.stop(instances, because)
        self.start(instances, because)

    @contextmanager
    def _expected_back(self, instances: Sequence[Instance]) -> Iterator[None]:
        """Meanwhile these are down only to be started again: nobody gives up on them, and the stack is not over."""
        names = Counter(instance.name for instance in instances)
        self._returning += names
        try:
            yield
        finally:
            self._returning -= names

    def kill(self) -> None:
        """End every container at once."""
        for instance in self.instances.values():
            instance.kill()

    async def reload(self, spec: StackSpec) -> dict[str, list[str]]:
        """
        Become another stack: stop what is not in it or differs, start what is new or differs, touch nothing else.

        Returns:
            Names of instances: `removed`, `changed`, `added`, `kept`.

        Raises:
            ConfigError: The hooks are others, or the journal is.
            PysuperError: The stack is ending.
        """
        for what in ("hooks", "journal"):
            if getattr(spec, what) != getattr(self.spec, what):
                fixed = f"the {what} of a running stack cannot be changed"
                raise ConfigError(fixed, remedy="pysuper down, and up again")
        wanted = {name: member for member in spec.members.values() for name in graph.instance_names(member)}
        differs = [i for i in self.instances.values() if wanted.get(i.name) != i.member]
        with self._expected_back(differs):
            await self.stop(differs, Because(by="reload"))
        for instance in differs:
            del self.instances[instance.name]
            instance.forget()
        before = set(self.instances)
        self.spec = spec
        missing: dict[str, MemberSpec] = {n: m for n, m in wanted.items() if n not in before}
        fresh = {name: Instance(name, member, self) for name, member in missing.items()}
        everything = self.instances | fresh
        self.instances = {name: everything[name] for name in wanted}
        self._index()
        self._write_hosts()
        always = [
            i
            for i in self.instances.values()
            if i.name in before and i.state is State.STOPPED and i.member.restart.when is Restart.ALWAYS
        ]
        self._start([*fresh.values(), *always], Because())
        old = {instance.name for instance in differs}
        outcome = {
            "removed": sorted(old - set(wanted)),
            "changed": sorted(old & set(wanted)),
            "added": sorted(set(wanted) - old - before),
            "kept": sorted(before),
        }
        self.journal.write("reloaded", None, None, **outcome)
        return outcome

    # --- what follows from an end ---

    def _apply_strategy(self, instance: Instance) -> None:
        """Who ends with an instance that has ended by itself: restarted with it, or stopped if it stays down."""
        if self.ending or self.spec.strategy is Strategy.ONE_FOR_ONE or instance.because.by == "strategy":
            return
        if self.spec.strategy is Strategy.ONE_FOR_ALL:
            names = set(self.spec.members)
        else:
            names = set(graph.dependents(self.spec.members, instance.member.name))
        because = Because(by="strategy", container=instance.name, run=instance.run)
        event = Event.RESTART if instance.state is State.BACKOFF else Event.STOP
        for other in self.instances.values():
            # Who is being stopped on request stays down.
            if other.member.name in names and other is not instance and other.state in ACTIVE - {State.STOPPING}:
                other.post(event, because)

    @property
    def over(self) -> bool:
        """Whether nothing will happen any more: all are down, and not because the operator wants some of them so."""
        return not self._returning and all(
            instance.state in DOWN and not (instance.state is State.STOPPED and instance.because.by == "operator")
            for instance in self.instances.values()
        )

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something holds of the stack; asked after every change."""
        while not condition():
            await self._changed.wait()

    def settled(self, instances: Iterable[Instance]) -> bool:
        """Whether all of these are as they should be: ready, healthy if they have a check, or completed."""
        return all(
            instance.state in {State.COMPLETED, State.SCHEDULED}
            or (
                instance.state is State.READY
                and (instance.member.healthcheck is None or instance.healthy is True)
                and instance.member.kind is not Kind.TASK
            )
            for instance in instances
        )

    def _write_hosts(self) -> None:
        """The names of all instances, for /etc/hosts; in place, since containers have the file mounted."""
        names = [*self._members, *(name for name in self.instances if name not in self._members)]
        lines = ["127.0.0.1 localhost", "::1 localhost", *(f"127.0.0.1 {name}" for name in names)]
        self._project.hosts.write_text("\n".join(lines) + "\n")
        self._project.hosts.chmod(0o644)


def instance_spec(member: MemberSpec, name: str, namespace: str | None, hosts: str) -> ContainerSpec:
    """
    What an instance of a member is started from.

    Args:
        namespace: A path that leads to the stack's network.
        hosts: The containers' /etc/hosts.
    """
    spec = attrs.evolve(member.container, name=name)
    if spec.network.name != "stack":
        return spec
    return attrs.evolve(spec, network=attrs.evolve(spec.network, options={"namespace": namespace, "hosts": hosts}))


@asynccontextmanager
async def open_stack(spec: StackSpec, project: Project) -> AsyncIterator[Stack]:
    """
    A stack whose instances have not been started yet; on exit everything is stopped, in order.

    Args:
        project: Locked by the caller.
    """
    with (
        closing(Journal(project.state, spec.journal)) as journal,
        closing(Journal(project.state, _POSTMORTEMS, stem="exits")) as postmortems,
    ):

        def warn(line: str) -> None:
            journal.write("warning", None, None, detail=line)

        async with open_supervisor(hooks=spec.hooks, warn=warn) as supervisor, AsyncExitStack() as scope:
            namespace = None
            if is_privileged():
                namespace = await scope.enter_async_context(supervisor.shared_network())
            nursery = await scope.enter_async_context(trio.open_nursery())
            yield Stack(spec, project, supervisor, (journal, postmortems), nursery, namespace)
            nursery.cancel_scope.cancel()
