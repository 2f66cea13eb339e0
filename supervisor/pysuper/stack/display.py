"""
How records of a journal look as text: a line each, which says whose it is.

    web-1 | listening                     stdout
    web-1 ! cannot bind to port 80        stderr
    web-1 * exited with 1 after 0.2s      what has happened; without a name, to the stack

What a container says may be hostile. On a terminal, what is not printable is escaped, so that it can neither drive the
terminal nor look like a line of somebody else. Anywhere else, output is the bytes that came.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable

from pysuper.errors import one_line
from pysuper.show import duration, size
from pysuper.stack.reading import Record

__all__ = ["Display", "describe", "is_output"]

_MARKS = {"stdout": "|", "stderr": "!"}
#: SGR parameters, red to cyan; console_codes(4).
_COLOURS = range(31, 37)
#: Kinds whose name is the sentence, with a detail if there is one.
_STATES = {
    "starting",
    "started",
    "ready",
    "healthy",
    "unhealthy",
    "restarting",
    "failed",
    "completed",
    "stopping",
    "stopped",
    "scheduled",
    "paused",
    "resumed",
}
#: What every record has.
_COMMON = {"at", "boot", "time", "kind", "container"}


def is_output(record: Record) -> bool:
    """Whether it is a line that a container has written."""
    return record["kind"] in _MARKS


class Display:
    """
    Turns records into text for one destination.

    Surrogates in it stand for bytes that are not UTF-8, `surrogateescape` of PEP 383.
    """

    def __init__(
        self,
        names: Iterable[str] = (),
        *,
        terminal: bool,
        colour: bool = False,
        prefix: bool = True,
        timestamps: bool = False,
    ) -> None:
        """
        Args:
            names: Of containers; the longest makes the width.
            terminal: Whether it is for a terminal.
            prefix: Whether output has the name of its container.
        """
        self._width = max(map(len, names), default=0)
        self._terminal = terminal
        self._colour = colour
        self._prefix = prefix
        self._timestamps = timestamps
        #: Whose output is not at the end of a line yet.
        self._unended: tuple[object, ...] | None = None

    def text(self, record: Record) -> str:
        """A record as a line; not on a terminal, the part of a line if there is no end of it yet."""
        mark = _MARKS.get(record["kind"])
        if mark is None:
            return f"{self._begin(record, '*')}{one_line(describe(record))}\n"
        said = str(record.get("text", ""))
        if self._terminal:
            # The rule is quick to look at, and what is to be escaped is rare.
            safe = said if said.isprintable() else one_line(said.expandtabs())
            return f"{self._begin(record, mark)}{safe}\n"
        source = (record.get("container"), record.get("run"), mark)
        begin = "" if source == self._unended else self._begin(record, mark)
        self._unended = source if record.get("partial") else None
        return f"{begin}{said}" if self._unended else f"{begin}{said}\n"

    def _begin(self, record: Record, mark: str) -> str:
        """What is in front of the text; before that, the end of a line that somebody else has not ended."""
        before = "" if self._unended is None else "\n"
        self._unended = None
        if self._timestamps:
            before += f"{record['time']} "
        if is_output(record) and not self._prefix:
            return before
        name = str(record.get("container", ""))
        prefix = f"{name:{self._width}} {mark}"
        if self._colour and name:
            prefix = f"\x1b[{_COLOURS[zlib.crc32(name.encode()) % len(_COLOURS)]}m{prefix}\x1b[0m"
        return f"{before}{prefix} "


def describe(record: Record) -> str:
    """What has happened, as a sentence without its subject."""
    match record:
        case {"kind": "waiting", "detail": detail}:
            sentence = f"waiting for {detail}"
        case {"kind": "status", "text": text}:
            sentence = f"says: {text}"
        case {"kind": "exited", "summary": summary}:
            sentence = f"{summary}{_ran(record)}{_facts(record)}"
        case {"kind": "restarting", "delay": int() | float() as delay, "run": run}:
            sentence = f"restarting in {duration(delay)} (restart {run}){_detail(record)}"
        case {"kind": "dropped", "lines": lines, "bytes": int() as count}:
            sentence = f"wrote too fast: {lines} lines ({size(count)}) are left out"
        case {"kind": "journal-lost", "records": lost}:
            sentence = f"the journal could not be written: {lost} records are lost"
        case {"kind": "warning", "detail": detail}:
            sentence = f"warning: {detail}"
        case {"kind": "up", "file": file, "pid": pid}:
            sentence = f"up: {file} (pid {pid})"
        case {"kind": "down", "status": status}:
            sentence = f"down: exit status {status}"
        case {"kind": "reloaded"}:
            sentence = f"reloaded: {_changes(record) or 'nothing has changed'}"
        case {"kind": kind} if kind in _STATES:
            sentence = f"{kind}{_detail(record)}{_facts(record)}"
        case _:
            fields = (f"{key}={value}" for key, value in record.items() if key not in _COMMON)
            sentence = " ".join((record["kind"], *fields))
    return sentence


def _detail(record: Record) -> str:
    return f": {record['detail']}" if record.get("detail") else ""


def _changes(record: Record) -> str:
    given = {word: record.get(word) for word in ("added", "changed", "removed")}
    return "; ".join(
        f"{word} {', '.join(map(str, names))}" for word, names in given.items() if isinstance(names, list) and names
    )


def _ran(record: Record) -> str:
    """For how long, if it did."""
    match record:
        case {"record": {"wall_seconds": int() | float() as seconds}} if seconds > 0:
            return f" after {duration(seconds)}"
    return ""


def _facts(record: Record) -> str:
    """Numbers, and what made it happen, in brackets."""
    shown = ("pid", "run") if record["kind"] in {"starting", "started"} else ()
    facts = [f"{name} {record[name]}" for name in shown if name in record]
    match record.get("because"):
        case {"who": who}:
            facts.append(f"by {who}")
        case {"container": container}:
            facts.append(f"because of {container}")
        case {"by": "stack"}:
            facts.append("the stack ends")
        case {"by": by}:
            facts.append(f"by {by}")
    return f" ({', '.join(facts)})" if facts else ""
