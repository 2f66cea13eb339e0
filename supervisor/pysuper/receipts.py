"""
Receipts: what was promised, read back from the kernel before the command runs.

A `Check` is data in the plan; `take` reads it, from outside, while the process waits at its last barrier; the outcome
is a `Receipt`, which the exit record keeps. One that does not hold stops the start.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import attrs

from pysuper.errors import LimitError, describe_errno
from pysuper.values import Value, value

__all__ = [
    "Check",
    "FileHolds",
    "FileLists",
    "InCgroup",
    "Inspected",
    "MountFlags",
    "OldRootGone",
    "OwnNamespace",
    "ProcessStatus",
    "Receipt",
    "ResourceLimit",
    "SameNamespace",
    "from_wire",
    "take",
    "to_wire",
]


#: The resource limits, as proc_pid_limits(5) calls them.
_LIMITS = {
    "as": "Max address space",
    "core": "Max core file size",
    "cpu": "Max cpu time",
    "data": "Max data size",
    "fsize": "Max file size",
    "memlock": "Max locked memory",
    "msgqueue": "Max msgqueue size",
    "nice": "Max nice priority",
    "nofile": "Max open files",
    "nproc": "Max processes",
    "ofile": "Max open files",
    "rss": "Max resident set",
    "rtprio": "Max realtime priority",
    "rttime": "Max realtime timeout",
    "sigpending": "Max pending signals",
    "stack": "Max stack size",
}
#: Bytes that are read at once: more than nearly all files of the kernel have.
_PART = 16384


@value
class Receipt(Value):
    """One promise, and what the kernel says of it. `source` is the file that was read."""

    promise: str
    source: str
    expected: str
    actual: str

    @property
    def holds(self) -> bool:
        """Whether the promise is in force."""
        return self.expected == self.actual


@value
class Check(Value):
    """
    The base of all checks.

    Attributes:
        of_process: Whether it is a promise about every process of the container, so that one that joins the running
            container is checked, too.
    """

    of_process: ClassVar[bool] = False

    def describe(self) -> str:
        """The promise, in words."""
        raise NotImplementedError

    def source(self, pid: int) -> str:
        """The file that is read."""
        raise NotImplementedError

    def expected(self) -> str:
        """What must be found."""
        raise NotImplementedError

    def actual(self, process: Inspected) -> str:
        """What is found; raises OSError."""
        raise NotImplementedError


class Inspected:
    """
    A process that does not run while receipts are taken of it: what several ask for is read once.

    Attributes:
        pid: As the supervisor sees it.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def status(self, field: str) -> str | None:
        """A field of proc_pid_status(5), with single spaces; None if there is none of that name."""
        _, found, rest = self._status.partition(f"\n{field}:")
        return " ".join(rest.partition("\n")[0].split()) if found else None

    @cached_property
    def _status(self) -> str:
        return "\n" + read_text(f"/proc/{self.pid}/status")

    def limit(self, label: str) -> str:
        """The soft and the hard value of a resource limit, as proc_pid_limits(5) has them under this label."""
        _, _, rest = self._limits.partition(f"\n{label}  ")
        return " ".join(rest.split(maxsplit=2)[:2])

    @cached_property
    def _limits(self) -> str:
        return read_text(f"/proc/{self.pid}/limits")

    @cached_property
    def cgroups(self) -> Mapping[str, str]:
        """The cgroup in each hierarchy, by its controllers, as /proc/PID/cgroup has them, cgroups(7)."""
        lines = (line.split(":", 2) for line in read_text(f"/proc/{self.pid}/cgroup").split("\n") if line)
        return {controllers: path for _, controllers, path in lines}

    @cached_property
    def mounts(self) -> Sequence[tuple[str, Collection[str]]]:
        """`(mount point, flags)` of every mount that it sees, proc_pid_mountinfo(5)."""
        lines = (line.split(" ", 6) for line in read_text(f"/proc/{self.pid}/mountinfo").split("\n")[:-1])
        return [(_unescaped(fields[4]), fields[5].split(",")) for fields in lines]


def read_text(path: str) -> str:
    """The content of a file of the kernel's; raises OSError."""
    # Dozens of times for a container, of which an object with a buffer and a decoder would take most.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = part = os.read(descriptor, _PART)
        while part:
            part = os.read(descriptor, _PART)
            content += part
    finally:
        os.close(descriptor)
    return content.decode(errors="surrogateescape")


def own_status(field: str) -> str:
    """A field of proc_pid_status(5), of this process."""
    _, _, rest = read_text("/proc/self/status").partition(f"\n{field}:")
    return rest.split(maxsplit=1)[0]


def _unescaped(field: str) -> str:
    """The kernel writes white space and backslashes as three octal digits."""
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), field) if "\\" in field else field


@value
class OwnNamespace(Check):
    """The container is in another namespace than the supervisor; namespaces(7), /proc/PID/ns."""

    namespace: str

    def describe(self) -> str:
        return f"an own {self.namespace} namespace"

    def source(self, pid: int) -> str:
        return f"/proc/{pid}/ns/{self.namespace}"

    def expected(self) -> str:
        return "own"

    def actual(self, process: Inspected) -> str:
        ours = os.readlink(f"/proc/self/ns/{self.namespace}")
        return "shared" if os.readlink(self.source(process.pid)) == ours else "own"


@value
class SameNamespace(Check):
    """The process is in the namespace that `path` leads to."""

    namespace: str
    path: str
    of_process = True

    def describe(self) -> str:
        return f"the {self.namespace} namespace {self.path}"

    def source(self, pid: int) -> str:
        return f"/proc/{pid}/ns/{self.namespace}"

    def expected(self) -> str:
        return os.readlink(self.path)

    def actual(self, process: Inspected) -> str:
        return os.readlink(self.source(process.pid))


@value
class ProcessStatus(Check):
    """A field of proc_pid_status(5), such as `NoNewPrivs` or `CapEff`."""

    field: str
    value: str
    of_process = True

    def describe(self) -> str:
        return f"{self.field} is {self.value}"

    def source(self, pid: int) -> str:
        return f"/proc/{pid}/status"

    def expected(self) -> str:
        return self.value

    def actual(self, process: Inspected) -> str:
        found = process.status(self.field)
        return "no such field" if found is None else found


@value
class FileHolds(Check):
    """A file, such as a cgroup's `pids.max`, has this content; `{pid}` in its path is the container's."""

    path: str
    content: str

    def describe(self) -> str:
        return f"{self.path.replace('{pid}', 'PID')} holds {self.content!r}"

    def source(self, pid: int) -> str:
        return self.path.replace("{pid}", str(pid))

    def expected(self) -> str:
        return self.content

    def actual(self, process: Inspected) -> str:
        return " ".join(read_text(self.source(process.pid)).split())


@value
class FileLists(Check):
    """The process is listed in this file, such as a cgroup's `tasks` or `cgroup.procs`."""

    path: str
    of_process = True

    def describe(self) -> str:
        return f"the process is listed in {self.path}"

    def source(self, pid: int) -> str:
        return self.path

    def expected(self) -> str:
        return "listed"

    def actual(self, process: Inspected) -> str:
        return "listed" if str(process.pid) in read_text(self.path).split() else "not listed"


@value
class InCgroup(Check):
    """
    The process is in this cgroup, as /proc/PID/cgroup has it, cgroups(7).

    Attributes:
        hierarchy: Its controllers, as they are there, such as `cpu,cpuacct`; empty is the v2 tree.
        path: Of the cgroup, from the supervisor's root of the hierarchy on.
    """

    hierarchy: str
    path: str
    of_process = True

    def describe(self) -> str:
        return f"the process is in the cgroup {self.path} of {self.hierarchy or 'v2'}"

    def source(self, pid: int) -> str:
        return f"/proc/{pid}/cgroup"

    def expected(self) -> str:
        return self.path

    def actual(self, process: Inspected) -> str:
        return process.cgroups.get(self.hierarchy, "no such hierarchy")


@value
class ResourceLimit(Check):
    """A resource limit, getrlimit(2)."""

    resource: str
    soft: int
    hard: int
    of_process = True

    def describe(self) -> str:
        return f"{self.resource} is limited to {self.soft} (hard {self.hard})"

    def source(self, pid: int) -> str:
        return f"/proc/{pid}/limits"

    def expected(self) -> str:
        return " ".join("unlimited" if value == -1 else str(value) for value in (self.soft, self.hard))

    def actual(self, process: Inspected) -> str:
        # Not prlimit(2), which asks for a capability that even root may be without.
        return process.limit(_LIMITS[self.resource])


@value
class MountFlags(Check):
    """The topmost mount at a path of the container has these flags, and a path that is not mounted has none."""

    target: str
    flags: tuple[str, ...]

    def describe(self) -> str:
        return f"{self.target} is mounted {','.join(self.flags)}"

    def source(self, pid: int) -> str:
        return f"/proc/{pid}/mountinfo"

    def expected(self) -> str:
        return ",".join(self.flags)

    def actual(self, process: Inspected) -> str:
        flags = [flags for target, flags in process.mounts if target == self.target]
        return ",".join(f for f in self.flags if f in flags[-1]) if flags else "not mounted"


@value
class OldRootGone(Check):
    """Nothing of the host's mounts is left: one root, and every other mount below it."""

    def describe(self) -> str:
        return "the host's root is detached"

    def source(self, pid: int) -> str:
        return f"/proc/{pid}/mountinfo"

    def expected(self) -> str:
        return "1 root"

    def actual(self, process: Inspected) -> str:
        return f"{sum(target == '/' for target, _ in process.mounts)} root"


_CLASSES = {cls.__name__: cls for cls in Check.__subclasses__()}


def to_wire(check: Check) -> dict[str, Any]:
    """The JSON object of a check."""
    return {"check": type(check).__name__, **{a.name: getattr(check, a.name) for a in attrs.fields(type(check))}}


def from_wire(message: Mapping[str, Any]) -> Check:
    """The inverse of `to_wire`."""
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in message.items() if k != "check"}
    return _CLASSES[message["check"]](**fields)


def take(checks: tuple[Check, ...], pid: int) -> tuple[Receipt, ...]:
    """
    Read every promise back.

    Args:
        checks: Of the plan.
        pid: Of the process, as the supervisor sees it; it must not run meanwhile.

    Raises:
        LimitError: One does not hold; all that do not are named.
    """
    taken = []
    process = Inspected(pid)
    for check in checks:
        try:
            actual = check.actual(process)
        except OSError as error:
            actual = describe_errno(error.errno or 0)
        taken.append(
            Receipt(
                promise=check.describe(),
                source=check.source(pid),
                expected=check.expected(),
                actual=actual,
            )
        )
    if broken := [r for r in taken if not r.holds]:
        found = "; ".join(f"{r.promise}: {r.source} says {r.actual!r}, not {r.expected!r}" for r in broken)
        raise LimitError(f"not in force, so the command was not run: {found}")
    return tuple(taken)
