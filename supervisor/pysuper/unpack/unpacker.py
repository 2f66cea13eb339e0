"""Puts the members of an archive into a directory, below which they stay, and within limits."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from pysuper.unpack.errors import LimitExceeded, MissingError, Naming, UnpackError, shown
from pysuper.unpack.headers import DEVICES, DIRECTORY, FIFO, HARD_LINK, REGULAR, SPARSE, SYMLINK, Member, Metadata
from pysuper.unpack.reader import TarReader
from pysuper.unpack.stream import Codecs, Stream
from pysuper.unpack.tree import OPEN_DIRECTORY, Tree, components

MAX_ID = 65535  # the ids that a container's user namespace maps
MAX_REMEMBERED = 512 * 1024 * 1024  # memory for what has to be known until the end

CREATE_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# Non-blocking, or opening a FIFO would wait for a writer (fifo(7)).
OPEN_FIFO = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Limits:
    """
    What stops a bomb.

    Attributes:
        bytes: That are written in all: of files with their holes, of extended attributes and of symlinks.
        entries: Members, and directories that are made on the way to them.
        depth: Directories in each other.
    """

    bytes: int = 16 * 1024**3
    entries: int = 1_000_000
    depth: int = 256


def apply(descriptor: int, metadata: Metadata, xattrs: dict[bytes, bytes]) -> None:
    """Give an open file its metadata."""
    # The order matters: chown(2) takes away setuid bits and capabilities.
    os.fchown(descriptor, metadata.uid, metadata.gid)
    for name, value in xattrs.items():
        os.setxattr(descriptor, name, value)
    os.fchmod(descriptor, metadata.mode)
    if metadata.mtime_ns is not None:
        os.utime(descriptor, ns=(metadata.mtime_ns, metadata.mtime_ns))


def has_single_id() -> bool:
    """Whether the user namespace has one id only, an ordinary user's: then nobody else can own anything."""
    with open("/proc/self/uid_map") as file:
        return sum(int(line.split()[2]) for line in file) == 1


class Unpacker:
    """Puts members into DEST, and keeps count."""

    def __init__(self, reader: TarReader, root: int, limits: Limits) -> None:
        self.members = 0
        self.bytes = 0
        self.skipped_devices = 0
        self._reader = reader
        self._limits = limits
        self._tree = Tree(root, limits.depth, self._made)
        self._inodes = 0
        self._written = 0
        self._remembered = 0
        self._single = has_single_id()
        # Directories get their metadata when all is in them: a time stamp would not last, and
        # until then nobody else has any business in them.
        self._directories: dict[bytes, Metadata] = {}
        self._devices: set[bytes] = set()
        self._kinds: dict[bytes, Callable[[list[bytes], Member], None]] = {
            **dict.fromkeys((*REGULAR, SPARSE), self._file),
            **dict.fromkeys(DEVICES, self._device),
            DIRECTORY: self._directory,
            FIFO: self._fifo,
            HARD_LINK: self._hard_link,
            SYMLINK: self._symlink,
        }

    def run(self) -> None:
        """Unpack the whole archive."""
        while member := self._reader.next():
            with Naming(member.name):
                self._place(member)
                self._reader.skip()
        if not self.members:
            raise UnpackError("the archive is empty: it has no members")
        # Reversed, so that a directory comes after all that is in it.
        for path in sorted(self._directories, reverse=True):
            with Naming(path or b"."):
                parts = path.split(b"/") if path else []
                apply(self._tree.enter(parts, create=False), self._directories[path], {})

    def close(self) -> None:
        """Close all descriptors but that of DEST."""
        self._tree.leave()

    def _place(self, member: Member) -> None:
        self._count()
        parts = components(member.name, self._limits.depth)
        if member.kind in REGULAR and member.name.endswith(b"/"):
            # The old way to mark a directory.  Decided by the whole name: what the header has
            # of a long one may end in a slash by chance.
            if member.size:
                raise UnpackError("a directory cannot have content")
            member.kind = DIRECTORY
        put = self._kinds.get(member.kind)
        if not put:
            raise UnpackError(f'members of type "{shown(member.kind)}" are not supported')
        if not parts and member.kind != DIRECTORY:
            raise UnpackError("the root can only be a directory")
        if member.kind not in DEVICES and member.kind != HARD_LINK:
            self._check_owner(member.metadata)
        self._spend(len(member.link) + sum(map(len, member.xattrs.values())))
        put(parts, member)
        self.members += 1

    def _device(self, parts: list[bytes], member: Member) -> None:
        self._remember(member.name)
        self._devices.add(b"/".join(parts))
        self.skipped_devices += 1

    def _count(self) -> None:
        self._inodes += 1
        if self._inodes > self._limits.entries:
            raise LimitExceeded(f"the archive has more than {self._limits.entries} entries")

    def _spend(self, count: int) -> None:
        """Count bytes before they are written."""
        self._written += count
        if self._written > self._limits.bytes:
            raise LimitExceeded(f"the archive unpacks to more than {self._limits.bytes} bytes")

    def _remember(self, path: bytes) -> None:
        self._remembered += len(path) + 300  # about what the objects around it take
        if self._remembered > MAX_REMEMBERED:
            raise LimitExceeded("the archive has too many directories or devices to remember them all")

    def _made(self, path: bytes) -> None:
        """Note a directory that the archive does not name, or not yet."""
        self._count()
        self._remember(path)
        self._directories[path] = Metadata(0o755, os.geteuid(), os.getegid(), None)

    def _check_owner(self, metadata: Metadata) -> None:
        if self._single:
            metadata.uid, metadata.gid = os.geteuid(), os.getegid()
        uid, gid = metadata.uid, metadata.gid
        if not (0 <= uid <= MAX_ID and 0 <= gid <= MAX_ID):
            raise UnpackError(f"the owner {uid}:{gid} cannot be mapped: ids go from 0 to {MAX_ID}")

    def _clear(self, parent: int, name: bytes) -> None:
        """Remove what is in the way of a new entry."""
        try:
            os.unlink(name, dir_fd=parent)
        except IsADirectoryError:
            try:
                os.rmdir(name, dir_fd=parent)
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:
                    raise
                raise UnpackError("it would replace a directory that is not empty") from None
            self._directories.pop(self._tree.path(name), None)

    def _create(self, parent: int, name: bytes, make: Callable[[], T]) -> T:
        try:
            return make()
        except FileExistsError:
            self._clear(parent, name)
            return make()

    def _directory(self, parts: list[bytes], member: Member) -> None:
        path = b""
        if parts:
            parent, name = self._tree.enter(parts[:-1], create=True), parts[-1]
            path = self._tree.path(name)
            try:
                os.mkdir(name, 0o700, dir_fd=parent)
            except FileExistsError:
                if not stat.S_ISDIR(os.lstat(name, dir_fd=parent).st_mode):
                    self._clear(parent, name)
                    os.mkdir(name, 0o700, dir_fd=parent)
        if path not in self._directories:
            self._remember(path)
        self._directories[path] = member.metadata
        for key, value in member.xattrs.items():
            os.setxattr(self._tree.enter(parts, create=False), key, value)

    def _file(self, parts: list[bytes], member: Member) -> None:
        self._spend(member.size)
        self.bytes += member.size
        parent, name = self._tree.enter(parts[:-1], create=True), parts[-1]
        descriptor = self._create(parent, name, lambda: os.open(name, CREATE_FILE, 0o600, dir_fd=parent))
        try:
            if member.regions is None:
                self._reader.copy(descriptor, member.size)
            else:
                for offset, length in member.regions:
                    os.lseek(descriptor, offset, os.SEEK_SET)
                    self._reader.copy(descriptor, length)
                os.ftruncate(descriptor, member.size)
            apply(descriptor, member.metadata, member.xattrs)
        finally:
            os.close(descriptor)

    def _fifo(self, parts: list[bytes], member: Member) -> None:
        parent, name = self._tree.enter(parts[:-1], create=True), parts[-1]
        self._create(parent, name, lambda: os.mkfifo(name, 0o600, dir_fd=parent))
        descriptor = os.open(name, OPEN_FIFO, dir_fd=parent)
        try:
            apply(descriptor, member.metadata, {})
        finally:
            os.close(descriptor)

    def _symlink(self, parts: list[bytes], member: Member) -> None:
        # It may point anywhere: it is followed inside the container only, or by Tree.enter().
        if b"\0" in member.link:
            raise UnpackError("the target of the symlink has a NUL byte")
        if not member.link:
            raise UnpackError("the target of the symlink is empty")
        parent, name = self._tree.enter(parts[:-1], create=True), parts[-1]
        self._create(parent, name, lambda: os.symlink(member.link, name, dir_fd=parent))
        owner, time = member.metadata, member.metadata.mtime_ns or 0
        os.chown(name, owner.uid, owner.gid, dir_fd=parent, follow_symlinks=False)
        os.utime(name, ns=(time, time), dir_fd=parent, follow_symlinks=False)

    def _hard_link(self, parts: list[bytes], member: Member) -> None:
        try:
            with Naming(b"hard link to " + member.link):
                target = components(member.link, self._limits.depth)
                if not target:
                    raise UnpackError("it is a directory")
                parent = self._tree.enter(target[:-1], create=False)
                there = _linkable(parent, target[-1])
        except MissingError:
            if b"/".join(target) not in self._devices:
                raise
            self._device(parts, member)
            return
        # One of our own, because entering the new name's parent may close the other.
        source = os.dup(parent)
        try:
            self._link(source, target[-1], there, parts)
        finally:
            os.close(source)

    def _link(self, source: int, old: bytes, there: os.stat_result, parts: list[bytes]) -> None:
        parent, name = self._tree.enter(parts[:-1], create=True), parts[-1]

        def link() -> None:
            # Not following: one more name of a symlink, wherever that points.
            os.link(old, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)

        try:
            link()
        except FileExistsError:
            # If both are names of one file already, removing one could be to remove the target.
            if not os.path.samestat(there, os.lstat(name, dir_fd=parent)):
                self._clear(parent, name)
                link()


def _linkable(parent: int, name: bytes) -> os.stat_result:
    try:
        found = os.lstat(name, dir_fd=parent)
    except FileNotFoundError:
        raise MissingError("it does not exist") from None
    if not stat.S_ISREG(found.st_mode) and not stat.S_ISLNK(found.st_mode):
        raise UnpackError("it is neither a file nor a symlink")
    return found


def unpack(archive: int, dest: str, limits: Limits, codecs: Codecs) -> dict[str, int]:
    """Unpack the archive that a descriptor reads into the empty directory `dest`."""
    with Naming(os.fsencode(dest)):
        root = os.open(dest, OPEN_DIRECTORY)
    try:
        with Naming(os.fsencode(dest)):
            if os.listdir(root):
                raise UnpackError("the directory is not empty")
        unpacker = Unpacker(TarReader(Stream(archive, codecs)), root, limits)
        try:
            unpacker.run()
        finally:
            unpacker.close()
    finally:
        os.close(root)
    return {
        "entries": unpacker.members - unpacker.skipped_devices,
        "bytes": unpacker.bytes,
        "skipped_devices": unpacker.skipped_devices,
    }
