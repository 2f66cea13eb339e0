"""
Rules for drivers of cgroups: limits are held or refused, and nothing of a container is out of reach.
"""

from __future__ import annotations

from collections.abc import Collection

import pytest
import trio

from pysuper import receipts
from pysuper.container import Container
from pysuper.contexts import is_privileged
from pysuper.drivers import Cgroup
from pysuper.errors import DriverError, LimitError, PysuperError
from pysuper.plan import Plan
from pysuper.spec import UNCONFINED, Limits
from pysuper.testing import programs
from pysuper.testing.driver import DriverTests
from pysuper.testing.limits import ENFORCED
from pysuper.testing.machine import PATIENCE, wait_until
from pysuper.testing.plugin import contribution
from pysuper.testing.rules import Broken, NotHere, require, rule
from pysuper.testing.stage import IDLE, Stage, interpreter

__all__ = ["CgroupDriverTests"]

#: Seconds in which everything in a cgroup is dead after `kill`.
_DEAD = 3.0
#: Seconds for which nothing may run that is frozen.
_FROZEN = 0.3


class CgroupDriverTests(DriverTests):
    """
    What holds for drivers of the group pysuper.cgroup.

    Attributes:
        limits: Names of `Limits` that the driver has to hold here; the others it may refuse.
    """

    kind = "cgroup"
    limits: Collection[str] = frozenset()

    @pytest.mark.parametrize("limit", list(ENFORCED))
    @rule(
        "A limit is either refused before anything is made, by an error that names it, or it is enforced.",
        because="what was asked for is in force, or the container does not start: nobody looks after a limit that was "
        "accepted.",
    )
    async def test_a_limit_is_enforced_or_refused(self, limit: str) -> None:
        self.require_working()
        limits = ENFORCED[limit].limits()
        if (refusal := self._refusal(limits)) is not None:
            found = f"it refuses {limit}: {refusal}"
            require(limit not in self.limits, found, do="hold it; or take it out of `limits` in the test's class")
            self._require_named(limit, refusal)
            return
        async with self.stage() as stage:
            try:
                await ENFORCED[limit].check(stage, self.spec)
            except PysuperError as error:
                do = "find out in contribute() whether it can be had here, and refuse it there"
                raise Broken(f"contribute() accepts {limit}, and the start fails: {error}", do=do) from error

    def _refusal(self, limits: Limits) -> PysuperError | None:
        """The error by which a driver says in time that it cannot hold these limits; None if it accepts them."""
        try:
            contribution(self.create(), self.context(limits=limits))
        except PysuperError as error:
            return error
        return None

    def _require_named(self, limit: str, refusal: PysuperError) -> None:
        do = "raise DriverError in contribute(): the limit, why it cannot be had, and what would help"
        require(isinstance(refusal, DriverError), f"the error is a {type(refusal).__name__}: {refusal}", do=do)
        require(limit in str(refusal), f"the error does not name {limit}: {refusal}", do=do)

    @pytest.mark.parametrize("limit", list(ENFORCED))
    @rule(
        "With best_effort, a limit that cannot be had is left out, and the user is warned.",
        because="--best-effort is for machines of which one does not know what they can; what they could not is said.",
    )
    def test_best_effort_leaves_a_limit_out(self, limit: str) -> None:
        self.require_working()
        limits = ENFORCED[limit].limits()
        if self._refusal(limits) is None:
            raise NotHere(f"it holds {limit}")
        do = "plan.warn() instead of raising, if plan.context.spec.best_effort is set"
        try:
            plan = contribution(self.create(), self.context(limits=limits, best_effort=True))
        except PysuperError as error:
            raise Broken(f"it still refuses {limit}: {error}", do=do) from error
        named = any(limit in warning for warning in plan.warnings)
        require(named, f"no warning names {limit}: {list(plan.warnings)}", do=do)

    @pytest.mark.parametrize("limit", list(ENFORCED))
    @rule(
        "Each limit that is held is read back.",
        because="a write that the kernel has rounded, or a file that is no cgroup's, is only seen by a receipt: it "
        "stops the start, and stands in the report.",
    )
    def test_a_limit_is_promised(self, limit: str) -> None:
        self.require_working()
        limits = ENFORCED[limit].limits()
        if (refusal := self._refusal(limits)) is not None:
            raise NotHere(str(refusal))
        context = self.context(limits=limits)
        without = self.context(limits=Limits(memory_max=limits.memory_max) if limit == "memory_swap_max" else Limits())
        promised, usual = (_promises(contribution(self.create(), of), of.id) for of in (context, without))
        do = "plan.check(FileHolds(path=..., content=...)) for each file that is written"
        require(promised - usual, f"with {limit}, the checks are the same as without: {sorted(usual)}", do=do)

    @rule(
        "The container's process joins before its cgroup namespace is made: inside, its cgroup is the root.",
        because="a process that is moved afterwards sees where it is on the host, and the root of its namespace is the "
        "supervisor's cgroup.",
    )
    async def test_joins_before_the_cgroup_namespace_is_made(self) -> None:
        self.require_working()
        do = "add the step that joins in Phase.CGROUP, or call plan.born_in_cgroup()"
        async with self.stage() as stage:
            first = await stage.output(self.spec("cat /proc/self/cgroup"))
            _require_root("the first process", first, do)
            container = await stage.start(self.spec(IDLE))
            _require_root("a command that joins", await stage.executed(container, "cat", "/proc/self/cgroup"), do)

    @rule(
        "processes() lists what is in it, commands that join included.",
        because="what is not listed is not killed, not frozen, and not seen by `pysuper stats`.",
    )
    async def test_processes_lists_what_is_in_it(self) -> None:
        self.require_working()
        async with self.stage() as stage:
            container, line = await self._running(stage, programs.FAMILY)
            family = set(map(int, line.split()))
            async with container.execute(["sleep", "1000"]) as execution:
                joined = execution._process.pid if execution._process else 0
                found = set(_cgroup(container).processes())
        do = "read cgroup.procs of the container's cgroup, and of those below it"
        require(
            found == family | {joined}, f"in it are {sorted(family | {joined})}, and it lists {sorted(found)}", do=do
        )

    @rule(
        "kill() kills everything in it, also what forks faster than it can be listed.",
        because="a container without a pid namespace of its own ends by nothing else; what escapes runs on without "
        "supervision.",
    )
    async def test_kill_reaches_what_forks(self) -> None:
        self.require_working()
        async with self.stage() as stage:
            container, _ = await self._running(stage, programs.HARE)
            _cgroup(container).kill()
            self._require_empty(container, "kill()")

    @rule(
        "kill() kills what is frozen.",
        because="a paused container that is stopped would stay for ever; in cgroup v1 a frozen process keeps SIGKILL "
        "waiting until it is thawed.",
    )
    async def test_kill_reaches_what_is_frozen(self) -> None:
        self.require_working()
        async with self.stage() as stage:
            container, _ = await self._running(stage, programs.FAMILY)
            self._freeze(container)
            _cgroup(container).kill()
            self._require_empty(container, "freeze() and kill()")

    def _require_empty(self, container: Container, after: str) -> None:
        """Blocks the supervisor, which would notice that the container has ended, and kill once more."""
        do = "freeze, kill, thaw, in that order, with cgroup v1; write to cgroup.kill with v2"
        wait_until(lambda: not _cgroup(container).processes(), _DEAD)
        left = _cgroup(container).processes()
        require(not left, f"{_DEAD * PATIENCE:g} s after {after} there are still the processes {left}", do=do)

    @rule(
        "What is frozen does not run, until it is thawed; or freeze() is a DriverError.",
        because="`pause` of a container that runs on is worse than none: a snapshot or a debugger relies on it.",
    )
    async def test_freezes_and_thaws(self) -> None:
        self.require_working()
        do = "write to freezer.state or cgroup.freeze; raise DriverError if there is no freezer"
        async with self.stage() as stage:
            container, _ = await self._running(stage, programs.SPIN)
            self._freeze(container)
            await trio.sleep(_FROZEN / 3)  # it need not be at once
            before = _ticks(container.pid)
            await trio.sleep(_FROZEN)
            require(_ticks(container.pid) == before, f"it used CPU time in {_FROZEN} s after freeze()", do=do)
            container.resume()
            with trio.move_on_after(_DEAD * PATIENCE):
                while _ticks(container.pid) == before:
                    await trio.sleep(0.01)
            require(_ticks(container.pid) > before, "it does not run after thaw()", do=do)

    def _freeze(self, container: Container) -> None:
        try:
            container.pause()
        except DriverError as error:
            raise NotHere(f"it says that it cannot freeze: {error}") from error

    @rule(
        "Statistics are what the kernel has counted; None is for what it does not count here.",
        because="`oom` and `pids_max` in reports, `stats` and alerts are made of them.",
    )
    async def test_statistics_count(self) -> None:
        self.require_working()
        async with self.stage() as stage:
            container, _ = await self._running(stage, programs.USE)
            counted = container.statistics()
        do = "return seconds and bytes of this container's cgroup, and nothing else's"
        cpu = None if counted.cpu_user is None else counted.cpu_user + (counted.cpu_system or 0)
        require(cpu is None or 0.2 < cpu < 60, f"of 0.3 s of CPU time it counts {cpu}", do=do)
        for name, memory in (("current", counted.memory_current), ("peak", counted.memory_peak)):
            known = memory is None or 32 << 20 <= memory < 512 << 20
            require(known, f"of 32 MiB that are in use, memory_{name} is {memory}", do=do)
        require(counted.pids_current in (None, 1), f"of one process, pids_current is {counted.pids_current}", do=do)
        for limit, counters in _COUNTED.items():
            if self._refusal(ENFORCED[limit].limits()) is None:
                missing = [name for name in counters if getattr(counted, name) is None]
                require(not missing, f"it holds {limit}, but has no {', '.join(missing)}", do=do)

    @rule(
        "A container cannot change its own limits.",
        because="uid 0 without any capability may still own the files of a cgroup, and mount them in a user namespace "
        "that it makes; then the limit is only a proposal.",
    )
    async def test_limits_cannot_be_changed_from_inside(self) -> None:
        self.require_working()
        limits = [name for name in ("pids_max", "memory_max") if self._refusal(ENFORCED[name].limits()) is None]
        if not limits:
            raise NotHere("it holds neither pids_max nor memory_max")
        wanted = Limits(**{name: getattr(ENFORCED[name].limits(), name) for name in limits})
        escape = interpreter(programs.ESCAPE)
        async with self.stage() as stage:
            # Without the filter that refuses the attempt: the driver is not to rely on it.
            container, _ = await stage.told(
                self.spec(limits=wanted, init=False, seccomp=UNCONFINED, landlock=False, **escape)
            )
            try:
                receipts.take(_of_files(container.plan), container.pid)
            except LimitError as error:
                do = "let the files of the cgroup belong to the host's root, and nobody else write to them"
                raise Broken(f"after a program has tried to: {error}", do=do) from error

    async def _running(self, stage: Stage, code: str) -> tuple[Container, str]:
        """
        A container whose processes the kernel does not kill by itself, since they are in the host's pid namespace; it
        runs Python code, and has said a line, which is the second value.
        """
        if not self._knows_processes:
            raise NotHere("it holds no limit, and need not know its processes")
        if not is_privileged():
            raise NotHere("the containers of an ordinary user cannot be in the host's pid namespace")
        return await stage.told(self.spec(share=frozenset({"pid"}), init=False, **interpreter(code)))

    @property
    def _knows_processes(self) -> bool:
        return any(self._refusal(enforced.limits()) is None for name, enforced in ENFORCED.items() if name != "io_max")


#: What is counted wherever the limit is held.
_COUNTED = {"pids_max": ("pids_current", "pids_max_hits"), "memory_max": ("memory_current", "memory_peak", "oom_kills")}


def _require_root(who: str, cgroups: str, do: str) -> None:
    """The content of /proc/self/cgroup says that each is the root of its namespace, cgroup_namespaces(7)."""
    outside = [line for line in cgroups.splitlines() if not line.endswith(":/")]
    require(cgroups and not outside, f"{who} is in {', '.join(outside) or 'no cgroup'}", do=do)


def _promises(plan: Plan, container: str) -> set[str]:
    """What is checked, in words that are the same for each container."""
    return {check.describe().replace(container, "ID") for check in plan.checks}


def _of_files(plan: Plan) -> tuple[receipts.Check, ...]:
    """Those that say what files hold which are not of a single process."""
    return tuple(c for c in plan.checks if isinstance(c, receipts.FileHolds) and "{pid}" not in c.path)


def _cgroup(container: Container) -> Cgroup:
    return container._cgroup


def _ticks(pid: int) -> int:
    """CPU time that a process has used, in clock ticks; proc_pid_stat(5)."""
    with open(f"/proc/{pid}/stat") as file:
        return sum(map(int, file.read().rpartition(")")[2].split()[11:13]))
