"""The decisions about an instance: no process, no clock, only the table and the policies."""

from __future__ import annotations

import itertools

import attrs
import pytest
from hypothesis import given, strategies as st

from pysuper.spec import ContainerSpec
from pysuper.stack.lifecycle import (
    ACTIVE,
    DOWN,
    TRANSITIONS,
    Action,
    Ending,
    Event,
    History,
    State,
    after_end,
    satisfies,
)
from pysuper.stack.spec import Condition, Kind, MemberSpec, Restart, RestartPolicy, Schedule

ENDINGS = (Event.ENDED_AGAIN, Event.ENDED_NEXT, Event.ENDED_WELL, Event.ENDED_BADLY)


def member(
    when: Restart = Restart.NO, *, kind: Kind = Kind.SERVICE, every: float | None = None, **policy
) -> MemberSpec:
    schedule = None if every is None else Schedule(every=every)
    container = ContainerSpec(name="web")
    return MemberSpec(container=container, kind=kind, schedule=schedule, restart=RestartPolicy(when=when, **policy))


def judged(spec: MemberSpec, *, success: bool = False, ran: float = 0.0, final: bool = False) -> Event:
    return after_end(spec, Ending(success=success, ran=ran, final=final), History(), now=100.0, chance=0.0).event


# --- the table ---


def test_every_state_can_be_reached_from_the_first() -> None:
    reached, before = {State.STOPPED}, set()
    while reached != before:
        before = set(reached)
        reached |= {target for (state, _), (target, _) in TRANSITIONS.items() if state in before}
    assert reached == set(State)


def test_an_active_instance_ends_only_by_the_end_of_its_container() -> None:
    for (state, event), (target, _) in TRANSITIONS.items():
        if state in ACTIVE and target not in ACTIVE:
            assert event in ENDINGS, (state, event)


def test_a_container_is_started_only_where_there_is_none() -> None:
    for (state, _), (target, action) in TRANSITIONS.items():
        assert (action is Action.START) == (state not in ACTIVE and target in ACTIVE)


@pytest.mark.parametrize("state", sorted(ACTIVE))
def test_every_active_state_knows_every_end(state: State) -> None:
    for event in ENDINGS:
        assert (state, event) in TRANSITIONS


@given(st.lists(st.sampled_from(Event), max_size=60))
def test_after_a_stop_nothing_is_started_until_somebody_asks_for_it(events: list[Event]) -> None:
    state = State.STOPPED
    wanted = False
    for event in events:
        target, action = TRANSITIONS.get((state, event), (state, Action.NOTHING))
        if (state, event) in TRANSITIONS and event in {Event.START, Event.STOP, Event.RESTART, Event.DEFER}:
            wanted = event is not Event.STOP
        assert not (action is Action.START and not wanted)
        state = target


@given(st.lists(st.sampled_from(Event), max_size=60))
def test_stopping_always_leads_down(events: list[Event]) -> None:
    """Whatever happened before: a stop, and then the end of the container if there is one, and it is down."""
    state = State.STOPPED
    for event in (*events, Event.STOP, Event.ENDED_AGAIN):
        state, _ = TRANSITIONS.get((state, event), (state, Action.NOTHING))
    assert state in DOWN


# --- what follows from an end ---


@pytest.mark.parametrize(
    ("when", "kind", "success", "expected"),
    [
        (Restart.NO, Kind.SERVICE, True, Event.ENDED_WELL),
        (Restart.NO, Kind.SERVICE, False, Event.ENDED_BADLY),
        (Restart.ON_FAILURE, Kind.SERVICE, True, Event.ENDED_WELL),
        (Restart.ON_FAILURE, Kind.SERVICE, False, Event.ENDED_AGAIN),
        (Restart.ALWAYS, Kind.SERVICE, True, Event.ENDED_AGAIN),
        (Restart.UNLESS_STOPPED, Kind.SERVICE, True, Event.ENDED_AGAIN),
        (Restart.ALWAYS, Kind.TASK, True, Event.ENDED_WELL),
        (Restart.ALWAYS, Kind.TASK, False, Event.ENDED_AGAIN),
        (Restart.NO, Kind.TASK, False, Event.ENDED_BADLY),
    ],
)
def test_the_policy_decides(when: Restart, kind: Kind, success: bool, expected: Event) -> None:
    assert judged(member(when, kind=kind), success=success) is expected


def test_what_must_not_come_back_does_not_whatever_the_policy() -> None:
    assert judged(member(Restart.ALWAYS), final=True) is Event.ENDED_BADLY
    assert judged(member(every=5.0, kind=Kind.TASK), final=True) is Event.ENDED_BADLY


@pytest.mark.parametrize("success", [True, False])
def test_a_scheduled_task_runs_again_when_it_is_due_even_if_it_failed(success: bool) -> None:
    assert judged(member(every=5.0, kind=Kind.TASK), success=success) is Event.ENDED_NEXT


def delays(spec: MemberSpec, *, count: int, ran: float = 0.0, chance: float = 0.0) -> list[float]:
    """Delays of restarts in a row; each run ends when its delay is over, and `ran` seconds more."""
    found, history, now = [], History(), 0.0
    for _ in range(count):
        verdict = after_end(spec, Ending(success=False, ran=ran), history, now, chance)
        assert verdict.event is Event.ENDED_AGAIN
        found.append(verdict.delay)
        history, now = verdict.history, now + verdict.delay + ran
    return found


def test_delays_double_from_a_tenth_of_a_second_to_a_minute() -> None:
    spec = member(Restart.ALWAYS, max_restarts=-1)
    assert delays(spec, count=12) == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 60.0, 60.0]


def test_a_stable_run_begins_the_delays_anew() -> None:
    assert delays(member(Restart.ALWAYS, stable=10.0), count=4, ran=10.0) == [0.1] * 4


@given(st.floats(0, 1), st.floats(0, 1))
def test_jitter_shortens_a_delay_by_at_most_its_fraction(jitter: float, chance: float) -> None:
    (delay,) = delays(member(Restart.ALWAYS, delay=1.0, jitter=jitter), count=1, chance=chance)
    assert 1 - jitter <= delay <= 1


def test_a_delay_of_nothing_stays_nothing() -> None:
    assert delays(member(Restart.ALWAYS, delay=0.0, max_restarts=-1), count=2000)[-1] == 0.0


def test_after_n_restarts_in_t_it_gives_up_and_says_so() -> None:
    spec = member(Restart.ALWAYS, delay=0.0, max_restarts=3, within=10.0)
    history = History()
    for now in itertools.count():
        verdict = after_end(spec, Ending(success=False, ran=0.0), history, float(now), 0.0)
        history = verdict.history
        if verdict.event is not Event.ENDED_AGAIN:
            break
    assert (verdict.event, now, verdict.detail) == (Event.ENDED_BADLY, 3, "gave up after 3 restarts in 10 s")


def test_restarts_longer_ago_than_t_do_not_count() -> None:
    spec = member(Restart.ALWAYS, delay=0.0, max_restarts=3, within=10.0)
    history = History()
    for now in range(0, 400, 4):
        verdict = after_end(spec, Ending(success=False, ran=3.0), history, float(now), 0.0)
        assert verdict.event is Event.ENDED_AGAIN
        history = verdict.history
        assert len(history.times) <= 3


# --- dependencies ---


@pytest.mark.parametrize("condition", list(Condition))
@pytest.mark.parametrize("state", [State.FAILED, State.STOPPED])
def test_who_is_down_for_good_satisfies_nobody(condition: Condition, state: State) -> None:
    assert satisfies(condition, state, healthy=True) is None


@pytest.mark.parametrize(
    ("condition", "state", "healthy", "expected"),
    [
        (Condition.STARTED, State.STARTING, False, False),
        (Condition.STARTED, State.RUNNING, False, True),
        (Condition.READY, State.RUNNING, False, False),
        (Condition.READY, State.READY, False, True),
        (Condition.HEALTHY, State.READY, False, False),
        (Condition.HEALTHY, State.READY, True, True),
        (Condition.HEALTHY, State.COMPLETED, True, None),
        (Condition.COMPLETED, State.READY, True, False),
        (Condition.COMPLETED, State.COMPLETED, False, True),
        (Condition.STARTED, State.COMPLETED, False, True),
        (Condition.READY, State.BACKOFF, True, False),
        (Condition.READY, State.RESTARTING, True, False),
    ],
)
def test_what_a_dependency_must_have_reached(
    condition: Condition, state: State, healthy: bool, expected: bool | None
) -> None:
    assert satisfies(condition, state, healthy=healthy) is expected


def test_a_spec_is_compared_by_value() -> None:
    """`reload` touches what differs, and only that."""
    assert member(Restart.ALWAYS) == member(Restart.ALWAYS)
    assert attrs.evolve(member(), replicas=2) != member()
