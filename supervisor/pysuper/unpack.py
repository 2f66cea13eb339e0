"""Unpack a hostile root filesystem tarball from stdin into an empty directory, and nowhere else.

Run as ``python -I -S unpack.py DEST [EXTRA_SYS_PATH...]`` inside a container that is already
confined: uid 0 of an own user namespace, DEST on an idmapped mount, and of the capabilities only
CHOWN, DAC_OVERRIDE, FOWNER, FSETID and SETFCAP.  It uses the standard library alone, and imports
all it needs before it reads the first byte of the archive.  EXTRA_SYS_PATH is where to find
``backports.zstd`` on a Python older than 3.14.

The confinement is one wall, this program is the other.  Python's ``tarfile`` is not used.  Its
extraction filters were got round again and again (CVE-2024-12718, CVE-2025-4138, CVE-2025-4330,
CVE-2025-4517), because they judge a path as text and then hand the text to the kernel to resolve
once more.  Here no path of more than one component ever reaches the kernel: each directory is
opened from its parent's descriptor with O_NOFOLLOW (open(2), path_resolution(7)), so what was
checked is what is used.  And its reader takes a broken header for the end of the archive, reads
extension headers of any size into memory, and calls itself once for each of them (see also
CVE-2024-6232, CVE-2025-8194, CVE-2025-13462): to trust it would be to replace most of it.

The formats read are v7, ustar, pax and GNU's, with sparse files of all of GNU's versions, plain
or compressed with gzip, bzip2, xz or zstd.  Not done: OCI layers (a whiteout ``.wh.NAME`` is
unpacked as the plain file it is), device nodes (skipped and counted: a container gets a /dev of
its own), extended attributes other than ``security.capability`` and ``user.*``, multi-volume and
incremental archives.  Space is limited here, time is not: that is for the caller to do.

Success is one line of JSON on stdout and exit 0: ``entries`` counts the members unpacked,
``bytes`` the apparent size of the files.  Anything else is one line on stderr and exit 1, and
leaves DEST half filled: it is the caller's to throw away.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import json
import os
import re
import stat
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

BLOCK = 512
CHUNK = 256 * 1024
MAX_NAME = 4096
MAX_COMPONENT = 255
MAX_ID = 65535  # the ids that a container's user namespace maps
MAX_LINKS = 40  # as the kernel's own limit, path_resolution(7)
# Go's archive/tar has the same limit for headers that are read into memory whole.
MAX_EXTENSION = 1024 * 1024
MAX_EXTENSIONS = 16  # extension headers before one member
MAX_REGIONS = 256 * 1024  # of one sparse file
MAX_TRAILER = 64 * 1024 * 1024  # what may follow the end-of-archive blocks
MAX_REMEMBERED = 512 * 1024 * 1024  # memory for what has to be known until the end
MAX_SECONDS = 1 << 40  # a time stamp beyond it is nonsense, and overflows time_t's arithmetic
XZ_MEMORY = 256 * 1024 * 1024  # four times what `xz -9` needs
SHOWN_NAME = 240

OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
CREATE_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# Non-blocking, or opening a FIFO would wait for a writer (fifo(7)).
OPEN_FIFO = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC

# The types of members, tar(5).
REGULAR = (b"0", b"\0", b"7")
HARD_LINK = b"1"
SYMLINK = b"2"
DEVICES = (b"3", b"4")
DIRECTORY = b"5"
FIFO = b"6"
SPARSE = b"S"
LONG_NAME = b"L"
LONG_LINK = b"K"
PAX = (b"x", b"X")  # the second is Solaris's
PAX_FOR_ALL = b"g"
VOLUME_LABEL = b"V"

T = TypeVar("T")


class UnpackError(Exception):
    """What is wrong, in words for the user: a line that may be shown as it stands."""


class MissingError(UnpackError):
    """A directory or file that has to be there already is not."""


def shown(name: bytes) -> str:
    """Return a name from the archive made safe for a terminal or a log, and not overly long."""
    text = "".join(map(_shown_character, name.decode("utf-8", "surrogateescape"))) or "(no name)"
    return text if len(text) <= SHOWN_NAME else text[:SHOWN_NAME] + "..."


class Naming:
    """A context that puts a name before whatever goes wrong in it."""

    __slots__ = ("_name",)

    def __init__(self, name: bytes) -> None:
        self._name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise UnpackError(f"{shown(self._name)}: {error.strerror or error}") from None
        if isinstance(error, UnpackError):
            raise type(error)(f"{shown(self._name)}: {error}") from None


def _shown_character(char: str) -> str:
    # Written out, because the codec "unicode_escape" would be imported at its first use.
    code = ord(char)
    if char == "\\":
        return "\\\\"
    if char.isprintable():
        return char
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8, see PEP 383
        return f"\\x{code - 0xDC00:02x}"
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


# --- Decompression ------------------------------------------------------------------------------


class Decompressor(Protocol):
    """What bz2's, lzma's and zstd's decompressors of one stream have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class Gunzip:
    """One gzip member.  gzip.GzipFile is not used: it fails at garbage after the last one."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        self._rest = b""
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._inflate.eof

    @property
    def unused_data(self) -> bytes:
        return self._inflate.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        out = self._inflate.decompress(self._rest + data, max_length)
        self._rest = self._inflate.unconsumed_tail
        self.needs_input = not self._rest
        return out


def _import_first(*names: str) -> Any:
    for name in names:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


class Codecs:
    """The decompressors this Python has, imported before any of the archive is read."""

    def __init__(self) -> None:
        self._bz2 = _import_first("bz2")
        self._lzma = _import_first("lzma")
        self._zstd = _import_first("compression.zstd", "backports.zstd")
        failures: list[type[Exception]] = [OSError, EOFError, ValueError, zlib.error]
        if self._lzma:
            failures.append(self._lzma.LZMAError)
        if self._zstd:
            failures.append(self._zstd.ZstdError)
        self.failures = tuple(failures)

    def new(self, kind: str) -> Decompressor:
        """Return a decompressor for one stream of this kind."""
        made: Decompressor | None = None
        if kind == "gz":
            made = Gunzip()
        elif kind == "bz2" and self._bz2:
            made = self._bz2.BZ2Decompressor()
        elif kind == "xz" and self._lzma:
            # Without a limit a header of a few bytes asks for 4 GiB.  zstd has one of its own.
            made = self._lzma.LZMADecompressor(self._lzma.FORMAT_XZ, memlimit=XZ_MEMORY)
        elif kind == "zst" and self._zstd:
            made = self._zstd.ZstdDecompressor()
        if made is None:
            needs = "Python 3.14 or the package backports.zstd" if kind == "zst" else kind
            raise UnpackError(f"the archive is {kind}-compressed: this needs a Python with {needs}")
        return made


def compression(head: bytes) -> str | None:
    """Return which compression these first bytes of a file announce, if any."""
    if head.startswith(b"\x1f\x8b\x08"):
        return "gz"
    if head.startswith(b"\xfd7zXZ\0"):
        return "xz"
    # Three letters would also begin a plain archive whose first member is "BZhang".
    if re.match(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)", head):
        return "bz2"
    # The second is a skippable frame, which pzstd begins with (RFC 8878, 3.1.2).
    if head.startswith(b"\x28\xb5\x2f\xfd") or re.match(rb"[\x50-\x5f]\x2a\x4d\x18", head):
        return "zst"
    return None


class Stream:
    """The decompressed bytes of the archive, read forward only: stdin may be a pipe."""

    def __init__(self, descriptor: int, codecs: Codecs) -> None:
        self._descriptor = descriptor
        self._codecs = codecs
        self._view = memoryview(b"")
        self.garbage = False  # whether something followed the compressed data
        self.offset = 0
        head = self._more(b"")
        if not head:
            raise UnpackError("the input is empty: an archive was expected")
        self.kind = compression(head)
        self._chunks = self._decompressed(head, self.kind) if self.kind else self._plain(head)

    def _read(self) -> bytes:
        try:
            return os.read(self._descriptor, CHUNK)
        except OSError as error:
            raise UnpackError(f"the archive cannot be read: {error.strerror}") from None

    def _more(self, data: bytes) -> bytes:
        """Read on until there is enough to tell the compression by, or the input ends."""
        while len(data) < BLOCK and (piece := self._read()):
            data += piece
        return data

    def _plain(self, data: bytes) -> Iterator[bytes]:
        while data:
            yield data
            data = self._read()

    def _decompressed(self, data: bytes, kind: str) -> Iterator[bytes]:
        unit = self._codecs.new(kind)
        while True:
            try:
                out = unit.decompress(data, CHUNK)
            except self._codecs.failures as error:
                raise UnpackError(f"the {kind} data is corrupt: {error}") from None
            if out:
                yield out
            if unit.eof:
                data = self._following(unit.unused_data)
                if compression(data) != kind:
                    self.garbage = bool(data)  # ignored, as gzip(1) does
                    return
                unit = self._codecs.new(kind)
            elif not unit.needs_input:
                data = b""
            elif not (data := self._read()):
                raise UnpackError(f"the {kind} data is cut short")

    def _following(self, data: bytes) -> bytes:
        """Return what follows a compressed stream and its padding of zeros."""
        while not (data := data.lstrip(b"\0")):
            data = self._read()
            if not data:
                return b""
        return self._more(data)

    def some(self, limit: int) -> memoryview:
        """Return from 1 to `limit` bytes, or none at the end."""
        if not self._view:
            self._view = memoryview(next(self._chunks, b""))
        piece = self._view[:limit]
        self._view = self._view[limit:]
        self.offset += len(piece)
        return piece

    def up_to(self, count: int) -> bytes:
        """Return `count` bytes, fewer only at the end."""
        data = bytes(self.some(count))
        while len(data) < count and (piece := self.some(count - len(data))):
            data += piece
        return data


# --- The tar format -----------------------------------------------------------------------------


@dataclass(slots=True)
class Metadata:
    """What a file has besides its name and content; no time means that it does not matter."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int | None


@dataclass(slots=True)
class Member:
    """One member of the archive, all extension headers applied."""

    name: bytes
    kind: bytes
    link: bytes
    size: int  # as it will be on disk, holes included
    metadata: Metadata
    regions: list[tuple[int, int]] | None = None  # (offset, length) of a sparse file's data
    xattrs: dict[bytes, bytes] = field(default_factory=dict)


def number(text: bytes, what: str) -> int:
    """Return a decimal number of an extension header."""
    if not text.isdigit() or len(text) > 20:
        raise UnpackError(f"{what} is not a number: {shown(text)}")
    return int(text)


def nanoseconds(text: bytes) -> int:
    """Return a pax time in nanoseconds, exactly: a float has not enough digits."""
    match = re.fullmatch(rb"(-?)([0-9]{1,20})(?:\.([0-9]{0,64}))?", text)
    if not match:
        raise UnpackError(f"mtime is not a time: {shown(text)}")
    sign, seconds, fraction = match.groups(b"")
    value = int(seconds) * 10**9 + int(fraction[:9].ljust(9, b"0"))
    return -value if sign else value


def pax_records(data: bytes) -> dict[bytes, bytes]:
    """Parse the records ``LENGTH KEY=VALUE\\n`` of a pax header (pax(1), Extended Header).

    Version 0.0 of GNU's sparse format repeats two keys: they are returned as the one key of 0.1.
    """
    records: dict[bytes, bytes] = {}
    regions: list[bytes] = []
    start = 0
    while start < len(data):
        digits = data[start : start + 8].partition(b" ")[0]
        end = start + (int(digits) if digits.isdigit() else 0)
        key, equals, value = data[start + len(digits) + 1 : end - 1].partition(b"=")
        if end > len(data) or not equals or not key or data[end - 1 : end] != b"\n":
            raise UnpackError("a pax header is malformed")
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            regions.append(value)
        else:
            records[key] = value
        start = end
    if regions:
        records[b"GNU.sparse.map"] = b",".join(regions)
    return records


def extended_attributes(pax: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Return the extended attributes that are kept: these two kinds cannot harm the host."""
    prefix = b"SCHILY.xattr."
    named = {key[len(prefix) :]: value for key, value in pax.items() if key.startswith(prefix)}
    if any(b"\0" in name for name in named):
        raise UnpackError("the name of an extended attribute has a NUL byte")
    return {name: value for name, value in named.items() if name == b"security.capability" or name.startswith(b"user.")}


def header_number(text: bytes) -> int:
    """Return a number of a header: octal, or base 256 where GNU has need of more room."""
    if text[0] & 0x80:
        bits = 8 * len(text) - 1
        value = int.from_bytes(text, "big") & ((1 << bits) - 1)
        return value - (1 << bits) if value >> (bits - 1) else value
    digits = text.strip(b" \0").partition(b"\0")[0].partition(b" ")[0]
    if digits.strip(b"01234567"):  # int() is too tolerant
        raise UnpackError("a header has a malformed number")
    return int(digits or b"0", 8)


class Header:
    """One header block."""

    __slots__ = ("block", "gid", "kind", "link", "mode", "mtime", "name", "size", "uid")

    def __init__(self, block: bytes) -> None:
        self._check(block)
        self.block = block
        self.kind = block[156:157]
        self.name = block[:100].partition(b"\0")[0]
        # Only POSIX's own format has a prefix: GNU's has time stamps in its place.
        if block[345] and block[257:263] == b"ustar\0":
            self.name = block[345:500].partition(b"\0")[0] + b"/" + self.name
        self.link = block[157:257].partition(b"\0")[0]
        self.mode = header_number(block[100:108])
        self.uid = header_number(block[108:116])
        self.gid = header_number(block[116:124])
        self.size = header_number(block[124:136])
        self.mtime = header_number(block[136:148])

    @staticmethod
    def _check(block: bytes) -> None:
        rest = block[:148] + b" " * 8 + block[156:]
        difference = sum(rest) - header_number(block[148:156])
        # Some old writers took bytes to be signed (tar(5)).
        if difference and difference != 256 * sum(byte > 127 for byte in rest):
            raise UnpackError("a header has a wrong check sum")


def map_numbers(texts: Sequence[bytes]) -> list[tuple[int, int]]:
    """Return the regions of a sparse map that is a flat list of decimal numbers."""
    if len(texts) % 2 or len(texts) > 2 * MAX_REGIONS:
        raise UnpackError("the sparse map is malformed")
    values = [number(text, "a sparse offset or length") for text in texts]
    return list(zip(values[::2], values[1::2], strict=True))


class TarReader:
    """The members of a tar stream one after the other, each with the data that belongs to it.

    After each member its data must be read, or passed over with skip().
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._left = 0  # bytes of the current member's data not read yet
        self._padding = 0  # and of what fills its last block
        self._common: dict[bytes, bytes] = {}  # from global pax headers

    def next(self) -> Member | None:
        """Return the next member, or None at the end of the archive."""
        long: dict[bytes, bytes] = {}
        pax: dict[bytes, bytes] = {}
        for _ in range(MAX_EXTENSIONS):
            block = self._header()
            if block is None:
                if long or pax:
                    raise UnpackError("the archive is cut short: it ends in an extension header")
                return None
            header = self._parsed(block)
            kind = header.kind
            if kind in (LONG_NAME, LONG_LINK):
                long[kind] = self._extension(header.size).rstrip(b"\0")
            elif kind in PAX:
                pax.update(pax_records(self._extension(header.size)))
            elif kind == PAX_FOR_ALL:
                self._set_common(pax_records(self._extension(header.size)))
            elif kind != VOLUME_LABEL:
                return self._member(header, long, self._common | pax)
        raise UnpackError(f"more than {MAX_EXTENSIONS} extension headers in a row")

    def copy(self, descriptor: int, count: int) -> None:
        """Write the next `count` bytes of the current member's data to a file."""
        while count:
            piece = self._data(count)
            count -= len(piece)
            while piece:
                piece = piece[os.write(descriptor, piece) :]

    def skip(self) -> None:
        """Pass over what is left of the current member's data."""
        self._left += self._padding
        self._padding = 0
        while self._left:
            self._data(CHUNK)

    def _data(self, limit: int) -> memoryview:
        piece = self._stream.some(min(limit, self._left))
        if not piece:
            raise UnpackError("the archive is cut short: it ends inside this member")
        self._left -= len(piece)
        return piece

    def _exactly(self, count: int) -> bytes:
        if count > self._left:
            raise UnpackError("the sparse map is longer than the data it is in")
        data = bytearray()
        while len(data) < count:
            data += self._data(count - len(data))
        return bytes(data)

    def _announce(self, size: int) -> None:
        if size < 0:  # CVE-2025-8194: who goes backwards never arrives
            raise UnpackError(f"the size is negative: {size}")
        self._left, self._padding = size, -size % BLOCK

    def _extension(self, size: int) -> bytes:
        if size > MAX_EXTENSION:
            raise UnpackError(f"an extension header of {size} bytes is longer than {MAX_EXTENSION}")
        with Naming(b"an extension header"):
            self._announce(size)
            data = self._exactly(size)
            self.skip()
        return data

    def _set_common(self, records: dict[bytes, bytes]) -> None:
        for key in records:
            if key in (b"path", b"linkpath", b"size") or key.startswith(b"GNU.sparse."):
                raise UnpackError(f"a global header sets {shown(key)} for all members")
        self._common.update((k, records[k]) for k in (b"uid", b"gid", b"mtime") if k in records)

    def _block(self) -> bytes:
        block = self._stream.up_to(BLOCK)
        if 0 < len(block) < BLOCK:
            raise UnpackError(self._corrupt("the archive is cut short: it ends inside a header"))
        return block

    def _header(self) -> bytes | None:
        """Return the next header block, or None when the archive ends as it may."""
        block = self._block()
        if not block:
            # Some writers leave out the end-of-archive blocks, and GNU tar does not mind.
            if self._stream.garbage:
                raise UnpackError("the archive is cut short: garbage is where it should go on")
            return None
        if block.count(0) < BLOCK:
            return block
        if self._stream.up_to(BLOCK).strip(b"\0"):
            raise UnpackError("the archive is corrupt: data follows a single block of zeros")
        # Read on to the end, because the compression's check sum is there.
        end = self._stream.offset
        while self._stream.some(CHUNK):
            if self._stream.offset - end > MAX_TRAILER:
                raise UnpackError(f"more than {MAX_TRAILER} bytes follow the end of the archive")
        return None

    def _parsed(self, block: bytes) -> Header:
        try:
            return Header(block)
        except UnpackError as error:
            raise UnpackError(self._corrupt(f"the archive is corrupt: {error}")) from None

    def _corrupt(self, what: str) -> str:
        if self._stream.offset > BLOCK:
            return f"{what} (at byte {self._stream.offset})"
        if self._stream.kind:
            return f"the {self._stream.kind} data is not a tar archive"
        return "the input is not a tar archive, neither plain nor in gz, bz2, xz or zst"

    def _member(self, header: Header, long: dict[bytes, bytes], pax: dict[bytes, bytes]) -> Member:
        # An empty value takes back what came before (pax(1)), hence "or".
        name = pax.get(b"GNU.sparse.name") or pax.get(b"path") or long.get(LONG_NAME)
        link = pax.get(b"linkpath") or long.get(LONG_LINK) or header.link
        name = name or header.name
        with Naming(name):
            member = Member(
                name=name,
                kind=header.kind,
                link=link,
                size=number(pax[b"size"], "size") if pax.get(b"size") else header.size,
                metadata=self._metadata(header, pax),
                xattrs=extended_attributes(pax),
            )
            if member.kind in REGULAR or member.kind == SPARSE:
                self._content(member, header, pax)
            else:
                self._announce(0)  # the others have none, whatever their header says
        return member

    def _metadata(self, header: Header, pax: dict[bytes, bytes]) -> Metadata:
        uid, gid, mtime = pax.get(b"uid"), pax.get(b"gid"), pax.get(b"mtime")
        time = nanoseconds(mtime) if mtime else header.mtime * 10**9
        if abs(time) > MAX_SECONDS * 10**9:
            raise UnpackError("mtime is out of range")
        return Metadata(
            mode=header.mode & 0o7777,
            uid=number(uid, "uid") if uid else header.uid,
            gid=number(gid, "gid") if gid else header.gid,
            mtime_ns=time,
        )

    def _content(self, member: Member, header: Header, pax: dict[bytes, bytes]) -> None:
        """Find out what data the member has, and where in the file it goes."""
        stored = member.size
        if member.kind == SPARSE:
            member.size = header_number(header.block[483:495])
            member.regions = self._old_regions(header.block)
            self._announce(stored)
        elif b"GNU.sparse.major" in pax:
            self._announce(stored)
            member.size = number(pax.get(b"GNU.sparse.realsize", b""), "GNU.sparse.realsize")
            if (pax[b"GNU.sparse.major"], pax.get(b"GNU.sparse.minor")) != (b"1", b"0"):
                raise UnpackError("this version of the sparse format is not known")
            member.regions = self._regions()
        elif b"GNU.sparse.map" in pax or b"GNU.sparse.size" in pax:
            self._announce(stored)
            member.size = number(pax.get(b"GNU.sparse.size", b""), "GNU.sparse.size")
            table = pax.get(b"GNU.sparse.map")
            member.regions = map_numbers(table.split(b",")) if table else []
        else:
            self._announce(stored)
        if member.regions is not None:
            self._check(member.regions, member.size)

    def _check(self, regions: list[tuple[int, int]], size: int) -> None:
        end = 0
        for offset, length in regions:
            if offset < end or length < 0:
                raise UnpackError("the sparse map is not in order")
            end = offset + length
        if end > size or sum(length for _, length in regions) != self._left:
            raise UnpackError("the sparse map does not fit the size")

    def _old_regions(self, block: bytes) -> list[tuple[int, int]]:
        """Read the map of GNU's old format: 4 regions in the header, 21 in each block after it."""
        regions: list[tuple[int, int]] = []
        table, more = block[386:482], block[482]
        for _ in range(MAX_REGIONS // 21):
            for at in range(0, len(table), 24):
                offset, length = (header_number(table[i : i + 12]) for i in (at, at + 12))
                if length:
                    regions.append((offset, length))
            if not more:
                return regions
            block = self._block()
            if not block:
                raise UnpackError("the archive is cut short: it ends inside this member")
            table, more = block[:504], block[504]
        raise UnpackError(f"the sparse map has more than {MAX_REGIONS} regions")

    def _regions(self) -> list[tuple[int, int]]:
        """Read the map of version 1.0: lines of decimal numbers before the data, count first."""
        lines: list[bytes] = []
        rest = b""
        count = 0
        while not lines or len(lines) <= 2 * count:
            *full, rest = (rest + self._exactly(BLOCK)).split(b"\n")
            lines += full
            count = number(lines[0], "the count of the sparse map") if lines else 0
            if count > MAX_REGIONS:
                raise UnpackError(f"the sparse map has more than {MAX_REGIONS} regions")
            if not lines or len(rest) >= BLOCK:
                raise UnpackError("the sparse map is malformed")
        return map_numbers(lines[1 : 1 + 2 * count])


# --- The tree -----------------------------------------------------------------------------------


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


# --- Unpacking ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Limits:
    """What stops a bomb."""

    bytes: int = 32 * 1024**3
    entries: int = 4_000_000
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
        put(parts, member)
        self.members += 1

    def _device(self, parts: list[bytes], member: Member) -> None:
        self._remember(member.name)
        self._devices.add(b"/".join(parts))
        self.skipped_devices += 1

    def _count(self) -> None:
        self._inodes += 1
        if self._inodes > self._limits.entries:
            raise UnpackError(f"the archive has more than {self._limits.entries} entries")

    def _remember(self, path: bytes) -> None:
        self._remembered += len(path) + 300  # about what the objects around it take
        if self._remembered > MAX_REMEMBERED:
            raise UnpackError("the archive has too many directories or devices")

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
        self.bytes += member.size
        if self.bytes > self._limits.bytes:
            raise UnpackError(f"the archive unpacks to more than {self._limits.bytes} bytes")
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


def main(arguments: Sequence[str]) -> int:
    """Run the program and return its exit code."""
    default = Limits()
    parser = argparse.ArgumentParser(prog="unpack", description=__doc__.partition("\n")[0])
    parser.add_argument("--max-bytes", type=int, default=default.bytes, metavar="N")
    parser.add_argument("--max-entries", type=int, default=default.entries, metavar="N")
    parser.add_argument("--max-depth", type=int, default=default.depth, metavar="N")
    parser.add_argument("dest", metavar="DEST")
    parser.add_argument("paths", nargs="*", metavar="EXTRA_SYS_PATH")
    options = parser.parse_args(arguments)
    sys.path += options.paths
    limits = Limits(options.max_bytes, options.max_entries, options.max_depth)
    try:
        report = unpack(0, options.dest, limits, Codecs())
    except UnpackError as error:
        print(f"unpack: {error}", file=sys.stderr)
        return 1
    except MemoryError:
        print("unpack: the archive needs more memory than there is", file=sys.stderr)
        return 1
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
