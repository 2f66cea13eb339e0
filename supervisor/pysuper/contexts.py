"""
What the drivers of a container are told of it, and the ids that meanwhile no other container of this machine has.
"""

from __future__ import annotations

import os
import secrets

import attrs

from pysuper.ids import IdRanges
from pysuper.plan import Context, Sandbox
from pysuper.receipts import own_status
from pysuper.spec import ContainerSpec
from pysuper.subids import NoSubIds, SubIdRanges

__all__ = ["Contexts", "is_privileged", "new_id"]

_CAP_SYS_ADMIN = 21


def is_privileged() -> bool:
    """Whether this process can do what host root can: effective uid 0, and CAP_SYS_ADMIN."""
    return os.geteuid() == 0 and bool(int(own_status("CapEff"), 16) >> _CAP_SYS_ADMIN & 1)


def new_id(spec: ContainerSpec) -> str:
    """A name for kernel objects that no other container of this machine has."""
    return f"{spec.name}.{secrets.token_hex(4)}"


class Contexts:
    """Those of one supervisor. `make` and `release`; `close` gives all ids back."""

    def __init__(self) -> None:
        self._privileged = is_privileged()
        self._ranges = IdRanges()
        self._slices = SubIdRanges()

    def make(self, run_id: str, spec: ContainerSpec, sandbox: Sandbox | None = None) -> Context:
        """
        One with ids of its own.

        Args:
            run_id: See `new_id`.
            sandbox: See `Context`.

        Raises:
            PysuperError: There are no ids left.
        """
        base = self._ranges.allocate()
        try:
            subids = None if self._privileged else self._slices.allocate(spec.name)
        except BaseException:
            self._ranges.release(base)
            raise
        return Context(id=run_id, spec=spec, privileged=self._privileged, uid_base=base, subids=subids, sandbox=sandbox)

    def without_subids(self, context: Context, reason: NoSubIds) -> Context:
        """The same without its subordinate ids, which could not be mapped; none that is made later has any."""
        self._slices.refuse(reason)
        self._release_subids(context)
        return attrs.evolve(context, subids=reason)

    def release(self, context: Context) -> None:
        """Take its ids back; nothing of the container may run any more."""
        self._ranges.release(context.uid_base)
        self._release_subids(context)

    def _release_subids(self, context: Context) -> None:
        if context.subids is not None:
            self._slices.release(context.subids)

    def close(self) -> None:
        """Give all ids back."""
        self._ranges.close()
        self._slices.close()
