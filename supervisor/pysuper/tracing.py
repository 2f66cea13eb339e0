"""
The start of a container, told while it happens: what was done, when, and how long it took.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

import attrs

from pysuper.drivers import Launched
from pysuper.plan import Moment, Plan

__all__ = ["SILENT", "Kind", "TraceLines", "Traced", "Tracer"]

Kind = Literal["planning", "driver", "launch", "step", "receipts", "command"]

#: What the parts of a start are called in the total.
_PARTS: dict[Kind, str] = {
    "planning": "planning",
    "driver": "host side",
    "launch": "launch",
    "step": "{} steps",
    "receipts": "receipts",
}


@attrs.frozen(kw_only=True)
class Traced:
    """
    One thing that has been done.

    Attributes:
        kind: Which part of a start it is.
        index: Of a step in `Plan.steps`, otherwise None.
        description: What it is, in one line.
        at: When it was done: seconds since the start.
        seconds: What it took; None of a step that failed, and of the command, which begins now.
        failed: It could not be done, so that the start fails.
    """

    kind: Kind
    index: int | None = None
    description: str
    at: float
    seconds: float | None
    failed: bool = False


#: What nobody is told of.
_UNTOLD = nullcontext()


class Tracer:
    """
    Tells one function of the start that begins now.

    Attributes:
        wanted: Whether there is a function to tell.
    """

    def __init__(self, tell: Callable[[Traced], None] | None = None) -> None:
        self.wanted = tell is not None
        self._tell = tell
        self._began = self._last = time.monotonic()

    def done(self, kind: Kind, description: str, ended: float, seconds: float, *, index: int | None = None) -> None:
        """Something has been done, at `ended` on the monotonic clock."""
        self._last = ended
        self._told(Traced(kind=kind, index=index, description=description, at=ended - self._began, seconds=seconds))

    def failed(self, kind: Kind, description: str, *, index: int | None = None) -> None:
        """Something has just failed."""
        at = time.monotonic() - self._began
        self._told(Traced(kind=kind, index=index, description=description, at=at, seconds=None, failed=True))

    def launched(self, plan: Plan, launched: Launched) -> None:
        """The launcher has cloned the process of a plan; told as far as it says when."""
        if not self.wanted or launched.times is None:
            return
        heard, held, cloned = launched.times
        self.done("launch", "hand the plan to the launcher", heard, heard - self._last)
        texts = {line.about: line.text for line in plan.lines() if isinstance(line.about, Moment)}
        if plan.holder:
            self.done("launch", texts[Moment.HOLDER], held, held - heard)
        self.done("launch", texts[Moment.CLONE], cloned, cloned - held)

    def executes(self, plan: Plan) -> None:
        """The command will run, as soon as this returns."""
        if plan.command is not None:
            at = time.monotonic() - self._began
            self._told(Traced(kind="command", description=plan.command.describe(), at=at, seconds=None))

    def failing(self, kind: Kind, description: str) -> AbstractContextManager[None]:
        """Something that is told only if it fails."""
        return self._failing(kind, description) if self.wanted else _UNTOLD

    def span(self, kind: Kind, description: str) -> AbstractContextManager[None]:
        """Something that begins now, and ends with the block."""
        return self._span(kind, description) if self.wanted else _UNTOLD

    @contextmanager
    def _failing(self, kind: Kind, description: str) -> Iterator[None]:
        try:
            yield
        except Exception:
            self.failed(kind, description)
            raise

    @contextmanager
    def _span(self, kind: Kind, description: str) -> Iterator[None]:
        began = time.monotonic()
        with self._failing(kind, description):
            yield
        ended = time.monotonic()
        self.done(kind, description, ended, ended - began)

    def _told(self, traced: Traced) -> None:
        if self._tell is not None:
            self._tell(traced)


#: Tells nobody.
SILENT = Tracer()


class TraceLines:
    """What is traced of one start, as lines for people; the last one has the total."""

    def __init__(self) -> None:
        self._taken: dict[Kind, list[float]] = {kind: [] for kind in _PARTS}

    def of(self, traced: Traced) -> Iterator[str]:
        """What to show of this, in lines."""
        took = "failed" if traced.failed else "" if traced.seconds is None else _milliseconds(traced.seconds)
        yield f"+{_milliseconds(traced.at):>11} {took:>11}  {traced.description}"
        if traced.seconds is not None:
            self._taken[traced.kind].append(traced.seconds)
        elif traced.kind == "command" and not traced.failed:
            parts = (
                f"{title.format(len(self._taken[k]))} {_milliseconds(sum(self._taken[k]))}"
                for k, title in _PARTS.items()
            )
            yield f"{_milliseconds(traced.at)} until the command: {', '.join(parts)}"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.2f} ms"
