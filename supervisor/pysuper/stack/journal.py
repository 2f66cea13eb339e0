"""
Writes a journal: what the containers of a stack say, and what happens to them.

    {"at": 71.25, "boot": "5f3a9c01", "time": "2026-11-24T01:39:12.123456Z", "kind": "stdout", "container": "web-1",
     "run": 1, "text": "listening"}

`at` is CLOCK_MONOTONIC, which means something only within one `boot`. A `text` has the bytes of a line, those that are
not UTF-8 as surrogates (PEP 383); with `"partial": true` the line goes on in the next record, or never had an end.

A full disk must not stop a supervisor: what cannot be written is counted, and the count is what is written next. A file
has nothing but whole lines: one that was cut short, by a full disk or a kill, is cut off.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count, takewhile, zip_longest
from json.encoder import encode_basestring_ascii
from pathlib import Path
from typing import Any

from pysuper.errors import PysuperError
from pysuper.stack.reading import Record, file_of, format_time
from pysuper.stack.spec import JournalSpec

__all__ = ["MAX_LINE", "Journal", "LineSplitter"]

#: Bytes of a line's record; the next one goes on with the rest.
MAX_LINE = 16384
#: Lines that are kept in memory, of each container.
_TAIL = 20
#: What follows after a text, and what if it is partial.
_ENDS = ("}\n", ', "partial": true}\n')
#: What a disk does that was good before, and may be good again.
_PASSING = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS}


class LineSplitter:
    """Lets whole lines through, and keeps the beginning of the next one, of at most MAX_LINE bytes."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> bytes:
        """The lines that this chunk completes, and what is too long to wait for its end."""
        data = self._rest + chunk
        end = data.rfind(b"\n") + 1
        while len(data) - end > MAX_LINE:
            end = _cut(data, end)
        self._rest = data[end:]
        return data[:end]

    def finish(self) -> bytes:
        """What has no end yet."""
        rest, self._rest = self._rest, b""
        return rest


def _cut(data: bytes, start: int) -> int:
    """Where the record of a long line that begins at `start` ends: not within a character of UTF-8, if it is that."""
    end = start + MAX_LINE
    return next((end - n for n in range(4) if data[end - n] & 0xC0 != 0x80), end)


def _texts(data: bytes) -> Iterator[tuple[str, bool]]:
    """The texts of some lines' records, and whether they are partial."""
    *lines, rest = data.split(b"\n")
    for line in lines:
        *begun, end = _pieces(line)
        yield from ((text, True) for text in begun)
        yield end, False
    if rest:
        yield from ((text, True) for text in _pieces(rest))


def _pieces(line: bytes) -> list[str]:
    """A line in texts that are short enough."""
    cuts = [0]
    while len(line) - cuts[-1] > MAX_LINE:
        cuts.append(_cut(line, cuts[-1]))
    return [line[start:end].decode(errors="surrogateescape") for start, end in zip_longest(cuts, cuts[1:])]


class Journal:
    """The only writer of a journal; it raises nothing, whatever the disk does."""

    def __init__(self, directory: Path, spec: JournalSpec, stem: str = "journal") -> None:
        """
        Args:
            directory: It exists, and nobody else can write in it.
            stem: Of the names of its files.

        Raises:
            PysuperError: Its file cannot be opened, and that will not change by itself.
        """
        self._directory = directory
        self._spec = spec
        self._stem = stem
        self._boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
        self._descriptor: int | None = None
        self._size = 0
        self._lost = 0
        self._tails: dict[str, tuple[int, deque[str]]] = {}
        self._listeners: list[Callable[[Record], None]] = []
        try:
            self._open()
        except OSError as error:
            if error.errno not in _PASSING:
                path = file_of(directory, stem, 0)
                raise PysuperError(f"could not open the journal {path}: {error.strerror}") from error

    def write(self, kind: str, container: str | None = None, run: int | None = None, **fields: Any) -> None:
        """
        Write what has happened.

        Args:
            container: None is the stack.
            fields: What JSON has, and mappings of any kind.
        """
        record = self._begin(kind, container, run) | fields
        self._append(_encode(record))
        self._tell(record)

    def output(self, container: str, run: int, stream: str, data: bytes) -> None:
        """
        Write what a container has said, at once.

        Args:
            stream: `stdout` or `stderr`.
            data: Lines, as `LineSplitter` lets them through.
        """
        texts = list(_texts(data))
        if not texts:
            return
        begin = self._begin(stream, container, run)
        # Put together by hand: five times as fast as `json.dumps` of each record.
        head = json.dumps(begin)[:-1] + ', "text": '
        lines = [f"{head}{encode_basestring_ascii(text)}{_ENDS[partial]}" for text, partial in texts]
        self._append("".join(lines).encode())
        if container not in self._tails or self._tails[container][0] != run:
            self._tails[container] = (run, deque(maxlen=_TAIL))
        self._tails[container][1].extend(text for text, _ in texts[-_TAIL:])
        if self._listeners:
            for text, partial in texts:
                self._tell(begin | {"text": text} | ({"partial": True} if partial else {}))

    def tail(self, container: str, count: int, *, run: int) -> list[str]:
        """The last lines that a container has said in a run, if that is its last one; at most 20."""
        last, kept = self._tails.get(container, (run, ()))
        lines = list(kept) if last == run else []
        return lines[max(len(lines) - count, 0) :]

    def subscribe(self, listener: Callable[[Record], None]) -> Callable[[], None]:
        """
        Call `listener` with each record, whether it could be written or not.

        Returns:
            What ends that.
        """
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def close(self) -> None:
        """Give the descriptor back; whatever is written later opens the file again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _begin(self, kind: str, container: str | None, run: int | None) -> Record:
        """What every record begins with."""
        record = {"at": round(time.monotonic(), 6), "boot": self._boot, "time": format_time(time.time()), "kind": kind}
        if container is not None:
            record["container"] = container
        if run is not None:
            record["run"] = run
        return record

    def _tell(self, record: Record) -> None:
        for listener in self._listeners:
            listener(record)

    def _append(self, lines: bytes) -> None:
        """Write lines, or count them; first of all, how many have been counted."""
        notice = self._begin("journal-lost", None, None) | {"records": self._lost} if self._lost else None
        data = lines if notice is None else _encode(notice) + lines
        written = self._try_to_write(data)
        if written == 0:
            self._lost += lines.count(b"\n")
            return
        self._lost = data.count(b"\n", written)
        if notice is not None:
            self._tell(notice)

    def _try_to_write(self, data: bytes) -> int:
        """How many bytes, all of them of whole lines, are in the file now."""
        try:
            descriptor = self._descriptor_for(len(data))
            count = os.write(descriptor, data)
            whole = data.rfind(b"\n", 0, count) + 1
            if whole < count:
                os.ftruncate(descriptor, self._size + whole)
        except OSError:
            # What there is in the file now is found out when it is opened again.
            self.close()
            return 0
        self._size += whole
        return whole

    def _descriptor_for(self, size: int) -> int:
        """The file, in which there is room for so many bytes, or nothing yet."""
        descriptor = self._open() if self._descriptor is None else self._descriptor
        if self._size and self._size + size > self._spec.max_size:
            self.close()
            self._rename_all()
            descriptor = self._open()
        return descriptor

    def _rename_all(self) -> None:
        """Add one to the number of each file, and remove the oldest; a number that is free is as far as it goes."""
        files = (file_of(self._directory, self._stem, number) for number in count())
        full = list(takewhile(Path.exists, files))
        for number in range(len(full), 0, -1):
            full[number - 1].rename(file_of(self._directory, self._stem, number))
        with suppress(FileNotFoundError):
            for number in count(self._spec.max_files):
                file_of(self._directory, self._stem, number).unlink()

    def _open(self) -> int:
        """Open or make the newest file, and cut off what there is of a line that was not written to its end."""
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(file_of(self._directory, self._stem, 0), flags, 0o600)
        self._descriptor = descriptor
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as content:
                size = content.rfind(b"\n") + 1
            os.ftruncate(descriptor, size)
        self._size = size
        return descriptor


def _encode(record: Record) -> bytes:
    return json.dumps(record, default=dict).encode() + b"\n"
