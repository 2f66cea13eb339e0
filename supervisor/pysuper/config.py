"""
TOML files to specs.

    [defaults]
    rootfs = "tar:${IMAGE:-alpine.tar.gz}"

    [container.web]
    command = "httpd -f -p 8080"
    volumes = ["./site:/srv:ro"]
    depends_on = { db = "healthy" }

    [container.web.cgroup]
    pids_max = 20
    memory_max = "256M"

`keys` has all that may be in a file. This, `keys`, `tables` and `document` are the only modules with untyped dicts.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any

import attrs

from pysuper.errors import ConfigError
from pysuper.interpolation import interpolate_all
from pysuper.keys import DOCUMENT, MERGED, attributes, container_keys
from pysuper.privileges import grant
from pysuper.shorthand import merge_rlimits
from pysuper.spec import NAMESPACES, ContainerSpec, DriverChoice, Limits
from pysuper.stack.spec import JournalSpec, Kind, MemberSpec, Schedule, StackSpec
from pysuper.stack.validation import problems
from pysuper.tables import Error, Invalid, Key, Keys, attempt, read_file, table

__all__ = ["alone", "load", "load_stack"]

#: Tables as they are in the file, by their place in it.
_Tables = dict[tuple[str, ...], Any]
_DEFAULTS: tuple[str, ...] = ("defaults",)
#: Keys of which several make one attribute.
_COMBINED = frozenset({"cgroup", "cron", "env_file", "environment", "every", "tmpfs", "ulimits", "volumes"})
#: Keys that say something about the privileges of a container; see `grant`.
_PRIVILEGES = frozenset({"cap_add", "cap_drop", "devices", "privileged", "security_opt", "sysctls", "userns"})


def load(path: str) -> dict[str, ContainerSpec]:
    """
    The containers of a file, by name, each as it is when it runs alone.

    Raises:
        ConfigError: The file cannot be read, or is wrong.
    """
    return {name: alone(member) for name, member in load_stack(path).members.items()}


def alone(member: MemberSpec) -> ContainerSpec:
    """The container of a member when it runs alone: in no network that a stack would give it."""
    if member.container.network.name != "stack":
        return member.container
    return attrs.evolve(member.container, network=DriverChoice("none"))


def load_stack(path: str, environment: Mapping[str, str] = os.environ) -> StackSpec:
    """
    The stack of a file. Paths in it are relative to its directory.

    Args:
        environment: What its variables are taken from.

    Raises:
        ConfigError: The file cannot be read, or is wrong.
    """
    absolute = os.path.abspath(path)
    stack: StackSpec = read_file(path, lambda document: _stack(document, absolute, environment))
    if not stack.members:
        raise ConfigError(f"{path}: there is no container in it", remedy="add a [container.NAME]")
    return stack


def _stack(document: dict[str, Any], path: str, environment: Mapping[str, str]) -> StackSpec:
    """The stack of a document: everything is read as far as it can be, and then judged as a whole."""
    document, unset = interpolate_all(document, environment)
    given, errors = attempt(table(DOCUMENT), document)
    keys = container_keys(os.path.dirname(path), environment)
    containers: _Tables = {("container", name): value for name, value in given.get("container", {}).items()}
    tables = {_DEFAULTS: given.get("defaults", {}), **containers}
    read = {place: attempt(table(keys), value) for place, value in tables.items()}
    errors += [((*place, *inner), what) for place, (_, wrong) in read.items() for inner, what in wrong]
    defaults, _ = read[_DEFAULTS]
    stack = StackSpec(
        path=path,
        members={place[1]: _member(keys, place[1], defaults, read[place][0]) for place in containers},
        journal=given.get("journal", JournalSpec()),
        hooks=given.get("hook", ()),
        **given.get("stack", {}),
    )
    stack = _resolve(stack, given.get("plugins", {}))
    errors += _problems(stack, keys, tables, {place for place, (_, wrong) in read.items() if wrong})
    errors = [*unset, *_independent(errors, {place for place, _ in unset})]
    if errors:
        raise Invalid(list(dict.fromkeys(errors)))
    return stack


def _resolve(stack: StackSpec, plugins: Mapping[str, Mapping[str, str]]) -> StackSpec:
    """Let each choice of a driver say whose it is, where the table `[plugins]` does."""

    def whose(kind: str, choice: DriverChoice) -> DriverChoice:
        return attrs.evolve(choice, distribution=plugins.get(kind, {}).get(choice.name))

    def resolve(container: ContainerSpec) -> ContainerSpec:
        # Those that nobody has chosen are called as the namespace is.
        chosen = {name: DriverChoice(name) for name in plugins.get("namespace", {}) if name in NAMESPACES}
        return attrs.evolve(
            container,
            rootfs=whose("rootfs", container.rootfs),
            cgroup=whose("cgroup", container.cgroup),
            network=whose("network", container.network),
            namespaces={n: whose("namespace", choice) for n, choice in {**chosen, **container.namespaces}.items()},
        )

    if not plugins:
        return stack
    members = {name: attrs.evolve(m, container=resolve(m.container)) for name, m in stack.members.items()}
    return attrs.evolve(stack, members=members, hooks=tuple(whose("hook", choice) for choice in stack.hooks))


def _problems(stack: StackSpec, keys: Mapping[str, Key], tables: _Tables, unread: Set[Keys]) -> Iterator[Error]:
    """What is wrong in a stack as a whole, and where in the file; `unread` are tables with errors of their own."""
    for (name, *attribute), what in problems(stack):
        # What could not be read of a member is not what it lacks.
        if attribute[0] != "depends_on" or unread.isdisjoint({_DEFAULTS, ("container", attribute[-1])}):
            yield _place(keys, tables, name, tuple(attribute)), what


def _independent(errors: Iterable[Error], unset: Set[Keys]) -> list[Error]:
    """Those of the errors that do not come from strings whose variables could not be replaced."""
    lists = {place[:-1] for place in unset if isinstance(place[-1], int)}

    def follows(place: Keys) -> bool:
        for length in range(len(place) + 1):
            # What is said of a list without naming one of its items may come from any of them.
            names_item = isinstance((*place, None)[length], int)
            if place[:length] in unset or (place[:length] in lists and not names_item):
                return True
        return False

    return [error for error in errors if not follows(error[0])]


def _member(keys: Mapping[str, Key], name: str, defaults: Mapping[str, Any], own: Mapping[str, Any]) -> MemberSpec:
    """The member that the keys of a container describe, on top of the defaults."""
    values = _overlay(name, defaults, own)
    schedule = Schedule(every=values.get("every"), cron=values.get("cron"))
    cgroup = dict(values.get("cgroup", {}))
    made = {
        "name": name,
        # A container is in the network of its stack, or in the host's.
        "network": DriverChoice("none" if "net" in values.get("share", ()) else "stack"),
        "kind": Kind.SERVICE if schedule == Schedule() else Kind.TASK,
        "schedule": None if schedule == Schedule() else schedule,
        "cgroup": cgroup.pop("driver", DriverChoice("auto")),
        "limits": Limits(**cgroup),
        "environment": values.get("env_file", {}) | values.get("environment", {}),
        "mounts": (*values.get("volumes", ()), *values.get("tmpfs", ())),
        "rlimits": merge_rlimits(*ContainerSpec(name="").rlimits, *values.get("ulimits", {}).values()),
        **attributes(keys, {key: value for key, value in values.items() if key not in _COMBINED | _PRIVILEGES}),
    }
    inner = {attribute: made.pop(attribute) for attribute in attrs.fields_dict(ContainerSpec) if attribute in made}
    container = grant(ContainerSpec(**inner), **{key: values[key] for key in _PRIVILEGES & values.keys()})
    return MemberSpec(container=container, **made)


def _overlay(name: str, defaults: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """What the keys of a container and those of the defaults mean together."""
    both = {key: {**defaults[key], **own[key]} for key in MERGED & defaults.keys() & own.keys()}
    values = {**defaults, **own, **both}
    if name in values.get("depends_on", {}) and name not in own.get("depends_on", {}):
        # What all others depend on does not depend on itself.
        values["depends_on"] = {other: what for other, what in values["depends_on"].items() if other != name}
    return values


def _place(keys: Mapping[str, Key], tables: _Tables, name: str, attribute: tuple[str, ...]) -> Keys:
    """The keys that an attribute of a member comes from: its own, unless those of the defaults say more about it."""
    setters = [key for key in keys if (keys[key].attribute or key) == attribute[0]]
    candidates = [(place, (key, *attribute[1:])) for place in (("container", name), _DEFAULTS) for key in setters]
    if not candidates:
        return ("container", name)
    place, inner = max(candidates, key=lambda candidate: _depth(tables[candidate[0]], candidate[1]))
    return (*place, *inner)


def _depth(value: Any, keys: Keys) -> int:
    """How many of the keys, one inside of the other, are in a value."""
    for number, key in enumerate(keys):
        if not isinstance(value, dict):
            # A short form: names in a list, or one alone.
            return number + (value == key or (isinstance(value, list) and key in value))
        if key not in value:
            return number
        value = value[key]
    return len(keys)
