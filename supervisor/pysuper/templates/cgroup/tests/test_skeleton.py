"""What every cgroup driver has to keep, and what this one is for."""

from __future__ import annotations

import pysuper
from pysuper.testing import CgroupDriverTests


class TestSkeleton(CgroupDriverTests):
    driver = "skeleton"
    limits = frozenset[str]()  # CHANGE: those that it holds, such as {"pids_max"}


# CHANGE: what your driver is for.
async def test_what_a_container_has_used_is_counted() -> None:
    command = ["sh", "-c", "i=0; while [ $i -lt 100000 ]; do i=$((i + 1)); done"]
    done = await pysuper.run(command, cgroup=pysuper.DriverChoice("skeleton"))
    assert done.record.user_seconds > 0
