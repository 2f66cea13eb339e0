"""
What became of a run and why: made when it ends, before its cgroup is removed, and kept for `pysuper why`.

Only values and words; attrs is its only import besides the record, so that it is quick to test.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs

from pysuper.record import ExitRecord
from pysuper.spec import Limits

__all__ = ["Because", "postmortem"]


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
    bounds = {name: getattr(limits, name) for name in limits.wanted}
    return {
        "summary": record.describe(),
        "record": record.to_dict(receipts=False),
        "limits": bounds,
        "log": list(log),
        **({"detail": detail} if detail else {}),
        **because.fields(),
    }
