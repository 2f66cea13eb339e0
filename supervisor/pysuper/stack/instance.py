"""
One instance of a member: acts on what `lifecycle` decides, and tells it what happens.

Events are posted from tasks and handled at once: the state changes, what belonged to the former state (a probe, a
delay) is cancelled, and the action of the transition becomes a task. Nothing here waits for another instance.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from datetime import datetime
from functools import partial
from typing import Any, Protocol

import attrs
import trio
from trio.lowlevel import FdStream

from pysuper.container import Container
from pysuper.errors import PysuperError, describe_errno
from pysuper.pool import Pool
from pysuper.record import ExitRecord
from pysuper.spec import ContainerSpec
from pysuper.stack.journal import Journal
from pysuper.stack.lifecycle import (
    ACTIVE,
    DOWN,
    TRANSITIONS,
    Action,
    Ending,
    Event,
    History,
    State,
    Verdict,
    after_end,
)
from pysuper.stack.notify import NotifySocket, open_notify_socket
from pysuper.stack.output import Output
from pysuper.stack.postmortem import Because, postmortem
from pysuper.stack.probes import check_health, wait_until_ready
from pysuper.stack.schedule import seconds_until_due
from pysuper.stack.spec import (
    DescriptorProbe,
    HealthCheck,
    LogProbe,
    MemberSpec,
    NotifyProbe,
    Readiness,
    Unhealthy,
)
from pysuper.supervisor import Supervisor

__all__ = ["Hub", "Instance"]

#: Seconds at most that a cron expression sleeps without looking at the wall clock, which may be set meanwhile.
_CLOCK_CHECK = 30.0

#: What a state's name is in the journal, where it is not the state's own.
_RECORDED = {State.RUNNING: "started", State.BACKOFF: "restarting", State.FAILING: "stopping"}


class Hub(Protocol):
    """What an instance needs of the stack that it belongs to."""

    supervisor: Supervisor
    journal: Journal
    postmortems: Journal
    notify_directory: str
    #: Starts under way at the same time.
    starting: trio.CapacityLimiter
    #: See `Output`.
    turns: trio.Lock

    def spawn(self, function: Callable[[], Awaitable[None]], name: str) -> None:
        """Run a task that ends with the stack."""

    def container_spec(self, member: MemberSpec, name: str) -> ContainerSpec:
        """What all runs of an instance are started from."""

    def changed(self, instance: Instance) -> None:
        """Its state, or its health, is another one."""


class Instance:
    """
    Attributes:
        name: Unique in the stack.
        member: What it is one of.
        state, since: Where it is in its life, and since when on the monotonic clock.
        run: The number of the current or last run; 0 before the first.
        healthy: None without a health check, or before its first result.
        restarts: By policy, strategy or operator, of this supervisor's lifetime.
        detail: What it is waiting for or why it failed, in words.
        status: What it last said of itself, STATUS= of sd_notify(3).
        container: While one runs.
        record: Of the last run that has ended.
        because: What made it stop, fail or restart, if that was not the container itself.
    """

    def __init__(self, name: str, member: MemberSpec, hub: Hub) -> None:
        self.name = name
        self.member = member
        self.state = State.STOPPED
        self.since = time.monotonic()
        self.run = 0
        self.healthy: bool | None = None
        self.restarts = 0
        self.detail = ""
        self.status = ""
        self.container: Container | None = None
        self.record: ExitRecord | None = None
        self.because = Because()
        self._hub = hub
        self._spec = hub.container_spec(member, name)
        self._subject = hub.supervisor.subject(name)
        self._history = History()
        self._final = False
        self._run_started = self.since
        self._phase = trio.CancelScope()
        self._start = trio.CancelScope()
        self._pool: Pool | None = None
        self._warmth: trio.CancelScope | None = None
        self._transition = trio.Event()
        self._told = trio.Event()

    @property
    def spares(self) -> int:
        """How many are prepared for its next runs, and wait."""
        return 0 if self._pool is None else self._pool.ready

    @property
    def paused(self) -> bool:
        """Whether its processes are frozen."""
        return self.container is not None and self.container.paused

    async def inactive(self) -> None:
        """Wait until it has no container; one of a later run does not count."""
        run = self.run
        while self.state in ACTIVE and self.run == run:
            await self._transition.wait()

    def post(self, event: Event, because: Because | None = None, detail: str = "", delay: float = 0.0) -> bool:
        """
        Something has happened.

        Args:
            because: Who or what else made it happen.
            detail: In words, for `ps` and the journal.
            delay: Seconds, of ENDED_AGAIN.

        Returns:
            False if it changes nothing in the current state.
        """
        entry = TRANSITIONS.get((self.state, event))
        if entry is None:
            return False
        before = self.state
        self.state, action = entry
        self.since = time.monotonic()
        self.detail = detail
        if because is not None:
            self.because = because
        if before in ACTIVE and self.state in {State.BACKOFF, State.WAITING}:
            self.restarts += 1
        if self.state in DOWN:
            self._cool_down()
        self._phase.cancel()
        self._phase = trio.CancelScope()
        transition, self._transition = self._transition, trio.Event()
        transition.set()
        if self.state not in {State.WAITING, State.STARTING}:  # `wait_for` and `_live` know more of these
            self._write_state(delay)
        self._tell_hooks(before, delay)
        self._act(action, delay)
        self._hub.changed(self)
        return True

    def _write_state(self, delay: float) -> None:
        if self.state is State.READY and self.member.readiness is None:
            return  # it has started, and that is all there is to say
        pid = self.container.pid if self.state is State.RUNNING and self.container is not None else None
        delayed = delay if self.state is State.BACKOFF else None
        self._write(_RECORDED.get(self.state, self.state.value), pid=pid, delay=delayed)

    def _tell_hooks(self, before: State, delay: float) -> None:
        match self.state:
            case State.READY:
                self._subject.ready()
            case State.BACKOFF:
                self._subject.restarted(delay, self.detail)
            case State.WAITING if before is State.RESTARTING:
                self._subject.restarted(0.0, self.detail)
            case State.STOPPED | State.COMPLETED if before in ACTIVE:
                self._subject.stopped()
            case State.SCHEDULED if before in ACTIVE:
                self._subject.settled()
            case State.FAILED:
                self._subject.failed(self.detail)

    def forget(self) -> None:
        """It will not be started again."""
        self._subject.forget()

    def wait_for(self, what: str) -> None:
        """Note what a waiting instance waits for, in words."""
        if what != self.detail:
            self.detail = what
            self._write("waiting")

    def kill(self) -> None:
        """End it at once; what follows from that is decided as always."""
        self._start.cancel()
        if self.container is not None:
            self.container.kill()

    def _write(self, kind: str, **fields: Any) -> None:
        given = {"detail": self.detail or None, **self.because.fields(), **fields}
        told = {key: value for key, value in given.items() if value is not None}
        self._hub.journal.write(kind, container=self.name, run=self.run or None, **told)

    def _act(self, action: Action, delay: float) -> None:
        match action:
            case Action.START:
                self._start = trio.CancelScope()  # here, since a stop may come before the task begins
                self._hub.spawn(self._live, self.name)
            case Action.STOP:
                self._hub.spawn(self._stop, f"stop {self.name}")
            case Action.AWAIT_READINESS:
                if self.member.readiness is not None:
                    self._spawn_phase(partial(self._await_readiness, self.member.readiness))
            case Action.CHECK_HEALTH:
                if self.member.healthcheck is not None:
                    self._spawn_phase(partial(self._check_health, self.member.healthcheck))
            case Action.DELAY:
                if delay:  # otherwise it is over, see `_judge`
                    self._spawn_phase(partial(self._after, delay))
            case Action.SCHEDULE:
                self._spawn_phase(self._await_due)
            case Action.NOTHING:
                pass

    def _spawn_phase(self, function: Callable[[], Awaitable[None]]) -> None:
        """Run a task that ends with the current state."""

        async def in_phase(scope: trio.CancelScope) -> None:
            with scope:
                await function()

        self._hub.spawn(partial(in_phase, self._phase), f"{self.state} {self.name}")

    # --- a run ---

    async def _live(self) -> None:
        """One run, from its preparation to what becomes of it."""
        self.run += 1
        self._subject.run = self.run
        self.healthy = None
        self.status = ""
        self.because = Because()
        self._final = False
        self._run_started = time.monotonic()
        self._write("starting")
        errors: list[Exception] = []
        try:
            record = await self._contain()
        except* (PysuperError, OSError) as group:
            errors += _leaves(group)
        if errors:
            record = self._failed(errors[0])
        self.container = None
        self._judge(record)

    def _failed(self, error: Exception) -> ExitRecord:
        """The record of a run that has none of its own."""
        if self.container is not None:  # something of it is left that the kernel does not let go of
            return ExitRecord.stuck(self._spec, str(error))
        if isinstance(error, OSError):  # out of descriptors, in the supervisor itself
            error = PysuperError(f"could not start {self.name}: {describe_errno(error.errno or 0)}")
        assert isinstance(error, PysuperError)
        return ExitRecord.start_failed(self._spec, error)

    async def _contain(self) -> ExitRecord:
        """Start a container, collect its output, and wait for its end."""
        self._told = trio.Event()
        output = Output(self._hub.journal, self.name, self.run, self.member.log_mode, self._hub.turns)
        container: Container | None = None
        async with output.collected(), self._listening(output) as (prepared, descriptors):
            with self._start:
                async with nullcontext() if self.spares else self._hub.starting:  # a spare has been started
                    start = partial(self._hub.supervisor.start, prepared) if self._pool is None else self._pool.start
                    container = await start(
                        stdout=output.stdout,
                        stderr=output.stderr,
                        descriptors=descriptors,
                        subject=self._subject,
                    )
            output.started()
            if container is None:
                return ExitRecord(name=self.name, argv=self._spec.command, reason="stopped")
            self.container = container
            if self._start.cancel_called:  # in the moment in which it succeeded; who did that waits for its end
                container.kill()
                return await container.wait()
            for line in container.warnings:
                self._write("warning", detail=line)
            self.post(Event.STARTED)
            if self.member.readiness is None:  # now, since it may be over already
                self.post(Event.BECAME_READY)
            self._warm_up()
            return await container.wait()

    @asynccontextmanager
    async def _listening(self, output: Output) -> AsyncIterator[tuple[ContainerSpec, dict[int, int]]]:
        """Until the end of a run, listen to what the container says of itself, if its readiness depends on that."""
        probe = None if self.member.readiness is None else self.member.readiness.probe
        if isinstance(probe, LogProbe):
            output.expect(probe.pattern, self._told)
        if not isinstance(probe, NotifyProbe | DescriptorProbe):
            yield self._spec, {}
            return
        async with trio.open_nursery() as nursery:
            match probe:
                case NotifyProbe():
                    async with open_notify_socket(self._hub.notify_directory, f"{id(self):x}") as reports:
                        nursery.start_soon(self._heed_reports, reports)
                        yield attrs.evolve(self._spec, notify_socket=reports.path), {}
                case DescriptorProbe():
                    read, write = os.pipe()
                    nursery.start_soon(self._heed_newline, FdStream(read))
                    with os.fdopen(write, "wb"):
                        yield self._spec, {probe.number: write}
            nursery.cancel_scope.cancel()

    async def _heed_reports(self, reports: NotifySocket) -> None:
        while True:
            report = await reports.receive()
            if "STATUS" in report:
                self.status = report["STATUS"]
                self._write("status", text=self.status)
            if report.get("READY") == "1":
                self._told.set()

    async def _heed_newline(self, pipe: FdStream) -> None:
        async with pipe:
            while chunk := await pipe.receive_some(1024):
                if b"\n" in chunk:
                    self._told.set()

    async def _stop(self) -> None:
        reason = {State.FAILING: "unhealthy" if self.healthy is False else "not-ready"}.get(self.state, "stopped")
        if self.container is None:
            self._start.cancel()
        else:
            try:
                await self.container.stop(reason)
            except PysuperError:  # it cannot be thawed, say
                self.container.kill()

    def _judge(self, record: ExitRecord) -> None:
        """Decide what follows from the end of a run, and write its post-mortem."""
        self.record = record
        ran = record.wall_seconds if record.reason != "start-failed" else 0.0
        success = record.success
        ending = Ending(success=success, ran=ran, final=self._final)
        verdict = after_end(self.member, ending, self._history, time.monotonic(), random.random())
        if self.state in {State.STOPPING, State.RESTARTING}:
            verdict = Verdict(event=Event.ENDED_WELL, history=History())
        self._history = verdict.history
        found = postmortem(
            record,
            because=self.because,
            detail=self.detail,
            limits=self.member.container.limits,
            log=self._hub.journal.tail(self.name, 20, run=self.run),
        )
        self._hub.postmortems.write("exited", container=self.name, run=self.run, **found)
        self._hub.journal.write("exited", container=self.name, run=self.run, **found)
        detail = verdict.detail or ("" if success else record.describe())
        self.post(verdict.event, detail=detail, delay=verdict.delay)
        if not verdict.delay:
            self.post(Event.DELAY_OVER)

    # --- spares for the next runs ---

    def _warm_up(self) -> None:
        """Have spares from now on, and not before: what a run needs may not have been there."""
        if self.member.warm and self._warmth is None and self.state not in DOWN:
            self._warmth = trio.CancelScope()
            self._hub.spawn(partial(self._keep_warm, self._warmth), f"spares of {self.name}")

    async def _keep_warm(self, scope: trio.CancelScope) -> None:
        with scope:
            try:
                async with self._hub.supervisor.pool(self._spec, size=self.member.warm) as pool:
                    if not scope.cancel_called:
                        self._pool = pool
                    await trio.sleep_forever()
            except PysuperError as error:  # the next run tries again
                self._write("warning", detail=f"there are no spares: {error}")
                self._cool_down()

    def _cool_down(self) -> None:
        """End the spares; it may take them a moment, and a run that begins meanwhile has others."""
        if self._warmth is not None:
            self._warmth.cancel()
        self._warmth = self._pool = None

    # --- readiness and health ---

    async def _await_readiness(self, readiness: Readiness) -> None:
        assert self.container is not None
        failure = await wait_until_ready(readiness, self.container, self._told)
        if failure is None:
            self.post(Event.BECAME_READY)
        else:
            self.post(Event.NOT_READY_IN_TIME, detail=failure)

    async def _check_health(self, check: HealthCheck) -> None:
        failures = 0
        while self.container is not None:
            if not self.paused:
                failure = await check_health(check, self.container)
                in_grace = time.monotonic() - self._run_started < check.start_period and not self.healthy
                failures = 0 if failure is None else failures if in_grace else failures + 1
                if failure is None:
                    self._set_health(True, "")
                elif failures >= check.retries:
                    self._set_health(False, failure)
                    if check.on_unhealthy is not Unhealthy.NONE:
                        self._final = check.on_unhealthy is Unhealthy.STOP
                        self.post(Event.UNHEALTHY, detail=f"unhealthy: {failure}")
                        return
            await trio.sleep(check.interval if self.healthy else check.start_interval)

    def _set_health(self, healthy: bool, failure: str) -> None:
        if healthy is not self.healthy:
            self.healthy = healthy
            self._write("healthy" if healthy else "unhealthy", detail=failure or None)
            self._hub.changed(self)

    # --- between runs ---

    async def _after(self, delay: float) -> None:
        await trio.sleep(delay)
        self.post(Event.DELAY_OVER)

    async def _await_due(self) -> None:
        schedule = self.member.schedule
        assert schedule is not None
        since_start = time.monotonic() - self._run_started
        left = seconds_until_due(schedule, since_start=since_start, now=datetime.now().astimezone())
        if schedule.every is not None:
            await trio.sleep(left)
        else:
            due = time.time() + left
            while (left := due - time.time()) > 0:
                await trio.sleep(min(left, _CLOCK_CHECK))
        self.post(Event.DUE)


def _leaves(group: ExceptionGroup[Exception]) -> list[Exception]:
    """The exceptions of a group, and of the groups in it."""
    return [leaf for e in group.exceptions for leaf in (_leaves(e) if isinstance(e, ExceptionGroup) else [e])]
