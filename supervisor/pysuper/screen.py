"""
The user's terminal: whether there is one, its size, its modes. Without trio, since commands that start fast use it too.
"""

from __future__ import annotations

import io
import os
import termios
import tty
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

__all__ = [
    "BACKLOG",
    "PATIENCE",
    "copy_size",
    "end_of_file_key",
    "find_screen",
    "in_background",
    "is_interactive",
    "make_pipes",
    "raw_mode",
    "user_size",
]

#: For an end of file that does not come since a process outside of the container holds the other
#: end: seconds without output, and bytes (more than the kernel buffers), that a command that has ended has left.
PATIENCE = 1.0
BACKLOG = 2**21


def is_interactive() -> bool:
    """Whether stdin and stdout are terminals, and what is typed there is for us."""
    return os.isatty(0) and os.isatty(1) and not in_background(0)


def find_screen(stdio: Sequence[int] = (0, 1, 2)) -> int | None:
    """The first of these descriptors that is a terminal."""
    return next((fd for fd in stdio if os.isatty(fd)), None)


def user_size() -> tuple[int, int] | None:
    """The rows and columns of the user's terminal, if there is one."""
    screen = find_screen()
    return None if screen is None else termios.tcgetwinsize(screen)


def copy_size(screen: int, master: int) -> None:
    """Give a pseudo-terminal the size of a terminal, ioctl_tty(2)."""
    with suppress(termios.error):  # hung up
        termios.tcsetwinsize(master, termios.tcgetwinsize(screen))


def in_background(fd: int) -> bool:
    """Whether we would be stopped for reading from this terminal, or setting it; tcgetpgrp(3)."""
    try:
        return os.tcgetpgrp(fd) != os.getpgrp()
    except OSError:  # not a terminal, or not the one that controls us
        return False


@contextmanager
def raw_mode(fd: int) -> Iterator[None]:
    """Let a terminal pass every key through, Ctrl-C too, and put it back at the end; termios(3)."""
    if not os.isatty(fd):
        yield
        return
    saved = termios.tcgetattr(fd)
    try:
        tty.setraw(fd, termios.TCSANOW)
        yield
    finally:
        # Once we are in the background it is in the modes that the shell wants.
        if not in_background(fd):
            with suppress(termios.error):  # hung up
                termios.tcsetattr(fd, termios.TCSANOW, saved)


def end_of_file_key(master: int) -> bytes:
    """Ctrl-D, unless the programs on a pseudo-terminal have chosen another one."""
    try:
        key: bytes = termios.tcgetattr(master)[6][termios.VEOF]
    except termios.error:
        return b"\x04"
    return key


def make_pipes(stdio: Sequence[int]) -> tuple[list[int], dict[int, int], list[io.FileIO]]:
    """
    Make a pipe in place of each of the user's descriptors that is a terminal.

    Returns:
        The descriptors for the container; our ends by their index in `stdio`; the container's ends, to be closed.
    """
    given = list(stdio)
    ours: dict[int, int] = {}
    theirs: list[io.FileIO] = []
    for index, fd in enumerate(stdio):
        if not os.isatty(fd):
            continue
        if index == 2 and 1 in ours and os.fstat(fd).st_rdev == os.fstat(stdio[1]).st_rdev:
            given[2] = given[1]  # the same terminal: what is written first is shown first
            continue
        read, write = os.pipe()
        given[index], ours[index] = (read, write) if index == 0 else (write, read)
        theirs.append(io.FileIO(given[index], "r" if index == 0 else "w"))
    return given, ours, theirs
