"""What is on this machine that a container could leave behind, and what provokes it to."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import attrs
import trio

from pysuper import registry
from quarters import places

#: How many times longer than on real hardware things may take; for emulated processors.
PATIENCE = float(os.environ.get("PYSUPER_TEST_PATIENCE", "1"))


@cache
def cgroup_driver() -> str:
    """The cgroup driver that works here."""
    return registry.detect_cgroup()[0]


def children(pid: int | None = None) -> set[int]:
    """The child processes of a process, zombies included; proc_pid_task_tid_children(5)."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid or os.getpid()}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended meanwhile
            found |= {int(child) for child in (task / "children").read_text().split()}
    return found


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition: Callable[[], bool], bound: float = 1.0) -> bool:
    """Whether it has come true within that many seconds."""
    deadline = time.monotonic() + bound * PATIENCE
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def cgroups() -> set[str]:
    """Every cgroup directory that pysuper made for this test run; those of the tests of drivers are theirs."""
    found = {f"{at}/{name}" for place in places() for at, names, _ in os.walk(place) for name in names}
    return {path for path in found if re.search(r"/pysuper\.(?!test)[^/]*$", path)}


@attrs.frozen
class Snapshot:
    """Processes, cgroups, mounts and descriptors at one moment."""

    children: frozenset[int]
    cgroups: frozenset[str]
    mounts: tuple[str, ...]
    descriptors: int

    @classmethod
    def take(cls) -> Snapshot:
        """As it is now."""
        return cls(
            frozenset(children()),
            frozenset(cgroups()),
            tuple(Path("/proc/self/mounts").read_text().splitlines()),
            len(os.listdir("/proc/self/fd")),
        )

    @classmethod
    def take_settled(cls, expected: Snapshot, bound: float = 1.0) -> Snapshot:
        """As it is now, or once it is as expected: within the second in which nothing may be left."""
        deadline = time.monotonic() + bound * PATIENCE
        while (now := cls.take()) != expected and time.monotonic() < deadline:
            time.sleep(0.01)
        return now

    def assert_equals(self, before: Snapshot) -> None:
        """Say which kind of thing is left."""
        assert self.children == before.children
        assert self.cgroups == before.cgroups
        assert self.mounts == before.mounts
        assert self.descriptors == before.descriptors


class CancelAt(trio.abc.Instrument):
    """Cancels a scope when the n-th task step since its making begins."""

    def __init__(self, scope: trio.CancelScope, step: int) -> None:
        self._scope = scope
        self._left = step

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._left -= 1
        if self._left == 0:
            self._scope.cancel()
