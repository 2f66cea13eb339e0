"""
The life of an instance, decided without acting: one table, and pure functions of policy, history and time.

Everything that affects what an instance does next is here; `instance.py` carries it out. An event for which the table
has no entry came too late (a probe that succeeds while the container is being stopped, say) and changes nothing.

    WAITING   for its dependencies              STOPPING    on request, and then it stays down
    STARTING  drivers, clone, steps             RESTARTING  on request, and then it waits and starts again
    RUNNING   the command runs; not ready yet   FAILING     because it is not ready in time, or unhealthy
    READY     serving                           BACKOFF     before it is started again
    SCHEDULED until it is due again             COMPLETED, STOPPED, FAILED: down until somebody starts it
"""

from __future__ import annotations

import enum
from collections.abc import Mapping

import attrs

from pysuper.stack.spec import Condition, Kind, MemberSpec, Restart

__all__ = [
    "ACTIVE",
    "DOWN",
    "TRANSITIONS",
    "Action",
    "Ending",
    "Event",
    "History",
    "State",
    "Verdict",
    "after_end",
    "satisfies",
]


class State(enum.StrEnum):
    """Where an instance is in its life; see the module's docstring."""

    WAITING = "waiting"
    STARTING = "starting"
    RUNNING = "running"
    READY = "ready"
    STOPPING = "stopping"
    RESTARTING = "restarting"
    FAILING = "failing"
    BACKOFF = "backoff"
    SCHEDULED = "scheduled"
    COMPLETED = "completed"
    STOPPED = "stopped"
    FAILED = "failed"


class Event(enum.StrEnum):
    """What happens to an instance."""

    # From the stack.
    DEPENDENCIES_MET = "dependencies-met"
    DEPENDENCY_FAILED = "dependency-failed"
    DEFER = "defer"
    # From the operator, or a strategy.
    START = "start"
    STOP = "stop"
    RESTART = "restart"
    # From the container.
    STARTED = "started"
    BECAME_READY = "became-ready"
    NOT_READY_IN_TIME = "not-ready-in-time"
    UNHEALTHY = "unhealthy"
    # The container has ended, or did not start, and `after_end` has judged it.
    ENDED_AGAIN = "ended-again"
    ENDED_NEXT = "ended-next"
    ENDED_WELL = "ended-well"
    ENDED_BADLY = "ended-badly"
    # From the clock.
    DELAY_OVER = "delay-over"
    DUE = "due"


class Action(enum.StrEnum):
    """What the instance does on a transition."""

    NOTHING = "nothing"
    START = "start"
    STOP = "stop"
    AWAIT_READINESS = "await-readiness"
    CHECK_HEALTH = "check-health"
    DELAY = "delay"
    SCHEDULE = "schedule"


#: A container exists, or is about to.
ACTIVE = frozenset(
    {State.STARTING, State.RUNNING, State.READY, State.STOPPING, State.RESTARTING, State.FAILING},
)
#: Nothing happens any more unless somebody starts it.
DOWN = frozenset({State.COMPLETED, State.STOPPED, State.FAILED})

_ENDINGS: Mapping[Event, tuple[State, Action]] = {
    Event.ENDED_AGAIN: (State.BACKOFF, Action.DELAY),
    Event.ENDED_NEXT: (State.SCHEDULED, Action.SCHEDULE),
    Event.ENDED_WELL: (State.COMPLETED, Action.NOTHING),
    Event.ENDED_BADLY: (State.FAILED, Action.NOTHING),
}

TRANSITIONS: Mapping[tuple[State, Event], tuple[State, Action]] = {
    (State.STOPPED, Event.DEFER): (State.SCHEDULED, Action.SCHEDULE),  # a cron expression, at the start of the stack
    (State.WAITING, Event.DEPENDENCIES_MET): (State.STARTING, Action.START),
    (State.WAITING, Event.DEPENDENCY_FAILED): (State.FAILED, Action.NOTHING),
    (State.WAITING, Event.STOP): (State.STOPPED, Action.NOTHING),
    (State.STARTING, Event.STARTED): (State.RUNNING, Action.AWAIT_READINESS),
    (State.RUNNING, Event.BECAME_READY): (State.READY, Action.CHECK_HEALTH),
    (State.RUNNING, Event.NOT_READY_IN_TIME): (State.FAILING, Action.STOP),
    (State.READY, Event.UNHEALTHY): (State.FAILING, Action.STOP),
    # The container ended by itself, or was stopped because it failed: policy has decided.
    **{
        (state, event): ending
        for state in (State.STARTING, State.RUNNING, State.READY, State.FAILING)
        for event, ending in _ENDINGS.items()
    },
    # On request, whatever became of it.
    **{(State.STOPPING, event): (State.STOPPED, Action.NOTHING) for event in _ENDINGS},
    **{(State.RESTARTING, event): (State.WAITING, Action.NOTHING) for event in _ENDINGS},
    **{
        (state, event): (target, Action.STOP)
        for state in (State.STARTING, State.RUNNING, State.READY)
        for event, target in ((Event.STOP, State.STOPPING), (Event.RESTART, State.RESTARTING))
    },
    # It is being stopped already; what changes is what comes after.
    (State.FAILING, Event.STOP): (State.STOPPING, Action.NOTHING),
    (State.FAILING, Event.RESTART): (State.RESTARTING, Action.NOTHING),
    (State.RESTARTING, Event.STOP): (State.STOPPING, Action.NOTHING),
    (State.STOPPING, Event.START): (State.RESTARTING, Action.NOTHING),
    (State.STOPPING, Event.RESTART): (State.RESTARTING, Action.NOTHING),
    # Between two runs.
    (State.BACKOFF, Event.DELAY_OVER): (State.WAITING, Action.NOTHING),
    (State.SCHEDULED, Event.DUE): (State.WAITING, Action.NOTHING),
    **{(state, Event.STOP): (State.STOPPED, Action.NOTHING) for state in (State.BACKOFF, State.SCHEDULED)},
    **{
        (state, event): (State.WAITING, Action.NOTHING)
        for state in (State.BACKOFF, State.SCHEDULED, *sorted(DOWN))
        for event in (Event.START, Event.RESTART)
    },
}


@attrs.frozen
class History:
    """
    The restarts so far.

    Attributes:
        times: Of those that may still count, on the monotonic clock, oldest first.
        streak: Restarts in a row without a stable run.
    """

    times: tuple[float, ...] = ()
    streak: int = 0


@attrs.frozen(kw_only=True)
class Ending:
    """
    How a run ended.

    Attributes:
        success: With exit code 0, and by itself.
        ran: Seconds from the start of the command to its end; 0 if it did not start.
        final: Not to be restarted, whatever the policy (`on_unhealthy = "stop"`).
    """

    success: bool
    ran: float
    final: bool = False


@attrs.frozen(kw_only=True)
class Verdict:
    """
    What follows from an ending.

    Attributes:
        event: One of Event.ENDED_*.
        delay: Seconds until the restart, for ENDED_AGAIN.
        history: From here on.
        detail: Why, in words; empty where it is plain.
    """

    event: Event
    history: History
    delay: float = 0.0
    detail: str = ""


def after_end(member: MemberSpec, ending: Ending, history: History, now: float, chance: float) -> Verdict:
    """
    Decide what becomes of an instance whose container has ended.

    Args:
        now: On the monotonic clock.
        chance: A random number from 0 to 1, for the jitter.
    """
    policy = member.restart
    done = ending.success and (member.kind is Kind.TASK or policy.when is Restart.ON_FAILURE)
    if done or ending.final or policy.when is Restart.NO:
        if member.schedule is not None and not ending.final:
            return Verdict(event=Event.ENDED_NEXT, history=History())
        return Verdict(event=Event.ENDED_WELL if ending.success else Event.ENDED_BADLY, history=history)
    recent = tuple(time for time in history.times if now - time < policy.within)
    if 0 <= policy.max_restarts <= len(recent):
        detail = f"gave up after {len(recent)} restarts in {policy.within:g} s"
        return Verdict(event=Event.ENDED_BADLY, history=history, detail=detail)
    streak = 1 if ending.ran >= policy.stable else history.streak + 1
    # 2.0 to the power of 1024 is no float any more.
    delay = min(policy.max_delay, policy.delay * 2.0 ** min(streak - 1, 64)) * (1 - policy.jitter * chance)
    return Verdict(event=Event.ENDED_AGAIN, delay=delay, history=History((*recent, now), streak))


def satisfies(condition: Condition, state: State, *, healthy: bool) -> bool | None:
    """
    Whether a dependency in this state lets the ones that wait for it start.

    Returns:
        None if it never will, unless somebody intervenes.
    """
    if state in {State.FAILED, State.STOPPED}:
        return None
    if state is State.COMPLETED:
        return None if condition is Condition.HEALTHY else True
    if condition is Condition.COMPLETED:
        return False
    if condition is Condition.HEALTHY:
        return state is State.READY and healthy
    if condition is Condition.READY:
        return state is State.READY
    return state in {State.RUNNING, State.READY}
