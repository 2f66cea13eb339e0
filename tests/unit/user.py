"""Runs the command line as a user does: to its end, meanwhile, or on a terminal."""

from __future__ import annotations

import os
import subprocess
import sys
import termios
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import attrs
import trio
from trio.lowlevel import FdStream

PYSUPER = [sys.executable, "-m", "pysuper"]


async def pysuper(*argv: str, **options: Any) -> str:
    """Run a command that succeeds; its output."""
    done = await finished(*argv, **options)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


async def failure(*argv: str, **options: Any) -> tuple[int, str]:
    """Run a command that fails; its exit status, and its error."""
    done = await finished(*argv, **options)
    assert done.stdout == ""
    return done.returncode, done.stderr


async def finished(*argv: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    with trio.fail_after(30):
        done = await trio.run_process(
            [*PYSUPER, *argv], capture_stdout=True, capture_stderr=True, check=False, **options
        )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


async def eventually(condition: Callable[[], object]) -> None:
    """Wait until it holds."""
    with trio.fail_after(20):
        while not condition():
            await trio.sleep(0.005)


@asynccontextmanager
async def meanwhile(*argv: str, **options: Any) -> AsyncIterator[trio.Process]:
    """A command that goes on inside; what is left of it afterwards is killed."""
    process = await trio.lowlevel.open_process([*PYSUPER, *argv], **options)
    try:
        with trio.fail_after(30):
            yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def read(stream: trio.abc.ReceiveStream, until: bytes | None) -> bytes:
    """Read until something comes; None is the end."""
    data = b""
    while until is None or until not in data:
        more = await stream.receive_some()
        if not more:
            assert until is None, data
            break
        data += more
    return data


@attrs.frozen
class Terminal:
    """
    A command on a terminal.

    Attributes:
        slave: A descriptor of the terminal, as the command has it.
    """

    process: trio.Process
    slave: int
    _master: FdStream

    async def expect(self, text: bytes) -> bytes:
        """Read until this comes."""
        return await read(self._master, text)

    def type(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self._master.fileno(), keys)

    def resize(self, rows: int, columns: int) -> None:
        """Draw at the corner of the window."""
        termios.tcsetwinsize(self._master.fileno(), (rows, columns))


@asynccontextmanager
async def on_terminal(*argv: str, **stdio: Any) -> AsyncIterator[Terminal]:
    """
    A command on a terminal of 40 rows and 111 columns, which controls it.

    Args:
        stdio: What is not the terminal: `stdin`, `stdout`, `stderr`.
    """
    master, slave = os.openpty()
    termios.tcsetwinsize(slave, (40, 111))
    try:
        # It does not fork, since it leads no process group: its pid is that of the command.
        given = {"stdin": slave, "stdout": slave, "stderr": slave, **stdio}
        session = ["setsid", *(["--ctty"] if given["stdin"] == slave else []), *PYSUPER, *argv]
        process = await trio.lowlevel.open_process(session, **given)
        async with FdStream(os.dup(master)) as stream:
            try:
                with trio.fail_after(30):
                    yield Terminal(process, slave, stream)
            finally:
                with suppress(ProcessLookupError):
                    process.kill()
                with trio.CancelScope(shield=True):
                    await process.wait()
    finally:
        os.close(master)
        os.close(slave)
