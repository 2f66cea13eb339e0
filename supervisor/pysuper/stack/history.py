"""
What has ended in a stack, and what made what end: read from the files that it leaves, whether it runs or not.

Post-mortems are in `exits.jsonl`. The journal knows besides who was never started, and what became of each; as much of
it as is still there.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pysuper.errors import ConfigError
from pysuper.stack.reading import Record, records

__all__ = ["End", "History", "read_history"]

#: Records of the journal that say what an instance does next; and its copies of the post-mortems.
_TOLD = {"waiting", "starting", "restarting", "scheduled", "completed", "stopped", "failed", "exited"}


class End(NamedTuple):
    """
    The end of a run, or of the wait for one.

    Attributes:
        place: Its index in the history.
        run: Its number; for a wait, that of the run before, or 0.
        record: The post-mortem, see `postmortem`; or that of the journal, if it did not run.
        then: What the instance did next, in the words of the journal; None if that is not known.
    """

    place: int
    container: str
    run: int
    record: Record
    then: Record | None

    @property
    def ran(self) -> bool:
        """Whether it was started."""
        return "record" in self.record

    @property
    def because(self) -> Mapping[str, Any]:
        """What made it end, if that was not itself; see `postmortem.Because`."""
        given: Mapping[str, Any] = self.record.get("because", {})
        return given

    @property
    def failed(self) -> bool:
        """Whether somebody should know: nobody wanted it to end, or it ended because something else failed."""
        if self.because:
            return "container" in self.because
        result = self.record["record"]
        return not (result["exit_code"] == 0 and result["reason"] == "exited")

    @property
    def title(self) -> str:
        """`db, run 3`."""
        return f"{self.container}, run {self.run}" if self.ran else self.container

    @property
    def summary(self) -> str:
        """How it ended, in a few words."""
        return str(self.record["summary"] if self.ran else "was not started")


class History:
    """
    All ends of a stack, in order, and how they hang together.

    Attributes:
        names: Of all containers that are known.
    """

    def __init__(self, ends: Sequence[End], names: Iterable[str]) -> None:
        self.ends = ends
        self.names = sorted({*names, *(end.container for end in ends)})
        self._causes: dict[int, End] = {}
        self._effects: dict[int, list[End]] = {}
        latest: dict[tuple[object, object], End] = {}
        for end in ends:
            # What made something end has ended before. Each supervisor numbers runs anew: the last of them is meant.
            link = end.because.get("container"), end.because.get("run", 0)
            if (cause := latest.get(link)) is not None:
                self._causes[end.place] = cause
                self._effects.setdefault(cause.place, []).append(end)
            latest[end.container, end.run] = end

    def of(self, names: Sequence[str]) -> list[End]:
        """
        The ends of some containers, each called by its name or that of its member; all if there are none.

        Raises:
            ConfigError: There is no such container.
        """
        wanted = {found for name in names for found in self._instances(name)}
        return [end for end in self.ends if not names or end.container in wanted]

    def _instances(self, name: str) -> list[str]:
        found = [known for known in self.names if known == name or re.fullmatch(rf"{re.escape(name)}-[0-9]+", known)]
        if not found:
            from pysuper.shorthand import did_you_mean

            members = {re.sub(r"-[0-9]+$", "", known) for known in self.names}
            remedy = did_you_mean(name, members.union(self.names))
            raise ConfigError(f"nothing is known of a container {name!r}", remedy=remedy)
        return found

    def chain(self, end: End) -> list[End]:
        """What led to an end: the first domino, what fell because of it, and so on to this one."""
        chain = [end]
        while (cause := self._causes.get(chain[-1].place)) is not None:
            chain.append(cause)
        return chain[::-1]

    def effects(self, end: End) -> Sequence[End]:
        """What ended because of this one."""
        return self._effects.get(end.place, ())


def read_history(directory: Path) -> History:
    """The history of the project with this state directory."""
    exits = list(records(directory, "exits", wanted=lambda record: record["kind"] == "exited"))
    told: list[Record] = []
    names: set[str] = set()
    for record in records(directory, wanted=lambda record: "container" in record):
        names.add(record["container"])
        if record["kind"] in _TOLD:
            told.append(record)
    not_started = [record for record in told if record["kind"] == "failed" and _by(record) == "dependency"]
    followers = _Followers(told)
    ends = [
        End(place, record["container"], record.get("run", 0), record, followers.next(record))
        for place, record in enumerate(_in_order([*exits, *not_started]))
    ]
    return History(ends, names)


def _by(record: Record) -> object:
    return record.get("because", {}).get("by")


def _in_order(found: Sequence[Record]) -> list[Record]:
    """By the monotonic clock, which begins anew with each boot; boots by the wall clock."""
    begins: dict[str, str] = {}
    for record in found:
        begins[record["boot"]] = min(record["time"], begins.get(record["boot"], record["time"]))
    return sorted(found, key=lambda record: (begins[record["boot"]], record["at"]))


class _Followers:
    """Finds what an instance did after an end: what the journal has next, after its own record of this end."""

    def __init__(self, told: Iterable[Record]) -> None:
        self._told: dict[tuple[str, str], deque[Record]] = {}
        for record in told:
            self._told.setdefault((record["boot"], record["container"]), deque()).append(record)

    def next(self, end: Record) -> Record | None:
        """To be asked in order of time; None if the journal does not go back so far, or not on."""
        told = self._told.get((end["boot"], end["container"]), deque())
        while told and told[0]["at"] < end["at"]:
            told.popleft()
        if not told or (told[0]["kind"], told[0].get("run")) != (end["kind"], end.get("run")):
            return None
        told.popleft()
        return told[0] if told and told[0]["kind"] != "exited" else None
