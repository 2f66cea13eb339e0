"""
Places: what one container has that no other has at the same time, its ids and names, and what was decided with them.

A container that is started by itself has a place of its own, which is given up when it has ended. A pool keeps places
for the next container of its spec: that has the same ids, the same names, and the same plan, carried out anew, in what
drivers have made for all that come there. It comes into a place only when nothing of the last one is left there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs

from pysuper import registry
from pysuper.drivers import Driver, Launcher, Trace
from pysuper.errors import PysuperError
from pysuper.guard import bounded, guarded
from pysuper.plan import Context, Plan
from pysuper.planning import Drivers

__all__ = ["Place", "Places"]

#: Free places that a pool keeps, each with ids, and maybe cgroups: more than start and end at the same time.
_MOST_FREE = 64


@attrs.define
class Place:
    """
    Attributes:
        context: What drivers know of whoever is there.
        drivers, plan: As decided for the first container there; None before that.
        kept: Whether `keep` was called since.
    """

    context: Context
    drivers: Drivers | None = None
    plan: Plan | None = None
    kept: bool = False
    _traces: list[Trace] = attrs.field(factory=list, init=False)
    _keepers: list[Driver] = attrs.field(factory=list, init=False)

    @property
    def reusable(self) -> bool:
        """Whether another container can have it, when this one has been cleaned up."""
        return self.drivers is not None and all(map(_is_reusable, self.drivers.in_order()))

    async def keep(self, launcher: Launcher) -> None:
        """
        Have its drivers make what lasts for all containers there, and the launcher know what that is, and what each of
        them will make.

        Raises:
            PysuperError: One could not; what others have made is there until `drop`.
        """
        assert self.drivers is not None
        self.kept = True
        for driver in self.drivers.in_order():
            with guarded(registry.title(driver), "traces"):
                self._traces += driver.traces(self.context)
        await launcher.remember(*self._traces)
        for driver in self.drivers.in_order():
            if driver.keeps():
                self._keepers.append(driver)
                await bounded(registry.title(driver), "keep", driver.keep(self.context), driver.patience)

    async def drop(self, launcher: Launcher) -> list[PysuperError]:
        """Undo it; what has failed of it. The caller shields it from cancellation."""
        failed = []
        while self._keepers:
            driver = self._keepers.pop()
            try:
                await bounded(registry.title(driver), "drop", driver.drop(self.context), driver.patience)
            except PysuperError as error:
                failed.append(error)
        await launcher.forget(*self._traces)
        self._traces.clear()
        self.kept = False
        return failed


def _is_reusable(driver: Driver) -> bool:
    # What a class says of itself is not inherited: its subclasses may keep what it does not.
    return bool(vars(type(driver)).get("reusable", False))


class Places:
    """Those of a pool that are free."""

    def __init__(self, give_up: Callable[[Place], Awaitable[None]]) -> None:
        """
        Args:
            give_up: Called with each place that is not needed any more.
        """
        self._give_up = give_up
        self._free: list[Place] = []
        self._open = True

    def take(self) -> Place | None:
        """One that is free, if any is; the one that was left last."""
        return self._free.pop() if self._free else None

    async def give_back(self, place: Place) -> None:
        """The container there has been cleaned up."""
        if self._open and len(self._free) < _MOST_FREE:
            self._free.append(place)
        else:
            await self._give_up(place)

    async def close(self) -> None:
        """No more containers will come; those that are still there give their places up."""
        self._open = False
        while self._free:
            await self._give_up(self._free.pop())
