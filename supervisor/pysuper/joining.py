"""
The plans of processes that join a running container: a command, a socket. Data made from the container's plan.

Such a process is cloned beside the container, not in it. It enters the container's namespaces, where nothing of the
container can see it yet, and then forks into the pid namespace; the child does to itself what was done to the
container's first process, and executes the command. Neither is ever dumpable, so that nothing of the container can
look into it, trace it, or take a descriptor from it, before it is the command (CVE-2016-9962).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from pysuper import receipts, steps
from pysuper.plan import Command, Plan
from pysuper.planning import terminal_environment

__all__ = ["command_plan", "socket_plan"]


def command_plan(
    plan: Plan,
    command: Sequence[str],
    *,
    terminal: bool = False,
    terminal_size: tuple[int, int] | None = None,
    user: str | None = None,
    environment: Mapping[str, str] | None = None,
    working_dir: str | None = None,
) -> Plan:
    """
    Execute one more command in a container, and do to it what was done to the first.

    Args:
        plan: The container's.
        command, terminal, terminal_size, user, environment, working_dir: As for `Container.execute`.
    """
    assert plan.command is not None
    outside = [step for step in plan.steps if step.repeated == "outside"]
    inside = [_as_user(step, user) for step in plan.steps if step.repeated == "inside"]
    forked = [steps.Fork()] if "pid" in plan.namespaces else []
    variables = plan.command.environment | dict(environment or {})
    if terminal:
        rows, columns = terminal_size or (0, 0)
        inside.append(steps.OpenTerminal(rows=rows, columns=columns))
        variables = terminal_environment() | variables
    return attrs.evolve(
        _beside(plan),
        cgroup=plan.cgroup,
        steps=(*outside, *_enter(plan, plan.namespaces), *forked, *inside),
        command=Command(
            argv=tuple(command),
            environment=variables,
            working_dir=plan.command.working_dir if working_dir is None else working_dir,
            init=False,
            terminal=terminal,
        ),
        checks=tuple(check for check in plan.checks if check.of_process and _holds_for(check, user)),
    )


def socket_plan(plan: Plan, family: int, kind: int) -> Plan:
    """Open a socket in the network namespace of a container, and nothing else: not in its cgroup, nor as its user."""
    needed = ("user", "net") if plan.ids else ("net",)
    return attrs.evolve(_beside(plan), steps=(*_enter(plan, needed), steps.OpenSocket(family=family, kind=kind)))


def _beside(plan: Plan) -> Plan:
    """A process that is born where the supervisor is, and does nothing."""
    return attrs.evolve(
        plan, clone=(), holder=None, ids=None, cgroup=None, steps=(), command=None, checks=(), warnings=()
    )


def _enter(plan: Plan, namespaces: Sequence[str]) -> list[steps.Step]:
    """
    Host root may enter all the others, and gives that up with the user namespace; who is not root may enter none but
    as root of the user namespace, setns(2).
    """
    others = [steps.JoinNamespace(namespace=name) for name in namespaces if name != "user"]
    if "user" not in namespaces:
        return [*others]
    user = steps.JoinNamespace(namespace="user")
    return [user, *others] if plan.ids else [*others, user, steps.BecomeRoot()]


def _as_user(step: steps.Step, user: str | None) -> steps.Step:
    if user is None or not isinstance(step, steps.SetUser):
        return step
    return attrs.evolve(step, user=user)


def _holds_for(check: receipts.Check, user: str | None) -> bool:
    """Which capabilities are effective depends on the user; the container's plan says it of its own."""
    return user is None or not (isinstance(check, receipts.ProcessStatus) and check.field == "CapEff")
