"""The bytes of an archive, decompressed and read forward only; never more of them in memory than asked for."""

from __future__ import annotations

import importlib
import os
import re
import zlib
from collections.abc import Iterator
from typing import Any, Protocol

from pysuper.unpack.errors import UnpackError

CHUNK = 256 * 1024
_HEAD = 512  # bytes that tell the compression
XZ_MEMORY = 256 * 1024 * 1024  # four times what `xz -9` needs


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
        while len(data) < _HEAD and (piece := self._read()):
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
