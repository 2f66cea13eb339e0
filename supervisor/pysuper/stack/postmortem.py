"""
What became of a run and why: made when it ends, before its cgroup is removed, and kept for `pysuper why`.

Only values and words; attrs is its only import besides the record, so that it is quick to test.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import Any

import attrs

from pysuper.record import ExitRecord
from pysuper.spec import Limits

__all__ = ["Because", "describe_exit", "postmortem"]


@attrs.frozen(kw_only=True)
class Because:
    """
    Who or what made an instance stop, fail or restart, if that was not its own container.

    Attributes:
        by: `operator` (through the control socket), `dependency`, `strategy`, `reload`, `stack` (it ends), or None.
        container, run: Of the instance that it followed from; the first domino is found by going back.
        who: The operator: `uid 0, pid 123`.
    """

    by: str | None = None
    container: str | None = None
    run: int | None = None
    who: str | None = None

    def fields(self) -> dict[str, Any]:
        """For the journal; `because` is left out if there is nothing to say."""
        told = {key: value for key, value in attrs.asdict(self).items() if value is not None}
        return {"because": told} if told else {}


def describe_exit(record: ExitRecord) -> str:
    """How it ended, in words."""
    match record.reason:
        case "start-failed":
            return f"did not start: {record.error}"
        case "stuck":
            return f"is stuck: {record.error}"
        case "oom":
            return "killed by the kernel: out of memory (memory_max)"
        case "signaled":
            return f"killed by {_signal(record.signal)}"
        case "exited":
            return f"exited with {record.exit_code}"
    how = f"exit code {record.exit_code}" if record.signal is None else _signal(record.signal)
    words = {
        "timeout": "stopped after its timeout",
        "unhealthy": "stopped because it was unhealthy",
        "not-ready": "stopped because it was not ready in time",
        "stopped": "stopped on request",
    }
    text = words.get(record.reason, record.reason)
    return text if record.exit_code is None and record.signal is None else f"{text} ({how})"


def _signal(number: int | None) -> str:
    try:
        return signal.Signals(number or 0).name
    except ValueError:
        return f"signal {number}"


def postmortem(
    record: ExitRecord, *, because: Because, detail: str, limits: Limits, log: Sequence[str]
) -> dict[str, Any]:
    """
    The fields of the journal's record.

    Args:
        detail: Why it was stopped, in words, if it was.
        limits: To hold the peaks against.
        log: The last lines of its output.
    """
    told = record.to_dict()
    told.pop("receipts")
    bounds = {name: getattr(limits, name) for name in limits.wanted}
    return {
        "summary": describe_exit(record),
        "record": told,
        "limits": bounds,
        "log": list(log),
        **({"detail": detail} if detail else {}),
        **because.fields(),
    }
