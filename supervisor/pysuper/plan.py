"""
Spec and drivers make a plan: all that the launcher does for one container, as data.

A driver adds steps to *phases*, not to positions, so that drivers need not know each other; inside a phase the
order of adding holds. `pysuper.phase` says which there are, and why in this order.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Protocol, TypeVar

import attrs

from pysuper import receipts, steps
from pysuper.phase import Phase
from pysuper.spec import NAMESPACES, ContainerSpec
from pysuper.steps import Step
from pysuper.subids import NoSubIds, SubIds

__all__ = ["Command", "Context", "IdMap", "Line", "Moment", "NamespaceHolder", "Phase", "Plan", "PlanBuilder"]

T = TypeVar("T")


@attrs.frozen
class IdMap:
    """
    The ids of a user namespace: `(inside, outside, count)` lines as in /proc/PID/uid_map, user_namespaces(7).

    Attributes:
        uids, gids: The lines.
        privileged: Made by host root, which enters it late; otherwise the container is born in it.
        helped: Its driver has them written by newuidmap(1), while the process waits; otherwise pysuper writes them.
    """

    uids: tuple[tuple[int, int, int], ...]
    gids: tuple[tuple[int, int, int], ...]
    privileged: bool
    helped: bool = False


class Sandbox(Protocol):
    """Run a command confined, with `stdin` as its standard input; `(exit status, stdout, stderr)`."""

    async def __call__(self, spec: ContainerSpec, *, stdin: int) -> tuple[int, str, str]: ...


@attrs.frozen(kw_only=True)
class Context:
    """
    What a driver may know of the container it contributes to.

    Attributes:
        id: Unique on this machine; for names of kernel objects.
        spec: What the user asked for.
        privileged: Whether the supervisor is root with CAP_SYS_ADMIN.
        uid_base: The first of 65,536 host ids that no other container of this machine has, if privileged.
        subids: Ids beside his one that an ordinary user has for it, or why he has none; None if privileged.
        sandbox: Runs a command of a driver's in a container of its own; None while only a plan is made.
    """

    id: str
    spec: ContainerSpec
    privileged: bool
    uid_base: int
    subids: SubIds | NoSubIds | None = None
    sandbox: Sandbox | None = None


@attrs.frozen(kw_only=True)
class NamespaceHolder:
    """
    Namespaces that exist before the container's first process, because it enters them only later.

    The launcher clones a process into them, writes the id maps, keeps descriptors of them and ends it.
    """

    namespaces: tuple[str, ...]
    ids: IdMap


@attrs.frozen(kw_only=True)
class Command:
    """What the last step executes. `argv` empty is the user's login shell; `init` puts a reaper in front as PID 1."""

    argv: tuple[str, ...]
    environment: dict[str, str]
    working_dir: str
    init: bool
    terminal: bool

    def describe(self) -> str:
        """What is done at the end, in one line."""
        return f"execute {' '.join(map(repr, self.argv)) or 'the login shell of the user'}"


class Moment(enum.Enum):
    """What a line of a plan is about, if it is neither a step nor a check."""

    HOLDER = enum.auto()
    CLONE = enum.auto()
    BIRTH = enum.auto()
    WARNING = enum.auto()
    INIT = enum.auto()
    EXECUTE = enum.auto()
    END = enum.auto()


@attrs.frozen
class Line:
    """
    One line of a plan in words.

    Attributes:
        text: What is done.
        about: What it is that is done.
        phase: Of a step.
    """

    text: str
    about: Step | receipts.Check | Moment
    phase: Phase | None = None


@attrs.frozen(kw_only=True)
class Plan:
    """
    One process, as the launcher builds it: the first of a container, or one that joins it.

    Attributes:
        clone: Namespaces in which the process is born.
        holder: Namespaces made before, or None.
        ids: Maps to write for the process itself (the first one of a container without privileges), or None.
        cgroup: A cgroup v2 directory to be born in, or None.
        phases: The steps of each phase, in order.
        command: What is executed at the end; None is nothing.
        checks: The receipts to take before it is.
        warnings: What the user should know, a line each: what was left out, and what is no boundary.
        trace: Whether the process tells of each step that it has done it, and how long that took.
        memory: What was made of a plan that is carried out several times, so that it is made once; None of others.
        steps: Those of all phases, in order.
        namespaces: Those that are not the supervisor's, the container's own and those that it joins.
    """

    id: str
    clone: tuple[str, ...]
    holder: NamespaceHolder | None
    ids: IdMap | None
    cgroup: str | None
    phases: Mapping[Phase, tuple[Step, ...]]
    command: Command | None
    checks: tuple[receipts.Check, ...]
    warnings: tuple[str, ...]
    trace: bool = False
    memory: dict[Any, Any] | None = attrs.field(default=None, eq=False, repr=False)
    steps: tuple[Step, ...] = attrs.field(init=False, eq=False, repr=False)
    namespaces: tuple[str, ...] = attrs.field(init=False, eq=False, repr=False)

    @steps.default
    def _in_order(self) -> tuple[Step, ...]:
        return tuple(step for phase in Phase for step in self.phases.get(phase, ()))

    @namespaces.default
    def _promised(self) -> tuple[str, ...]:
        promised = {check.namespace for check in self.checks if isinstance(check, receipts.OwnNamespace)}
        return tuple(name for name in NAMESPACES if name in promised)

    @property
    def name(self) -> str:
        """Of the container."""
        return self.id.rpartition(".")[0]

    def once(self, key: object, make: Callable[[], T]) -> T:
        """What `make` returns: what it has returned for that key before, if the plan is carried out several times."""
        if self.memory is None:
            return make()
        if key not in self.memory:
            self.memory[key] = make()
        found: T = self.memory[key]
        return found

    def to_json(self) -> str:
        """The plan as the launcher reads it."""
        message = {
            "id": self.id,
            "clone": self.clone,
            "holder": self.holder and attrs.asdict(self.holder),
            "ids": self.ids and attrs.asdict(self.ids),
            "cgroup": self.cgroup,
            "phases": {p.name: [steps.to_wire(s) for s in self.phases[p]] for p in Phase if p in self.phases},
            "command": self.command and attrs.asdict(self.command, recurse=False),
            "checks": [receipts.to_wire(check) for check in self.checks],
            "warnings": self.warnings,
            "trace": self.trace,
        }
        return json.dumps(message)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The inverse of `to_json`."""
        message: dict[str, Any] = json.loads(text)
        holder, ids, command = message["holder"], message["ids"], message["command"]
        return cls(
            id=message["id"],
            clone=tuple(message["clone"]),
            holder=holder
            and NamespaceHolder(namespaces=tuple(holder["namespaces"]), ids=_id_map_from_wire(holder["ids"])),
            ids=ids and _id_map_from_wire(ids),
            cgroup=message["cgroup"],
            phases={Phase[p]: tuple(map(steps.from_wire, added)) for p, added in message["phases"].items()},
            command=command and Command(**command | {"argv": tuple(command["argv"])}),
            checks=tuple(receipts.from_wire(check) for check in message["checks"]),
            warnings=tuple(message["warnings"]),
            trace=message["trace"],
        )

    def describe(self) -> Iterator[str]:
        """The plan in words, a line each."""
        return (line.text for line in self.lines())

    def lines(self) -> Iterator[Line]:
        """The plan in words, with what each line is about."""
        if self.holder:
            yield Line(
                f"make the namespaces {', '.join(self.holder.namespaces)} ({_describe_ids(self.holder.ids)})",
                Moment.HOLDER,
            )
        born = f"clone into new {', '.join(self.clone)} namespaces" if self.clone else "clone"
        yield Line(born + (f", ids {_describe_ids(self.ids)}" if self.ids else ""), Moment.CLONE)
        if self.cgroup:
            yield Line(f"be born in the cgroup {self.cgroup}", Moment.BIRTH)
        for phase in Phase:
            yield from (Line(step.describe(), step, phase) for step in self.phases.get(phase, ()))
        yield from (Line(f"check: {check.describe()}", check) for check in self.checks)
        yield from (Line(f"warning: {warning}", Moment.WARNING) for warning in self.warnings)
        if self.command is None:
            yield Line("end", Moment.END)
            return
        if self.command.init:
            yield Line("stay as PID 1, reap orphans and run the command as a child", Moment.INIT)
        yield Line(self.command.describe(), Moment.EXECUTE)


def _describe_ids(ids: IdMap) -> str:
    return ", ".join(f"{inside} is {outside} for {count}" for inside, outside, count in ids.uids)


def _id_map_from_wire(message: dict[str, Any]) -> IdMap:
    lines = {key: tuple(tuple(line) for line in message[key]) for key in ("uids", "gids")}
    return IdMap(**lines, privileged=message["privileged"], helped=message["helped"])


class PlanBuilder:
    """
    What drivers add to.

    Attributes:
        ids: The id map of the container's user namespace, or None if it shares the supervisor's. Set before any
            other driver is asked.
        own: Namespaces that a driver makes for this container, whether or not it has been asked yet.
    """

    def __init__(self, context: Context, own: Collection[str] = NAMESPACES) -> None:
        self.context = context
        self.own = frozenset(own)
        self.ids: IdMap | None = None
        self._namespaces: list[str] = []
        self._cgroup: str | None = None
        self._phases: dict[Phase, list[Step]] = {phase: [] for phase in Phase}
        self._checks: list[receipts.Check] = []
        self._warnings: list[str] = []

    def add(self, phase: Phase, *added: Step) -> None:
        """Append steps to a phase."""
        self._phases[phase].extend(added)

    def check(self, *checks: receipts.Check) -> None:
        """Promise something that is read back before the command runs."""
        self._checks.extend(checks)

    def warn(self, text: str) -> None:
        """Tell the user one thing about this container, in one line, when it starts."""
        self._warnings.append(text)

    def namespace(self, name: str) -> None:
        """Give the container a namespace of its own; how it gets there follows from who owns it."""
        self._namespaces.append(name)
        self.check(receipts.OwnNamespace(namespace=name))

    def born_in_cgroup(self, path: str) -> None:
        """Let the first process be born in a cgroup v2 directory (CLONE_INTO_CGROUP)."""
        self._cgroup = path

    @property
    def idmap(self) -> bool:
        """Whether mounts of the host's files need their ids mapped."""
        return self.ids is not None and self.ids.privileged

    def host_uid(self, uid: int) -> int | None:
        """What the process that mounts must call the container's `uid`; None if it has no such id."""
        return self._host_id(uid, self.ids.uids if self.ids else None)

    def host_gid(self, gid: int) -> int | None:
        """Like `host_uid`, for a group."""
        return self._host_id(gid, self.ids.gids if self.ids else None)

    def _host_id(self, number: int, lines: tuple[tuple[int, int, int], ...] | None) -> int | None:
        if lines is None or self.ids is None:
            return number
        for inside, outside, count in lines:
            if inside <= number < inside + count:
                # An unprivileged container is inside its user namespace already when it mounts.
                return number - inside + outside if self.ids.privileged else number
        return None

    def build(self, command: Command) -> Plan:
        """The finished plan."""
        owned: tuple[str, ...] = ()
        late: tuple[str, ...] = tuple(n for n in ("cgroup",) if n in self._namespaces)
        if self.idmap:
            owned = tuple(n for n in ("user", "net", "uts", "ipc") if n in self._namespaces)
            # A second copy of the mount namespace, owned by the user namespace, locks what is mounted in it.
            late += ("mnt",)
        born = tuple(n for n in NAMESPACES if n in self._namespaces and n not in (*owned, "cgroup"))
        entered: list[Step] = [steps.JoinNamespace(namespace=n) for n in owned if n != "user"]
        identity: list[Step] = []
        if self.idmap:
            identity += [steps.JoinNamespace(namespace="user"), steps.BecomeRoot()]
        if late:
            identity.append(steps.Unshare(namespaces=late))
        first = {Phase.NAMESPACES: entered, Phase.IDENTITY: identity}
        phases = {phase: (*first.get(phase, ()), *added) for phase, added in self._phases.items()}
        return Plan(
            id=self.context.id,
            clone=born,
            holder=NamespaceHolder(namespaces=owned, ids=self.ids) if owned and self.ids else None,
            ids=self.ids if self.ids and not self.ids.privileged else None,
            cgroup=self._cgroup,
            phases={phase: added for phase, added in phases.items() if added},
            command=command,
            checks=tuple(self._checks),
            warnings=tuple(self._warnings),
        )
