"""What is on this machine that a container could leave behind, and what provokes it to."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import pytest

from pysuper import registry
from pysuper.testing.machine import PATIENCE, Snapshot, alive, cgroups, children, wait_until

__all__ = ["PATIENCE", "Snapshot", "alive", "cgroup_driver", "cgroups", "children", "nothing_is_left", "wait_until"]


@cache
def cgroup_driver() -> str:
    """The cgroup driver that works here."""
    return registry.detect_cgroup()[0]


@pytest.fixture(autouse=True)
def nothing_is_left(own_quarters: None) -> Iterator[None]:
    """Every test leaves the machine as it was: processes, mounts, cgroups, descriptors."""
    before = Snapshot.take()
    yield
    before.require_nothing_left()
