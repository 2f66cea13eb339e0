"""What is on this machine that a container could leave behind, and what provokes it to."""

from __future__ import annotations

from functools import cache

from pysuper import registry
from pysuper.testing.machine import PATIENCE, Snapshot, alive, cgroups, children, wait_until

__all__ = ["PATIENCE", "Snapshot", "alive", "cgroup_driver", "cgroups", "children", "wait_until"]


@cache
def cgroup_driver() -> str:
    """The cgroup driver that works here."""
    return registry.detect_cgroup()[0]
