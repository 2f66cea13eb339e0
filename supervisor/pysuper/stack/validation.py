"""
What can be wrong in a stack, however it was made: by a file, or by a program.

Whether it can be had on this machine is for the drivers to say.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from pysuper.errors import ConfigError
from pysuper.shorthand import did_you_mean
from pysuper.stack import graph
from pysuper.stack.shorthand import format_http, format_tcp, parse_cron, parse_http, parse_log, parse_tcp
from pysuper.stack.spec import (
    CommandProbe,
    Condition,
    DescriptorProbe,
    HealthCheck,
    HttpProbe,
    Kind,
    LogProbe,
    MemberSpec,
    NotifyProbe,
    Probe,
    Readiness,
    Restart,
    RestartPolicy,
    StackSpec,
    TcpProbe,
)
from pysuper.units import MAX_INT, parse_whole, shown, shown_path
from pysuper.validation import MAX_NAME, NAME, Problem, command_problem, problems as container_problems

__all__ = ["DESCRIPTORS", "LABEL", "MAX_RETRIES", "MAX_WARM", "problems", "profile_problem", "validate"]

#: Those of `DescriptorProbe`: above the standard ones, and below those that shells use themselves.
DESCRIPTORS = (3, 9)
#: Failures in a row. More is a mistake.
MAX_RETRIES = 1000
#: Spares of an instance. More is a mistake.
MAX_WARM = 100
#: The name of a label.
LABEL = r"[^\s=\x00]+"


def validate(stack: StackSpec) -> None:
    """
    Refuse a stack that is wrong whatever the machine.

    Raises:
        ConfigError: It names everything that is wrong.
    """
    if found := [f"{shown_path(path)}: {message}" for path, message in problems(stack)]:
        raise ConfigError("; ".join(found))


def problems(stack: StackSpec) -> Iterator[Problem]:
    """Everything that is wrong, with the path of the attribute of `ContainerSpec` or `MemberSpec` after the name."""
    for name, member in stack.members.items():
        found = (*container_problems(member.container), *_member_problems(member))
        yield from (((name, *path), message) for path, message in found)
    for name, message in graph.name_problems(stack.members):
        yield (name, "replicas"), message
    for name, member in stack.members.items():
        for needed, condition in member.depends_on.items():
            if (wrong := _dependency_problem(stack, needed, condition)) is not None:
                yield (name, "depends_on", needed), wrong
    yield from _cycles(stack)


def _dependency_problem(stack: StackSpec, needed: str, condition: Condition) -> str | None:
    """Why it makes no sense to wait until `needed` has reached this."""
    member = stack.members.get(needed)
    if member is None:
        return f"there is no container {shown(needed)}; {did_you_mean(needed, stack.members)}"
    if condition is Condition.HEALTHY and member.healthcheck is None:
        return f"{needed} has no healthcheck, and is never healthy"
    if condition is not Condition.COMPLETED:
        return None
    if member.schedule is not None:
        return f"{needed} runs again and again, and is never completed"
    if member.kind is Kind.SERVICE and member.restart.when in {Restart.ALWAYS, Restart.UNLESS_STOPPED}:
        return f'{needed} is always restarted, and is never completed; did you mean kind = "task"?'
    return None


def _cycles(stack: StackSpec) -> Iterator[Problem]:
    """Each cycle once, at the first of its members; those that share a member with one that was found are left out."""
    rest = dict(stack.members)
    while cycle := graph.cycle(rest):
        itself = len(cycle) == 2
        yield (cycle[0], "depends_on", cycle[1]), "depends on itself" if itself else f"a cycle: {' -> '.join(cycle)}"
        rest = {name: member for name, member in rest.items() if name not in cycle}


def profile_problem(profile: str) -> str | None:
    """What is wrong with the name of a profile."""
    if re.fullmatch(NAME, profile) and len(profile) <= MAX_NAME:
        return None
    return f"{shown(profile)} is not a name of a profile"


def _member_problems(member: MemberSpec) -> Iterator[Problem]:
    yield from _schedule_problems(member)
    yield from _restart_problems(member.restart)
    if not 1 <= member.replicas <= graph.MAX_REPLICAS:
        yield ("replicas",), f"{shown(member.replicas)} is not between 1 and {graph.MAX_REPLICAS}"
    if not 0 <= member.warm <= MAX_WARM:
        yield ("warm",), f"{shown(member.warm)} is not between 0 and {MAX_WARM}"
    if member.warm and member.readiness is not None and isinstance(member.readiness.probe, NotifyProbe):
        yield ("warm",), 'the socket of ready = "notify" is another one in each run; use ready = { fd = 3 }'
    yield from ((("profiles",), message) for profile in member.profiles if (message := profile_problem(profile)))
    for label in member.labels:
        if not re.fullmatch(LABEL, label):
            yield ("labels", label), f"{shown(label)} is not a name of a label"
    if member.container.network.name == "stack" and "net" in member.container.share:
        yield ("network",), 'a container that shares the net namespace is not in the network "stack"'
    yield from _check_problems("readiness", member.readiness)
    yield from _check_problems("healthcheck", member.healthcheck)


def _check_problems(attribute: str, check: Readiness | HealthCheck | None) -> Iterator[Problem]:
    if check is None:
        return
    if message := _probe_problem(check.probe):
        yield (attribute,), message
    for name in ("interval", "timeout", "start_interval"):
        seconds = getattr(check, name, 1.0)
        if not 0 < seconds < math.inf:
            yield (attribute, name), f"{seconds} is not a number of seconds above 0"
    if isinstance(check, HealthCheck):
        if not 0 <= check.start_period < math.inf:
            yield (attribute, "start_period"), f"{check.start_period} is not a number of seconds"
        if not 1 <= check.retries <= MAX_RETRIES:
            yield (attribute, "retries"), f"{shown(check.retries)} is not between 1 and {MAX_RETRIES}"


def _schedule_problems(member: MemberSpec) -> Iterator[Problem]:
    schedule = member.schedule
    if schedule is None:
        return
    if member.kind is Kind.SERVICE:
        yield ("kind",), "what runs again and again is a task"
    if (schedule.every is None) == (schedule.cron is None):
        yield ("schedule",), "give either every or cron"
    if schedule.every is not None and not 0 < schedule.every < math.inf:
        yield ("schedule",), f"{schedule.every} is not a number of seconds above 0"
    if schedule.cron is not None:
        try:
            parse_cron(schedule.cron)
        except ValueError as error:
            yield ("schedule",), str(error)


def _restart_problems(policy: RestartPolicy) -> Iterator[Problem]:
    for name in ("delay", "max_delay", "stable", "within"):
        seconds = getattr(policy, name)
        if not 0 <= seconds < math.inf:
            yield ("restart", name), f"{seconds} is not a number of seconds"
    if policy.delay > policy.max_delay:
        yield ("restart",), f"the delay of {policy.delay:g} s is above the max_delay of {policy.max_delay:g} s"
    if not 0 <= policy.jitter <= 1:
        yield ("restart", "jitter"), f"{policy.jitter} is not between 0 and 1"
    if not -1 <= policy.max_restarts <= MAX_INT:
        yield ("restart", "max_restarts"), f"{shown(policy.max_restarts)} is not between 0 and {MAX_INT}, or -1"


def _probe_problem(probe: Probe) -> str | None:
    """What is wrong with a probe: it cannot be written in a file, and read back."""
    try:
        match probe:
            case TcpProbe():
                right = parse_tcp(format_tcp(probe)) == probe
            case HttpProbe():
                right = parse_http(format_http(probe)) == probe
            case LogProbe(pattern=pattern):
                right = parse_log(pattern) == probe
            case DescriptorProbe(number=number):
                right = parse_whole(number, *DESCRIPTORS) == number
            case CommandProbe(command=command):
                return command_problem(command) if command else "the command is empty"
            case _:
                right = True
    except ValueError as error:
        return str(error)
    return None if right else f"{shown(probe)} is not what it would be in a file"
