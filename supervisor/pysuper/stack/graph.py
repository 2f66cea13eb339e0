"""
Who depends on whom: functions of the members of a stack, and the choice of some of them.

Nothing here is recursive: a chain of dependencies may be as long as a file.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter

import attrs

from pysuper.errors import ConfigError
from pysuper.shorthand import did_you_mean
from pysuper.stack.spec import MemberSpec, StackSpec
from pysuper.units import shown
from pysuper.validation import MAX_NAME

__all__ = [
    "MAX_REPLICAS",
    "cycle",
    "dependencies",
    "dependents",
    "instance_names",
    "name_problems",
    "order",
    "require",
    "select",
]

#: Instances of a member.
MAX_REPLICAS = 1000

Members = Mapping[str, MemberSpec]


def cycle(members: Members) -> tuple[str, ...] | None:
    """The names along a cycle, such as `("web", "db", "web")`, or None; from the one that is first in the file on."""
    try:
        _sorter(members).prepare()
    except CycleError as error:
        # Each comes before the next, as it is started; here each depends on the next.
        names = error.args[1][:0:-1]
        places = {name: place for place, name in enumerate(members)}
        first = min(range(len(names)), key=lambda index: places[names[index]])
        return (*names[first:], *names[: first + 1])
    return None


def order(members: Members) -> tuple[str, ...]:
    """The names, each after all that it depends on, and otherwise as in the file; there must not be a cycle."""
    sorter = _sorter(members)
    sorter.prepare()
    names = list(members)
    places = {name: place for place, name in enumerate(names)}
    ready: list[int] = []
    ordered: list[str] = []
    while sorter.is_active():
        for name in sorter.get_ready():
            heapq.heappush(ready, places[name])
        ordered.append(names[heapq.heappop(ready)])
        sorter.done(ordered[-1])
    return tuple(ordered)


def _sorter(members: Members) -> TopologicalSorter[str]:
    return TopologicalSorter(_edges(members))


def _edges(members: Members) -> dict[str, list[str]]:
    """Whom each depends on, as far as they are members."""
    return {name: [other for other in member.depends_on if other in members] for name, member in members.items()}


def dependencies(members: Members, name: str) -> frozenset[str]:
    """All that a member depends on, directly or not."""
    return _reachable(_edges(members), name)


def dependents(members: Members, name: str) -> frozenset[str]:
    """All that depend on a member, directly or not."""
    reverse: dict[str, list[str]] = {other: [] for other in members}
    for dependent, needed in _edges(members).items():
        for other in needed:
            reverse[other].append(dependent)
    return _reachable(reverse, name)


def _reachable(edges: Mapping[str, Collection[str]], start: str) -> frozenset[str]:
    found: set[str] = set()
    waiting = [start]
    while waiting:
        new = set(edges[waiting.pop()]) - found
        found |= new
        waiting += new
    return frozenset(found)


def instance_names(member: MemberSpec) -> tuple[str, ...]:
    """What the instances of a member are called."""
    if member.replicas == 1:
        return (member.name,)
    return tuple(f"{member.name}-{number}" for number in range(1, member.replicas + 1))


def name_problems(members: Members) -> Iterator[tuple[str, str]]:
    """The members whose instances cannot be called as they would be, and why."""
    for name, member in members.items():
        if 1 < member.replicas <= MAX_REPLICAS:
            last = instance_names(member)[-1]
            if taken := [instance for instance in instance_names(member) if instance in members]:
                yield name, f"would have an instance {shown(taken[0])}, which is the name of another container"
            if len(last) > MAX_NAME:
                yield name, f"would have an instance {shown(last)} of {len(last)} characters; {MAX_NAME} is the most"


def select(
    stack: StackSpec, profiles: Collection[str] = (), scale: Mapping[str, int] | None = None, only: Collection[str] = ()
) -> StackSpec:
    """
    The part of a stack that is to be started.

    Args:
        profiles: Members that have profiles are left out, but for those with one of these.
        scale: Replicas by the name of a member, in place of those of the file; with 0 it is left out.
        only: If not empty, these members and all that they depend on; they need not be in a chosen profile.

    Raises:
        ConfigError: There is no such member or profile, or one that stays depends on one that does not.
    """
    members, scale = stack.members, scale or {}
    _refuse_unknown("container", [*only, *scale], members)
    _refuse_unknown("profile", profiles, {profile for member in members.values() for profile in member.profiles})
    for name, count in scale.items():
        if not 0 <= count <= MAX_REPLICAS:
            raise ConfigError(f"{name} cannot have {shown(count)} instances", remedy=f"give 0 to {MAX_REPLICAS}")
    active = {
        name
        for name, member in members.items()
        if not member.profiles or not set(profiles).isdisjoint(member.profiles) or name in only
    }
    wanted = set(only or members).union(*(dependencies(members, name) for name in only))
    kept = {
        name: attrs.evolve(member, replicas=scale.get(name, member.replicas))
        for name, member in members.items()
        if name in active & wanted and scale.get(name) != 0
    }
    for member in kept.values():
        for needed in member.depends_on:
            if needed not in kept:
                remedy = f"start more than 0 of {needed}" if needed in active else _how_to_choose(members[needed])
                raise ConfigError(f"{member.name} depends on {needed}, which is left out", remedy=remedy)
    for name in scale:
        if scale[name] and name not in kept:
            remedy = "name it too" if name in active else _how_to_choose(members[name])
            raise ConfigError(f"{name} cannot be scaled, since it is left out", remedy=remedy)
    if not kept:
        raise ConfigError(f"{stack.path}: no container is left to start", remedy="choose a profile, or name one")
    for name, problem in name_problems(kept):
        raise ConfigError(f"{name} {problem}")
    return attrs.evolve(stack, members=kept)


def require(stack: StackSpec, name: str) -> None:
    """
    Make sure that a name is that of a member or an instance.

    Raises:
        ConfigError: It is not.
    """
    members = stack.members.values()
    _refuse_unknown("container", [name], {*stack.members, *(n for member in members for n in instance_names(member))})


def _refuse_unknown(kind: str, names: Iterable[str], known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            raise ConfigError(f"there is no {kind} {shown(name)}", remedy=did_you_mean(name, known))


def _how_to_choose(member: MemberSpec) -> str:
    return f"choose its profile: --profile {member.profiles[0]}"
