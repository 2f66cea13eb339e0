"""
The cgroup driver `pids-v1`: it holds `pids_max` by the pids controller of cgroup v1, and no other limit; cgroups(7).

First it decides, then it acts. `contribute` adds to the plan, which is data: how the container's first process joins
its cgroup, and what must hold before the command runs. `host` makes the cgroup, and removes it however that ends.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import trio

from pysuper.drivers import Cgroup, CgroupDriver, Context, Detection, Phase, PlanBuilder, Statistics, Trace
from pysuper.errors import DriverError, StuckError
from pysuper.receipts import FileHolds, FileLists
from pysuper.spec import DEFAULT_PIDS_MAX
from pysuper.steps import JoinCgroup


class PidsV1(CgroupDriver):
    """A limit of processes and threads, by the pids hierarchy of cgroup v1 alone."""

    @classmethod
    def detect(cls) -> Detection:
        return Detection(os.access("/sys/fs/cgroup/pids/tasks", os.W_OK), "needs root, and /sys/fs/cgroup/pids of v1")

    def contribute(self, plan: PlanBuilder) -> None:
        cgroup, spec = _Pids(plan.context), plan.context.spec
        if others := ", ".join(name for name in spec.limits.wanted if name != "pids_max"):
            error = DriverError(f"cgroup pids-v1 cannot hold {others}", remedy="use --cgroup v1 or --cgroup v2")
            if not spec.best_effort:
                raise error
            plan.warn(f"left out: {error}")
        plan.add(Phase.CGROUP, JoinCgroup(path=f"{cgroup.path}/tasks"))
        plan.check(FileLists(path=f"{cgroup.path}/tasks"))
        plan.check(FileHolds(path=f"{cgroup.path}/pids.max", content=cgroup.limit))

    def traces(self, context: Context) -> tuple[Trace, ...]:
        return (Trace("cgroup", str(_Pids(context).path)),)  # for who cleans up after a supervisor was killed

    @asynccontextmanager
    async def host(self, context: Context) -> AsyncIterator[Cgroup]:
        cgroup = _Pids(context)
        cgroup.path.mkdir()  # one that exists is somebody else's: it stays, and the start fails
        try:
            cgroup.write("pids.max", cgroup.limit)
            yield cgroup
        finally:
            with trio.CancelScope(shield=True):  # a clean-up that is cancelled would leave processes behind
                await cgroup.remove()


class _Pids(Cgroup):
    def __init__(self, context: Context) -> None:
        own = Path("/proc/self/cgroup").read_text().split(":pids:")[1].splitlines()[0]  # its limits hold below it, too
        most = context.spec.limits.pids_max or DEFAULT_PIDS_MAX
        self.path = Path(f"/sys/fs/cgroup/pids{own}/pysuper.{context.id}")
        self.limit = "max" if most == -1 else str(most)
        self.hits: int | None = None  # how often it was reached until it was killed

    def processes(self) -> list[int]:
        return self.read("cgroup.procs")

    def kill(self) -> None:
        self.hits = self.statistics().pids_max_hits
        self.write("pids.max", "0")  # so that nobody forks away from what follows
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def freeze(self) -> None:
        raise DriverError("cgroup pids-v1 cannot freeze a container", remedy="use --cgroup v1 or --cgroup v2")

    def thaw(self) -> None: ...  # nothing is ever frozen

    def statistics(self) -> Statistics:
        hits = sum(self.read("pids.events")) if self.hits is None else self.hits
        return Statistics(pids_current=sum(self.read("pids.current")), pids_max_hits=hits)

    def read(self, name: str) -> list[int]:
        path = self.path / name
        return [int(word) for word in path.read_text().split() if word.isdecimal()] if path.exists() else []

    def write(self, name: str, value: str) -> None:
        with open(self.path / name, "r+b", buffering=0) as file:  # "wb" would make a file where there is no cgroup
            file.write(value.encode())

    async def remove(self) -> None:
        for _ in range(200):  # rmdir(2) answers EBUSY until the last process has gone altogether
            with suppress(OSError):
                return self.path.rmdir()
            self.kill()
            await trio.sleep(0.01)
        raise StuckError(f"cgroup pids-v1: 2 s after SIGKILL {self.path} still has {self.processes()}")
