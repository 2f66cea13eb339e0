"""
What is on this machine that a container could leave behind: processes, cgroups, mounts, network interfaces and
descriptors; and what it takes to wait until nothing of it is left.

Found in another way than drivers find it, so that a driver which overlooks something fails instead of passing.
"""

from __future__ import annotations

import os
import re
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import attrs

__all__ = ["PATIENCE", "CgroupTree", "Snapshot", "alive", "cgroup_trees", "cgroups", "children", "wait_until"]

#: How many times longer than on real hardware things may take; for emulated processors.
PATIENCE = float(os.environ.get("PYSUPER_TEST_PATIENCE", "1"))

#: Seconds in which nothing may be left of what has ended.
_SETTLED = 1.0


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
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition: Callable[[], bool], bound: float = _SETTLED) -> bool:
    """Whether it has come true within that many seconds."""
    deadline = time.monotonic() + bound * PATIENCE
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


@attrs.frozen(kw_only=True)
class CgroupTree:
    """
    A mounted cgroup hierarchy, and where in it a process is; cgroups(7).

    Attributes:
        version: 1 or 2.
        top: The mount point.
        own: The directory of the process, or None if it is outside of what is mounted there.
    """

    version: int
    top: str
    own: str | None

    @property
    def place(self) -> str:
        """Where this process can make cgroups: below its own in v1; in v2, root's are made at the top."""
        return self.own if self.version == 1 and self.own else self.top


def cgroup_trees(pid: int | None = None) -> list[CgroupTree]:
    """Every hierarchy that is mounted, with the directory of a process (None is this one)."""
    paths = {}
    for line in Path(f"/proc/{pid or 'self'}/cgroup").read_text(errors="surrogateescape").splitlines():
        _, controllers, path = line.split(":", 2)
        paths[frozenset(controllers.split(","))] = path
    return list(_mounted(paths))


def _mounted(paths: Mapping[frozenset[str], str]) -> Iterator[CgroupTree]:
    """`paths` is that of the process, by the controllers of the hierarchy; v2 has the empty one."""
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").split("\n"):
        mount, _, system = line.partition(" - ")
        fstype, options = system.partition(" ")[0], system.rpartition(" ")[2]
        if fstype not in ("cgroup", "cgroup2"):
            continue
        root, top = (_unescaped(field) for field in mount.split(" ")[3:5])
        mine = {*options.split(",")} if fstype == "cgroup" else {""}
        path = next((path for controllers, path in paths.items() if controllers <= mine), None)
        below = None if path is None else os.path.relpath(path, root)
        own = None if below is None or below.startswith("..") else os.path.normpath(f"{top}/{below}")
        yield CgroupTree(version=1 if fstype == "cgroup" else 2, top=top, own=own)


def _unescaped(field: str) -> str:
    """The kernel writes white space and backslashes as three octal digits, proc_pid_mountinfo(5)."""
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), field)


def cgroups(mark: str = "pysuper.") -> set[str]:
    """Every cgroup directory, where this process can have made some, with this in its name."""
    places = {tree.place for tree in cgroup_trees()}
    return {f"{at}/{name}" for place in places for at, names, _ in os.walk(place) for name in names if mark in name}


@attrs.frozen(kw_only=True)
class Snapshot:
    """
    What there is at one moment.

    Attributes:
        mark: In the name of each cgroup that counts.
        descriptors: What each of this process leads to. Numbers change hands; only how many there are is compared.
        interfaces: Of the network namespace of this process.
    """

    mark: str
    children: frozenset[int]
    cgroups: frozenset[str]
    mounts: tuple[str, ...]
    interfaces: frozenset[str]
    descriptors: Mapping[int, str] = attrs.field(eq=len)

    @classmethod
    def take(cls, mark: str = "pysuper.") -> Snapshot:
        """As it is now."""
        return cls(
            mark=mark,
            children=frozenset(children()),
            cgroups=frozenset(cgroups(mark)),
            mounts=tuple(Path("/proc/self/mounts").read_text(errors="surrogateescape").splitlines()),
            interfaces=frozenset(name for _, name in socket.if_nameindex()),
            descriptors=_descriptors(),
        )

    @classmethod
    def take_settled(cls, expected: Snapshot) -> Snapshot:
        """As it is now, or once it is as expected: within the second in which nothing may be left."""
        wait_until(lambda: cls.take(expected.mark) == expected)
        return cls.take(expected.mark)

    def assert_equals(self, before: Snapshot) -> None:
        """Say what is left."""
        if found := self.differences(before):
            raise AssertionError("; ".join(found))

    def differences(self, before: Snapshot) -> list[str]:
        """What there is, and was not before; and the other way round."""
        mounts, was = Counter(self.mounts), Counter(before.mounts)
        pairs: list[tuple[str, set[str], set[str]]] = [
            ("the process", {str(pid) for pid in self.children}, {str(pid) for pid in before.children}),
            ("the cgroup", set(self.cgroups), set(before.cgroups)),
            ("the mount", set(mounts - was), set(was - mounts)),
            ("the network interface", set(self.interfaces), set(before.interfaces)),
        ]
        if len(self.descriptors) != len(before.descriptors):
            ours, theirs = (
                {f"{number} -> {target}" for number, target in descriptors.items()}
                for descriptors in (self.descriptors, before.descriptors)
            )
            pairs.append(("the descriptor", ours, theirs))
        new = [f"{what} {name} is left" for what, now, then in pairs for name in sorted(now - then)]
        return new + [f"{what} {name} is gone" for what, now, then in pairs for name in sorted(then - now)]

    def left(self, more: Callable[[], list[str]] = list) -> list[str]:
        """
        What has changed since, and stays so for a second; none of it, as soon as nothing does.

        What others do on the machine meanwhile comes and goes, and does not count.

        Args:
            more: Says what else is left.
        """
        stays = set(self._now(more))

        def settled() -> bool:
            if stays:
                stays.intersection_update(self._now(more))
            return not stays

        wait_until(settled)
        return sorted(stays)

    def _now(self, more: Callable[[], list[str]]) -> list[str]:
        return self.take(self.mark).differences(self) + more()


def _descriptors() -> dict[int, str]:
    """Those of this process, by number."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # that of the directory itself, or of another thread
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found
