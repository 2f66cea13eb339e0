"""
Specs to what a file would say: the inverse of `config`.

    to_toml(load_stack("demo.toml"))

What has its default is left out. Paths are absolute, variables have been replaced, and quantities are in bytes and
seconds.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from typing import Any

import attrs
import tomli_w

from pysuper.errors import ConfigError
from pysuper.interpolation import escape
from pysuper.spec import DEFAULT_SECCOMP, BindMount, ContainerSpec, DriverChoice, Limits, TmpfsMount
from pysuper.stack.shorthand import format_http, format_tcp
from pysuper.stack.spec import (
    CommandProbe,
    DescriptorProbe,
    HealthCheck,
    HttpProbe,
    LogProbe,
    MemberSpec,
    NotifyProbe,
    Probe,
    Readiness,
    RestartPolicy,
    StackSpec,
    TcpProbe,
)
from pysuper.units import shown

__all__ = ["document", "to_json", "to_toml"]


def to_toml(stack: StackSpec) -> str:
    """
    The text of a file that means this stack.

    Raises:
        ConfigError: It has bytes that are not UTF-8, which TOML cannot have.
    """
    text = tomli_w.dumps(document(stack))
    try:
        text.encode()
    except UnicodeEncodeError as error:
        around = text[max(0, error.start - 20) : error.end]
        raise ConfigError(f"{stack.path}: cannot be written as TOML: {shown(around)} is not UTF-8") from error
    return text


def to_json(stack: StackSpec) -> str:
    """The same as JSON; dates, which only options of drivers may have, are strings."""
    return json.dumps(document(stack), indent=2, default=str) + "\n"


def document(stack: StackSpec) -> dict[str, Any]:
    """The file that means this stack, as TOML and JSON have values."""
    plain = StackSpec(path="", members={})
    tables = {
        "stack": _changed({"strategy": stack.strategy}, {"strategy": plain.strategy}),
        "journal": _changed(_attributes(stack.journal), _attributes(plain.journal)),
        "plugins": _plugins(stack),
        "hook": _hooks(stack.hooks),
        "container": {name: _container(member) for name, member in stack.members.items()},
    }
    made: dict[str, Any] = _escaped({name: inner for name, inner in tables.items() if inner})
    return made


def _plugins(stack: StackSpec) -> dict[str, dict[str, str]]:
    """Whose driver is meant, by kind and name."""
    found: dict[str, dict[str, str]] = {}
    choices = [("hook", hook) for hook in stack.hooks]
    for member in stack.members.values():
        spec = member.container
        choices += [("rootfs", spec.rootfs), ("cgroup", spec.cgroup), ("network", spec.network)]
        choices += [("namespace", choice) for choice in spec.namespaces.values()]
    for kind, choice in choices:
        if choice.distribution is not None:
            found.setdefault(kind, {})[choice.name] = choice.distribution
    return found


def _hooks(hooks: Sequence[DriverChoice]) -> dict[str, Any]:
    """A table for each; a second one of the same driver has a name of its own."""
    made: dict[str, Any] = {}
    for hook in hooks:
        names = (hook.name, *(f"{hook.name}-{number}" for number in range(2, len(hooks) + 2)))
        name = next(name for name in names if name not in made)
        made[name] = {**({} if name == hook.name else {"driver": hook.name}), **hook.options}
    return made


def _container(member: MemberSpec) -> dict[str, Any]:
    """The table of a member, without what a container is anyway."""
    plain = MemberSpec(container=ContainerSpec(name=member.name, network=DriverChoice("stack")))
    return _changed(_keys(member), _keys(plain))


def _keys(member: MemberSpec) -> dict[str, Any]:
    """All keys of a member; None where it has none."""
    container, schedule = member.container, member.schedule
    return {
        "command": list(container.command),
        "environment": dict(container.environment),
        "rootfs": _driver(container.rootfs),
        "network": _driver(container.network),
        "share": sorted(container.share),
        **_privileges(container),
        "namespaces": {
            name: _driver(choice)
            for name, choice in container.namespaces.items()
            if attrs.evolve(choice, distribution=None) != DriverChoice(name)
        },
        "volumes": [_mount(mount) for mount in container.mounts],
        "read_only": container.read_only,
        "working_dir": container.working_dir,
        "user": container.user,
        "hostname": container.hostname,
        "init": container.init,
        "tty": container.terminal,
        "stop_signal": signal.Signals(container.stop_signal).name.removeprefix("SIG"),
        "stop_grace_period": container.stop_timeout,
        "timeout": container.timeout,
        "best_effort": container.best_effort,
        "kind": member.kind,
        "depends_on": dict(member.depends_on),
        "ready": _check(member.readiness),
        "healthcheck": _check(member.healthcheck),
        "restart": _restart(member.restart),
        "every": schedule and schedule.every,
        "cron": schedule and schedule.cron,
        "replicas": member.replicas,
        "warm": member.warm,
        "profiles": list(member.profiles),
        "labels": dict(member.labels),
        "logging": member.log_mode,
        "ulimits": {limit.name: {"soft": limit.soft, "hard": limit.hard} for limit in container.rlimits},
        "cgroup": _changed(
            {"driver": _driver(container.cgroup), **_attributes(container.limits)},
            {"driver": _driver(ContainerSpec(name="").cgroup), **_attributes(Limits())},
        ),
    }


def _privileges(container: ContainerSpec) -> dict[str, Any]:
    """What it may do, in the words of `privileges.grant`."""
    same = container.capabilities == ContainerSpec(name="").capabilities
    options = [f"unmask={path}" for path in container.unmask]
    if container.seccomp != DEFAULT_SECCOMP:
        options.append(f"seccomp={container.seccomp}")
    if not container.landlock:
        options.append("landlock=off")
    return {
        "cap_add": [] if same else list(container.capabilities),
        "cap_drop": [] if same else ["ALL"],
        "security_opt": [*options, *([] if container.no_new_privileges else ["no-new-privileges=false"])],
        "devices": [f"{device.source}:{device.target}" for device in container.devices],
        "sysctls": dict(container.sysctls),
    }


def _changed(values: dict[str, Any], plain: dict[str, Any]) -> dict[str, Any]:
    """What is not as it is in `plain`."""
    return {key: value for key, value in values.items() if value != plain[key]}


def _attributes(thing: attrs.AttrsInstance) -> dict[str, Any]:
    return attrs.asdict(thing, recurse=False)


def _driver(choice: DriverChoice) -> str | dict[str, Any]:
    short = str(choice)
    choice = attrs.evolve(choice, distribution=None)  # of which `[plugins]` tells
    return short if DriverChoice.parse(short) == choice else {"driver": choice.name, **choice.options}


def _mount(mount: BindMount | TmpfsMount) -> dict[str, Any]:
    if isinstance(mount, BindMount):
        read_only = {"read_only": True} if mount.read_only else {}
        return {"source": mount.source, "target": mount.target, **read_only}
    size = {} if mount.size is None else {"size": mount.size}
    return {"type": "tmpfs", "target": mount.target, **size, "mode": f"{mount.mode:o}"}


def _check(check: Readiness | HealthCheck | None) -> dict[str, Any] | None:
    if check is None:
        return None
    key, value = _probe(check.probe)
    plain = Readiness(probe=check.probe) if isinstance(check, Readiness) else HealthCheck(probe=check.probe)
    return {key: value, **_changed(_attributes(check), _attributes(plain))}


def _probe(probe: Probe) -> tuple[str, Any]:
    match probe:
        case TcpProbe():
            return "tcp", format_tcp(probe)
        case HttpProbe():
            return "http", format_http(probe)
        case CommandProbe(command=command):
            return "command", list(command)
        case LogProbe(pattern=pattern):
            return "log", pattern
        case NotifyProbe():
            return "notify", True
        case DescriptorProbe(number=number):
            return "fd", number


def _restart(policy: RestartPolicy) -> dict[str, Any]:
    changed = _changed(_attributes(policy), _attributes(RestartPolicy(when=policy.when)))
    return {"policy": policy.when, **changed}


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, dict):
        return {key: _escaped(inner) for key, inner in value.items()}
    return [_escaped(inner) for inner in value] if isinstance(value, list) else value
