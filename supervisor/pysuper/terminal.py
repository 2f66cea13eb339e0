"""
Between the user's descriptors 0 to 2 and a container's.

A container never holds the user's terminal: through it, it could read what is typed for the shell,
and type commands for it (TIOCSTI, CVE-2017-5226). It gets a pseudo-terminal of its own, or else a
pipe in place of each descriptor that is a terminal; bytes are relayed. Any other descriptor it gets
as it is.

The user's descriptors stay in blocking mode: the shell shares their open file descriptions, and
would find O_NONBLOCK on its own. They are read when epoll says that something is there; regular
files, which epoll does not take, are read in a thread. They are written in a thread as well: a
terminal is called writable when it has room for one byte, and a write of more would block
everything.
"""

from __future__ import annotations

import math
import os
import select
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import trio
from trio.lowlevel import FdStream

from pysuper.screen import (
    BACKLOG as _BACKLOG,
    PATIENCE as _PATIENCE,
    copy_size,
    end_of_file_key,
    find_screen,
    in_background,
    make_pipes,
    raw_mode,
)

__all__ = ["Pipes", "Relay", "relay_terminal"]

_CHUNK = 65536


class Relay:
    """What copies between the user and a container, inside of the context that yields it."""

    def __init__(self, outlets: Sequence[_Outlet]) -> None:
        self._outlets = outlets

    async def drain(self) -> None:
        """When the container has ended, wait until the user has all of its output."""
        for outlet in self._outlets:
            outlet.expect_end()
        for outlet in self._outlets:
            await outlet.ended.wait()


@asynccontextmanager
async def relay_terminal(
    master: int, hang_up: Callable[[], None], *, stdio: Sequence[int] = (0, 1, 2)
) -> AsyncIterator[Relay]:
    """
    Connect the user with a container's pseudo-terminal.

    Args:
        master: Of the pseudo-terminal; stays the caller's, who may close it meanwhile.
        hang_up: Called when the user's side has gone, so that nobody reads the output any more.
        stdio: The user's descriptors. They stay open: a thread that uses one may be left behind.
    """
    stdin, stdout, _ = stdio
    stream = FdStream(os.dup(master))
    outlet = _Outlet(stream, stdout, hang_up)
    screen = find_screen(stdio)
    async with stream, trio.open_nursery() as nursery:
        with raw_mode(stdin):
            if screen is not None:
                await nursery.start(_keep_size, screen, stream.fileno())
            nursery.start_soon(_type, _Source(stdin), stream)
            nursery.start_soon(outlet.run)
            yield Relay([outlet])
        nursery.cancel_scope.cancel()


async def _keep_size(screen: int, master: int, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """Give a pseudo-terminal the size of the user's, now and when that changes; ioctl_tty(2)."""
    with trio.open_signal_receiver(signal.SIGWINCH) as changes:
        copy_size(screen, master)
        task_status.started()
        async for _ in changes:
            copy_size(screen, master)


async def _type(source: _Source, stream: FdStream) -> None:
    """Type what the user types."""
    try:
        while data := await source.read():
            await stream.send_all(data)
        if os.isatty(source.fd):
            return  # hung up; SIGHUP tells the container
        # A terminal has no end of file, only a key that says so to whoever reads at this moment,
        # and that ends just the line when there is one. So it is typed again, until the command has
        # ended.
        delay = 0.1
        while True:
            await stream.send_all(end_of_file_key(stream.fileno()))
            await trio.sleep(delay)
            delay *= 2
    except trio.BrokenResourceError:
        pass  # every process has closed its side


class Pipes:
    """
    A pipe in place of each of the user's descriptors that is a terminal; a context manager.

    Attributes:
        given: The descriptors for the container.
    """

    def __init__(self, stdio: Sequence[int] = (0, 1, 2)) -> None:
        self.given, ours, self._theirs = make_pipes(stdio)
        self._stdio = stdio
        self._ours = {index: FdStream(fd) for index, fd in ours.items()}

    def __enter__(self) -> Pipes:
        return self

    def __exit__(self, *_exception: object) -> None:
        for theirs in self._theirs:
            theirs.close()
        for ours in self._ours.values():
            ours.close()

    @asynccontextmanager
    async def relay(self) -> AsyncIterator[Relay]:
        """Copy; the container has its ends by now, and those that are held here are closed."""
        for end in self._theirs:
            end.close()
        # When the user's side has gone, the command finds out as it writes (SIGPIPE).
        outlets = [
            _Outlet(stream, self._stdio[index], stream.close) for index, stream in self._ours.items() if index != 0
        ]
        async with trio.open_nursery() as nursery:
            if 0 in self._ours:
                nursery.start_soon(_pour, _Source(self._stdio[0]), self._ours[0])
            for outlet in outlets:
                nursery.start_soon(outlet.run)
            yield Relay(outlets)
            nursery.cancel_scope.cancel()


async def _pour(source: _Source, stream: FdStream) -> None:
    """Copy what the user types into a pipe, and close it at the end."""
    async with stream:
        try:
            while data := await source.read():
                await stream.send_all(data)
        except trio.BrokenResourceError:
            pass  # nobody reads it


class _Source:
    """One of the user's descriptors, to read from."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        with select.epoll() as epoll:
            try:
                epoll.register(fd, select.EPOLLIN)
                self._pollable = True
            except PermissionError:  # epoll_ctl(2): a regular file, or /dev/null
                self._pollable = False

    async def read(self) -> bytes:
        """Some bytes; none at the end, which is also where reading fails."""
        try:
            return await self._read()
        except OSError:  # it has hung up, or cannot be read at all: nohup(1) opens it for writing only
            return b""

    async def _read(self) -> bytes:
        if not self._pollable:
            return await trio.to_thread.run_sync(os.read, self.fd, _CHUNK, abandon_on_cancel=True)
        while True:
            await trio.lowlevel.wait_readable(self.fd)
            if in_background(self.fd):
                await trio.sleep(0.2)  # what is typed is not for us
                continue
            try:
                return os.read(self.fd, _CHUNK)
            except BlockingIOError:  # somebody else was faster
                continue


class _Outlet:
    """Copies a container's output to one of the user's descriptors."""

    def __init__(self, stream: FdStream, fd: int, lost: Callable[[], None]) -> None:
        self.ended = trio.Event()
        self._stream = stream
        self._fd = fd
        self._lost = lost
        self._patience = math.inf
        self._backlog: float = math.inf
        self._receiving = trio.CancelScope()

    async def run(self) -> None:
        """Copy until the container closes its side; if the user's is closed, call `lost`."""
        try:
            while self._backlog > 0 and (data := await self._receive()):
                self._backlog -= len(data)
                await self._write(data)
        except OSError:
            self._lost()
        finally:
            self.ended.set()

    def expect_end(self) -> None:
        """The container has ended: take what is left, and do not wait for more than `_PATIENCE`."""
        self._patience, self._backlog = _PATIENCE, _BACKLOG
        self._receiving.deadline = trio.current_time() + self._patience

    async def _receive(self) -> bytes:
        with trio.move_on_after(self._patience) as self._receiving:
            try:
                return bytes(await self._stream.receive_some(_CHUNK))
            except trio.BrokenResourceError:  # EIO: a pseudo-terminal that no process has open
                pass
        return b""

    async def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                written = await trio.to_thread.run_sync(os.write, self._fd, rest, abandon_on_cancel=True)
            except BlockingIOError:  # the user's shell has set O_NONBLOCK
                await trio.lowlevel.wait_writable(self._fd)
            else:
                rest = rest[written:]
