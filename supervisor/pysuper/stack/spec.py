"""
What the user asked for in a stack's file: frozen values without behaviour.

    MemberSpec(
        container=ContainerSpec(name="web", command=("httpd", "-f")),
        depends_on={"db": Condition.HEALTHY},
        readiness=Readiness(probe=TcpProbe(port=80)),
        restart=RestartPolicy(when=Restart.ON_FAILURE),
    )

Durations are float seconds.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType

import attrs

from pysuper.spec import ContainerSpec, DriverChoice

__all__ = [
    "CommandProbe",
    "Condition",
    "DescriptorProbe",
    "HealthCheck",
    "HttpProbe",
    "JournalSpec",
    "Kind",
    "LogMode",
    "LogProbe",
    "MemberSpec",
    "NotifyProbe",
    "Probe",
    "Readiness",
    "Restart",
    "RestartPolicy",
    "Schedule",
    "StackSpec",
    "Strategy",
    "TcpProbe",
    "Unhealthy",
]


class Condition(enum.StrEnum):
    """What a dependency must have reached before the one that waits for it is started."""

    STARTED = "started"  #: its command is being executed
    READY = "ready"  #: its readiness probe has succeeded; the same as started if it has none
    HEALTHY = "healthy"  #: its health check has succeeded
    COMPLETED = "completed"  #: it has ended with exit code 0


class Kind(enum.StrEnum):
    """What it means when a member's command ends with exit code 0."""

    SERVICE = "service"  #: it has stopped serving
    TASK = "task"  #: its work is done


class Restart(enum.StrEnum):
    """When a container that has ended is started again."""

    NO = "no"
    ON_FAILURE = "on-failure"  #: not after exit code 0
    ALWAYS = "always"  #: `reload` also starts it when the operator had stopped it
    UNLESS_STOPPED = "unless-stopped"


class Strategy(enum.StrEnum):
    """Who else is restarted when a container is, as Erlang/OTP's supervisors have it."""

    ONE_FOR_ONE = "one_for_one"
    ONE_FOR_ALL = "one_for_all"
    REST_FOR_ONE = "rest_for_one"  #: those that depend on it, directly or not


class Unhealthy(enum.StrEnum):
    """What happens to a container that is unhealthy."""

    RESTART = "restart"  #: it is stopped, and its restart policy decides
    STOP = "stop"  #: it is stopped for good
    NONE = "none"  #: it is only reported


class LogMode(enum.StrEnum):
    """What happens when a container writes faster than the journal takes it."""

    BLOCK = "block"  #: the container waits
    DROP = "drop"  #: what comes faster than `LOG_RATE` is dropped, and counted


@attrs.frozen(kw_only=True)
class TcpProbe:
    """A connection to `port` can be made, from inside the container's network namespace."""

    port: int
    host: str = "127.0.0.1"


@attrs.frozen(kw_only=True)
class HttpProbe:
    """GET `path` answers with a status from 200 to 399, from inside the container's network namespace."""

    port: int
    path: str = "/"
    host: str = "127.0.0.1"


@attrs.frozen(kw_only=True)
class CommandProbe:
    """A command, executed in the container, exits with 0."""

    command: tuple[str, ...]


@attrs.frozen(kw_only=True)
class LogProbe:
    """A line of its output (either stream) matches a regular expression, somewhere in it."""

    pattern: str


@attrs.frozen
class NotifyProbe:
    """The container sends READY=1 to $NOTIFY_SOCKET, sd_notify(3)."""


@attrs.frozen(kw_only=True)
class DescriptorProbe:
    """The container writes a newline to this descriptor, as s6's notification-fd has it; 3 to 9."""

    number: int


Probe = TcpProbe | HttpProbe | CommandProbe | LogProbe | NotifyProbe | DescriptorProbe


@attrs.frozen(kw_only=True)
class Readiness:
    """
    When a container that has started is ready.

    Attributes:
        probe: What tells.
        interval: Seconds between attempts, for a probe that has to be asked.
        timeout: Seconds after the start in which it has to become ready; after that it is stopped, as a failure. An
            attempt without an answer is given up after half of them.
    """

    probe: Probe
    interval: float = 0.1
    timeout: float = 60.0


@attrs.frozen(kw_only=True)
class HealthCheck:
    """
    Whether a container that is ready works.

    Attributes:
        probe: What tells.
        interval: Seconds between checks, once it is healthy.
        start_interval: Seconds between checks before that.
        timeout: Seconds after which a check has failed.
        retries: Failures in a row that make it unhealthy.
        start_period: Seconds after the start in which failures do not count.
        on_unhealthy: What is done then.
    """

    probe: TcpProbe | HttpProbe | CommandProbe
    interval: float = 30.0
    start_interval: float = 1.0
    timeout: float = 30.0
    retries: int = 3
    start_period: float = 0.0
    on_unhealthy: Unhealthy = Unhealthy.RESTART


@attrs.frozen(kw_only=True)
class RestartPolicy:
    """
    Whether and when a container that has ended is started again.

    The n-th restart in a row waits `delay` times 2 to the n-1, at most `max_delay`, less up to `jitter` of that. A
    run of at least `stable` seconds ends the row. After more than `max_restarts` restarts in `within` seconds it has
    failed for good (as systemd's StartLimitBurst and StartLimitIntervalSec have it, with the same numbers).

    Attributes:
        jitter: A fraction, from 0 to 1.
        max_restarts: -1 is unlimited.
    """

    when: Restart = Restart.NO
    delay: float = 0.1
    max_delay: float = 60.0
    jitter: float = 0.1
    stable: float = 10.0
    max_restarts: int = 5
    within: float = 10.0


@attrs.frozen(kw_only=True)
class Schedule:
    """
    When a task runs again: each `every` seconds, or by a cron expression of five fields, crontab(5), in local time.

    One of the two is None. A run that is due while the last one still goes on is left out.
    """

    every: float | None = None
    cron: str | None = None


@attrs.frozen(kw_only=True)
class MemberSpec:
    """
    One `[container.NAME]` of a stack.

    Attributes:
        container: What runs; its name is the member's.
        depends_on: Members, and what they must have reached.
        schedule: None is once, at the start of the stack.
        replicas: Instances.
        warm: Spares of each instance, which its next runs are started from; see `Supervisor.pool`.
        profiles: It is only started if one of these is chosen; empty is always.
        labels: For the user; shown by `inspect`.
    """

    container: ContainerSpec
    kind: Kind = Kind.SERVICE
    depends_on: Mapping[str, Condition] = attrs.field(factory=lambda: MappingProxyType({}))
    readiness: Readiness | None = None
    healthcheck: HealthCheck | None = None
    restart: RestartPolicy = RestartPolicy()
    schedule: Schedule | None = None
    replicas: int = 1
    warm: int = 0
    profiles: tuple[str, ...] = ()
    labels: Mapping[str, str] = attrs.field(factory=lambda: MappingProxyType({}))
    log_mode: LogMode = LogMode.BLOCK

    @property
    def name(self) -> str:
        """The name of its table."""
        return self.container.name


@attrs.frozen(kw_only=True)
class JournalSpec:
    """
    How much is kept of what happened.

    Attributes:
        max_size: Bytes of a file, before the next one is begun.
        max_files: Files, the one being written included.
    """

    max_size: int = 16 * 2**20
    max_files: int = 4


@attrs.frozen(kw_only=True)
class StackSpec:
    """
    A file of containers.

    Attributes:
        path: Of the file, absolute.
        members: By name, in the order of the file.
        hooks: Who is told what happens to them.
    """

    path: str
    members: Mapping[str, MemberSpec]
    strategy: Strategy = Strategy.ONE_FOR_ONE
    journal: JournalSpec = JournalSpec()
    hooks: tuple[DriverChoice, ...] = ()
