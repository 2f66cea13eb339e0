"""
The cgroup driver `skeleton`: a cgroup v2 without any limit, by which a container can be killed, frozen and counted.

It needs no controller, and so works wherever a cgroup v2 tree is mounted, beside controllers of v1, too.

A cgroup driver decides first: `contribute` adds data to the plan, which says how the container's first process gets
into its cgroup, and what must hold before the command runs. Then it acts: `host` makes the cgroup, and removes it after
the last process, however the container ends.

Kernel: Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import trio

from pysuper.drivers import Cgroup, CgroupDriver, Context, Detection, PlanBuilder, Statistics, Trace
from pysuper.errors import DriverError, StuckError
from pysuper.receipts import FileLists


class Skeleton(CgroupDriver):
    """A cgroup v2 without limits: kills, freezes and counts."""

    @classmethod
    def detect(cls) -> Detection:
        # CHANGE: what it needs of a machine. It has to be quick, and to change nothing.
        own = own_cgroup()
        if own is None or not os.access(own, os.W_OK):
            return Detection(False, "there is no cgroup v2 tree that this user may write to")
        return Detection(True)

    def contribute(self, plan: PlanBuilder) -> None:
        spec = plan.context.spec
        # CHANGE: take out the limits that it holds, such as "pids_max", and promise them:
        #     plan.check(FileHolds(path=f"{path}/pids.max", content=str(spec.limits.pids_max)))
        if others := ", ".join(spec.limits.wanted):
            error = DriverError(f"cgroup skeleton cannot hold {others}", remedy="use --cgroup v1 or --cgroup v2")
            if not spec.best_effort:
                raise error
            plan.warn(f"left out: {error}")
        path = str(directory_of(plan.context))
        plan.born_in_cgroup(path)
        plan.check(FileLists(path=f"{path}/cgroup.procs"))

    def traces(self, context: Context) -> tuple[Trace, ...]:
        return (Trace("cgroup", str(directory_of(context))),)  # for who cleans up after a supervisor was killed

    @asynccontextmanager
    async def host(self, context: Context) -> AsyncIterator[Cgroup]:
        cgroup = Live(directory_of(context))
        cgroup.path.mkdir()
        try:
            # CHANGE: write its limits. A write must never create a file: see `Live.write`.
            yield cgroup
        finally:
            with trio.CancelScope(shield=True):  # a clean-up that is cancelled would leave processes behind
                await cgroup.remove()


class Live(Cgroup):
    """The cgroup of one container."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def processes(self) -> list[int]:
        return [int(pid) for pid in self.read("cgroup.procs").split()]

    def kill(self) -> None:
        with suppress(FileNotFoundError):
            self.write("cgroup.kill", "1")

    def freeze(self) -> None:
        self.write("cgroup.freeze", "1")

    def thaw(self) -> None:
        self.write("cgroup.freeze", "0")

    def statistics(self) -> Statistics:
        # CHANGE: what it counts; None is what the kernel does not count here.
        counted = dict(line.split() for line in self.read("cpu.stat").splitlines())
        if not counted:
            return Statistics()
        return Statistics(cpu_user=int(counted["user_usec"]) / 1e6, cpu_system=int(counted["system_usec"]) / 1e6)

    def read(self, name: str) -> str:
        """The content of a file; nothing once the cgroup is gone."""
        with suppress(FileNotFoundError):
            return (self.path / name).read_text()
        return ""

    def write(self, name: str, value: str) -> None:
        """Write to a file that exists. Mode "w" would make one, which does nothing, where there is no cgroup."""
        with open(self.path / name, "r+b", buffering=0) as file:
            file.write(value.encode())

    async def remove(self) -> None:
        """Kill what is left, and remove it: rmdir(2) answers EBUSY until the last process is gone altogether."""
        for _ in range(200):
            with suppress(OSError):
                return self.path.rmdir()
            self.kill()
            await trio.sleep(0.01)
        raise StuckError(f"cgroup skeleton: 2 s after SIGKILL {self.path} still has {self.processes()}")


def own_cgroup() -> Path | None:
    """The supervisor's own cgroup, below which those of its containers are; /proc/PID/cgroup, cgroups(7)."""
    mounts = (line.split() for line in Path("/proc/mounts").read_text().splitlines())
    top = next((mount[1] for mount in mounts if mount[2] == "cgroup2"), None)
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    own = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), None)
    return None if top is None or own is None else Path(top, own)


def directory_of(context: Context) -> Path:
    """Where the cgroup of a container is; its id is unique on this machine."""
    own = own_cgroup()
    if own is None:
        raise DriverError("cgroup skeleton: there is no cgroup v2 tree")
    return own / f"pysuper.{context.id}"
