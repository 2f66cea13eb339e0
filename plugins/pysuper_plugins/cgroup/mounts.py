"""Where the cgroup hierarchies are mounted, and where in them the supervisor is; cgroups(7)."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable

import attrs

from pysuper.receipts import InCgroup
from pysuper_plugins.cgroup import files

__all__ = ["Hierarchy", "hierarchies", "parse"]


@attrs.frozen(kw_only=True)
class Hierarchy:
    """
    One mounted cgroup hierarchy.

    Attributes:
        controllers: Those of a v1 hierarchy, several if they are mounted together (`cpu,cpuacct`);
            empty for v2, where they differ from cgroup to cgroup.
        name: The same in the order of /proc/PID/cgroup.
        top: The mount point.
        own: The directory of the supervisor's own cgroup, or None if that is outside of what is
            mounted.
        path: The same cgroup as /proc/PID/cgroup has it, or None if it is not there.
        device: `st_dev` of the mount point, unless something else was mounted over it.
    """

    controllers: frozenset[str]
    name: str
    top: str
    own: str | None
    path: str | None
    device: int

    def below(self, name: str) -> tuple[str, InCgroup]:
        """The directory of a cgroup below the own one, and the promise that a process is in it."""
        return f"{self.own}/{name}", InCgroup(hierarchy=self.name, path=f"{(self.path or '').rstrip('/')}/{name}")

    @property
    def version(self) -> int:
        return 1 if self.controllers else 2


def hierarchies() -> tuple[Hierarchy, ...]:
    """
    The hierarchies that this process can reach by a path, each once.

    Of one that is mounted several times it is the first mount that shows the own cgroup, if one
    does.
    """
    return _reachable(files.read("/proc/self/mountinfo"), files.read("/proc/self/cgroup"))


@functools.lru_cache(1)
def _reachable(mountinfo: str, cgroups: str) -> tuple[Hierarchy, ...]:
    """They are the same as long as both files are: what is mounted over one is in there, too."""
    found: dict[frozenset[str], Hierarchy] = {}
    for hierarchy in parse(mountinfo, cgroups):
        known = found.get(hierarchy.controllers)
        if _visible(hierarchy) and (known is None or known.own is None):
            found[hierarchy.controllers] = hierarchy
    return tuple(found.values())


def parse(mountinfo: str, cgroups: str) -> tuple[Hierarchy, ...]:
    """The mounts of hierarchies, from proc_pid_mountinfo(5) and /proc/PID/cgroup, cgroups(7)."""
    own = dict(_own(line) for line in cgroups.split("\n") if line)
    found = []
    for line in mountinfo.split("\n"):
        if " - cgroup" not in line:
            continue
        fields = line.split(" ")
        if "-" not in fields[6:]:
            continue
        separator = fields.index("-", 6)
        fstype, options = fields[separator + 1], fields[separator + 3]
        controllers = frozenset[str]()
        if fstype == "cgroup":
            controllers = _controllers(frozenset(options.split(",")), own)
        if not controllers and fstype != "cgroup2":
            continue
        top, (name, path) = _unescape(fields[4]), own.get(controllers, ("", None))
        found.append(
            Hierarchy(
                controllers=controllers,
                name=name,
                top=top,
                own=None if path is None else _below(top, _unescape(fields[3]), path),
                path=path,
                device=os.makedev(*map(int, fields[2].split(":"))),
            )
        )
    return tuple(found)


def _own(line: str) -> tuple[frozenset[str], tuple[str, str | None]]:
    """`(controllers, (the same as text, path))` of a line of /proc/PID/cgroup; the v2 tree has no controllers."""
    _, controllers, path = line.split(":", 2)
    return frozenset(filter(None, controllers.split(","))), (controllers, path)


def _controllers(options: frozenset[str], own: Iterable[frozenset[str]]) -> frozenset[str]:
    """The controllers among the super options of a v1 mount; `name=systemd` is none."""
    here = next((c for c in own if c and c <= options), frozenset[str]())
    return frozenset(c for c in here if "=" not in c)


def _below(top: str, root: str, path: str) -> str | None:
    """The directory that is `path` in a hierarchy, whose `root` is mounted at `top`."""
    prefix = root.rstrip("/")
    # "/../sibling" leads out of this process's cgroup namespace, cgroup_namespaces(7).
    if ".." in path.split("/") or not f"{path}/".startswith(f"{prefix}/"):
        return None
    return top + path.removeprefix(prefix).rstrip("/")


def _unescape(field: str) -> str:
    """The kernel writes space, tab, newline and backslash as three octal digits."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field) if "\\" in field else field


def _visible(hierarchy: Hierarchy) -> bool:
    try:
        return os.stat(hierarchy.top).st_dev == hierarchy.device
    except OSError:
        return False
