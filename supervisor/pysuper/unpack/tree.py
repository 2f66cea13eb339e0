"""Walks the tree that is being filled by descriptors, a component at a time: no path of more reaches the kernel."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence

from pysuper.unpack.errors import MissingError, UnpackError, shown

MAX_NAME = 4096
MAX_COMPONENT = 255
MAX_LINKS = 40  # as the kernel's own limit, path_resolution(7)

OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def components(name: bytes, max_depth: int) -> list[bytes]:
    """Return the components of a member's name, taken relative to DEST."""
    if not name:
        raise UnpackError("the name is empty")
    if b"\0" in name:
        raise UnpackError("the name has a NUL byte")
    if len(name) > MAX_NAME:
        raise UnpackError(f"the name is longer than {MAX_NAME} bytes")
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise UnpackError('the name has a component ".."')
    if max(map(len, parts), default=0) > MAX_COMPONENT:
        raise UnpackError(f"a component of the name is longer than {MAX_COMPONENT} bytes")
    if len(parts) > max_depth:
        raise UnpackError(f"the name has more than {max_depth} components")
    return parts


class Tree:
    """DEST and the directories in it, entered one component at a time and never left.

    The directories from DEST to the current one are held open.  That path has no symlink in it,
    so each of them is the parent of the next one, and `..` is closing the last.
    """

    def __init__(self, root: int, max_depth: int, made: Callable[[bytes], None]) -> None:
        self._max_depth = max_depth
        self._made = made  # is told the path of each directory made on the way
        self._names: list[bytes] = []
        self._open = [root]

    def enter(self, parts: Sequence[bytes], *, create: bool) -> int:
        """Make the directory current that these components lead to, and return its descriptor.

        A symlink on the way is resolved as if DEST were the root (like openat2(2) with
        RESOLVE_IN_ROOT, which Python cannot call).  The descriptor is good until the next call.
        """
        if parts == self._names:
            return self._open[-1]
        same = 0
        for ours, theirs in zip(self._names, parts, strict=False):
            if ours != theirs:
                break
            same += 1
        self.leave(same)
        todo = list(reversed(parts[same:]))
        links = 0
        while todo:
            part = todo.pop()
            if part == b"..":
                self.leave(max(len(self._names) - 1, 0))
            elif not self._step(part, create=create):
                links += 1
                if links > MAX_LINKS:
                    raise UnpackError(f"more than {MAX_LINKS} symlinks lead to it")
                target = os.readlink(part, dir_fd=self._open[-1])
                if target.startswith(b"/"):
                    self.leave(0)
                todo += (p for p in reversed(target.split(b"/")) if p not in (b"", b"."))
        return self._open[-1]

    def path(self, name: bytes | None = None) -> bytes:
        """Return the path, from DEST and without symlinks, of the current directory or a name."""
        return b"/".join(self._names if name is None else [*self._names, name])

    def leave(self, depth: int = 0) -> None:
        """Go back up to the directory that is this deep: 0 is DEST."""
        while len(self._names) > depth:
            self._names.pop()
            os.close(self._open.pop())

    def _step(self, name: bytes, *, create: bool) -> bool:
        """Enter a directory, or return False: it is a symlink."""
        try:
            descriptor = os.open(name, OPEN_DIRECTORY, dir_fd=self._open[-1])
        except FileNotFoundError:
            if not create:
                raise MissingError(f"{shown(self.path(name))} does not exist") from None
            os.mkdir(name, 0o700, dir_fd=self._open[-1])
            self._made(self.path(name))
            descriptor = os.open(name, OPEN_DIRECTORY, dir_fd=self._open[-1])
        except OSError as error:
            # open(2) promises ELOOP for a symlink, but with O_DIRECTORY Linux says ENOTDIR.
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            if stat.S_ISLNK(os.lstat(name, dir_fd=self._open[-1]).st_mode):
                return False
            raise UnpackError(f"{shown(self.path(name))} is not a directory") from None
        self._names.append(name)
        self._open.append(descriptor)
        if len(self._names) > self._max_depth:
            raise UnpackError(f"it is more than {self._max_depth} directories deep")
        return True
