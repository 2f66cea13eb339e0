"""How one thing is measured: programs started by posix_spawn(3), waited for by wait4(2), weighed by smaps_rollup."""

from __future__ import annotations

import itertools
import os
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import attrs

__all__ = ["Failed", "Run", "descendants", "median", "p99", "pss", "read_stamps", "reap_orphans", "run", "spawn"]

_serial = itertools.count()


class Failed(Exception):
    """A program did not do what it was started for: the message is its last line of standard error."""


@attrs.frozen(kw_only=True)
class Run:
    """
    One run of a program. Times are nanoseconds of the monotonic clock.

    Attributes:
        began: Just before it was started.
        known: Just after wait4(2) has returned.
        stamps: What `stamp` said in it, by word.
        cpu: Seconds of CPU of it and of what it has reaped.
    """

    began: int
    known: int
    stamps: dict[str, int]
    cpu: float


def run(argv: Sequence[str], *, quiet: bool = True) -> Run:
    """
    Run a program to its end.

    Args:
        argv: `%n` in an argument becomes a number that no other run has.
        quiet: Its standard error is not kept, and a failure has no explanation.

    Raises:
        Failed: Its exit status is not 0.
    """
    with _pipe() as (out, into), _pipe() as (errors, complaints), open(os.devnull, "r+b") as null:
        began = time.monotonic_ns()
        pid = spawn(argv, stdin=null.fileno(), stdout=into, stderr=null.fileno() if quiet else complaints)
        _, status, usage = os.wait4(pid, 0)
        known = time.monotonic_ns()
        if status:
            said = _read_all(errors).decode(errors="replace").strip().splitlines()
            code = os.waitstatus_to_exitcode(status)
            raise Failed(said[-1] if said else f"{argv[0]}: exit status {code}")
        return Run(
            began=began, known=known, stamps=_stamps(_read_all(out).split(b"\n")), cpu=usage.ru_utime + usage.ru_stime
        )


def spawn(argv: Sequence[str], *, stdin: int, stdout: int, stderr: int) -> int:
    """Start a program with these descriptors; its pid."""
    serial = f"{os.getpid()}-{next(_serial)}"
    actions = [(os.POSIX_SPAWN_DUP2, given, number) for number, given in enumerate((stdin, stdout, stderr))]
    return os.posix_spawn(argv[0], [word.replace("%n", serial) for word in argv], os.environ, file_actions=actions)


@contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    """A pipe that never blocks who reads."""
    ends = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(ends[0], False)
    try:
        yield ends
    finally:
        for end in ends:
            os.close(end)


def _read_all(descriptor: int) -> bytes:
    """What is in a pipe now; programs may have left processes behind that keep it open."""
    with suppress(BlockingIOError):
        return os.read(descriptor, 1 << 16)
    return b""


def _stamps(lines: Iterable[bytes]) -> dict[str, int]:
    words = (line.decode(errors="replace").split() for line in lines)
    return {word[0]: int(word[1]) for word in words if len(word) == 2 and word[0] in ("first", "last")}


def read_stamps(descriptor: int, count: int) -> None:
    """Wait until so many programs have said that they run, each a line."""
    while count > 0:
        said = os.read(descriptor, 1 << 16)
        if not said:
            raise Failed("a program that should wait has ended")
        count -= said.count(b"\n")


# --- processes ---


def descendants(pid: int) -> list[int]:
    """A process and its children, and theirs."""
    found = [pid]
    for parent in found:
        with suppress(OSError):
            for task in os.listdir(f"/proc/{parent}/task"):
                children = Path(f"/proc/{parent}/task/{task}/children").read_text()
                found += [int(child) for child in children.split()]
    return found


def pss(pids: Iterable[int]) -> float:
    """Their share in what is resident, in MB, without that of the commands."""
    return sum(_pss(pid) for pid in pids) / 1024


def _pss(pid: int) -> int:
    with suppress(OSError):
        if Path(f"/proc/{pid}/comm").read_text() != "stamp\n":
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    return int(line.split()[1])
    return 0


def reap_orphans() -> None:
    """Wait for everything that programs have left behind; needs PR_SET_CHILD_SUBREAPER(2const)."""
    with suppress(ChildProcessError):
        while os.wait():
            pass


# --- figures ---


def median(values: Sequence[float]) -> float:
    """The one in the middle."""
    return statistics.median(values)


def p99(values: Sequence[float]) -> float:
    """One that 99 of 100 do not exceed; of few values it is the highest."""
    return sorted(values)[min(len(values) - 1, int(len(values) * 0.99))]
