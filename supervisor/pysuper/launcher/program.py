"""
What is executed as the launcher: a program, or a copy of it that no container can change.

When a process is about to become the command of a container, /proc/self/exe is still the launcher's program. A command
that is a link to that, or a script that names it as its interpreter, executes it, and then has it as its own program
(CVE-2019-5736). To a container that root has started the file is root's, and so nobody's. But the root of an ordinary
user's container is that user, who may well own the interpreter, and may change its mode, if nothing else.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pysuper.errors import LaunchError

__all__ = ["safe_program"]

#: The file may be executed, memfd_create(2); without it that is for vm.memfd_noexec to say. Since Linux 6.3.
_MFD_EXEC = 0x10
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


@contextmanager
def safe_program(program: str, remedy: str) -> Iterator[tuple[str, dict[str, str]]]:
    """
    The path to execute, good while the block lasts, and the environment that it needs.

    Args:
        program: Of the launcher.
        remedy: What helps where it cannot be had so.

    Raises:
        LaunchError: There is no memory for a copy, or the kernel does not execute what is in memory.
    """
    if not _is_ours(program):
        yield program, {}
        return
    try:
        copy = _sealed_copy(program)
        try:
            yield f"/proc/self/fd/{copy}", _library_path() if program == sys.executable else {}
        finally:
            os.close(copy)
    except OSError as error:
        message = f"could not execute a copy of {program}, which a container could change: {error.strerror}"
        raise LaunchError(message, errno=error.errno, remedy=remedy) from error


def _is_ours(path: str) -> bool:
    """Whether an ordinary user's container, whose root is that user, could change the file."""
    user = os.geteuid()
    return user != 0 and (os.stat(path).st_uid == user or os.access(path, os.W_OK))


def _sealed_copy(path: str) -> int:
    """A descriptor of a file in memory with the same content, which nobody can write to any more."""
    with open(path, "rb") as source, os.fdopen(_memory(), "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
        target.flush()
        fcntl.fcntl(target, fcntl.F_ADD_SEALS, _SEALS)
        # What is open for writing is not executed, execve(2), ETXTBSY.
        return os.open(f"/proc/self/fd/{target.fileno()}", os.O_RDONLY | os.O_CLOEXEC)


def _memory() -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create("pysuper-launcher", flags | _MFD_EXEC)
    except OSError as error:
        if error.errno != errno.EINVAL:  # an older kernel, which executes any
            raise
        return os.memfd_create("pysuper-launcher", flags)


def _library_path() -> dict[str, str]:
    """Where libpython is, if it is not in the program: its path may be relative to that, $ORIGIN of ld.so(8)."""
    with open("/proc/self/maps") as file:
        found = (line.split(maxsplit=5)[5].rstrip("\n") for line in file if "/libpython" in line)
        return next(({"LD_LIBRARY_PATH": os.path.dirname(path)} for path in found), {})
