"""Making the directories of a container's cgroup; removing them with everything in them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from pysuper.errors import StuckError
from pysuper_plugins.cgroup import files

__all__ = ["emptied", "made", "make", "remove"]

#: Seconds that processes have to be gone after SIGKILL, before they are reported as stuck.
_BOUND = 2.0


@asynccontextmanager
async def made(
    driver: str,
    directories: Iterable[str],
    *,
    configure: Callable[[], None],
    kill: Callable[[], None],
) -> AsyncIterator[None]:
    """
    The directories of one container, as long as the block runs; afterwards what is left in them is
    killed.

    Args:
        driver: For messages.
        directories: To make. One that exists is somebody else's, and an error.
        configure: Called when all are made; if it raises, they are removed again.
        kill: Sends SIGKILL to everything in them.

    Raises:
        DriverError: One cannot be made.
        StuckError: At the end; see `remove`.
    """
    make(driver, directories, configure)
    try:
        yield
    finally:
        # However the container ended, its processes end now: a cancelled clean-up would leave them
        # running.
        if left := _left(directories):
            with trio.CancelScope(shield=True):
                await remove(driver, left, kill)


def make(driver: str, directories: Iterable[str], configure: Callable[[], None]) -> None:
    """
    Make the directories of one container, or none of them; see `made`.

    Raises:
        DriverError: One cannot be made.
    """
    done: list[str] = []
    try:
        for directory in directories:
            _make(driver, directory)
            done.append(directory)
        configure()
    except BaseException:
        _left(done)  # in which nobody has been yet
        raise


def _make(driver: str, directory: str) -> None:
    try:
        os.mkdir(directory, 0o755)
    except OSError as error:
        remedy = "the directory above must be a cgroup that the supervisor may write to"
        if isinstance(error, FileExistsError):
            remedy = "a container of that id exists, or one was left behind: then rmdir it"
        raise files.refused(driver, f"make {directory}", error, remedy) from error


async def remove(driver: str, directories: Iterable[str], kill: Callable[[], None]) -> None:
    """
    Kill what is in cgroups and remove them.

    Raises:
        StuckError: After 2 s there still is one that cannot be removed.
    """
    await _until(_left, driver, directories, kill)


async def emptied(driver: str, directories: Iterable[str], kill: Callable[[], None]) -> None:
    """
    Kill what is in cgroups, and remove those below them.

    Raises:
        StuckError: After 2 s there still is something in one.
    """
    await _until(_occupied, driver, directories, kill)


async def _until(
    left_of: Callable[[Iterable[str]], list[str]], driver: str, directories: Iterable[str], kill: Callable[[], None]
) -> None:
    """
    Kill, until none of the directories is left.

    A process leaves its cgroup in the middle of exiting, so that rmdir(2) answers EBUSY for under a
    millisecond after the last one was seen to be gone, and for longer after a SIGKILL: hence the
    retries.
    """
    deadline, pause = trio.current_time() + _BOUND, 0.001
    left = left_of(directories)
    while left:
        kill()
        left = left_of(left)
        if left and trio.current_time() >= deadline:
            raise _stuck(driver, left)
        if left:
            await trio.sleep(pause)
            pause = min(2 * pause, 0.1)


def _left(directories: Iterable[str]) -> list[str]:
    """Try to remove cgroups; those that are not gone."""
    return [directory for directory in directories if not _removed(directory)]


def _occupied(directories: Iterable[str]) -> list[str]:
    """Try to remove what is below cgroups; those that something is in."""
    return [directory for directory in directories if not _vacant(directory)]


def _vacant(directory: str) -> bool:
    # A directory of a cgroup has two links, and one of each below it.
    if os.stat(directory).st_nlink > 2 and not all(map(_removed, files.below(directory))):
        return False
    return not files.read(f"{directory}/cgroup.procs")


def _removed(directory: str) -> bool:
    """Try to remove a cgroup, after those below it if there are any; whether it is gone."""
    try:
        os.rmdir(directory)
    except FileNotFoundError:
        return True
    except OSError:
        below = files.below(directory)
        return bool(below) and all(map(_removed, below)) and _removed(directory)
    return True


def _stuck(driver: str, directories: list[str]) -> StuckError:
    pids = files.processes(directories)
    named = ", ".join(_describe(pid) for pid in pids) or "nothing that is seen from here"
    return StuckError(
        f"cgroup {driver}: not gone {_BOUND:g} s after SIGKILL: {named}; left behind: {', '.join(directories)}",
        remedy="thaw the cgroup above if it is frozen; rmdir them when the processes are gone",
    )


def _describe(pid: int) -> str:
    """`12 (sleep, D (disk sleep))`, proc_pid_status(5)."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(errors="replace").split("\n")
    except OSError:
        return f"{pid} (gone just now)"
    status = dict(line.split(":", 1) for line in lines if ":" in line)
    return f"{pid} ({status['Name'].strip()}, {status['State'].strip()})"
