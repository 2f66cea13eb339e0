"""The process that holds namespaces until the first process of a container enters them: it ends with its launcher."""

from __future__ import annotations

import ctypes
import os
import signal
from contextlib import suppress
from pathlib import Path

import pytest
import trio

import pysuper
from machine import alive, children, wait_until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="ordinary users' containers are born in their namespaces")

# ptrace(2), linux/ptrace.h
SEIZE, DETACH, GETEVENTMSG = 0x4206, 17, 0x4201
OPTION_TRACEFORK, EVENT_FORK = 2, 1
WALL = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def ptrace(request: int, pid: int, data: object = None) -> None:
    if _libc.ptrace(ctypes.c_long(request), ctypes.c_long(pid), None, data) < 0:
        raise OSError(ctypes.get_errno(), "ptrace")


def stopped_by(pid: int) -> int | None:
    """The event of ptrace(2) that a process has stopped for; None if it has not."""
    ended, status = os.waitpid(pid, os.WNOHANG | WALL)
    return status >> 16 if ended else None


async def stop_at_its_holder(launcher: int) -> int:
    """Let a launcher that is traced go on until it has made one; its pid. Neither of them runs then."""
    while (event := stopped_by(launcher)) is None:
        await trio.sleep(0.001)
    assert event == EVENT_FORK
    found = ctypes.c_ulong()
    ptrace(GETEVENTMSG, launcher, ctypes.byref(found))
    while stopped_by(found.value) is None:
        await trio.sleep(0.001)
    return found.value


def waits(pid: int) -> bool:
    """Whether a process sleeps, proc_pid_stat(5)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


@pytest.mark.parametrize("it", ["has just been made", "waits"])
async def test_a_holder_ends_if_its_launcher_is_killed_while_it(spec, it: str) -> None:
    before = children()
    async with pysuper.open_supervisor() as supervisor, trio.open_nursery() as nursery:
        (launcher,) = children() - before
        ptrace(SEIZE, launcher, ctypes.c_long(OPTION_TRACEFORK))
        nursery.start_soon(supervisor.start, spec("true"))  # by the next launcher
        holder = await stop_at_its_holder(launcher)
        try:
            if it == "waits":
                ptrace(DETACH, holder)
                assert await trio.to_thread.run_sync(wait_until, lambda: waits(holder))
                os.kill(launcher, signal.SIGKILL)
            else:
                os.kill(launcher, signal.SIGKILL)
                assert await trio.to_thread.run_sync(wait_until, lambda: not alive(launcher))
                ptrace(DETACH, holder)
            assert await trio.to_thread.run_sync(wait_until, lambda: not alive(holder))
        finally:  # or it would keep the sockets of the launcher, and everybody waiting
            with suppress(ProcessLookupError):
                os.kill(holder, signal.SIGKILL)
