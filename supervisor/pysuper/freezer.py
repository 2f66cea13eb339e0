"""
Pausing a container: none of its processes runs until it is resumed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from pysuper.drivers import Cgroup
from pysuper.errors import PysuperError

__all__ = ["Freezer"]


class Freezer:
    """
    What keeps one container from running.

    Attributes:
        paused: Whether it is meant to.
    """

    def __init__(self, cgroup: Cgroup) -> None:
        self.paused = False
        self._cgroup = cgroup
        self._awake = 0

    def pause(self) -> None:
        """Raises DriverError: the cgroup driver cannot."""
        if not self._awake:
            self._cgroup.freeze()
        self.paused = True

    def resume(self) -> None:
        """Nothing happens if it is not paused."""
        if self.paused:
            self._cgroup.thaw()
        self.paused = False

    @contextmanager
    def awake(self) -> Iterator[None]:
        """
        Let the container run meanwhile, even if it is paused.

        What is frozen cannot end a command of its own, and with cgroup v1 it cannot be killed either.
        """
        if self.paused and not self._awake:
            with suppress(PysuperError):  # then what is to be done meanwhile takes what bounds it has
                self._cgroup.thaw()
        self._awake += 1
        try:
            yield
        finally:
            self._awake -= 1
            if self.paused and not self._awake:
                self._cgroup.freeze()
