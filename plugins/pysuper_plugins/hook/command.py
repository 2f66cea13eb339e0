"""
Pipes what happens to containers into a command: one JSON object a line, on its standard input.

    pysuper run --hook 'command:jq --unbuffered -c .' -- make test

The command is started with the supervisor, and sees the end of its input when everything has been told.
"""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import attrs
import trio

from pysuper.drivers import Hook, LifecycleEvent
from pysuper.errors import DriverError

__all__ = ["CommandHook"]

#: Seconds for the command to end by itself, once it has read everything.
_GRACE = 2.0


@attrs.frozen
class CommandOptions:
    """
    Attributes:
        command: What runs, split as a shell would, without expanding anything.
    """

    command: str


class CommandHook(Hook):
    """`command:COMMAND`: every event as a line of JSON on the standard input of a command."""

    Options = CommandOptions
    argument = "command"

    def __init__(self, options: CommandOptions) -> None:
        super().__init__(options)
        self._turn = trio.Lock()
        self._cut_off = False
        self._process: trio.Process | None = None

    @asynccontextmanager
    async def host(self, containers: Mapping[str, LifecycleEvent | None]) -> AsyncIterator[None]:
        command = self.options.command
        try:
            argv = shlex.split(command)
            self._process = process = await trio.lowlevel.open_process(argv, stdin=subprocess.PIPE)
        except (OSError, IndexError, ValueError) as error:
            raise DriverError(f"hook command: cannot execute {command!r}: {error}") from error
        try:
            yield
        finally:
            assert process.stdin is not None
            await process.stdin.aclose()
            with trio.move_on_after(_GRACE) as patience:
                await process.wait()
            if patience.cancelled_caught:
                process.kill()
                await process.wait()

    async def before_create(self, event: LifecycleEvent) -> None:
        await self._write(event)

    async def created(self, event: LifecycleEvent) -> None:
        await self._write(event)

    async def started(self, event: LifecycleEvent) -> None:
        await self._write(event)

    async def ready(self, event: LifecycleEvent) -> None:
        await self._write(event)

    async def exited(self, event: LifecycleEvent) -> None:
        await self._write(event)

    async def stopped(self, event: LifecycleEvent) -> None:
        await self._write(event)

    async def restarted(self, event: LifecycleEvent) -> None:
        await self._write(event)

    async def failed(self, event: LifecycleEvent) -> None:
        await self._write(event)

    async def _write(self, event: LifecycleEvent) -> None:
        process = self._process
        if process is None:  # it has ended, which was said once
            return
        assert process.stdin is not None
        line = json.dumps(event.to_dict()).encode() + b"\n"
        async with self._turn:
            # A line that was cut off by the timeout is ended, so that the command can read the next one.
            begin = b"\n" if self._cut_off else b""
            self._cut_off = True
            try:
                await process.stdin.send_all(begin + line)
            except trio.BrokenResourceError:
                self._process = None
                status = f"has ended with {process.poll()}" if process.poll() is not None else "reads no more"
                raise DriverError(f"hook command: {self.options.command!r} {status}") from None
            self._cut_off = False
