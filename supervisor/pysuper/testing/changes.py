"""
What Python code changes on this machine, seen by an audit hook: sys.addaudithook, and the table of audit events in the
documentation of Python.

It sees what is done through `os`, `open`, `shutil`, `pathlib` and `socket`; not what a subprocess or ctypes does.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import attrs

__all__ = ["Changes", "note", "watched"]

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
#: Writing to these changes nothing.
_SINKS = frozenset({"/dev/null", "/dev/zero", "/dev/full", "/dev/tty"})


@attrs.define(eq=False)
class Changes:
    """
    Attributes:
        calls: What was called, in words.
        made: Paths that came to be, absolute.
        tell: Called with each path before it comes to be.
    """

    calls: list[str] = attrs.field(factory=list)
    made: list[str] = attrs.field(factory=list)
    tell: Callable[[str], None] | None = None

    def left(self, keeps: Sequence[str], mark: str) -> list[str]:
        """
        What came to be and exists.

        Args:
            keeps: Directories of what may stay.
            mark: In the names of what may not, even there.
        """
        exist = [path for path in dict.fromkeys(self.made) if os.path.lexists(path)]
        return [path for path in exist if mark in path or not _in(path, keeps)]

    def clean_up(self, left: Sequence[str]) -> None:
        """Remove what `left` has returned: files and empty directories, but nothing below a mount."""
        for path in reversed(left):
            with suppress(OSError):
                (os.rmdir if os.path.isdir(path) and not os.path.islink(path) else os.unlink)(path)

    def add(self, path: str) -> None:
        """Note what is about to be made, unless it is there already."""
        if not os.path.lexists(path):
            self.made.append(path)
            if self.tell is not None:
                self.tell(path)


@contextmanager
def watched(tell: Callable[[str], None] | None = None) -> Iterator[Changes]:
    """What is changed inside of the block, in all threads."""
    _install()
    changes = Changes(tell=tell)
    _watching.append(changes)
    try:
        yield changes
    finally:
        _watching.remove(changes)


_watching: list[Changes] = []


def note(path: str) -> None:
    """Something is about to be made, by whatever means."""
    for changes in _watching:
        changes.add(path)


@functools.cache
def _install() -> None:
    """Once a process: such a hook cannot be removed."""
    sys.addaudithook(_hook)


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watching or event not in _EVENTS:
        return
    found = _EVENTS[event](*arguments)
    # What imports leave beside the source is Python's.
    if found is None or found[0] in _SINKS or "__pycache__" in found[0]:
        return
    path, makes = found
    for changes in _watching:
        changes.calls.append(f"{event}({path!r})")
    if makes:
        note(path)


#: A path, and whether a call makes it.
_Found = tuple[str, bool]


def _path(path: Any, directory: int = -1) -> str | None:
    """Absolute; None for a descriptor."""
    if not isinstance(path, (str, bytes, os.PathLike)):
        return None
    base = os.getcwd() if directory == -1 else os.readlink(f"/proc/self/fd/{directory}")
    return os.path.join(base, os.fsdecode(path))


def _found(path: Any, directory: int = -1, *, makes: bool = False) -> _Found | None:
    absolute = _path(path, directory)
    return None if absolute is None else (absolute, makes)


def _opened(path: Any, _mode: str | None, flags: int) -> _Found | None:
    return _found(path, makes=bool(flags & os.O_CREAT)) if flags & _WRITES else None


def _bound(_socket: object, address: Any) -> _Found | None:
    """A unix socket with a path, unix(7)."""
    named = isinstance(address, (str, bytes)) and address[:1] not in ("", b"", "\0", b"\0")
    return _found(address, makes=True) if named else None


def _signalled(pid: int, number: int) -> _Found | None:
    return (f"{pid}, {number}", False) if number else None


_EVENTS: Mapping[str, Callable[..., _Found | None]] = {
    "open": _opened,
    "os.chmod": lambda path, _mode, directory: _found(path, directory),
    "os.chown": lambda path, _uid, _gid, directory: _found(path, directory),
    "os.kill": _signalled,
    "os.killpg": _signalled,
    "os.link": lambda _source, path, _from, directory: _found(path, directory, makes=True),
    "os.mkdir": lambda path, _mode, directory: _found(path, directory, makes=True),
    "os.remove": _found,
    "os.removexattr": lambda path, _name: _found(path),
    "os.rename": lambda _source, path, _from, directory: _found(path, directory, makes=True),
    "os.rmdir": _found,
    "os.setxattr": lambda path, *_: _found(path),
    "os.symlink": lambda _text, path, directory: _found(path, directory, makes=True),
    "os.truncate": lambda path, _length: _found(path),
    "os.utime": lambda path, _times, _ns, directory: _found(path, directory),
    "socket.bind": _bound,
}


def _in(path: str, directories: Sequence[str]) -> bool:
    return any(path == directory or path.startswith(f"{directory.rstrip('/')}/") for directory in directories)
