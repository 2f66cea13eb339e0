"""The headers of the tar format: v7, ustar, pax and GNU's (tar(5), pax(1)); what they say is not judged here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from pysuper.unpack.errors import UnpackError, shown

BLOCK = 512
MAX_REGIONS = 256 * 1024  # of one sparse file

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
