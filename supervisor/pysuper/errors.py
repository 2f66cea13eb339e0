"""
The exception tree: every error that pysuper raises on purpose.

    PysuperError                 exit code 125
    ├── ConfigError              2     the request itself is wrong: a flag, a key, a value
    ├── DriverError              125   a plugin is missing, broken, or cannot work here
    ├── LimitError               125   a limit or an isolation that was promised is not in force
    ├── StuckError               125   the kernel has not let go of a process within the bound
    ├── AlreadyRunning           100   another supervisor runs this stack
    └── LaunchError              125   a step of the set-up failed
        ├── CommandNotFound      127   the command does not exist in the container
        └── CommandNotExecutable 126   it exists, but cannot be executed

An error says the operation, the object, the kernel's reason, and what to do about it (`remedy`).
"""

from __future__ import annotations

import errno as _errno
import os
from typing import ClassVar

__all__ = [
    "AlreadyRunning",
    "CommandNotExecutable",
    "CommandNotFound",
    "ConfigError",
    "DriverError",
    "LaunchError",
    "LimitError",
    "PysuperError",
    "StuckError",
    "alone",
    "describe_errno",
    "one_line",
]


def one_line(text: str) -> str:
    """Escape control characters, so that hostile text can neither forge a line nor drive a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def describe_errno(number: int) -> str:
    """`ENOENT (No such file or directory)` for 2."""
    return f"{_errno.errorcode.get(number, number)} ({os.strerror(number)})"


def alone(error: BaseException) -> BaseException:
    """The exception in a group of one, however deep; any other as it is."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


class PysuperError(Exception):
    """
    The base of all errors of pysuper.

    Attributes:
        remedy: What the user can do, or None.
        exit_code: What the command line exits with.
    """

    exit_code: ClassVar[int] = 125

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.remedy = remedy

    def __str__(self) -> str:
        text = super().__str__()
        return one_line(f"{text}; {self.remedy}" if self.remedy else text)


class ConfigError(PysuperError):
    """The request itself is wrong; nothing was tried."""

    exit_code = 2


class DriverError(PysuperError):
    """A plugin is missing, broken, duplicated, or cannot do its work on this machine."""


class LimitError(PysuperError):
    """A limit or an isolation that was promised is not in force; the command was not run."""


class StuckError(PysuperError):
    """Processes outlive SIGKILL (state D, or a frozen cgroup above); they are named in the message."""


class AlreadyRunning(PysuperError):
    """Another supervisor runs this stack; nothing was done."""

    exit_code = 100


class LaunchError(PysuperError):
    """
    A step of the set-up failed; the command was not run.

    Attributes:
        step: The step in words, as `pysuper plan` prints it.
        errno: The kernel's error number, or None if it was not the kernel that refused.
    """

    def __init__(
        self,
        message: str,
        *,
        step: str | None = None,
        errno: int | None = None,
        remedy: str | None = None,
    ) -> None:
        super().__init__(message, remedy=remedy)
        self.step = step
        self.errno = errno

    @classmethod
    def of(cls, doing: str, error: OSError) -> LaunchError:
        """For what failed in the supervisor itself: it is out of descriptors, memory or processes, say."""
        number = error.errno or 0
        return cls(f"could not {doing}: {describe_errno(number)}", errno=number)


class CommandNotFound(LaunchError):
    """The command does not exist in the container."""

    exit_code = 127


class CommandNotExecutable(LaunchError):
    """The command exists in the container, but the kernel cannot execute it."""

    exit_code = 126
