"""
Places: what one container has that no other has at the same time, its ids and names, and what was decided with them.

A container that is started by itself has a place of its own, which is given up when it has ended. A pool keeps places
for the next container of its spec: that has the same ids, the same names, and the same plan, carried out anew. It comes
into a place only when nothing of the last one is left there.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

from pysuper.drivers import Driver, Trace
from pysuper.plan import Context, Plan
from pysuper.planning import Drivers
from pysuper.subids import NoSubIds, SubIds

__all__ = ["Place", "Places"]


@attrs.define
class Place:
    """
    Attributes:
        context: What drivers know of whoever is there.
        subids: What has been allocated of them.
        drivers, plan: As decided for the first container there; None before that.
        traces: What the launcher removes, if it is there when the supervisor dies; as long as the place is kept.
    """

    context: Context
    subids: SubIds | NoSubIds | None
    drivers: Drivers | None = None
    plan: Plan | None = None
    traces: set[Trace] = attrs.field(factory=set)

    @property
    def reusable(self) -> bool:
        """Whether another container can have it, when this one has been cleaned up."""
        return self.drivers is not None and all(map(_is_reusable, self.drivers.in_order()))


def _is_reusable(driver: Driver) -> bool:
    # What a class says of itself is not inherited: its subclasses may keep what it does not.
    return bool(vars(type(driver)).get("reusable", False))


class Places:
    """Those of a pool that are free."""

    def __init__(self, give_up: Callable[[Place], None]) -> None:
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

    def give_back(self, place: Place) -> None:
        """The container there has been cleaned up."""
        if self._open:
            self._free.append(place)
        else:
            self._give_up(place)

    def close(self) -> None:
        """No more containers will come; those that are still there give their places up."""
        self._open = False
        while self._free:
            self._give_up(self._free.pop())
