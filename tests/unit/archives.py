"""Build tar archives byte by byte: the hostile ones that no tar program would write, above all.

The hostile corpus is `HOSTILE`.  Its archives aim at one directory only, whose path they are
given: a program that falls for them does no harm elsewhere, even when it is run as root.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

BLOCK = 512
END = bytes(2 * BLOCK)
NO_PAX: Mapping[bytes, bytes] = {}


def padded(data: bytes) -> bytes:
    """Fill the last block."""
    return data + bytes(-len(data) % BLOCK)


def number(value: int, width: int) -> bytes:
    """Write a number as GNU tar does: octal, or base 256 if it does not fit or is negative."""
    if 0 <= value < 8 ** (width - 1):
        return b"%0*o\0" % (width - 1, value)
    return ((value & (1 << 8 * width - 1) - 1) | 1 << 8 * width - 1).to_bytes(width, "big")


def block(
    name: bytes,
    kind: bytes,
    *,
    size: int = 0,
    link: bytes = b"",
    mode: int = 0o644,
    uid: int | None = None,
    gid: int | None = None,
    mtime: int = 1_600_000_000,
    magic: bytes = b"ustar\x0000",
    rest: bytes = b"",
) -> bytes:
    """Return a header block.  The owner is by default whoever runs this, who can restore it."""
    head = b"".join(
        [
            name[:100].ljust(100, b"\0"),
            number(mode, 8),
            number(os.geteuid() if uid is None else uid, 8),
            number(os.getegid() if gid is None else gid, 8),
            number(size, 12),
            number(mtime, 12),
            b" " * 8,
            kind,
            link[:100].ljust(100, b"\0"),
            magic.ljust(8, b"\0"),
            bytes(80),
        ]
    )
    whole = (head + rest.ljust(167, b"\0"))[:BLOCK]
    return whole[:148] + b"%06o\0 " % sum(whole) + whole[156:]


def records(pax: Mapping[bytes, bytes] | list[tuple[bytes, bytes]]) -> bytes:
    """Return the records of a pax header."""
    lines = []
    for key, value in pax.items() if isinstance(pax, Mapping) else pax:
        line = b" %b=%b\n" % (key, value)
        length = len(line)
        while len(str(length)) + len(line) != length:
            length = len(str(length)) + len(line)
        lines.append(b"%d" % length + line)
    return b"".join(lines)


def extension(kind: bytes, data: bytes) -> bytes:
    """Return an extension header, for example a pax header."""
    return block(b"extension", kind, size=len(data)) + padded(data)


def member(
    name: bytes,
    kind: bytes,
    data: bytes = b"",
    *,
    pax: Mapping[bytes, bytes] | list[tuple[bytes, bytes]] = NO_PAX,
    link: bytes = b"",
    **fields: Any,
) -> bytes:
    """Return one member, with a pax header where the header block has no room."""
    wanted = list(pax.items() if isinstance(pax, Mapping) else pax)
    if len(name) > 100 or b"\0" in name:
        wanted.append((b"path", name))
    if len(link) > 100 or b"\0" in link:
        wanted.append((b"linkpath", link))
    before = extension(b"x", records(wanted)) if wanted else b""
    return before + block(name, kind, size=len(data), link=link, **fields) + padded(data)


def file(name: bytes, data: bytes = b"hostile", **fields: Any) -> bytes:
    return member(name, b"0", data, **fields)


def directory(name: bytes, mode: int = 0o755, **fields: Any) -> bytes:
    return member(name, b"5", mode=mode, **fields)


def symlink(name: bytes, target: bytes) -> bytes:
    return member(name, b"2", link=target, mode=0o777)


def hard_link(name: bytes, target: bytes) -> bytes:
    return member(name, b"1", link=target)


def device(name: bytes) -> bytes:
    return member(name, b"3")


def archive(*members: bytes) -> bytes:
    return b"".join(members) + END


# --- Sparse files, in the four ways that GNU tar has written them -------------------------------

Regions = list[tuple[int, bytes]]


def sparse_old(name: bytes, size: int, regions: Regions) -> bytes:
    def entry(offset: int, length: int) -> bytes:
        return number(offset, 12) + number(length, 12)

    entries = [entry(offset, len(data)) for offset, data in regions]
    rest = bytes(41) + b"".join(entries[:4]).ljust(96, b"\0")
    rest += bytes([len(entries) > 4]) + number(size, 12)
    data = b"".join(data for _, data in regions)
    header = block(name, b"S", size=len(data), magic=b"ustar  \0", rest=rest)
    for at in range(4, len(entries), 21):
        table = b"".join(entries[at : at + 21]).ljust(504, b"\0")
        header += padded(table + bytes([at + 21 < len(entries)]))
    return header + padded(data)


def sparse_0_0(name: bytes, size: int, regions: Regions) -> bytes:
    pax = [(b"GNU.sparse.size", b"%d" % size), (b"GNU.sparse.numblocks", b"%d" % len(regions))]
    for offset, data in regions:
        pax.append((b"GNU.sparse.offset", b"%d" % offset))
        pax.append((b"GNU.sparse.numbytes", b"%d" % len(data)))
    return member(name, b"0", b"".join(data for _, data in regions), pax=pax)


def sparse_0_1(name: bytes, size: int, regions: Regions) -> bytes:
    pax = {
        b"GNU.sparse.name": name,
        b"GNU.sparse.size": b"%d" % size,
        b"GNU.sparse.map": b",".join(b"%d,%d" % (at, len(data)) for at, data in regions),
    }
    return member(b"GNUSparseFile.0/x", b"0", b"".join(data for _, data in regions), pax=pax)


def sparse_1_0(name: bytes, size: int, regions: Regions) -> bytes:
    pax = {
        b"GNU.sparse.major": b"1",
        b"GNU.sparse.minor": b"0",
        b"GNU.sparse.name": name,
        b"GNU.sparse.realsize": b"%d" % size,
    }
    table = b"%d\n" % len(regions) + b"".join(b"%d\n%d\n" % (at, len(d)) for at, d in regions)
    data = padded(table) + b"".join(data for _, data in regions)
    return member(b"GNUSparseFile.0/x", b"0", data, pax=pax)


SPARSE = {"old": sparse_old, "0.0": sparse_0_0, "0.1": sparse_0_1, "1.0": sparse_1_0}


# --- The hostile corpus -------------------------------------------------------------------------


@dataclass(frozen=True)
class Hostile:
    """A hostile archive and what its unpacking has to come to."""

    name: str
    build: Callable[[bytes], bytes]  # from the path of a directory outside that it aims at
    says: str | None  # a regular expression for what the user reads, or None: it unpacks safely
    options: tuple[str, ...] = ()
    code: int = 1  # of the program, if it says anything


def _up(outside: bytes) -> bytes:
    """Return the relative path from DEST to the directory beside it that is aimed at."""
    return b"../" + os.path.basename(outside)


def _path_max(outside: bytes) -> bytes:
    """CVE-2025-4517: a path that realpath() gives up on, but the kernel does not.

    Each of 16 directories with a long name has a short symlink to it.  By the short ones the
    path fits in PATH_MAX, resolved it does not.
    """
    long, parts, members = b"d" * 247, b"", []
    for letter in b"abcdefghijklmnop":
        members.append(directory(parts + long))
        members.append(symlink(parts + bytes([letter]), long))
        parts += long + b"/"
    short = b"/".join(bytes([letter]) for letter in b"abcdefghijklmnop")
    end = short + b"/" + b"l" * 254
    members.append(symlink(end, b"../" * 16))
    members.append(symlink(b"escape", end + b"/" + _up(outside)))
    members.append(hard_link(b"taken", b"escape/secret"))
    return archive(*members, file(b"taken"))


def _path_max_write(outside: bytes) -> bytes:
    blocks = _path_max(outside)
    cut = blocks.index(block(b"taken", b"1", link=b"escape/secret"))
    return blocks[:cut] + archive(file(b"escape/secret"))


def _many_links(count: int) -> Callable[[bytes], bytes]:
    def build(_: bytes) -> bytes:
        chain = [symlink(b"l%d" % i, b"l%d" % (i + 1)) for i in range(count)]
        return archive(*chain, directory(b"l%d" % count), file(b"l0/x"))

    return build


def _fixed(*members: bytes) -> Callable[[bytes], bytes]:
    return lambda _: archive(*members)


def _aimed(*members: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    return lambda outside: archive(*(each(outside) for each in members))


def _extensions(count: int, kind: bytes = b"x") -> bytes:
    return extension(kind, records({b"comment": b"x"})) * count


_LINK_OUT = _aimed(lambda out: symlink(b"a", out))
_VIA = "hostile"

ESCAPES = [
    Hostile("dotdot", lambda out: archive(file(_up(out) + b"/secret")), r"component \"\.\.\""),
    Hostile("dotdot-inside", _fixed(file(b"a/../b")), r"a/\.\./b: .*component \"\.\.\""),
    Hostile("dotdot-last", _fixed(directory(b"a/..")), r"component \"\.\.\""),
    Hostile("dotdot-only", _fixed(directory(b"..", mode=0o777)), r"component \"\.\.\""),
    Hostile("absolute", lambda out: archive(file(out + b"/secret")), None),
    Hostile("absolute-slashes", lambda out: archive(file(b"//./" + out + b"//secret")), None),
    Hostile("absolute-symlink", lambda out: archive(symlink(out + b"/secret", b"x")), None),
    Hostile(
        "write-through-absolute-symlink",
        lambda out: archive(symlink(b"a", out), file(b"a/secret")),
        None,
    ),
    Hostile(
        "write-through-relative-symlink",
        lambda out: archive(symlink(b"a", _up(out)), file(b"a/secret")),
        None,
    ),
    Hostile(
        "write-through-symlink-to-file",
        lambda out: archive(symlink(b"a", out + b"/secret"), file(b"a")),
        None,
    ),
    Hostile(
        "chained-symlinks",
        lambda out: archive(
            directory(b"x"),
            symlink(b"x/b", b"../.."),
            symlink(b"a", b"x/b"),
            file(b"a/" + os.path.basename(out) + b"/secret"),
        ),
        None,
    ),
    Hostile(
        "symlink-to-root-slash",
        lambda out: archive(symlink(b"a", b"/"), file(b"a" + out + b"/secret")),
        None,
    ),
    Hostile(
        "symlink-to-dest-then-up",
        lambda out: archive(symlink(b"a", b"."), symlink(b"b", b"a/" + _up(out)), file(b"b/secret")),
        None,
    ),
    Hostile(
        "directory-then-symlink",
        lambda out: archive(directory(b"a"), symlink(b"a", out), file(b"a/secret")),
        None,
    ),
    Hostile(
        "directory-with-file-then-symlink",
        lambda out: archive(directory(b"a"), file(b"a/x"), symlink(b"a", out)),
        "a: it would replace a directory that is not empty",
    ),
    Hostile(
        "symlink-then-directory",
        lambda out: archive(symlink(b"a", out), directory(b"a", mode=0o777), file(b"a/secret")),
        None,
    ),
    Hostile(
        "directory-mode-through-symlink",
        lambda out: archive(directory(b"a", mode=0o777, mtime=1), symlink(b"a", out), file(b"b")),
        None,
    ),
    Hostile(
        "entered-directory-then-symlink",
        # The directory is emptied of nothing: its descriptor is open when it is replaced.
        lambda out: archive(
            directory(b"a"),
            directory(b"a/b"),
            symlink(b"a/b", out),
            file(b"a/b/secret"),
            file(b"a/b/new"),
        ),
        None,
    ),
    Hostile(
        "directory-over-symlink-parent",
        lambda out: archive(symlink(b"a", out), directory(b"a/inner", mode=0o777)),
        None,
    ),
    Hostile(
        "symlink-through-symlink",
        lambda out: archive(symlink(b"a", out), symlink(b"a/secret", b"x")),
        None,
    ),
    Hostile(
        "fifo-through-symlink",
        lambda out: archive(symlink(b"a", out), member(b"a/secret", b"6")),
        None,
    ),
    Hostile(
        "fifo-over-symlink",
        lambda out: archive(symlink(b"a", out + b"/secret"), member(b"a", b"6", mode=0o777)),
        None,
    ),
    Hostile(
        "xattr-through-symlink",
        lambda out: archive(
            symlink(b"a", out),
            member(b"a/inner", b"5", mode=0o755, pax={b"SCHILY.xattr.user.x": b"1"}),
        ),
        None,
    ),
    Hostile("symlink-loop", _fixed(symlink(b"a", b"a"), file(b"a/x")), "more than 40 symlinks"),
    Hostile(
        "symlink-loop-of-two",
        _fixed(symlink(b"a", b"b"), symlink(b"b", b"a/c"), file(b"a/x")),
        "more than 40 symlinks",
    ),
    Hostile("symlinks-40", _many_links(40), None),
    Hostile("symlinks-41", _many_links(41), "l0/x: more than 40 symlinks"),
    Hostile("path-max-hard-link", _path_max, "taken: hard link to escape/secret: .*not exist"),
    Hostile("path-max-write", _path_max_write, None),
    Hostile(
        "hard-link-absolute",
        lambda out: archive(hard_link(b"a", out + b"/secret"), file(b"a")),
        "a: hard link to .*does not exist",
    ),
    Hostile(
        "hard-link-dotdot",
        lambda out: archive(hard_link(b"a", _up(out) + b"/secret"), file(b"a")),
        r"component \"\.\.\"",
    ),
    Hostile(
        "hard-link-through-symlink",
        lambda out: archive(symlink(b"s", out), hard_link(b"a", b"s/secret"), file(b"a")),
        "a: hard link to s/secret: .*does not exist",
    ),
    Hostile(
        "hard-link-to-symlink-then-write",
        lambda out: archive(symlink(b"s", out + b"/secret"), hard_link(b"h", b"s"), file(b"h")),
        None,
    ),
    Hostile(
        "hard-link-to-symlink-as-parent",
        lambda out: archive(symlink(b"s", out), hard_link(b"h", b"s"), file(b"h/secret")),
        None,
    ),
    Hostile(
        "hard-link-made-outside",
        lambda out: archive(symlink(b"s", out), file(b"x"), hard_link(b"s/secret", b"x")),
        None,
    ),
]

BAD_MEMBERS = [
    Hostile("no-name", _fixed(file(b"")), r"\(no name\): the name is empty"),
    Hostile("name-nul", _fixed(file(b"a\0b")), r"a\\x00b: the name has a NUL"),
    Hostile(
        "name-nul-gnu",
        _fixed(extension(b"L", b"a\0b\0"), file(b"x")),
        r"a\\x00b: the name has a NUL",
    ),
    Hostile("name-4097", _fixed(file(b"a/" * 2048 + b"b")), "longer than 4096 bytes"),
    Hostile("component-256", _fixed(file(b"a" * 256)), "component .* longer than 255 bytes"),
    Hostile("too-deep", _fixed(file(b"a/" * 256 + b"b")), "more than 256 components"),
    Hostile(
        "too-deep-by-symlinks",
        _fixed(directory(b"a/" * 200), symlink(b"s", b"a/" * 200), directory(b"s/" + b"b/" * 100)),
        "more than 256 directories deep",
    ),
    Hostile("depth-option", _fixed(file(b"a/b/c")), "more than 2 components", ("--max-depth=2",)),
    Hostile(
        "terminal-escape",
        _fixed(file("a\x1b[31m\n\u202eb\\".encode() + b"\xff/../x")),
        r"unpack: a\\x1b\[31m\\x0a\\u202eb\\\\\\xff/\.\./x: ",
    ),
    Hostile("symlink-nul", _fixed(symlink(b"a", b"x\0y")), "target of the symlink has a NUL"),
    Hostile("symlink-empty", _fixed(symlink(b"a", b"")), "target of the symlink is empty"),
    Hostile("symlink-long", _fixed(symlink(b"a", b"x/" * 2100)), "a: File name too long"),
    Hostile("hard-link-nul", _fixed(hard_link(b"a", b"x\0y")), "the name has a NUL"),
    Hostile("hard-link-empty", _fixed(hard_link(b"a", b"")), "the name is empty"),
    Hostile("hard-link-to-root", _fixed(hard_link(b"a", b"/")), "it is a directory"),
    Hostile(
        "hard-link-to-directory",
        _fixed(directory(b"d"), hard_link(b"a", b"d")),
        "a: hard link to d: it is neither a file nor a symlink",
    ),
    Hostile("hard-link-forward", _fixed(hard_link(b"a", b"b"), file(b"b")), "b: it does not exist"),
    Hostile("hard-link-itself", _fixed(hard_link(b"a", b"a")), "a: it does not exist"),
    Hostile("parent-is-file", _fixed(file(b"a"), file(b"a/b")), "a/b: a is not a directory"),
    Hostile("parent-is-fifo", _fixed(member(b"a", b"6"), file(b"a/b")), "a is not a directory"),
    Hostile("root-is-file", _fixed(file(b"./")), "cannot have content"),
    Hostile("root-is-symlink", _fixed(symlink(b"./", b"x")), "root can only be a directory"),
    Hostile("root-is-device", _fixed(device(b".")), "root can only be a directory"),
    Hostile("uid-high", _fixed(file(b"a", uid=65536)), "a: the owner 65536:.* cannot be mapped"),
    Hostile("gid-high", _fixed(directory(b"a", gid=2**31)), "2147483648 cannot be mapped"),
    Hostile("uid-negative", _fixed(file(b"a", uid=-1)), "a: the owner -1:.* cannot be mapped"),
    Hostile(
        "uid-pax",
        _fixed(member(b"a", b"0", pax={b"uid": b"4294967295"})),
        "the owner 4294967295:.* cannot be mapped",
    ),
    Hostile("uid-nonsense", _fixed(member(b"a", b"0", pax={b"uid": b"-1"})), "uid is not a number"),
    Hostile("mtime-nonsense", _fixed(member(b"a", b"0", pax={b"mtime": b"1e9"})), "not a time"),
    Hostile("mtime-huge", _fixed(file(b"a", mtime=2**60)), "mtime is out of range"),
    Hostile("unknown-type", _fixed(member(b"a", b"Z")), 'type "Z" are not supported'),
    Hostile("multi-volume", _fixed(member(b"a", b"M")), 'type "M" are not supported'),
    Hostile("device-named-dotdot", _fixed(device(b"../null")), r"component \"\.\.\""),
    Hostile(
        "xattr-nul",
        _fixed(member(b"a", b"0", pax={b"SCHILY.xattr.user.a\0b": b"x"})),
        "extended attribute has a NUL",
    ),
]

_BOMBS = [
    Hostile("bytes", _fixed(file(b"a", b"x" * 5000)), "a: .*more than 4999 bytes",
            ("--max-bytes=4999",)),
    Hostile(
        "bytes-in-all",
        _fixed(file(b"a", b"x" * 3000), file(b"b", b"x" * 3000)),
        "b: .*more than 5999 bytes",
        ("--max-bytes=5999",),
    ),
    Hostile("huge-file", _fixed(block(b"a", b"0", size=2**40)), "a: .*more than 17179869184 bytes"),
    Hostile("huge-number", _fixed(block(b"a", b"0", size=2**90)), "more than 17179869184 bytes"),
    *(
        Hostile(
            f"huge-sparse-{version}",
            _fixed(make(b"a", 2**40 if version != "old" else 2**35 + 1, [(0, b"x")])),
            "a: .*more than 17179869184 bytes",
        )
        for version, make in SPARSE.items()
    ),
    Hostile("entries", _fixed(*(file(b"%d" % i, b"") for i in range(11))),
            "10: the archive has more than 10 entries", ("--max-entries=10",)),
    Hostile("entries-made", _fixed(file(b"a/b/c/d/e")), "more than 4 entries",
            ("--max-entries=4",)),
    Hostile("entries-devices", _fixed(*(device(b"%d" % i) for i in range(11))),
            "more than 10 entries", ("--max-entries=10",)),
    Hostile("symlinks", _fixed(*(symlink(b"%d" % i, b"x" * 4000) for i in range(3))), "2: .*more than 8000 bytes",
            ("--max-bytes=8000",)),
    Hostile("attributes", _fixed(*(directory(b"%d" % i, pax={b"SCHILY.xattr.user.x": bytes(500)}) for i in range(3))),
            "2: .*more than 1000 bytes", ("--max-bytes=1000",)),
]  # fmt: skip
BOMBS = [
    *(replace(case, code=3) for case in _BOMBS),
    Hostile("trailer", lambda _: archive(file(b"a")) + bytes(65 * 2**20), "67108864 bytes follow"),
]


def _sparse_map(regions: bytes, data: bytes) -> bytes:
    return member(b"a", b"0", data, pax={b"GNU.sparse.map": regions, b"GNU.sparse.size": b"9"})


def _sparse_backwards(_: bytes) -> bytes:
    """Return an archive with a sparse file that has a region of negative length."""
    table = b"".join(number(value, 12) for value in (10, -5, 5, 7, 0, 0, 0, 0))
    header = block(b"a", b"S", size=2, magic=b"ustar  \0", rest=bytes(41) + table + b"\0" + number(20, 12))
    return archive(header + padded(b"xx"))


BROKEN = [
    Hostile("sparse-backwards", _sparse_backwards, "a: the sparse map is not in order"),
    Hostile("extension-huge", _fixed(block(b"x", b"x", size=2**33)), "8589934592 bytes is longer"),
    Hostile("long-name-huge", _fixed(block(b"x", b"L", size=2**33)), "8589934592 bytes is longer"),
    Hostile("extensions-many", _fixed(_extensions(17), file(b"a")), "more than 16 extension"),
    Hostile("global-many", _fixed(_extensions(17, b"g"), file(b"a")), "more than 16 extension"),
    Hostile("extension-last", _fixed(_extensions(1)), "cut short: it ends in an extension header"),
    Hostile(
        "global-path",
        _fixed(extension(b"g", records({b"path": b"x"})), file(b"a")),
        "a global header sets path for all",
    ),
    *(
        Hostile(f"pax-{i}", _fixed(extension(b"x", data), file(b"a")), "a pax header is malformed")
        for i, data in enumerate([b"x", b"0 a=b\n", b"99 a=b\n", b"7 a=bc", b"6 abc\n", b"5 =b\n", b"-6 a=b\n", b"\n"])
    ),
    Hostile("size-negative", _fixed(block(b"a", b"0", size=-512)), "a: the size is negative"),
    Hostile("extension-negative", _fixed(block(b"a", b"x", size=-512)), "the size is negative"),
    Hostile(
        "size-pax",
        _fixed(member(b"a", b"0", pax={b"size": b"x"})),
        "a: size is not a number: x",
    ),
    Hostile("sparse-order", _fixed(sparse_0_1(b"a", 9, [(5, b"x"), (1, b"y")])), "not in order"),
    Hostile("sparse-overlap", _fixed(sparse_old(b"a", 9, [(1, b"xyz"), (2, b"y")])), "not in order"),
    Hostile("sparse-short", _fixed(_sparse_map(b"0,2", b"abc")), "does not fit the size"),
    Hostile("sparse-long", _fixed(_sparse_map(b"0,4", b"abc")), "does not fit the size"),
    Hostile("sparse-past-end", _fixed(sparse_1_0(b"a", 9, [(8, b"xyz")])), "does not fit the size"),
    Hostile(
        "sparse-odd",
        _fixed(member(b"a", b"0", pax={b"GNU.sparse.map": b"1", b"GNU.sparse.size": b"9"})),
        "a: the sparse map is malformed",
    ),
    Hostile(
        "sparse-no-size",
        _fixed(member(b"a", b"0", pax={b"GNU.sparse.map": b"0,0"})),
        "GNU.sparse.size is not a number",
    ),
    Hostile(
        "sparse-no-map",
        _fixed(
            member(
                b"a",
                b"0",
                b"x" * 1024,
                pax={
                    b"GNU.sparse.major": b"1",
                    b"GNU.sparse.minor": b"0",
                    b"GNU.sparse.realsize": b"5",
                },
            )
        ),
        "a: the sparse map is malformed",
    ),
    Hostile(
        "sparse-version",
        _fixed(member(b"a", b"0", pax={b"GNU.sparse.major": b"2", b"GNU.sparse.realsize": b"5"})),
        "version of the sparse format is not known",
    ),
    Hostile(
        "sparse-too-many",
        _fixed(sparse_1_0(b"a", 5, []).replace(b"0\n" + bytes(510), b"999999\n" + bytes(505))),
        "more than 262144 regions",
    ),
    Hostile(
        "check-sum",
        _fixed(file(b"a"), file(b"b").replace(b"b", b"c", 1)),
        "corrupt: a header has a wrong check sum",
    ),
    Hostile("zeros-between", _fixed(file(b"a"), bytes(BLOCK), file(b"b")), "single block of zeros"),
]

HOSTILE = [*ESCAPES, *BAD_MEMBERS, *BOMBS, *BROKEN]


# --- Legitimate archives ------------------------------------------------------------------------


def usrmerge() -> bytes:
    """Return a small root filesystem as distributions lay it out today."""
    links = [symlink(name, b"usr/" + name) for name in (b"bin", b"lib")]
    return archive(
        directory(b"./"),
        *links,
        directory(b"./usr/"),
        directory(b"./usr/bin/"),
        file(b"./usr/bin/sh", b"#!"),
        hard_link(b"./usr/bin/dash", b"./usr/bin/sh"),
        # Some packages still use the old name.
        file(b"./bin/old", b"old"),
        hard_link(b"./usr/bin/older", b"bin/old"),
        file(b"lib/x86/libc.so", b"elf"),
        symlink(b"./etc/alternatives", b"/usr/bin/sh"),
        directory(b"./dev/"),
        device(b"./dev/null"),
        hard_link(b"./dev/nothing", b"./dev/null"),
        member(b"./run/initctl", b"6", mode=0o600),
    )


def by_tarfile(version: int, name: str) -> bytes:
    """Return an archive of the standard library's making, with a file of this name."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=version) as tar:
        info = tarfile.TarInfo(name)
        info.size, info.mode = 5, 0o640
        info.uid, info.gid, info.mtime = os.geteuid(), os.getegid(), 1_500_000_000
        tar.addfile(info, io.BytesIO(b"hello"))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.LNKTYPE, name
        tar.addfile(link)
        link.name, link.type = "symlink", tarfile.SYMTYPE
        link.uid, link.gid = info.uid, info.gid
        tar.addfile(link)
    return out.getvalue()
