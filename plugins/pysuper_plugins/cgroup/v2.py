"""
The driver for cgroup v2: one directory in the one tree, into which the container is born.

It is made below the supervisor's own cgroup, if that is the top of what is mounted or was delegated
to the supervisor; then the limits around the supervisor hold for its containers, too. Otherwise it
is made at the top: then the supervisor is root in a cgroup that belongs to somebody else, such as
the session that systemd made for its login.

Kernel: Documentation/admin-guide/cgroup-v2.rst; systemd: https://systemd.io/CGROUP_DELEGATION.
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
    PlanBuilder,
    Statistics,
    Trace,
)
from pysuper.errors import DriverError
from pysuper.receipts import FileLists
from pysuper_plugins.cgroup import directories, files, settings
from pysuper_plugins.cgroup.blkio import IO_V2
from pysuper_plugins.cgroup.cpu import CPU_V2
from pysuper_plugins.cgroup.cpuset import CPUSET_V2
from pysuper_plugins.cgroup.memory import MEMORY_V2
from pysuper_plugins.cgroup.mounts import Hierarchy, hierarchies
from pysuper_plugins.cgroup.pids import PIDS
from pysuper_plugins.cgroup.settings import Choice, Controller

__all__ = ["V2Cgroup"]

_CONTROLLERS: Mapping[str, Controller] = {
    "pids": PIDS,
    "memory": MEMORY_V2,
    "cpu": CPU_V2,
    "cpuset": CPUSET_V2,
    "io": IO_V2,
}

#: Where the processes of a delegated cgroup go; see `_vacate`.
_LEAF = "pysuper.supervisor"

#: Passes over the processes, where each may find some that the last one did not see.
_PASSES = 10

_OWN = "start it in a cgroup of its own: systemd-run [--user] --scope -p Delegate=yes"


class V2Cgroup(CgroupDriver):
    """Limits by cgroup v2."""

    reusable = True

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self._layouts: dict[str, _Layout] = {}

    @classmethod
    def detect(cls) -> Detection:
        try:
            parent = _parent()
            if "pids" not in _controllers(parent):
                raise _missing("pids", "pids_max")
        except DriverError as error:
            return Detection(False, str(error))
        return Detection(True)

    def contribute(self, plan: PlanBuilder) -> None:
        layout = self._layout(plan.context)
        plan.born_in_cgroup(layout.directory)
        plan.check(FileLists(path=f"{layout.directory}/cgroup.procs"))
        settings.promise(plan, layout.choice)

    def traces(self, context: Context) -> tuple[Trace, ...]:
        return (Trace("cgroup", self._layout(context).directory),)

    @asynccontextmanager
    async def host(self, context: Context) -> AsyncIterator[Cgroup]:
        layout = self._layout(context)
        cgroup = _V2(layout.directory)
        _enable(layout.parent, layout.controllers)
        async with directories.made(
            "v2",
            [layout.directory],
            configure=lambda: settings.apply("v2", layout.choice.settings),
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
    """The directory of the container, and what is written there."""

    directory: str
    choice: Choice

    @property
    def parent(self) -> str:
        return os.path.dirname(self.directory)

    @property
    def controllers(self) -> frozenset[str]:
        """Those that are needed. The kernel begins the name of each file with its controller's."""
        written = (os.path.basename(s.path) for s in self.choice.settings if s.value is not None)
        return frozenset(name.partition(".")[0] for name in written)


def _decide(context: Context) -> _Layout:
    """Everything that there will be, from the context and what is mounted."""
    parent = _parent()
    directory = f"{parent}/pysuper.{context.id}"
    here = dict.fromkeys(_controllers(parent), directory)
    return _Layout(directory, settings.choose(context.spec, _CONTROLLERS, here, _missing))


def _tree() -> Hierarchy:
    for hierarchy in hierarchies():
        if hierarchy.version == 2:
            return hierarchy
    raise DriverError(
        "cgroup v2 is mounted nowhere",
        remedy="mount -t cgroup2 none /sys/fs/cgroup, or use --cgroup v1",
    )


def _parent() -> str:
    """
    The cgroup below which those of the containers are made; see the module's docstring.

    Raises:
        DriverError: There is none in which this user may make one.
    """
    tree = _tree()
    if tree.own is None:
        raise DriverError(
            f"cgroup v2: the supervisor's cgroup is outside of what is mounted at {tree.top}",
            remedy="mount the tree in the same cgroup namespace: mount -t cgroup2 none DIRECTORY",
        )
    own = os.path.dirname(tree.own) if os.path.basename(tree.own) == _LEAF else tree.own
    if _writable(tree.top) and not _delegated(own):
        return tree.top
    if not _writable(own):
        raise DriverError(
            f"cgroup v2: {own} is not delegated to uid {os.geteuid()}",
            remedy="start it with systemd-run --user --scope -p Delegate=yes, or use --cgroup none",
        )
    return own


def _writable(directory: str) -> bool:
    """Delegation is giving these away: cgroup-v2.rst, "Model of Delegation"."""
    files_given = ("", "/cgroup.procs", "/cgroup.subtree_control")
    return all(os.access(directory + file, os.W_OK) for file in files_given)


def _delegated(directory: str) -> bool:
    """Whether systemd marked it `Delegate=yes`; root cannot tell by permissions."""
    try:
        return os.getxattr(directory, "trusted.delegate") == b"1"
    except OSError:
        return False


def _controllers(parent: str) -> frozenset[str]:
    """Those that the children of a cgroup can have."""
    try:
        return frozenset(files.read(f"{parent}/cgroup.controllers").split())
    except OSError:
        return frozenset()


def _missing(controller: str, limits: str) -> DriverError:
    """The error for a limit whose controller is not here, with what is known of where it is."""
    top, v1 = _tree().top, "blkio" if controller == "io" else controller
    why, remedy = f"is not in {top}/cgroup.controllers", "leave the limit out"
    if controller in _controllers(top):
        why = f"was not delegated to {_parent()}"
        remedy = f"systemctl edit user@.service, and add Delegate={controller} under [Service]"
    for hierarchy in hierarchies():
        if v1 in hierarchy.controllers:
            why, remedy = f"is mounted as v1 at {hierarchy.top}", "use --cgroup v1"
    return DriverError(f"cgroup v2: {limits} needs the {controller} controller, which {why}", remedy=remedy)


def _enable(parent: str, controllers: frozenset[str]) -> None:
    """
    Let the children of a cgroup have these controllers.

    They stay enabled when the container is gone: to disable one would take it from all the others.

    Raises:
        DriverError: The kernel refuses.
    """
    enabled = set(files.read(f"{parent}/cgroup.subtree_control").split())
    missing = controllers - enabled
    # Not at the root of the hierarchy, which has no type, and may have processes and controllers.
    if (missing or enabled) and os.path.exists(f"{parent}/cgroup.type"):
        _vacate(parent)
    if missing:
        _write(f"{parent}/cgroup.subtree_control", " ".join(f"+{name}" for name in sorted(missing)))


def _vacate(parent: str) -> None:
    """
    Move the processes of a cgroup whose children are to have controllers into a leaf below it.

    Such a cgroup may have no processes of its own (cgroup-v2.rst, "No Internal Process Constraint"
    and "Threads"), or to enable a controller is refused with EBUSY. It is not refused if all are
    like pids and cpu, which can be had by threads: then the children become `domain invalid`, and
    nothing can join them. All processes are moved, not only the supervisor's: one that stays is
    enough, and what was delegated is ours to arrange. It takes 8 to 16 ms a process, once.
    """
    leaf = f"{parent}/{_LEAF}"
    for _ in range(_PASSES):
        pids = files.read(f"{parent}/cgroup.procs").split()
        if not pids:
            return
        try:
            os.mkdir(leaf)
        except FileExistsError:
            pass
        except OSError as error:
            raise files.refused("v2", f"make {leaf}", error, _OWN) from error
        for pid in pids:
            _write(f"{leaf}/cgroup.procs", pid)
    raise DriverError(f"cgroup v2: {parent} does not get empty of {', '.join(pids)}", remedy=_OWN)


def _write(path: str, value: str) -> None:
    """Write to a file of the cgroup above; of a process that is gone, it is gone, too."""
    try:
        files.write(path, value)
    except ProcessLookupError:
        pass
    except OSError as error:
        raise settings.unwritten("v2", path, value, error, _OWN) from error


@attrs.frozen
class _V2(Cgroup):
    """The directory of one container."""

    directory: str

    def processes(self) -> list[int]:
        return files.processes([self.directory])

    def kill(self) -> None:
        """By the kernel at once, forks included; without thaw, because v2 dies frozen, too."""
        try:
            files.write(f"{self.directory}/cgroup.kill", "1")
        except OSError:
            # Before Linux 5.14 there is no such file.
            with contextlib.suppress(DriverError):
                self.freeze()
            files.kill([self.directory])

    def freeze(self) -> None:
        self._freezer("1")

    def thaw(self) -> None:
        self._freezer("0")

    def _freezer(self, value: str) -> None:
        path = f"{self.directory}/cgroup.freeze"
        try:
            files.write(path, value)
        except OSError as error:
            raise settings.unwritten("v2", path, value, error) from error

    def statistics(self) -> Statistics:
        cpu = files.read_keyed(f"{self.directory}/cpu.stat")
        user, system = cpu.get("user_usec"), cpu.get("system_usec")
        return Statistics(
            cpu_user=None if user is None else user / 1e6,
            cpu_system=None if system is None else system / 1e6,
            memory_current=files.read_number(f"{self.directory}/memory.current"),
            memory_peak=files.read_number(f"{self.directory}/memory.peak"),
            pids_current=files.read_number(f"{self.directory}/pids.current"),
            pids_max_hits=files.read_keyed(f"{self.directory}/pids.events").get("max"),
            oom_kills=files.read_keyed(f"{self.directory}/memory.events").get("oom_kill"),
            pressure=self._pressure(),
        )

    def _pressure(self) -> Mapping[str, float] | None:
        """None on a kernel that does not watch it: without CONFIG_PSI, or with psi=0."""
        found = {name: files.read_pressure(f"{self.directory}/{name}.pressure") for name in ("cpu", "memory", "io")}
        return {name: share for name, share in found.items() if share is not None} or None
