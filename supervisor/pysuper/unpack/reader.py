"""Reads the members of an archive one after the other, each with all its extension headers applied."""

from __future__ import annotations

import os

from pysuper.unpack.errors import LimitExceeded, Naming, UnpackError, shown
from pysuper.unpack.headers import (
    BLOCK,
    LONG_LINK,
    LONG_NAME,
    MAX_REGIONS,
    PAX,
    PAX_FOR_ALL,
    REGULAR,
    SPARSE,
    VOLUME_LABEL,
    Header,
    Member,
    Metadata,
    extended_attributes,
    header_number,
    map_numbers,
    nanoseconds,
    number,
    pax_records,
)
from pysuper.unpack.stream import CHUNK, Stream

# Go's archive/tar has the same limit for headers that are read into memory whole.
MAX_EXTENSION = 1024 * 1024
MAX_EXTENSIONS = 16  # extension headers before one member
MAX_HEADERS = 1024 * 1024 * 1024  # bytes of all extension headers, which are no files
MAX_TRAILER = 64 * 1024 * 1024  # what may follow the end-of-archive blocks
MAX_SECONDS = 1 << 40  # a time stamp beyond it is nonsense, and overflows time_t's arithmetic


class TarReader:
    """The members of a tar stream one after the other, each with the data that belongs to it.

    After each member its data must be read, or passed over with skip().
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._left = 0  # bytes of the current member's data not read yet
        self._padding = 0  # and of what fills its last block
        self._headers = 0  # bytes of extension headers so far
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
        self._headers += max(size, 0)
        if self._headers > MAX_HEADERS:
            raise LimitExceeded(f"the archive has more than {MAX_HEADERS} bytes of extension headers")
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
