"""
The client's side of `protocol`: asks the supervisor of a project. With the standard library only, to start fast.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from pysuper.errors import CommandNotExecutable, CommandNotFound, ConfigError, PysuperError, describe_errno
from pysuper.launcher.wire import descriptors_of
from pysuper.stack.project import Project
from pysuper.stack.protocol import MAX_REQUEST, Lines, address, encode

__all__ = ["Connection", "NotRunning", "ask", "connect"]

_CHUNK = 65536
_ERRORS = {error.exit_code: error for error in (PysuperError, ConfigError, CommandNotExecutable, CommandNotFound)}


class NotRunning(PysuperError):
    """There is no supervisor for this project."""

    def __init__(self, project: Project) -> None:
        super().__init__(
            f"the stack {project.name!r} is not running",
            remedy="start it with `pysuper up FILE`; `pysuper logs` and `pysuper why` know what happened before",
        )


def ask(project: Project, operation: str, **arguments: Any) -> Any:
    """
    Ask for one thing, and wait for the answer.

    Raises:
        NotRunning: There is nobody to ask.
        PysuperError: It cannot be done; several errors are an exception group.
    """
    with connect(project) as connection:
        connection.send({"do": operation, **arguments})
        return connection.answer()


@contextmanager
def connect(project: Project) -> Iterator[Connection]:
    """
    A connection, for one request.

    Raises:
        NotRunning: There is no supervisor.
        PysuperError: It is somebody else's.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
        try:
            with address(project.control) as path:
                channel.connect(path)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise NotRunning(project) from error
        except OSError as error:
            what = describe_errno(error.errno or 0)
            raise PysuperError(f"could not reach the supervisor of {project.name!r}: {what}") from error
        yield Connection(channel)


class Connection:
    """
    One request, and what follows from it.

    Attributes:
        descriptors: That came with answers; the caller's to close.
    """

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._lines = Lines()
        self._answers: list[bytes] = []
        self.descriptors: list[int] = []

    def fileno(self) -> int:
        """For poll(2): readable when there may be an answer."""
        return self._channel.fileno()

    def send(self, message: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        """
        Send one message.

        Raises:
            ConfigError: It is longer than a request may be.
        """
        line = encode(message)
        if len(line) > MAX_REQUEST:
            raise ConfigError(f"the request has {len(line)} bytes, and may have {MAX_REQUEST}", remedy="shorten it")
        # Who refuses a request does not wait for all of it: the answer says why.
        with suppress(BrokenPipeError, ConnectionResetError):
            sent = socket.send_fds(self._channel, [line], list(descriptors)) if descriptors else 0
            self._channel.sendall(line[sent:])

    def answer(self) -> Any:
        """
        Wait for the next answer.

        Raises:
            PysuperError: It is an error, or does not come.
        """
        while not self._answers:
            # Not socket.recv_fds, which ignores its flags: what the client starts would get the descriptor.
            space = socket.CMSG_SPACE(4)
            try:
                data, ancillary, _, _ = self._channel.recvmsg(_CHUNK, space, socket.MSG_CMSG_CLOEXEC)
            except ConnectionResetError:
                data, ancillary = b"", []
            if not data:
                raise PysuperError("the supervisor ended, or refused to talk to this user, before it answered")
            self.descriptors += [fd for message in ancillary for fd in descriptors_of(message)]
            self._answers += self._lines.feed(data)
        return _unwrap(self._answers.pop(0))


def _unwrap(line: bytes) -> Any:
    """What an answer says, or the errors in it."""
    message = json.loads(line)
    if "error" not in message:
        return message["ok"]
    kind = _ERRORS.get(message["exit"], PysuperError)
    errors = [kind(text) for text in message["error"].splitlines()]
    if len(errors) == 1:
        raise errors[0]
    raise ExceptionGroup("the supervisor refused", errors)
