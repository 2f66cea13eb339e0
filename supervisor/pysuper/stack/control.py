"""
The control socket of a running stack: lets clients in, reads their requests, and answers.

A client is root, or whoever runs the supervisor; anybody else finds a closed connection, should the directory ever let
them get so far. What a client sends is bounded in size and time, and no client can do more harm than to be refused.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

import trio

from pysuper.errors import ConfigError, PysuperError, one_line
from pysuper.launcher.wire import descriptors_of
from pysuper.stack.operations import Operations
from pysuper.stack.postmortem import Because
from pysuper.stack.project import Project
from pysuper.stack.protocol import MAX_REQUEST, Lines, Request, TooLong, address, encode, parse_request, parse_signal
from pysuper.stack.spec import StackSpec
from pysuper.stack.stack import Stack

__all__ = ["serve_control"]

#: Clients at a time; one more is refused, since it would otherwise wait without a word.
_MAX_CLIENTS = 64
#: Seconds in which a client that has connected sends its request.
_REQUEST_PATIENCE = 10.0
#: Seconds in which it takes the answer. The supervisor's end waits for that, too.
_ANSWER_PATIENCE = 5.0
#: Seconds until the next attempt when there is no descriptor for a client.
_ACCEPT_PAUSE = 0.1
_CHUNK = 65536
#: Descriptors of a request.
_MAX_DESCRIPTORS = 3


async def serve_control(
    stack: Stack,
    project: Project,
    load: Callable[[], StackSpec],
    down: Callable[[Because], None],
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """
    Serve clients until cancelled, as a task.

    Args:
        project: Locked by the caller, who has cleared its directory, and will again.
        load: Reads the file again.
        down: Lets the stack end; returns at once.
    """
    operations = Operations(stack, load, down)
    clients = trio.Semaphore(_MAX_CLIENTS)
    async with _listen(project.control) as listener, trio.open_nursery() as nursery:
        with _Spare() as spare:
            task_status.started()
            while True:
                try:
                    channel, _ = await listener.accept()
                except OSError:  # accept(2): out of descriptors or memory, or the client has gone already
                    if not spare.give():
                        await trio.sleep(_ACCEPT_PAUSE)
                    continue
                nursery.start_soon(_admit, channel, clients, operations, nursery)
                spare.take()


class _Spare:
    """
    A descriptor that is kept for a client: who has none left has to be asked what holds them, and told to stop it.
    """

    def __init__(self) -> None:
        self._descriptor: int | None = None

    def __enter__(self) -> _Spare:
        self.take()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.give()

    def take(self) -> None:
        """Keep one, if there is one."""
        if self._descriptor is None:
            with suppress(OSError):
                self._descriptor = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def give(self) -> bool:
        """Let it go; whether there was one."""
        self.take()  # somebody may have closed one meanwhile
        if self._descriptor is None:
            return False
        os.close(self._descriptor)
        self._descriptor = None
        return True


@asynccontextmanager
async def _listen(control: Path) -> AsyncIterator[trio.socket.SocketType]:
    with address(control) as path, trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        # bind(2) takes the mode of the file from that of the socket: nobody finds it with another one.
        os.fchmod(listener.fileno(), 0o600)
        await listener.bind(path)
        listener.listen(_MAX_CLIENTS)
        yield listener


async def _admit(
    channel: trio.socket.SocketType, clients: trio.Semaphore, operations: Operations, nursery: trio.Nursery
) -> None:
    """Serve a client, if it may be one and if there are not too many of them."""
    with closing(channel):  # its own `__exit__` would not tell the task that still reads from it
        client = Client(channel)
        if client.uid not in (0, os.geteuid()):
            return
        try:
            clients.acquire_nowait()
        except trio.WouldBlock:
            await client.send(_failure(PysuperError(f"{_MAX_CLIENTS} clients are served already; try again")))
            return
        try:
            await _serve(client, operations, nursery)
        finally:
            clients.release()
            client.close_descriptors()


async def _serve(client: Client, operations: Operations, nursery: trio.Nursery) -> None:
    """One request, and its answer; whatever goes wrong is the answer."""
    with trio.CancelScope() as present:
        try:
            request = await client.request()
            nursery.start_soon(client.attend, present)
            answer = encode({"ok": await operations.perform(request, client)})
        except ClientGone:
            return
        except Exception as error:
            answer = _failure(error)
        await client.send(answer)


def _failure(error: Exception) -> bytes:
    """What a client is told about an error."""
    if isinstance(error, PysuperError):
        return encode({"error": str(error), "exit": error.exit_code})
    text = one_line(f"unexpected {type(error).__name__}: {error}")
    return encode({"error": text, "exit": PysuperError.exit_code})


class ClientGone(Exception):
    """It has closed its side, or says nothing."""


class Client:
    """
    One connection.

    Attributes:
        uid, pid: Of the process that connected, SO_PEERCRED of unix(7).
        descriptors: That came with the request, if it may have some.
        on_signal: Called with a signal that the client passes on to the command that it runs.
    """

    def __init__(self, channel: trio.socket.SocketType) -> None:
        self._channel = channel
        self._lines = Lines(MAX_REQUEST)
        self.descriptors: list[int] = []
        credentials = channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("=iII"))
        self.pid, self.uid, _ = struct.unpack("=iII", credentials)
        self.on_signal: Callable[[int], None] = _ignore

    @property
    def because(self) -> Because:
        """Who makes happen what the request asks for."""
        return Because(by="operator", who=f"uid {self.uid}, pid {self.pid}")

    async def request(self) -> Request:
        """
        The request.

        Raises:
            ConfigError: It is none.
            ClientGone: It does not come.
        """
        lines: list[bytes] = []
        with trio.move_on_after(_REQUEST_PATIENCE):
            while not lines:
                lines = await self._receive(keep=_MAX_DESCRIPTORS)
        if not lines:
            raise ClientGone
        request = parse_request(lines[0])
        if request.operation != "exec":
            self.close_descriptors()
        return request

    async def attend(self, present: trio.CancelScope) -> None:
        """Until the client closes its side, take what it sends for signals; then cancel what it asked for."""
        with suppress(Exception):  # whatever it is, it is no reason to end a stack
            while True:
                for line in await self._receive(keep=0):
                    self.on_signal(parse_signal(line))
        present.cancel()

    async def _receive(self, *, keep: int) -> list[bytes]:
        """The lines of the next packet. No more than `keep` descriptors are taken; the kernel closes the others."""
        # CMSG_LEN, since the padding of CMSG_SPACE has room for one more descriptor, cmsg(3).
        space = socket.CMSG_LEN(4 * keep) if keep else 0
        try:
            data, ancillary, flags, _ = await self._channel.recvmsg(_CHUNK, space, socket.MSG_CMSG_CLOEXEC)
            self.descriptors += [fd for message in ancillary for fd in descriptors_of(message)]
            if not data:
                raise ClientGone
            if keep and (flags & socket.MSG_CTRUNC or len(self.descriptors) > keep):
                raise ConfigError(f"a request comes with {keep} descriptors at most")
            return self._lines.feed(data)
        except OSError as error:
            raise ClientGone from error
        except TooLong:
            raise ConfigError(f"a request has {MAX_REQUEST} bytes at most") from None

    def close_descriptors(self) -> None:
        """Close those that came with the request."""
        while self.descriptors:
            os.close(self.descriptors.pop())

    async def send(self, line: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send an answer, also when the stack ends meanwhile: the client has to know what became of its request."""
        rest = memoryview(line)
        rights = struct.pack(f"={len(descriptors)}i", *descriptors)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if descriptors else []
        with trio.move_on_after(_ANSWER_PATIENCE, shield=True), suppress(OSError):
            while rest:
                rest = rest[await self._channel.sendmsg([rest], ancillary) :]
                ancillary = []


def _ignore(_number: int) -> None:
    """No command runs that a signal could be passed on to."""
