"""
A cgroup of the test run's own, in which containers are made, so that two runs on one machine do not see each other's.

Only on cgroup v1, where root's containers are made below the supervisor's own cgroup.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pysuper.testing.machine import cgroup_trees, wait_until

__all__ = ["quarters"]


@contextmanager
def quarters() -> Iterator[None]:
    """Move this process, and what it will start, into new cgroups; at the end back, and remove them."""
    made: list[Path] = []
    try:
        if os.geteuid() == 0:
            made.extend(_make(Path(tree.own)) for tree in cgroup_trees() if tree.version == 1 and tree.own)
        yield
    finally:
        for directory in made:
            (directory.parent / "cgroup.procs").write_text(str(os.getpid()))
        # A process leaves its cgroups in the middle of exiting: rmdir(2) answers EBUSY for a moment.
        busy = [directory for directory in made if not wait_until(lambda at=directory: _removed(at))]
        assert busy == []


def _removed(directory: Path) -> bool:
    with suppress(OSError):
        directory.rmdir()
    return not directory.exists()


def _make(parent: Path) -> Path:
    directory = parent / f"pysuper-tests.{os.getpid()}"
    directory.mkdir()
    for name in ("cpuset.cpus", "cpuset.mems"):  # without which no process may enter, cpusets(7)
        if (parent / name).exists():
            (directory / name).write_text((parent / name).read_text())
    (directory / "cgroup.procs").write_text(str(os.getpid()))
    return directory
