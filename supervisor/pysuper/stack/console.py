"""
The foreground of `up`: shows the journal as it is written.

A terminal that is stopped (Ctrl-S), or a pipe that nobody reads, must not hold up the supervisor: writing is a
thread's, and what does not fit between is left out and counted. All of it is in the journal.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from itertools import groupby

import trio

from pysuper.stack.display import Display
from pysuper.stack.journal import Journal
from pysuper.stack.reading import Record

__all__ = ["Console"]

#: Records between the supervisor and the thread that writes.
_BACKLOG = 2000
#: Seconds that the reader of the last lines is given.
_PATIENCE = 1.0


class Console:
    """What a container writes to stdout goes to descriptor 1; its stderr, and what happens to it, to 2."""

    def __init__(self) -> None:
        self._lost = 0

    async def show(
        self, journal: Journal, names: Sequence[str], task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Show until cancelled, and then what is left."""
        displays = {descriptor: _display(descriptor, names) for descriptor in (1, 2)}
        into, records = trio.open_memory_channel[Record](_BACKLOG)

        def listen(record: Record) -> None:
            try:
                into.send_nowait(record)
            except trio.WouldBlock:
                self._lost += 1

        unsubscribe = journal.subscribe(listen)
        task_status.started()
        batch: list[Record] = []
        try:
            while True:
                batch.append(await records.receive())
                await self._show_batch(batch, records, displays)
        except trio.Cancelled:
            unsubscribe()
            with trio.move_on_after(_PATIENCE, shield=True), suppress(OSError):  # as below
                await self._show_batch(batch, records, displays)
            raise
        except OSError:  # the reader has gone
            unsubscribe()

    async def _show_batch(
        self, batch: list[Record], records: trio.MemoryReceiveChannel[Record], displays: dict[int, Display]
    ) -> None:
        """Write these records, and those that are there already; cancelled before, they stay in the batch."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            try:
                batch.append(records.receive_nowait())
            except trio.WouldBlock:
                break
        texts = [(destination, displays[destination].text(r)) for r in batch for destination in [_destination(r)]]
        if self._lost:
            texts.append((2, f"pysuper: {self._lost} lines are not shown here; pysuper logs has them\n"))
            self._lost = 0
        pieces = [
            (descriptor, "".join(text for _, text in group).encode(errors="surrogateescape"))
            for descriptor, group in groupby(texts, key=lambda pair: pair[0])
        ]
        batch.clear()
        await trio.to_thread.run_sync(_write, pieces, abandon_on_cancel=True)


def _destination(record: Record) -> int:
    return 1 if record["kind"] == "stdout" else 2


def _display(descriptor: int, names: Sequence[str]) -> Display:
    terminal = os.isatty(descriptor)
    return Display(names, terminal=terminal, colour=terminal and not os.environ.get("NO_COLOR"))


def _write(pieces: Sequence[tuple[int, bytes]]) -> None:
    for descriptor, text in pieces:
        rest = memoryview(text)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
