"""
Reads a journal, from its oldest file to the newest, and on while it is written.

    journal.2.jsonl  journal.1.jsonl  journal.jsonl     one JSON object a line, in order of arrival

When the newest is full, all of them are renamed. So a file is known by its inode here, and its name says only where to
find it. A line that is no record is passed over: its writer was killed, or is still writing.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import Any

from pysuper.units import parse_duration, shown

__all__ = ["Record", "file_of", "format_time", "names", "parse_since", "records"]

Record = dict[str, Any]
_Inode = tuple[int, int]

#: Bytes that are read at a time.
_CHUNK = 2**20
#: Seconds between two looks at a file that may have grown.
_INTERVAL = 0.1
#: As `json.dumps` writes it. A text cannot look like this: its quotes are escaped.
_CONTAINER = re.compile(rb'"container": "([^"\\]+)"')


def file_of(directory: Path, stem: str, number: int) -> Path:
    """Where a file of a journal is: 0 is being written, and the oldest has the highest number."""
    return directory / (f"{stem}.{number}.jsonl" if number else f"{stem}.jsonl")


def format_time(moment: float) -> str:
    """Seconds since the epoch as records have them; the order of such texts is that of time."""
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%dT%H:%M:%S.%f}Z"


def parse_since(text: str) -> str:
    """
    The time that a user means, as records have it.

    Args:
        text: How long ago, as `10m`, or a time of ISO 8601, which is local if it does not say otherwise.

    Raises:
        ValueError: It is neither.
    """
    try:
        moment = datetime.fromisoformat(text).timestamp()
    except ValueError:
        try:
            moment = time.time() - parse_duration(text, zero=True)
        except ValueError:
            raise ValueError(f"{shown(text)} is not a time, such as 10m (ago) or 2026-11-24T01:39:12Z") from None
    return format_time(max(moment, 0.0))


def records(
    directory: Path,
    stem: str = "journal",
    *,
    wanted: Callable[[Record], bool] = bool,
    last: int | None = None,
    alive: Callable[[], bool] | None = None,
) -> Iterator[Record]:
    """
    The records of a journal, oldest first. In memory are the `last` ones, and some 2 MiB.

    Args:
        wanted: Which of them.
        last: Of those that are there already, only so many.
        alive: Follow: wait for more, until this returns False and everything is read.
    """
    with _Files(directory, stem) as files:
        if last is not None:
            yield from files.last(last, wanted)
        over = False
        while not over:
            # Asked first: what was written before the writer's end is read below.
            over = alive is None or not alive()
            yield from filter(wanted, _parsed(files.lines()))
            if files.find_newer():
                over = alive is None
            elif not over:
                time.sleep(_INTERVAL)


def names(directory: Path, stem: str = "journal") -> list[str]:
    """The containers that the records of a journal are about, sorted."""
    with _Files(directory, stem) as files:
        return sorted({found[1].decode() for line in files.lines() if (found := _CONTAINER.search(line))})


def _parsed(lines: Iterable[bytes]) -> Iterator[Record]:
    """Those of the lines that are records."""
    for line in lines:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        match record:
            case {"kind": str(), "time": str()} if isinstance(record.get("container", ""), str):
                yield record


class _Files:
    """The files of a journal, open, and each read up to some point; a context manager."""

    def __init__(self, directory: Path, stem: str) -> None:
        self._directory = directory
        self._stem = stem
        self._files = self._open()

    def __enter__(self) -> _Files:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _close(self._files)

    def lines(self) -> Iterator[bytes]:
        """The lines that have not been read yet, oldest first."""
        for file in self._files:
            yield from file.lines()

    def last(self, count: int, wanted: Callable[[Record], bool]) -> Iterator[Record]:
        """The last records that are there already; all of them are read then."""
        for file in self._files:
            file.skip()
        backwards = chain.from_iterable(file.lines_backwards() for file in reversed(self._files))
        found = list(islice(filter(wanted, _parsed(backwards)), count))
        yield from reversed(found)

    def find_newer(self) -> bool:
        """
        Whether there are newer files by now.

        The newest of those that are known stays open, since it may have grown until it was full.
        """
        known = self._files[-1:]
        if known and known[0].inode == self._newest():
            return False
        opened = self._open()
        first = next((n for n, file in enumerate(opened, 1) if known and file.inode == known[0].inode), 0)
        _close(opened[:first] + self._files[:-1])
        self._files = known + opened[first:]
        return len(opened) > first

    def _newest(self) -> _Inode | None:
        """Of the file that is being written; None before there is one, and for a moment when it is renamed."""
        try:
            return _inode(os.stat(file_of(self._directory, self._stem, 0)))
        except FileNotFoundError:
            return None

    def _open(self) -> list[_File]:
        """All files, oldest first."""
        while True:
            before = self._newest()
            found = self._look()
            if self._newest() == before:
                return found[::-1]
            _close(found)  # renamed under our eyes

    def _look(self) -> list[_File]:
        """
        All files, the newest first.

        While they are being renamed, which begins with the oldest, one name is free, and one that has been found may
        be found again under the next name.
        """
        found: list[_File] = []
        number = missing = 0
        while missing < 2:
            try:
                file = _File(file_of(self._directory, self._stem, number))
            except FileNotFoundError:
                missing += 1
            else:
                missing = 0
                if found and file.inode == found[-1].inode:
                    file.close()
                else:
                    found.append(file)
            number += 1
        return found


def _inode(status: os.stat_result) -> _Inode:
    return status.st_dev, status.st_ino


def _close(files: Iterable[_File]) -> None:
    for file in files:
        file.close()


class _File:
    """
    A file, read up to the end of a line.

    Nothing is kept of a line that is not complete: its writer may cut it off again, and write another one.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        #: Nobody else's as long as the file is open.
        self.inode = _inode(os.fstat(self._descriptor))
        self._position = 0

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self._descriptor)

    def lines(self) -> Iterator[bytes]:
        """The lines that have not been read yet, and are complete."""
        size = _CHUNK
        while chunk := os.pread(self._descriptor, size, self._position):
            end = chunk.rfind(b"\n") + 1
            if end:
                self._position += end
                yield from chunk[: end - 1].split(b"\n")
            elif len(chunk) < size:
                return
            else:
                size *= 2

    def skip(self) -> None:
        """Count all complete lines as read."""
        start = os.fstat(self._descriptor).st_size
        while start > self._position:
            size = min(_CHUNK, start - self._position)
            start -= size
            end = os.pread(self._descriptor, size, start).rfind(b"\n") + 1
            if end:
                self._position = start + end

    def lines_backwards(self) -> Iterator[bytes]:
        """The lines that have been read, the last one first."""
        start = self._position
        rest = b""
        while start > 0:
            size = min(_CHUNK, start)
            start -= size
            rest, *lines = (os.pread(self._descriptor, size, start) + rest).split(b"\n")
            yield from reversed(lines)
        yield rest
