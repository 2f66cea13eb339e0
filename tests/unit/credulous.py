"""An extractor that believes what an archive says: it shows that an attack is one. Give it directories made for that.

It hands paths from the archive to the kernel as they are, follows every symlink, and bounds nothing, as tar programs
did before they learned. Python's `tarfile` only reads for it, so that what it does is the same with every version.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import sys
import tarfile
from collections.abc import Iterator

BLOCK = 512
TYPES = {tarfile.CHRTYPE: stat.S_IFCHR, tarfile.BLKTYPE: stat.S_IFBLK, tarfile.FIFOTYPE: stat.S_IFIFO}


def extract(data: bytes, dest: str) -> None:
    """Extract an archive, compressed or not."""
    modes = []
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            # As a program in C would read it, to whom a NUL is the end.
            path = os.path.join(dest, member.name.partition("\0")[0])
            os.makedirs(os.path.dirname(path), exist_ok=True)
            if member.isdir():
                os.makedirs(path, exist_ok=True)
            elif member.isfile():
                _file(archive, member, path)
            else:
                _remove(path)
                _special(member, path, dest)
            if not member.issym() and not member.islnk():
                modes.append((path, member))
    # Last, or nothing could be put into a directory that is read-only.
    for path, member in modes:
        os.chmod(path, member.mode)
        os.utime(path, (member.mtime, member.mtime))


def _file(archive: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> None:
    content = archive.extractfile(member)
    assert content is not None
    with open(path, "wb") as file:
        if member.issparse():
            file.truncate(member.size)
        else:
            file.write(content.read())


def _special(member: tarfile.TarInfo, path: str, dest: str) -> None:
    if member.issym():
        os.symlink(member.linkname, path)
    elif member.islnk():
        os.link(os.path.join(dest, member.linkname), path, follow_symlinks=False)
    else:
        os.mknod(path, TYPES[member.type] | 0o600, os.makedev(member.devmajor, member.devminor))


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        try:
            os.unlink(path)
        except IsADirectoryError:
            os.rmdir(path)


def names(data: bytes) -> Iterator[bytes]:
    """The names of the members, found as their sizes say."""
    at = 0
    while data[at : at + BLOCK].strip(b"\0"):
        yield data[at : at + 100].rstrip(b"\0")
        size = tarfile.nti(data[at + 124 : at + 136])
        at += BLOCK + (size + BLOCK - 1) // BLOCK * BLOCK


if __name__ == "__main__":
    extract(sys.stdin.buffer.read(), sys.argv[1])
