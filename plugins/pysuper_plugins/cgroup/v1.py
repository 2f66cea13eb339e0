"""
The driver for cgroup v1: one directory in each hierarchy, below the supervisor's own, so that the
limits around the supervisor hold for its containers.

Kernel: Documentation/admin-guide/cgroup-v1/cgroups.rst; man cgroups(7).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from functools import cached_property
from typing import Any

import attrs

from pysuper.drivers import (
    Cgroup,
    CgroupDriver,
    Context,
    Detection,
    Phase,
    PlanBuilder,
    Statistics,
    Trace,
)
from pysuper.errors import DriverError
from pysuper.receipts import InCgroup
from pysuper.steps import JoinCgroup
from pysuper_plugins.cgroup import directories, files, settings
from pysuper_plugins.cgroup.blkio import BLKIO_V1
from pysuper_plugins.cgroup.cpu import CPU_V1
from pysuper_plugins.cgroup.cpuset import CPUSET_V1
from pysuper_plugins.cgroup.devices import devices_v1
from pysuper_plugins.cgroup.memory import MEMORY_V1
from pysuper_plugins.cgroup.mounts import Hierarchy, hierarchies
from pysuper_plugins.cgroup.pids import PIDS
from pysuper_plugins.cgroup.settings import Choice, Controller, Setting

__all__ = ["V1Cgroup"]

_CONTROLLERS: Mapping[str, Controller] = {
    "cpuset": CPUSET_V1,
    "pids": PIDS,
    "memory": MEMORY_V1,
    "cpu": CPU_V1,
    "blkio": BLKIO_V1,
}

#: Joined wherever they are mounted, also without a limit: to count, to freeze, to guard.
_ALWAYS = frozenset({"pids", "memory", "cpu", "cpuacct", "freezer", "devices"})
#: What they count can be told apart by container, and nothing else stays there of one. Memory is charged to a cgroup
#: until it is reclaimed; and with a limit of CPU or I/O, what one has used up in a period the next one has not got.
_LASTING = frozenset({"pids", "cpu", "cpuacct", "freezer", "devices", "cpuset"})


class V1Cgroup(CgroupDriver):
    """Limits by cgroup v1, in whatever hierarchies are mounted."""

    reusable = True

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self._layouts: dict[str, _Layout] = {}
        self._kept = False

    @classmethod
    def detect(cls) -> Detection:
        try:
            _require_pids()
        except DriverError as error:
            return Detection(False, str(error))
        return Detection(True)

    def contribute(self, plan: PlanBuilder) -> None:
        layout = self._layout(plan.context)
        for directory in layout.unique:
            plan.add(Phase.CGROUP, JoinCgroup(path=f"{directory}/tasks"))
            plan.check(layout.memberships[directory])
        settings.promise(plan, layout.choice)

    def traces(self, context: Context) -> tuple[Trace, ...]:
        return tuple(Trace("cgroup", directory) for directory in self._layout(context).unique)

    async def keep(self, context: Context) -> None:
        layout = self._layout(context)
        chosen = layout.settings_of(layout.lasting)
        directories.make("v1", layout.lasting, configure=lambda: settings.apply("v1", chosen))
        self._kept = True

    async def drop(self, context: Context) -> None:
        if self._kept:
            layout = self._layout(context)
            await directories.remove("v1", layout.lasting, _V1(layout.directories).kill)

    @asynccontextmanager
    async def host(self, context: Context) -> AsyncIterator[Cgroup]:
        layout = self._layout(context)
        cgroup = _V1(layout.directories)
        to_make, chosen = layout.unique, layout.choice.settings
        if self._kept:
            cgroup = _V1(layout.directories, _Counted.read(layout.directories))
            to_make, chosen = layout.fresh, layout.settings_of(layout.fresh)
        async with directories.made(
            "v1",
            to_make,
            configure=lambda: settings.apply("v1", chosen),
            kill=cgroup.kill,
        ):
            yield cgroup
        if self._kept:
            await directories.emptied("v1", layout.lasting, cgroup.kill)

    def _layout(self, context: Context) -> _Layout:
        """Made once a container, so that what was promised is what is applied."""
        if context.id not in self._layouts:
            self._layouts[context.id] = _decide(context)
        return self._layouts[context.id]


@attrs.frozen
class _Layout:
    """
    Attributes:
        directories: Of the container, by controller; several controllers may share one.
        memberships: For each of them, the promise that a process is in it.
        choice: What is written there.
        lasting: Those of them that one container after the other can have.
    """

    directories: Mapping[str, str]
    memberships: Mapping[str, InCgroup]
    choice: Choice
    lasting: tuple[str, ...]

    @cached_property
    def unique(self) -> tuple[str, ...]:
        """Each directory once."""
        return tuple(dict.fromkeys(self.directories.values()))

    @cached_property
    def fresh(self) -> tuple[str, ...]:
        """Those that each container has for itself."""
        return tuple(directory for directory in self.unique if directory not in self.lasting)

    def settings_of(self, directories: Collection[str]) -> tuple[Setting, ...]:
        """What is written in some of them."""
        return tuple(setting for setting in self.choice.settings if os.path.dirname(setting.path) in directories)


def _decide(context: Context) -> _Layout:
    """Everything that there will be, from the context and what is mounted."""
    limits = set(context.spec.limits.wanted)
    wanted = {name for name, controller in _CONTROLLERS.items() if not limits.isdisjoint(controller.limits)}
    lasts = _LASTING if context.spec.limits.cpu_max is None else _LASTING - {"cpu"}
    found: dict[str, str] = {}
    memberships: dict[str, InCgroup] = {}
    lasting: list[str] = []
    for hierarchy in hierarchies():
        if hierarchy.version == 1 and hierarchy.controllers & (wanted | _ALWAYS) and _writable(hierarchy):
            directory, membership = hierarchy.below(f"pysuper.{context.id}")
            memberships[directory] = membership
            found |= dict.fromkeys(sorted(hierarchy.controllers), directory)
            if hierarchy.controllers <= lasts:
                lasting.append(directory)
    if not context.privileged:
        # devices.deny is for CAP_SYS_ADMIN only, and nobody else could make a device node anyway.
        found.pop("devices", None)
    if not found:
        raise DriverError(
            "cgroup v1: no hierarchy is mounted and writable",
            remedy="use --cgroup v2 or --cgroup none",
        )
    controllers = {**_CONTROLLERS, "devices": devices_v1(context.spec)}
    choice = settings.choose(context.spec, controllers, found, _missing)
    return _Layout(found, memberships, choice, tuple(path for path in lasting if path in found.values()))


def _writable(hierarchy: Hierarchy) -> bool:
    return hierarchy.own is not None and os.access(hierarchy.own, os.W_OK)


def _require_pids() -> None:
    """Raises DriverError if there is no pids hierarchy that can be used."""
    if not any("pids" in h.controllers and _writable(h) for h in hierarchies()):
        raise _missing("pids", "pids_max")


def _missing(controller: str, limits: str) -> DriverError:
    """The error for a limit whose controller v1 has not got, with what is known of where it is."""
    why = "is mounted nowhere"
    remedy = f"mount -t cgroup -o {controller} none DIRECTORY, or use --cgroup v2"
    for hierarchy in hierarchies():
        if hierarchy.version == 2:
            name = "io" if controller == "blkio" else controller
            with contextlib.suppress(OSError):
                if name in files.read(f"{hierarchy.top}/cgroup.controllers").split():
                    why, remedy = f"is in the v2 tree at {hierarchy.top}", "use --cgroup v2"
        elif controller in hierarchy.controllers:
            where = hierarchy.own or f"outside of what is mounted at {hierarchy.top}"
            why = f"is not writable: the supervisor's cgroup is {where}"
            remedy = "run as root, or have that directory given to you"
    return DriverError(f"cgroup v1: {limits} needs the {controller} controller, which {why}", remedy=remedy)


@attrs.frozen
class _Counted:
    """
    What is counted where more than one container may have been; None where nothing counts it.

    Attributes:
        cpu_ns: CPU time, by the scheduler's clock.
        user_ns, system_ns: What ran when the timer's interrupt came, one tick of some milliseconds for each. A process
            may have used many times its ticks, or none of them, so they say how cpu_ns divides, and no more.
        pids_max_hits: Forks that were refused.

    Kernel: kernel/sched/cpuacct.c; kernel/sched/cputime.c, cputime_adjust().
    """

    cpu_ns: int | None = 0
    user_ns: int | None = 0
    system_ns: int | None = 0
    pids_max_hits: int | None = 0

    @classmethod
    def read(cls, directories: Mapping[str, str]) -> _Counted:
        """So far."""
        return cls(
            files.read_number(_file(directories, "cpuacct.usage")),
            files.read_number(_file(directories, "cpuacct.usage_user")),
            files.read_number(_file(directories, "cpuacct.usage_sys")),
            files.read_keyed(_file(directories, "pids.events")).get("max"),
        )

    def since(self, before: _Counted) -> _Counted:
        """What came after `before`."""
        return _Counted(
            _since(before.cpu_ns, self.cpu_ns),
            _since(before.user_ns, self.user_ns),
            _since(before.system_ns, self.system_ns),
            _since(before.pids_max_hits, self.pids_max_hits),
        )

    @property
    def seconds(self) -> tuple[float | None, float | None]:
        """CPU time in user space and in the kernel; without a tick it is all in user space, as with wait4(2)."""
        if self.cpu_ns is None:
            return None, None
        user, system = self.user_ns or 0, self.system_ns or 0
        in_kernel = self.cpu_ns * system // (user + system) if system else 0
        return (self.cpu_ns - in_kernel) / 1e9, in_kernel / 1e9


def _file(directories: Mapping[str, str], name: str) -> str:
    """The path of a file, named after its controller; one that never exists without it."""
    return f"{directories.get(name.partition('.')[0], os.devnull)}/{name}"


def _since(before: int | None, now: int | None) -> int | None:
    return None if now is None else now - (before or 0)


@attrs.frozen
class _V1(Cgroup):
    """
    The directories of one container.

    Attributes:
        directories: By controller.
        before: What had been counted there when it came.
    """

    directories: Mapping[str, str]
    before: _Counted = _Counted()

    def processes(self) -> list[int]:
        return files.processes(dict.fromkeys(self.directories.values()))

    def kill(self) -> None:
        """Between freeze and thaw: a frozen v1 cgroup holds SIGKILL back until it is thawed."""
        with contextlib.suppress(OSError):
            files.write(_file(self.directories, "freezer.state"), "FROZEN")
        files.kill(dict.fromkeys(self.directories.values()))
        # One by one, because a cgroup below that was frozen by itself stays so.
        for directory in files.tree(self.directories.get("freezer", os.devnull)):
            with contextlib.suppress(OSError):
                files.write(f"{directory}/freezer.state", "THAWED")

    def freeze(self) -> None:
        self._freezer("FROZEN")

    def thaw(self) -> None:
        self._freezer("THAWED")

    def _freezer(self, state: str) -> None:
        """Kernel: Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst."""
        if "freezer" not in self.directories:
            raise _missing("freezer", "freezing")
        path = _file(self.directories, "freezer.state")
        try:
            files.write(path, state)
        except OSError as error:
            raise settings.unwritten("v1", path, state, error) from error

    def statistics(self) -> Statistics:
        counted = _Counted.read(self.directories).since(self.before)
        user, system = counted.seconds
        return Statistics(
            cpu_user=user,
            cpu_system=system,
            memory_current=files.read_number(_file(self.directories, "memory.usage_in_bytes")),
            memory_peak=files.read_number(_file(self.directories, "memory.max_usage_in_bytes")),
            pids_current=files.read_number(_file(self.directories, "pids.current")),
            pids_max_hits=counted.pids_max_hits,
            oom_kills=files.read_keyed(_file(self.directories, "memory.oom_control")).get("oom_kill"),
        )
