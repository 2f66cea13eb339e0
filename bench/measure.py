"""How one thing is measured: programs started by posix_spawn(3), waited for by wait4(2), weighed by smaps_rollup."""

from __future__ import annotations

import os
import select
import signal
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import attrs

__all__ = [
    "Announced",
    "Failed",
    "Run",
    "descendants",
    "median",
    "p99",
    "pss",
    "reap_orphans",
    "rotated",
    "run",
    "spawn",
]


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


def run(argv: list[str]) -> Run:
    """
    Run a program to its end.

    Raises:
        Failed: Its exit status is not 0.
    """
    with _pipe() as (out, into), open(os.memfd_create("stderr"), "r+b") as errors, open(os.devnull, "rb") as null:
        began = time.monotonic_ns()
        pid = spawn(argv, stdin=null.fileno(), stdout=into, stderr=errors.fileno())
        _, status, usage = os.wait4(pid, 0)
        known = time.monotonic_ns()
        if status:
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip().splitlines()
            code = os.waitstatus_to_exitcode(status)
            raise Failed(said[-1] if said else f"{argv[0]}: exit status {code}")
        return Run(
            began=began, known=known, stamps=_stamps(_read_all(out).split(b"\n")), cpu=usage.ru_utime + usage.ru_stime
        )


def spawn(argv: list[str], *, stdin: int, stdout: int, stderr: int) -> int:
    """Start a program with these descriptors; its pid."""
    actions = [(os.POSIX_SPAWN_DUP2, given, number) for number, given in enumerate((stdin, stdout, stderr))]
    return os.posix_spawn(argv[0], argv, os.environ, file_actions=actions)


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
    return {word[0]: int(word[1]) for word in words if len(word) == 2 and word[0] in ("first", "last", "known")}


class Announced:
    """Counts the programs that have said that they run, each a line in one pipe."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._seen = 0

    def wait(self, count: int) -> None:
        """
        Wait until there are so many.

        Raises:
            Failed: There is nothing new for a minute.
        """
        while self._seen < count:
            if not select.select([self._descriptor], [], [], 60)[0]:
                raise Failed(f"after a minute only {self._seen} of {count} run")
            said = os.read(self._descriptor, 1 << 16)
            if not said:
                raise Failed("programs that should wait have ended")
            self._seen += said.count(b"\n")


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
    """
    Wait until all children have ended, also those that programs have left behind, PR_SET_CHILD_SUBREAPER(2const).

    What has not after ten seconds is killed.
    """
    deadline = time.monotonic() + 10
    with suppress(ChildProcessError):
        while True:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                time.sleep(0.01)
                if time.monotonic() > deadline:
                    for child in descendants(os.getpid())[1:]:
                        os.kill(child, signal.SIGKILL)


# --- figures ---


def rotated(names: Sequence[str], turn: int) -> list[str]:
    """The same in another order in each turn, so that nobody is always measured after the same one."""
    start = turn % len(names)
    return [*names[start:], *names[:start]]


def median(values: Sequence[float]) -> float:
    """The one in the middle."""
    return statistics.median(values)


def p99(values: Sequence[float]) -> float:
    """One that 99 of 100 do not exceed; of few values it is the highest."""
    return sorted(values)[min(len(values) - 1, int(len(values) * 0.99))]
