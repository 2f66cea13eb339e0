"""
The plans of processes that join a running container: a command, a socket. Data made from the container's plan.

Such a process is cloned beside the container, not in it. It enters the container's namespaces, where nothing of the
container can see it yet, and then forks into the pid namespace; the child does to itself what was done to the
container's first process, and executes the command. Neither is ever dumpable, so that nothing of the container can
look into it, trace it, or take a descriptor from it, before it is the command (CVE-2016-9962).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import attrs

from pysuper import receipts, steps
from pysuper.plan import Command, Phase, Plan
from pysuper.planning import terminal_environment
from pysuper.steps import Step

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
    phases = _entering(plan, plan.namespaces)
    if "pid" in plan.namespaces:
        phases[Phase.IDENTITY] += (steps.Fork(),)
    for phase, done in plan.phases.items():
        phases[min(phase, Phase.CGROUP)] += tuple(step for step in done if step.repeated == "outside")
        phases[max(phase, Phase.LIMITS)] += tuple(_as_user(step, user) for step in done if step.repeated == "inside")
    variables = plan.command.environment | dict(environment or {})
    if terminal:
        rows, columns = terminal_size or (0, 0)
        phases[Phase.TERMINAL] += (steps.OpenTerminal(rows=rows, columns=columns),)
        variables = terminal_environment() | variables
    return attrs.evolve(
        _beside(plan),
        cgroup=plan.cgroup,
        phases=dict(phases),
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
    phases = _entering(plan, needed) | {Phase.TERMINAL: (steps.OpenSocket(family=family, kind=kind),)}
    return attrs.evolve(_beside(plan), phases=phases)


def _beside(plan: Plan) -> Plan:
    """A process that is born where the supervisor is, and does nothing."""
    return attrs.evolve(
        plan,
        clone=(),
        holder=None,
        ids=None,
        cgroup=None,
        phases={},
        command=None,
        checks=(),
        warnings=(),
        trace=False,
    )


def _entering(plan: Plan, namespaces: Sequence[str]) -> defaultdict[Phase, tuple[Step, ...]]:
    """
    Host root may enter all the others, and gives that up with the user namespace; who is not root may enter none but
    as root of the user namespace, setns(2).
    """
    user = tuple(steps.JoinNamespace(namespace=name) for name in namespaces if name == "user")
    others = tuple(steps.JoinNamespace(namespace=name) for name in namespaces if name != "user")
    phases: defaultdict[Phase, tuple[Step, ...]] = defaultdict(tuple)
    if plan.ids:
        phases[Phase.NAMESPACES] = user + others
    else:
        phases[Phase.NAMESPACES] = others
        phases[Phase.IDENTITY] = (*user, steps.BecomeRoot()) if user else ()
    return phases


def _as_user(step: Step, user: str | None) -> Step:
    if user is None or not isinstance(step, steps.SetUser):
        return step
    return steps.SetUser(user=user)


def _holds_for(check: receipts.Check, user: str | None) -> bool:
    """Which capabilities are effective depends on the user; the container's plan says it of its own."""
    return user is None or not (isinstance(check, receipts.ProcessStatus) and check.field == "CapEff")
