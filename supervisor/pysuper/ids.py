"""
Host ids for user namespaces: 65,536 for each container, which no other container of this machine has.

A supervisor takes *blocks* of 64 such ranges, by binding an abstract unix socket that is named after the block: the
kernel lets one process have a name, and frees it when that process ends, however it ends. No state is kept on disk.
"""

from __future__ import annotations

import errno
import random
import socket

from pysuper.errors import PysuperError

__all__ = ["RANGE", "IdRanges", "reserve"]

#: Ids of one container: all that a user of a distribution's files expects, systemd.exec(5) and subuid(5) agree.
RANGE = 65536
_RANGES_PER_BLOCK = 64
_BLOCK = RANGE * _RANGES_PER_BLOCK
#: Between the ranges that systemd-nspawn and /etc/subuid use and 2^31, where some file systems stop.
_FIRST, _LAST = 0x20000000, 0x7FFF0000
_ATTEMPTS = 1000


def reserve(name: str) -> socket.socket | None:
    """
    Ids of that name, for as long as the socket is open; None if somebody has them.

    Raises:
        PysuperError: The kernel has no socket for it.
    """
    lock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        lock.bind(f"\0{name}")
    except OSError as error:
        lock.close()
        if error.errno != errno.EADDRINUSE:
            raise PysuperError(f"could not reserve ids for a user namespace: {error}") from error
        return None
    return lock


class IdRanges:
    """The ranges of one supervisor. `allocate` and `release`; `close` gives all blocks back."""

    def __init__(self) -> None:
        self._locks: list[socket.socket] = []
        self._free: list[int] = []

    def allocate(self) -> int:
        """The first id of a range that is now the caller's."""
        if not self._free:
            base = self._take_block()
            self._free = [base + n * RANGE for n in reversed(range(_RANGES_PER_BLOCK))]
        return self._free.pop()

    def release(self, base: int) -> None:
        """Give a range back; nothing may run with its ids any more."""
        self._free.append(base)

    def close(self) -> None:
        """Give every block back."""
        while self._locks:
            self._locks.pop().close()

    def _take_block(self) -> int:
        for _ in range(_ATTEMPTS):
            block = random.randrange(_FIRST // _BLOCK, _LAST // _BLOCK)
            if lock := reserve(f"pysuper-ids-{block}"):
                self._locks.append(lock)
                return block * _BLOCK
        raise PysuperError("no free ids for a user namespace", remedy="--share user does without")
