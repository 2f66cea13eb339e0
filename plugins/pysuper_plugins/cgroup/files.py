"""Reading and writing the files of cgroups, and signalling the processes that they list."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterable, Iterator

from pysuper.errors import DriverError, describe_errno
from pysuper.receipts import read_text

__all__ = [
    "below",
    "kill",
    "processes",
    "read",
    "read_keyed",
    "read_number",
    "read_pressure",
    "refused",
    "tree",
    "write",
    "writing",
]

#: A bound for `kill` where nothing can be frozen and processes fork faster than they are read.
_PASSES = 10


def write(path: str, value: str) -> None:
    """Write to a cgroup file, see `writing`."""
    with writing(path) as put:
        put(value)


@contextlib.contextmanager
def writing(path: str) -> Iterator[Callable[[str], object]]:
    """
    Open a cgroup file, to write to it several times, each in one write(2), as the kernel wants it.

    The file must exist: without O_CREAT a directory that is no cgroup answers ENOENT, instead of
    gaining a plain file called `pids.max` that limits nothing.

    Raises:
        OSError: What the kernel answers.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield lambda value: os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)


def refused(driver: str, what: str, error: OSError, remedy: str | None) -> DriverError:
    """The error for something that the kernel refused to do."""
    reason = describe_errno(error.errno or 0)
    return DriverError(f"cgroup {driver}: cannot {what}: {reason}", remedy=remedy)


def read(path: str) -> str:
    """The content of a file of the kernel's, without the newline at its end; raises OSError."""
    return read_text(path).strip()


def read_number(path: str) -> int | None:
    """The number in a file; None if this kernel has no such file, or if the file says `max`."""
    try:
        text = read(path)
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def read_keyed(path: str) -> dict[str, int]:
    """A flat keyed file, `KEY NUMBER` a line; empty if this kernel has no such file."""
    try:
        lines = read(path).splitlines()
    except OSError:
        return {}
    pairs = (line.split() for line in lines)
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}


def read_pressure(path: str) -> float | None:
    """
    The `avg10` of the line `some` in a file such as `cpu.pressure`: percent of the last ten seconds; None if this
    kernel has no such file, or does not count for this cgroup. Documentation/accounting/psi.rst.
    """
    try:
        lines = [line.split() for line in read(path).splitlines()]
    except OSError:  # also EOPNOTSUPP, when it is switched off
        return None
    return next((float(words[1].removeprefix("avg10=")) for words in lines if words[0] == "some"), None)


def tree(directory: str) -> Iterator[str]:
    """
    A cgroup and those below it, each before its own children; empty if there is no such cgroup.

    There is none below a container's, unless the container was allowed to make some.
    """
    for path, _, _ in os.walk(directory):
        yield path


def below(directory: str) -> list[str]:
    """The cgroups that are children of one."""
    return [path for path in tree(directory) if os.path.dirname(path) == directory]


def processes(directories: Iterable[str]) -> list[int]:
    """
    The processes in these cgroups and below, sorted, as this process's pid namespace numbers them.

    A process from outside of that pid namespace reads as 0 and is left out: there is no name to
        call it by.
    """
    found: set[int] = set()
    for directory in directories:
        for path in tree(directory):
            # Gone since (ENOENT, ENODEV), or threaded (EOPNOTSUPP): then the cgroup above lists the
            # process.
            with contextlib.suppress(OSError):
                found.update(map(int, read(f"{path}/cgroup.procs").split()))
    return sorted(found - {0})


def kill(directories: Iterable[str]) -> None:
    """
    Send SIGKILL to every process in these cgroups and below, each once.

    In passes, until one finds nobody new. Freeze the cgroup before: then nothing forks away from
    the signal, two passes are enough, and no pid changes hands between reading and killing.
    """
    directories, killed = tuple(directories), set[int]()
    for _ in range(_PASSES):
        new = set(processes(directories)) - killed
        if not new:
            return
        for pid in new:
            # Gone, or not ours to signal: then it is still there at the end, and reported as stuck.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        killed |= new
