"""
The exit record: what became of a container, for `--report` and for programs.
"""

from __future__ import annotations

import os
from typing import Any

import attrs

from pysuper.errors import PysuperError
from pysuper.receipts import Receipt
from pysuper.spec import ContainerSpec

__all__ = ["ExitRecord", "ExitStatus", "exit_status"]


@attrs.frozen(kw_only=True)
class ExitStatus:
    """
    How a command ended.

    Attributes:
        exit_code: Or None if a signal ended it or it never ran.
        signal: That ended it, or None.
    """

    exit_code: int | None = None
    signal: int | None = None

    @property
    def status(self) -> int:
        """As a shell says it: the exit code, or 128 and the signal."""
        if self.signal is not None:
            return 128 + self.signal
        return self.exit_code if self.exit_code is not None else 125


def exit_status(wait_status: int) -> ExitStatus:
    """From the number that waitpid(2) gives."""
    code = os.waitstatus_to_exitcode(wait_status)
    return ExitStatus(signal=-code) if code < 0 else ExitStatus(exit_code=code)


@attrs.frozen(kw_only=True)
class ExitRecord(ExitStatus):
    """
    What became of a container.

    Attributes:
        reason: `exited`, `signaled`, `oom` (the kernel killed it at memory_max), `timeout`, `stopped` (on request),
            or `start-failed`.
        error: Why it did not start, or None.
        wall_seconds: From the start of the command to its end.
        user_seconds, system_seconds: CPU time of all of its processes.
        memory_peak: Bytes; of the cgroup where it counts, else of the largest process.
        pids_max_hits: Times that a fork was refused by pids_max; None where the kernel does not count.
        oom_kills: Processes that the kernel killed at memory_max; None where the kernel does not count.
        receipts: What was promised and found in force.
    """

    name: str
    argv: tuple[str, ...]
    reason: str
    error: str | None = None
    wall_seconds: float = 0.0
    user_seconds: float = 0.0
    system_seconds: float = 0.0
    memory_peak: int | None = None
    pids_max_hits: int | None = None
    oom_kills: int | None = None
    receipts: tuple[Receipt, ...] = ()

    @classmethod
    def start_failed(cls, spec: ContainerSpec, error: PysuperError) -> ExitRecord:
        """The record of a container that did not start."""
        return cls(
            name=spec.name,
            argv=spec.command,
            exit_code=error.exit_code,
            reason="start-failed",
            error=str(error),
        )

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return attrs.asdict(self)
