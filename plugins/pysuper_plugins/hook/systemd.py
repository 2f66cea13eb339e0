"""
Tells systemd how a supervisor is doing that it runs as a service with `Type=notify`, sd_notify(3).

Where nobody asks, because there is no $NOTIFY_SOCKET, nothing is told: the same file can be run by hand.
"""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import trio

from pysuper.drivers import Hook, LifecycleEvent

__all__ = ["SystemdHook"]

#: What has happened last to a container that is as it should be.
_FINE = frozenset({"ready", "stopped"})


class SystemdHook(Hook):
    """READY=1 when every container is ready or done, STATUS= whenever something changes, and the watchdog's pings."""

    def __init__(self, options: object) -> None:
        super().__init__(options)
        self._containers: Mapping[str, LifecycleEvent | None] = {}
        self._address = os.environ.get("NOTIFY_SOCKET")
        self._is_ready = False

    @asynccontextmanager
    async def host(self, containers: Mapping[str, LifecycleEvent | None]) -> AsyncIterator[None]:
        self._containers = containers
        async with trio.open_nursery() as nursery:
            if interval := _watchdog_interval():
                nursery.start_soon(self._ping, interval)
            yield
            nursery.cancel_scope.cancel()
        await self._notify("STOPPING=1")

    async def started(self, event: LifecycleEvent) -> None:
        await self._tell()

    async def ready(self, event: LifecycleEvent) -> None:
        await self._tell()

    async def stopped(self, event: LifecycleEvent) -> None:
        await self._tell()

    async def restarted(self, event: LifecycleEvent) -> None:
        await self._tell()

    async def failed(self, event: LifecycleEvent) -> None:
        await self._tell()

    async def _tell(self) -> None:
        kinds = Counter(event.kind if event else "waiting" for event in self._containers.values())
        lines = ["STATUS=" + ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))]
        if not self._is_ready and kinds.keys() <= _FINE:
            self._is_ready = True
            lines.append("READY=1")
        await self._notify(*lines)

    async def _ping(self, interval: float) -> None:
        while True:
            await self._notify("WATCHDOG=1")
            await trio.sleep(interval)

    async def _notify(self, *lines: str) -> None:
        if self._address is None:
            return
        # "@" stands for the NUL of an abstract address, unix(7).
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with trio.socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            await channel.connect(address)
            await channel.send("\n".join(lines).encode())


def _watchdog_interval() -> float | None:
    """Seconds between two pings: half of what systemd waits for one; None if it does not. sd_watchdog_enabled(3)."""
    limit, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID")
    if not limit.isdecimal() or int(limit) == 0 or pid not in (None, str(os.getpid())):
        return None
    return int(limit) / 1e6 / 2
