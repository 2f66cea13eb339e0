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

__all__ = [
    "PATIENCE",
    "SETTLED",
    "CgroupTree",
    "Leftovers",
    "Snapshot",
    "alive",
    "cgroup_trees",
    "cgroups",
    "children",
    "wait_until",
]

#: How many times longer than on real hardware things may take; for emulated processors.
PATIENCE = float(os.environ.get("PYSUPER_TEST_PATIENCE", "1"))

#: Seconds in which nothing may be left of what has ended.
SETTLED = 1.0


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


def wait_until(condition: Callable[[], bool], bound: float = SETTLED) -> bool:
    """Whether it has come true within that many seconds."""
    deadline = time.monotonic() + bound * PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


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

    @property
    def counts_processes(self) -> bool:
        """Whether containers can be here: not in the v2 tree of a machine that has its controllers on v1."""
        return self.version == 1 or "pids" in Path(self.top, "cgroup.controllers").read_text().split()


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
    """Every cgroup directory, where this process can have made some for containers, with this in its name."""
    places = {tree.place for tree in cgroup_trees() if tree.counts_processes}
    return {f"{at}/{name}" for place in places for at, names, _ in os.walk(place) for name in names if mark in name}


@attrs.frozen(kw_only=True)
class Snapshot:
    """
    What there is at one moment.

    Attributes:
        mark: In the name of each cgroup that counts.
        descriptors: What each of this process leads to.
        interfaces: Of the network namespace of this process.
    """

    mark: str
    children: frozenset[int]
    cgroups: frozenset[str]
    mounts: tuple[str, ...]
    interfaces: frozenset[str]
    descriptors: Mapping[int, str]

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

    def new_since(self, before: Snapshot) -> list[str]:
        """What there is, and was not before."""
        pairs: list[tuple[str, set[str], set[str]]] = [
            ("the process", {str(pid) for pid in self.children}, {str(pid) for pid in before.children}),
            ("the cgroup", set(self.cgroups), set(before.cgroups)),
            ("the mount", set(Counter(self.mounts) - Counter(before.mounts)), set()),
            ("the network interface", set(self.interfaces), set(before.interfaces)),
        ]
        if len(self.descriptors) > len(before.descriptors):  # numbers change hands
            now, then = (
                {f"{number} -> {target}" for number, target in snapshot.descriptors.items()}
                for snapshot in (self, before)
            )
            pairs.append(("the descriptor", now, then))
        return [f"{what} {name}" for what, now, then in pairs for name in sorted(now - then)]

    def watch(self, more: Callable[[], list[str]] = list) -> Leftovers:
        """See `Leftovers`."""
        return Leftovers(lambda: Snapshot.take(self.mark).new_since(self) + more())

    def left(self, more: Callable[[], list[str]] = list) -> list[str]:
        """
        What is new since, and does not go away within a second.

        Args:
            more: Names more of what is new.
        """
        leftovers = self.watch(more)
        wait_until(leftovers.gone)
        return leftovers.names()

    def require_nothing_left(self) -> None:
        """Raise AssertionError if something is new since, and does not go away within a second."""
        if left := self.left():
            raise AssertionError(f"there is still {', '.join(left)}")


class Leftovers:
    """What is new, and has been at every look; what others make on the machine meanwhile comes and goes."""

    def __init__(self, look: Callable[[], list[str]]) -> None:
        """
        Args:
            look: Names what is new.
        """
        self._look = look
        self._always = set(look())

    def gone(self) -> bool:
        """Whether nothing of it is left; looks again."""
        if self._always:
            self._always &= set(self._look())
        return not self._always

    def names(self) -> list[str]:
        """What has been there at every look."""
        return sorted(self._always)


def _descriptors() -> dict[int, str]:
    """Those of this process, by number."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # that of the directory itself, or of another thread
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return found
