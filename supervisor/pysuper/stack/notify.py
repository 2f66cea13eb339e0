"""
The socket at which a container reports: READY=1, STATUS=... , STOPPING=1. sd_notify(3).

Each container has one of its own, so that no credentials are needed to know who reports.
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import trio

__all__ = ["NotifySocket", "open_notify_socket"]

#: A report is a few lines; what is longer is cut off.
_MAX_REPORT = 4096


@attrs.frozen
class NotifySocket:
    """`path` is where it is bound, for the container's mount."""

    path: str
    _socket: trio.socket.SocketType

    async def receive(self) -> dict[str, str]:
        """
        The assignments of the next report.

        Descriptors that come with it (FDSTORE=1) are closed by the kernel: no room is given for them, recvmsg(2).
        """
        text = (await self._socket.recv(_MAX_REPORT)).decode(errors="replace")
        pairs = (line.partition("=") for line in text.splitlines())
        return {name: value for name, equals, value in pairs if equals}


@asynccontextmanager
async def open_notify_socket(directory: str, name: str) -> AsyncIterator[NotifySocket]:
    """
    Bind a socket in a directory of ours, and remove it at the end.

    Args:
        directory: Nobody else may enter it; the container sees only the socket, by a mount.
    """
    path = os.path.join(directory, name)
    at = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    with trio.socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        try:
            # By descriptor, since a path in an address has at most 107 bytes, unix(7).
            await bound.bind(f"/proc/self/fd/{at}/{name}")
            os.chmod(path, 0o666)  # whatever user the container runs as
            yield NotifySocket(path, bound)
        finally:
            os.close(at)
            if os.path.lexists(path):
                os.unlink(path)
