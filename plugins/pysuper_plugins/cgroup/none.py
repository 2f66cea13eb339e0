"""The driver for those who have no cgroups: it holds no limits, and says so."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pysuper.drivers import Cgroup, CgroupDriver, Context, PlanBuilder, Statistics
from pysuper.errors import DriverError

__all__ = ["NoCgroup"]


class NoCgroup(CgroupDriver):
    """No cgroup: the container stays in the supervisor's, and nothing of `limits` can be had."""

    reusable = True

    def contribute(self, plan: PlanBuilder) -> None:
        spec = plan.context.spec
        if not spec.limits.wanted:
            return
        error = DriverError(
            f"cgroup none holds no limits, but there is {', '.join(spec.limits.wanted)}",
            remedy="pysuper doctor says what would, and why it does not work here",
        )
        if not spec.best_effort:
            raise error
        plan.warn(f"left out: {error}")

    @asynccontextmanager
    async def host(self, context: Context) -> AsyncIterator[Cgroup]:
        yield _None()


class _None(Cgroup):
    """Knows of no process, so that there is none to kill; the pid namespace has to end them all."""

    def processes(self) -> list[int]:
        return []

    def kill(self) -> None:
        pass

    def freeze(self) -> None:
        raise DriverError("cgroup none cannot freeze a container", remedy="use --cgroup v1 or --cgroup v2")

    def thaw(self) -> None:
        pass

    def statistics(self) -> Statistics:
        return Statistics()
