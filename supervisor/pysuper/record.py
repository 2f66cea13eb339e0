"""
The exit record: what became of a container, for `--report` and for programs.
"""

from __future__ import annotations

import os
import signal
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
        """The exit code, or 128 and the signal, as in a shell."""
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
            `start-failed`, or `stuck` (it could not be cleaned up); of a stack also `unhealthy` and `not-ready`.
        error: Why it did not start, or what is left of it, or None.
        wall_seconds: From the start of the command to its end.
        user_seconds, system_seconds: CPU time of all of its processes.
        memory_peak: Bytes; of the cgroup where it counts, else of the largest process.
        pids_max_hits: Times that a fork was refused by pids_max; None where the kernel does not count.
        oom_kills: Processes that the kernel killed at memory_max; None where the kernel does not count.
        receipts: What was promised and found in force.
        protections: The names of those among them that protect this machine; `pysuper doctor --security` says how.
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
    protections: tuple[str, ...] = ()

    @property
    def success(self) -> bool:
        """Whether the command has ended by itself, with exit code 0."""
        return self.exit_code == 0 and self.reason == "exited"

    @classmethod
    def stuck(cls, spec: ContainerSpec, error: str) -> ExitRecord:
        """The record of a container of which something is left that the kernel does not let go of."""
        return cls(name=spec.name, argv=spec.command, reason="stuck", error=error)

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

    def to_dict(self, *, receipts: bool = True) -> dict[str, Any]:
        """For JSON, with its receipts or without."""
        return attrs.asdict(self, filter=None if receipts else lambda field, _: field.name != "receipts")

    def describe(self) -> str:
        """How it ended, in words."""
        match self.reason:
            case "start-failed":
                return f"did not start: {self.error}"
            case "stuck":
                return f"is stuck: {self.error}"
            case "oom":
                return "killed by the kernel: out of memory (memory_max)"
            case "signaled":
                return f"killed by {_signal_name(self.signal)}"
            case "exited":
                return f"exited with {self.exit_code}"
        how = f"exit code {self.exit_code}" if self.signal is None else _signal_name(self.signal)
        words = {
            "timeout": "stopped after its timeout",
            "unhealthy": "stopped because it was unhealthy",
            "not-ready": "stopped because it was not ready in time",
            "stopped": "stopped on request",
        }
        text = words.get(self.reason, self.reason)
        return text if self.exit_code is None and self.signal is None else f"{text} ({how})"


def _signal_name(number: int | None) -> str:
    try:
        return signal.Signals(number or 0).name
    except ValueError:
        return f"signal {number}"
