"""
The output of one run: two pipes, from which lines go to the journal in order of arrival.

All runs of a stack take turns, a chunk each, so that a hundred that flood their output leave the supervisor free to
answer between two chunks. Nothing is read ahead: a pipe that is not read makes its writer wait (LogMode.BLOCK), and
what is above the allowance is thrown away and counted (LogMode.DROP). Either way memory is bounded.
"""

from __future__ import annotations

import fcntl
import os
import re
import sys
import termios
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from pysuper.stack.journal import Journal, LineSplitter
from pysuper.stack.spec import LogMode

__all__ = ["LOG_RATE", "Output"]

#: Bytes of one turn; small, since lines of one byte take a thousand times their length in work.
_CHUNK = 8192
#: LogMode.DROP: bytes a second that are kept, and may come at once.
LOG_RATE = 2**20
#: Seconds that an ended container's output may stay open: a process that was given a descriptor may hold it.
_PATIENCE = 1.0
_STREAMS = ("stdout", "stderr")


class Output:
    """
    The pipes of one run; an asynchronous context manager, which on exit takes what is left in them.

    Attributes:
        stdout, stderr: The container's ends, until `started` closes them here.
    """

    def __init__(self, journal: Journal, name: str, run: int, mode: LogMode, turns: trio.Lock) -> None:
        self._journal = journal
        self._name = name
        self._run = run
        self._mode = mode
        self._turns = turns
        self._expected: tuple[re.Pattern[bytes], trio.Event] | None = None
        self._ends: list[int] = []
        self._readers: list[int] = []
        try:
            for _ in _STREAMS:
                read, write = os.pipe()
                self._readers.append(read)
                self._ends.append(write)
        except OSError:  # out of descriptors, of which those are needed that there are
            for descriptor in (*self._readers, *self._ends):
                os.close(descriptor)
            raise
        self.stdout, self.stderr = self._ends

    def started(self) -> None:
        """The container has its ends now (or never will): close them here, so that the pipes can end."""
        while self._ends:
            os.close(self._ends.pop())

    def expect(self, pattern: str, event: trio.Event) -> None:
        """Set the event when a line matches, somewhere in it."""
        self._expected = (re.compile(pattern.encode()), event)

    @asynccontextmanager
    async def collected(self) -> AsyncIterator[None]:
        """Collect meanwhile, and afterwards what is left."""
        async with trio.open_nursery() as nursery:
            for stream, reader in zip(_STREAMS, self._readers, strict=True):
                nursery.start_soon(self._collect, stream, reader)
            try:
                yield
            finally:
                self.started()
                nursery.cancel_scope.deadline = trio.current_time() + _PATIENCE

    async def _collect(self, stream: str, reader: int) -> None:
        splitter = LineSplitter()
        drops = _Drops(self._journal, self._name, self._run) if self._mode is LogMode.DROP else None
        try:
            while True:
                await trio.lowlevel.wait_readable(reader)
                if not _waiting(reader):  # that is the end
                    break
                async with self._turns:
                    chunk = os.read(reader, _CHUNK)  # of which nobody else reads, so that it does not block
                    if drops is None or drops.allows(chunk):
                        self._take(stream, splitter.feed(chunk))
        finally:
            self._take_the_rest(stream, splitter, reader)
            os.close(reader)
            self._take(stream, splitter.finish())
            if drops is not None:
                drops.report()

    def _take_the_rest(self, stream: str, splitter: LineSplitter, reader: int) -> None:
        """What an ended container has written is still in the pipe, if many others had their turns."""
        count = _waiting(reader)
        if count and self._mode is LogMode.BLOCK:
            self._take(stream, splitter.feed(os.read(reader, count)))

    def _take(self, stream: str, lines: bytes) -> None:
        self._journal.output(self._name, self._run, stream, lines)
        if self._expected is not None:
            pattern, event = self._expected
            if any(pattern.search(line) for line in lines.split(b"\n")):
                event.set()
                self._expected = None


def _waiting(reader: int) -> int:
    """How many bytes are in a pipe, pipe(7)."""
    return int.from_bytes(fcntl.ioctl(reader, termios.FIONREAD, bytes(4)), sys.byteorder)


class _Drops:
    """What is above the allowance: a bucket of LOG_RATE bytes that fills by as many a second."""

    def __init__(self, journal: Journal, name: str, run: int) -> None:
        self._journal = journal
        self._name = name
        self._run = run
        self._allowance = float(LOG_RATE)
        self._filled_at = time.monotonic()
        self._lines = 0
        self._bytes = 0

    def allows(self, chunk: bytes) -> bool:
        """Whether to keep this chunk; otherwise it is counted."""
        now = time.monotonic()
        self._allowance = min(LOG_RATE, self._allowance + (now - self._filled_at) * LOG_RATE)
        self._filled_at = now
        # Once something was dropped, not before a quarter of a second's worth can be kept in one piece.
        if self._allowance < max(len(chunk), LOG_RATE / 4 if self._bytes else 0):
            self._lines += chunk.count(b"\n")
            self._bytes += len(chunk)
            return False
        self._allowance -= len(chunk)
        self.report()
        return True

    def report(self) -> None:
        """Say what was dropped since the last time."""
        if self._bytes:
            counted = {"lines": self._lines, "bytes": self._bytes}
            self._journal.write("dropped", container=self._name, run=self._run, **counted)
            self._lines = self._bytes = 0
