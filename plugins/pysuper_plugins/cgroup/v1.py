"""
The driver for cgroup v1: one directory in each hierarchy, below the supervisor's own, so that the
limits around the supervisor hold for its containers.

Kernel: Documentation/admin-guide/cgroup-v1/cgroups.rst; man cgroups(7).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
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
from pysuper_plugins.cgroup.settings import Choice, Controller

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


class V1Cgroup(CgroupDriver):
    """Limits by cgroup v1, in whatever hierarchies are mounted."""

    reusable = True

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self._layouts: dict[str, _Layout] = {}

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

    @asynccontextmanager
    async def host(self, context: Context) -> AsyncIterator[Cgroup]:
        layout = self._layout(context)
        cgroup = _V1(layout.directories)
        async with directories.made(
            "v1",
            layout.unique,
            configure=lambda: settings.apply("v1", layout.choice.settings),
            kill=cgroup.kill,
        ):
            yield cgroup

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
    """

    directories: Mapping[str, str]
    memberships: Mapping[str, InCgroup]
    choice: Choice

    @property
    def unique(self) -> tuple[str, ...]:
        return _unique(self.directories)


def _unique(directories: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(directories.values()))


def _decide(context: Context) -> _Layout:
    """Everything that there will be, from the context and what is mounted."""
    limits = set(context.spec.limits.wanted)
    wanted = {name for name, controller in _CONTROLLERS.items() if not limits.isdisjoint(controller.limits)}
    found: dict[str, str] = {}
    memberships: dict[str, InCgroup] = {}
    for hierarchy in hierarchies():
        if hierarchy.version == 1 and hierarchy.controllers & (wanted | _ALWAYS) and _writable(hierarchy):
            directory, membership = hierarchy.below(f"pysuper.{context.id}")
            memberships[directory] = membership
            found |= dict.fromkeys(sorted(hierarchy.controllers), directory)
    if not context.privileged:
        # devices.deny is for CAP_SYS_ADMIN only, and nobody else could make a device node anyway.
        found.pop("devices", None)
    if not found:
        raise DriverError(
            "cgroup v1: no hierarchy is mounted and writable",
            remedy="use --cgroup v2 or --cgroup none",
        )
    controllers = {**_CONTROLLERS, "devices": devices_v1(context.spec)}
    return _Layout(found, memberships, settings.choose(context.spec, controllers, found, _missing))


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
class _V1(Cgroup):
    """The directories of one container, by controller."""

    directories: Mapping[str, str]

    def processes(self) -> list[int]:
        return files.processes(_unique(self.directories))

    def kill(self) -> None:
        """Between freeze and thaw: a frozen v1 cgroup holds SIGKILL back until it is thawed."""
        with contextlib.suppress(OSError):
            files.write(self._file("freezer.state"), "FROZEN")
        files.kill(_unique(self.directories))
        # One by one, because a cgroup below that was frozen by itself stays so.
        for directory in files.tree(self.directories.get("freezer", os.devnull)):
            with contextlib.suppress(OSError):
                files.write(f"{directory}/freezer.state", "THAWED")

    def freeze(self) -> None:
        self._freezer("FROZEN")

    def thaw(self) -> None:
        self._freezer("THAWED")

    def _file(self, name: str) -> str:
        """The path of a file, named after its controller; one that never exists without it."""
        return f"{self.directories.get(name.partition('.')[0], os.devnull)}/{name}"

    def _freezer(self, state: str) -> None:
        """Kernel: Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst."""
        if "freezer" not in self.directories:
            raise _missing("freezer", "freezing")
        path = self._file("freezer.state")
        try:
            files.write(path, state)
        except OSError as error:
            raise settings.unwritten("v1", path, state, error) from error

    def statistics(self) -> Statistics:
        user = files.read_number(self._file("cpuacct.usage_user"))
        system = files.read_number(self._file("cpuacct.usage_sys"))
        return Statistics(
            cpu_user=None if user is None else user / 1e9,
            cpu_system=None if system is None else system / 1e9,
            memory_current=files.read_number(self._file("memory.usage_in_bytes")),
            memory_peak=files.read_number(self._file("memory.max_usage_in_bytes")),
            pids_current=files.read_number(self._file("pids.current")),
            pids_max_hits=files.read_keyed(self._file("pids.events")).get("max"),
            oom_kills=files.read_keyed(self._file("memory.oom_control")).get("oom_kill"),
        )
