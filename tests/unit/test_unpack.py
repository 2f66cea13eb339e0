"""Unpack hostile and legitimate archives with the program, and see what it says and touches."""

from __future__ import annotations

import bz2
import contextlib
import errno
import gzip
import importlib
import importlib.util
import lzma
import os
import random
import re
import resource
import shutil
import stat
import struct
import subprocess
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import archives
import pytest
from archives import archive, device, directory, file, hard_link, member, symlink
from hypothesis import HealthCheck, given, settings, strategies as st
from places import Place, Quick, snapshot

from pysuper.unpack import invocation, reader
from pysuper.unpack.errors import UnpackError, shown
from pysuper.unpack.headers import header_number, pax_records
from pysuper.unpack.stream import Stream

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may change owners")


def _zstd() -> ModuleType | None:
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


ZSTD = _zstd()
needs_zstd = pytest.mark.skipif(ZSTD is None, reason="no zstd module")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


# --- The hostile corpus -------------------------------------------------------------------------


@pytest.mark.parametrize("case", archives.HOSTILE, ids=lambda case: case.name)
def test_hostile_archive_touches_nothing_outside(place: Place, case: archives.Hostile) -> None:
    data = case.build(os.fsencode(place.outside))
    if case.says is None:
        place.unpacks(data, *case.options)
    else:
        assert re.search(case.says, place.fails(data, *case.options, code=case.code))


def test_absolute_names_are_relative_to_dest(place: Place) -> None:
    place.unpacks(archive(file(b"/etc/shadow", b"mine"), file(b"//x//./y/", b"")))
    assert (place.dest / "etc/shadow").read_bytes() == b"mine"
    assert (place.dest / "x/y").is_dir()


def test_symlinked_parent_is_resolved_inside_dest(place: Place) -> None:
    outside = os.fsencode(place.outside)
    members = [symlink(b"a", outside), file(b"a/secret"), symlink(b"up", b"../../x"), file(b"up/y")]
    members += [symlink(b"deep/er/abs", b"/z"), file(b"deep/er/abs/f")]
    members += [symlink(b"deep/er/rel", b"../w"), file(b"deep/er/rel/f")]
    place.unpacks(archive(*members))
    assert (place.dest / os.fsdecode(outside.lstrip(b"/")) / "secret").read_bytes() == b"hostile"
    assert (place.dest / "x/y").read_bytes() == b"hostile"
    assert (place.dest / "z/f").read_bytes() == b"hostile"
    assert (place.dest / "deep/w/f").read_bytes() == b"hostile"


def test_symlinks_stay_as_they_are(place: Place) -> None:
    targets = {b"a": b"/etc/passwd", b"b": b"../../../x", b"c": b"nowhere//.", b"d": b"\xff\n"}
    place.unpacks(archive(*(symlink(name, target) for name, target in targets.items())))
    for name, target in targets.items():
        assert os.readlink(os.fsencode(place.dest) + b"/" + name) == target
        assert os.lstat(os.fsencode(place.dest) + b"/" + name).st_mtime == 1_600_000_000


def test_hard_link_to_symlink_is_a_symlink(place: Place) -> None:
    secret = os.fsencode(place.outside / "secret")
    place.unpacks(archive(symlink(b"s", secret), hard_link(b"h", b"s")))
    assert os.readlink(place.dest / "h") == os.fsdecode(secret)
    assert os.path.samestat(os.lstat(place.dest / "h"), os.lstat(place.dest / "s"))


def test_device_nodes_are_skipped_and_counted(place: Place) -> None:
    members = [device(b"dev/null"), member(b"dev/sda", b"4"), hard_link(b"dev/n", b"/dev/null")]
    report = place.unpacks(archive(*members, file(b"a")))
    assert report == {"entries": 1, "bytes": 7, "skipped_devices": 3}
    assert os.listdir(place.dest) == ["a"]


def test_hard_link_to_directory_that_only_devices_are_in(place: Place) -> None:
    said = place.fails(archive(device(b"dev/null"), hard_link(b"a", b"dev/zero")))
    assert "a: hard link to dev/zero: dev does not exist" in said


@pytest.mark.parametrize("mode", [0o4755, 0o2711, 0o6555, 0o1644, 0o000, 0o400])
def test_modes_are_kept(place: Place, mode: int) -> None:
    members = [file(b"f", mode=mode), directory(b"d", mode), member(b"p", b"6", mode=mode)]
    place.unpacks(archive(*members, file(b"d/inside")), preexec_fn=lambda: os.umask(0o077))
    for name in "fdp":
        assert stat.S_IMODE((place.dest / name).lstat().st_mode) == mode, name
    (place.dest / "d").chmod(0o700)


def test_parents_that_are_not_named_are_0755_whatever_the_umask(place: Place) -> None:
    place.dest.chmod(0o2777)
    data = archive(file(b"a/b/c"), directory(b"a", 0o711))
    place.unpacks(data, preexec_fn=lambda: os.umask(0o077))
    assert stat.S_IMODE((place.dest / "a").stat().st_mode) == 0o711
    assert stat.S_IMODE((place.dest / "a/b").stat().st_mode) == 0o755


@as_root
def test_owners_are_kept_by_number(place: Place) -> None:
    owner: dict[str, Any] = {"uid": 1234, "gid": 65535}
    members = [
        directory(b"./", 0o750, **owner),
        directory(b"d", **owner),
        file(b"d/f", mode=0o4755, **owner),
        member(b"s", b"2", link=b"/etc/passwd", **owner),
        member(b"p", b"6", **owner),
        member(b"pax", b"0", pax={b"uid": b"7", b"gid": b"8"}, **owner),
    ]
    place.unpacks(archive(*members))
    for name in (".", "d", "d/f", "s", "p"):
        info = (place.dest / name).lstat()
        assert (info.st_uid, info.st_gid) == (1234, 65535), name
    assert stat.S_IMODE((place.dest / "d/f").stat().st_mode) == 0o4755
    assert ((place.dest / "pax").stat().st_uid, (place.dest / "pax").stat().st_gid) == (7, 8)


def test_times_are_kept(place: Place) -> None:
    pax = {b"mtime": b"1500000000.123456789"}
    members = [
        directory(b"d", mtime=5),
        member(b"d/f", b"0", b"x", pax=pax),
        member(b"d/e", b"5", pax={b"mtime": b"-1.5"}, mode=0o755),
        file(b"d/e/x", mtime=2**33),
        symlink(b"d/e/s", b"x"),
        directory(b"./", mtime=6),
    ]
    place.unpacks(archive(*members))
    assert (place.dest / "d/f").stat().st_mtime_ns == 1_500_000_000_123_456_789
    assert (place.dest / "d/e").stat().st_mtime_ns == -1_500_000_000
    assert (place.dest / "d/e/x").stat().st_mtime == 2**33
    assert (place.dest / "d").stat().st_mtime == 5
    assert place.dest.stat().st_mtime == 6


def test_later_entries_replace_earlier_ones(place: Place) -> None:
    members = [
        file(b"f", b"1"), hard_link(b"other", b"f"), file(b"f", b"2"),
        directory(b"d", 0o700), file(b"d/x"), directory(b"d", 0o711),
        file(b"was-file"), directory(b"was-file"), file(b"was-file/x"),
        directory(b"was-dir"), file(b"was-dir", b"now"),
        symlink(b"was-link", b"d"), directory(b"was-link", 0o700),
        symlink(b"l", b"1"), symlink(b"l", b"2"),
        member(b"p", b"6"), file(b"p", b"not a pipe"),
        file(b"h", b"old"), hard_link(b"h", b"f"), hard_link(b"h", b"f"), hard_link(b"f", b"h"), hard_link(b"f", b"f"),
    ]  # fmt: skip
    place.unpacks(archive(*members))
    assert (place.dest / "other").read_bytes() == b"1"
    assert (place.dest / "f").read_bytes() == (place.dest / "h").read_bytes() == b"2"
    assert stat.S_IMODE((place.dest / "d").stat().st_mode) == 0o711
    assert (place.dest / "d/x").exists()
    assert (place.dest / "was-file/x").exists()
    assert (place.dest / "was-dir").read_bytes() == b"now"
    assert not (place.dest / "was-link").is_symlink()
    assert os.readlink(place.dest / "l") == "2"
    assert (place.dest / "p").read_bytes() == b"not a pipe"


def test_strange_names_are_kept(place: Place) -> None:
    names = [b"new\nline", b"\x1b[2J", b"\xff\xfe", b"-rf", b"a" * 255, "é\u202e".encode(), b"\\"]
    place.unpacks(archive(*(file(name) for name in names)))
    assert sorted(os.listdir(os.fsencode(place.dest))) == sorted(names)


def test_deep_tree_needs_few_descriptors(place: Place) -> None:
    deep = b"/".join([b"d"] * 255)
    wide = [file(b"%d/%s/f" % (i, deep[:-4])) for i in range(3)]
    report = place.unpacks(
        archive(file(deep + b"/f"), *wide),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300)),
    )
    assert report["entries"] == 4


def test_paths_longer_than_path_max(place: Place) -> None:
    name = b"/".join([b"n" * 200] * 20)
    loop = [symlink(b"s", name), file(b"s/" + name + b"/f"), file(b"s/" + name + b"/g")]
    assert place.unpacks(archive(*loop))["entries"] == 3
    shutil.rmtree(place.dest)


def test_leaves_no_descriptor_open(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    for last in (file(b"x/y/z"), file(b"x/y/z/.."), hard_link(b"d/e/f", b"a/b/c"), hard_link(b"b", b"a")):
        with Quick(tmp_path, archive(file(b"a/b/c"), last)):
            assert os.listdir("/proc/self/fd") == before


def test_destination_must_be_empty(place: Place) -> None:
    (place.dest / "x").touch()
    assert "the directory is not empty" in place.fails(archive(file(b"a")))


def test_destination_must_be_a_directory(place: Place) -> None:
    place.dest.rmdir()
    assert "No such file or directory" in place.fails(archive(file(b"a")))
    place.dest.symlink_to(place.outside)
    assert "Not a directory" in place.fails(archive(file(b"a")))
    place.dest.unlink()


# --- Extended attributes ------------------------------------------------------------------------


def _may_set(path: Path, name: str, value: bytes) -> bool:
    try:
        os.setxattr(path, name, value)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP):
            raise
        return False
    os.removexattr(path, name)
    return True


def test_only_capabilities_and_user_attributes_are_kept(place: Place) -> None:
    if not _may_set(place.outside / "inner", "user.test", b"1"):
        pytest.skip("no user attributes on this file system")
    pax = {
        b"SCHILY.xattr.user.key": b"a\0=b\n",
        b"SCHILY.xattr.user.empty": b"",
        b"SCHILY.xattr.trusted.overlay.opaque": b"y",
        b"SCHILY.xattr.security.other": b"x",
        b"SCHILY.xattr.system.posix_acl_access": b"x",
        b"SCHILY.xattr.user": b"x",
    }
    kept = {"user.key": b"a\0=b\n", "user.empty": b""}
    value = struct.pack("<5I", 0x02000001, 1 << 10, 0, 0, 0)
    if _may_set(place.outside / "secret", "security.capability", value):
        pax[b"SCHILY.xattr.security.capability"] = kept["security.capability"] = value
    members = [member(b"f", b"0", pax=pax, mode=0o400), member(b"p", b"6", pax=pax)]
    pax = {key: value for key, value in pax.items() if b"security" not in key}
    members += [member(b"d", b"5", pax=pax, mode=0o700), member(b"s", b"2", link=b"f", pax=pax)]
    place.unpacks(archive(*members))
    found = {name: os.getxattr(place.dest / "f", name) for name in os.listxattr(place.dest / "f")}
    assert {name: found[name] for name in found if name != "security.selinux"} == kept
    assert os.getxattr(place.dest / "d", "user.key") == kept["user.key"]


# --- Compression, and archives that are broken --------------------------------------------------


def _zst(data: bytes) -> bytes:
    assert ZSTD
    return bytes(ZSTD.compress(data))


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": _zst,
}
compressions = pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=needs_zstd) if k == "zst" else k for k in COMPRESS]
)
NOISE = random.Random(1).randbytes(300_000)


@compressions
@pytest.mark.parametrize("pipe", [False, True], ids=["file", "pipe"])
def test_compressed(place: Place, kind: str, pipe: bool) -> None:
    data = archive(file(b"noise", NOISE), file(b"zeros", bytes(2_000_000)), file(b"last"))
    assert place.unpacks(COMPRESS[kind](data), pipe=pipe)["bytes"] == 2_300_007
    assert (place.dest / "noise").read_bytes() == NOISE
    assert (place.dest / "zeros").read_bytes() == bytes(2_000_000)


@compressions
def test_many_compressed_streams(place: Place, kind: str) -> None:
    data = archive(file(b"noise", NOISE), file(b"last"))
    parts = [data[at : at + 70_000] for at in range(0, len(data), 70_000)]
    place.unpacks(b"".join(COMPRESS[kind](part) for part in [b"", *parts, b""]) + bytes(8))
    assert (place.dest / "noise").read_bytes() == NOISE


@compressions
def test_input_that_comes_byte_by_byte(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # More than what is read at once to see which compression it is.
    data = archive(file(b"a", NOISE[:3000]))
    monkeypatch.setattr(Stream, "_read", lambda stream: os.read(stream._descriptor, 1))
    with Quick(tmp_path, COMPRESS[kind](data[:2000]) + bytes(4) + COMPRESS[kind](data[2000:])) as said:
        assert said is None


@needs_zstd
def test_zstd_skippable_frame_first(place: Place) -> None:
    place.unpacks(b"\x50\x2a\x4d\x18\x04\0\0\0abcd" + _zst(archive(file(b"a"))))


@compressions
def test_trailing_garbage_is_ignored_as_gzip_does(place: Place, kind: str) -> None:
    place.unpacks(COMPRESS[kind](archive(file(b"a"))) + b"garbage" * 1000)


@compressions
def test_garbage_in_place_of_the_end_is_not(place: Place, kind: str) -> None:
    said = place.fails(COMPRESS[kind](file(b"a")) + b"garbage" * 1000)
    assert "cut short: garbage" in said


@compressions
@pytest.mark.parametrize("cut", [-1, -9, 0.99, 0.5, 30], ids=str)
def test_truncated_compressed_archive(place: Place, kind: str, cut: float) -> None:
    data = COMPRESS[kind](archive(file(b"noise", NOISE), file(b"last")))
    data = data[: int(len(data) * cut) if isinstance(cut, float) else int(cut)]
    assert f"the {kind} data is cut short" in place.fails(data)


@compressions
def test_damaged_compressed_archive(place: Place, kind: str) -> None:
    data = bytearray(COMPRESS[kind](archive(file(b"noise", NOISE))))
    data[len(data) // 2] ^= 0xFF
    if kind == "zst":  # has no check sum unless asked for
        place.run(bytes(data))
    else:  # bz2 has its own after each block, and of the tar format's this archive has but one
        pattern = f"the {kind} data is (corrupt: |not a tar archive)"
        assert re.search(pattern, place.fails(bytes(data)))


@compressions
def test_compressed_garbage(place: Place, kind: str) -> None:
    assert f"the {kind} data is not a tar archive" in place.fails(COMPRESS[kind](NOISE))


@compressions
def test_compressed_nothing(place: Place, kind: str) -> None:
    assert "the archive is empty" in place.fails(COMPRESS[kind](b""))


def test_xz_may_not_take_all_memory(place: Place) -> None:
    data = bytearray(lzma.compress(archive(file(b"a"))))
    # The block header: its size, flags, filter, size of the properties, the size of the dictionary.
    assert data[12:16] == b"\x02\x00\x21\x01"
    data[16] = 40  # 4 GiB
    data[20:24] = struct.pack("<I", zlib.crc32(data[12:20]))
    assert "the xz data is corrupt: Memory usage limit exceeded" in place.fails(bytes(data))


def test_bomb_of_compressed_zeros_stops_early(place: Place) -> None:
    bomb = gzip.compress(bytes(2**26))
    data = gzip.compress(archives.block(b"a", b"0", size=2**35)) + bomb * 10
    said = place.fails(data, "--max-bytes=1000000", code=3)
    assert "a: the archive unpacks to more than 1000000 bytes" in said
    assert not (place.dest / "a").exists()


@pytest.mark.parametrize("data", [b"", NOISE, b"x", b"<html>", bytes(511), b"\x1f\x8b\x08", b"PK"])
def test_not_an_archive(place: Place, data: bytes) -> None:
    said = place.fails(data)
    assert re.search("is empty|is not a tar archive|is cut short", said)


def test_empty_input(place: Place) -> None:
    assert place.fails(b"") == "unpack: the input is empty: an archive was expected\n"


def test_archive_without_members(place: Place) -> None:
    assert place.fails(bytes(10240)) == "unpack: the archive is empty: it has no members\n"


def test_stdin_that_cannot_be_read(place: Place) -> None:
    # DEST's descriptor becomes 0 then.
    said = place.fails(b"", preexec_fn=lambda: os.close(0))
    assert said == "unpack: the archive cannot be read: Is a directory\n"


def test_cut_anywhere_but_between_members_is_an_error(tmp_path: Path) -> None:
    members = [file(b"a", b"x" * 700), directory(b"n" * 120), symlink(b"s", b"a"), file(b"b")]
    whole = archive(*members)
    boundaries = [len(b"".join(members[:count])) for count in range(1, 5)]
    for size in range(0, len(whole) - 1024, 37):
        with Quick(tmp_path, whole[:size]) as said:
            assert (said is None) == (size in boundaries), (size, said)
    for size in boundaries:
        with Quick(tmp_path, whole[:size]) as said:
            assert said is None


def test_error_names_the_member_that_is_cut(place: Place) -> None:
    said = place.fails(archive(file(b"x/y", NOISE))[:100_000])
    assert said == "unpack: x/y: the archive is cut short: it ends inside this member\n"


def test_damage_in_the_middle_is_not_taken_for_the_end(place: Place) -> None:
    said = place.fails(archive(file(b"a"), b"damage" * 100, file(b"b")))
    assert "the archive is corrupt" in said
    assert "at byte" in said


def test_errors_of_the_system_name_the_member(place: Place) -> None:
    said = place.fails(
        archive(file(b"big", NOISE)),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    assert said == "unpack: big: File too large\n"


def test_too_little_memory_is_said(place: Place) -> None:
    data = lzma.compress(archive(file(b"a")), preset=9)  # which takes 65 MiB
    limit = 32 * 2**20
    said = place.fails(data, code=3, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)))
    assert said == "unpack: to unpack the archive takes more memory than there is\n"


def test_extension_headers_are_bounded_in_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_HEADERS", 1000)
    with Quick(tmp_path, archive(*(member(b"%d" % i, b"0", pax={b"comment": b"x" * 200}) for i in range(4)))) as said:
        assert said is None
    with Quick(tmp_path, archive(*(member(b"%d" % i, b"0", pax={b"comment": b"x" * 200}) for i in range(5)))) as said:
        assert said == "the archive has more than 1000 bytes of extension headers"


FREEZE = """
import os, sys
sys.path += [sys.argv.pop(1), sys.argv.pop(1)]
from pysuper.unpack.program import main
read = os.read
def first(*arguments):
    os.read = read
    sys.meta_path.clear()
    sys.path.clear()
    sys.path_hooks.clear()
    return read(*arguments)
os.read = first
sys.exit(main(sys.argv[1:]))
"""


@compressions
@pytest.mark.parametrize("fail", [False, True], ids=["good", "bad"])
def test_imports_nothing_once_it_reads(place: Place, kind: str, fail: bool) -> None:
    names = [b"a", b"\xff\x1b", "é".encode(), b"n" * 200]
    end = [file(b"\xff\x1b/..\n/..")] if fail else []
    data = COMPRESS[kind](archive(*(file(name) for name in names), *end))
    program = [FREEZE if word.startswith("import ") else word for word in invocation.command(str(place.dest))]
    environment = {**os.environ, "LC_ALL": "en_US.ISO-8859-1"}
    done = subprocess.run(program, input=data, capture_output=True, env=environment, check=False)
    if fail:
        said = b'unpack: \\xff\\x1b/..\\x0a/..: the name has a component ".."\n'
        assert (done.returncode, done.stderr) == (1, said)
    else:
        assert (done.returncode, done.stderr) == (0, b"")


# --- Legitimate archives ------------------------------------------------------------------------


@pytest.mark.parametrize("pipe", [False, True], ids=["file", "pipe"])
def test_usrmerge_layout(place: Place, pipe: bool) -> None:
    report = place.unpacks(archives.usrmerge(), pipe=pipe)
    assert report == {"entries": 13, "bytes": 8, "skipped_devices": 2}
    assert os.readlink(place.dest / "bin") == "usr/bin"
    assert (place.dest / "usr/bin/old").read_bytes() == b"old"
    assert (place.dest / "usr/lib/x86/libc.so").read_bytes() == b"elf"
    assert os.path.samefile(place.dest / "usr/bin/sh", place.dest / "usr/bin/dash")
    assert os.path.samefile(place.dest / "usr/bin/old", place.dest / "usr/bin/older")
    assert os.readlink(place.dest / "etc/alternatives") == "/usr/bin/sh"
    assert stat.S_ISFIFO((place.dest / "run/initctl").lstat().st_mode)
    assert not os.listdir(place.dest / "dev")


FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
NAMES = ["f", "ä/ö", "directory/" * 9 + "n" * 9, "directory/" * 15 + "n" * 90, "é" * 60 + "/" + "é" * 110]


@pytest.mark.parametrize(
    ("kind", "name"),
    # ustar has no room for long targets of links.
    [(kind, name) for kind in FORMATS for name in NAMES if kind != "ustar" or len(name.encode()) <= 100],
)
def test_formats_of_tarfile(place: Place, kind: str, name: str) -> None:
    place.unpacks(archives.by_tarfile(FORMATS[kind], name))
    assert (place.dest / name).read_bytes() == b"hello"
    assert stat.S_IMODE((place.dest / name).stat().st_mode) == 0o640
    assert (place.dest / name).stat().st_mtime == 1_500_000_000
    assert os.path.samefile(place.dest / "link", place.dest / name)
    assert os.readlink(place.dest / "symlink") == name


def test_ustar_has_a_prefix_for_long_names(place: Place) -> None:
    info = tarfile.TarInfo("directory/" * 15 + "n" * 90)
    info.uid, info.gid = os.geteuid(), os.getegid()
    place.unpacks(archive(info.tobuf(tarfile.USTAR_FORMAT)))
    assert (place.dest / info.name).is_file()


def test_old_directories_end_in_a_slash(place: Place) -> None:
    # In the second the slash is there by chance: the header has only part of the name.
    long = b"x" * 99 + b"/" + b"y" * 30
    header = archives.block(long, b"\0", size=7) + archives.padded(b"content")
    members = [member(b"old/", b"\0", mode=0o755), archives.extension(b"L", long + b"\0"), header]
    place.unpacks(archive(*members))
    assert (place.dest / "old").is_dir()
    assert (place.dest / os.fsdecode(long)).read_bytes() == b"content"


def test_gnu_headers_have_times_where_the_prefix_would_be(place: Place) -> None:
    times = archives.number(1_500_000_000, 12)
    place.unpacks(archive(archives.block(b"a", b"5", magic=b"ustar  \0", rest=times)))
    assert os.listdir(place.dest) == ["a"]


def test_check_sums_of_signed_bytes(place: Place) -> None:
    whole = archives.block("é".encode(), b"5")
    signed = sum(byte - 256 * (byte > 127) for byte in whole[:148] + b" " * 8 + whole[156:])
    place.unpacks(archive(whole[:148] + b"%06o\0 " % signed + whole[156:]))
    assert (place.dest / "é").is_dir()


def test_what_is_not_a_member_is_passed_over(place: Place) -> None:
    comment = archives.extension(b"g", archives.records({b"comment": b"0123", b"mtime": b"77"}))
    data = archive(archives.block(b"label", b"V"), comment, file(b"a"), file(b"b"))
    assert place.unpacks(data)["entries"] == 2
    assert (place.dest / "b").stat().st_mtime == 77


def test_whiteouts_are_plain_files(place: Place) -> None:
    place.unpacks(archive(file(b"d/.wh.x", b""), file(b"d/.wh..wh..opq", b"")))
    assert sorted(os.listdir(place.dest / "d")) == [".wh..wh..opq", ".wh.x"]


def test_missing_end_of_archive(place: Place) -> None:
    assert place.unpacks(file(b"a"))["entries"] == 1


@pytest.mark.parametrize("version", archives.SPARSE)
@pytest.mark.parametrize("count", [0, 1, 4, 5, 25, 26, 300])
def test_sparse_files(place: Place, version: str, count: int) -> None:
    size = 2**28
    regions = [(i * 2**18 + 4096 * (i % 3), b"%03d" % i * (1 + i * 7 % 900)) for i in range(count)]
    data = archive(archives.SPARSE[version](b"d/sparse", size, regions), file(b"next"))
    report = place.unpacks(data, pipe=True)
    assert report["bytes"] == size + 7
    info = (place.dest / "d/sparse").stat()
    assert info.st_size == size
    assert info.st_blocks * 512 < 2**23
    with (place.dest / "d/sparse").open("rb") as unpacked:
        for offset, content in regions:
            unpacked.seek(offset)
            assert unpacked.read(len(content) + 1) == content + b"\0"
    assert (place.dest / "next").read_bytes() == b"hostile"


def _gnu_tar(*arguments: str | Path) -> bytes:
    tar = shutil.which("tar")
    version = tar and subprocess.run([tar, "--version"], capture_output=True, text=True, check=True)
    if not tar or not version or "GNU tar" not in version.stdout:
        pytest.skip("no GNU tar")
    return subprocess.run([tar, *arguments], capture_output=True, check=True).stdout


def _sample(top: Path) -> Path:
    tree = top / "sample"
    (tree / "usr" / ("long" * 30) / ("name" * 30)).mkdir(parents=True)
    (tree / "usr" / ("long" * 30) / ("name" * 30) / ("file" * 20)).write_bytes(NOISE)
    (tree / "usr/f").write_text("f")
    os.link(tree / "usr/f", tree / "usr/g")
    os.symlink("/usr/" + "target" * 30, tree / "usr/s")
    os.mkfifo(tree / "usr/p")
    with (tree / "usr/sparse").open("wb") as sparse:
        for i in range(40):
            sparse.seek(i * 2**20)
            sparse.write(b"data")
        sparse.truncate(2**26)
    (tree / "usr").chmod(0o1777)
    (tree / "usr/f").chmod(0o4755)
    return tree


@pytest.mark.parametrize(
    "options",
    [
        ["--format=v7", "--exclude=long*", "--exclude=s", "--exclude=p"],
        ["--format=oldgnu"],
        ["--format=gnu"],
        ["--format=gnu", "--sparse"],
        ["--format=posix"],
        ["--format=posix", "--sparse", "--sparse-version=0.0"],
        ["--format=posix", "--sparse", "--sparse-version=0.1"],
        ["--format=posix", "--sparse", "--sparse-version=1.0"],
        ["--format=gnu", "--label=volume", "--sparse"],
        ["--format=posix", "--pax-option=globexthdr.name=x,comment=y"],
    ],
    ids=" ".join,
)
def test_archives_of_gnu_tar(place: Place, tmp_path: Path, options: list[str]) -> None:
    tree = _sample(tmp_path)
    place.unpacks(_gnu_tar("-C", tree, *options, "-cf", "-", "."))
    expected, found = snapshot(tree), snapshot(place.dest)
    if "--format=v7" in options:
        expected = {name: expected[name] for name in found}
    whole_seconds = "posix" not in options[0]
    for name, status in expected.items():
        ours, theirs = list(found[name]), list(status)
        if whole_seconds:
            theirs[4] = theirs[4] // 10**9 * 10**9
        assert ours == theirs, name
    with (tree / "usr/sparse").open("rb") as one, (place.dest / "usr/sparse").open("rb") as other:
        assert one.read() == other.read()
    if "--sparse" in options:
        assert (place.dest / "usr/sparse").stat().st_blocks * 512 < 2**21


# --- Any archive at all -------------------------------------------------------------------------


PARTS = st.sampled_from([b"a", b"b", b"c", b".", b"..", b"", b"outside", b"secret", b"inner"])
SAFE_PARTS = st.sampled_from([b"a", b"b", b"c", b".", b"", b"secret", b"inner"])


@st.composite
def _paths(draw: st.DrawFn, parts: st.SearchStrategy[bytes]) -> bytes:
    return b"/".join(draw(st.lists(parts, min_size=1, max_size=5)))


def _targets(outside: bytes) -> st.SearchStrategy[bytes]:
    """Where a link may point to: most of all out of DEST."""
    out = st.sampled_from([outside, b"../outside", b"../../outside", b"a/../../outside", b"/", b".."])
    return st.one_of(
        _paths(PARTS),
        out,
        st.builds(lambda a, b: a + b"/" + b, out, SAFE_PARTS),
        st.builds(lambda a: b"/" + a, _paths(SAFE_PARTS)),
    )


def _members(outside: bytes) -> st.SearchStrategy[bytes]:
    # Names with ".." end it all: they have to be rare to see what comes after.
    names = st.one_of(*[_paths(SAFE_PARTS)] * 9, _targets(outside))
    modes = st.sampled_from([0o755, 0o4777, 0o000])
    kinds = [
        st.builds(lambda name, mode: file(name, b"hostile", mode=mode), names, modes),
        st.builds(directory, names, modes),
        st.builds(symlink, names, _targets(outside)),
        st.builds(symlink, names, _targets(outside)),
        st.builds(hard_link, names, st.one_of(_paths(SAFE_PARTS), _targets(outside))),
        st.builds(lambda name: member(name, b"6", mode=0o777), names),
        st.builds(device, names),
    ]
    return st.one_of(kinds)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("any"))


examples = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@examples
@given(st.data())
def test_no_archive_touches_anything_outside(shared: Place, data: st.DataObject) -> None:
    members = data.draw(st.lists(_members(os.fsencode(shared.outside)), max_size=12))
    before = shared.around()
    with Quick(shared.dest, archive(*members)):
        assert shared.around() == before
        # Nor beside this DEST, in the directory it was made in.
        assert len(os.listdir(shared.dest)) == 1


@examples
@given(
    members=st.lists(_members(b"../outside"), min_size=1, max_size=4),
    damage=st.lists(st.tuples(st.integers(0, 10**6), st.binary(max_size=12)), max_size=3),
    mend=st.booleans(),
)
def test_no_damage_makes_it_fall_over(
    shared: Place, members: list[bytes], damage: list[tuple[int, bytes]], mend: bool
) -> None:
    sparse = archives.sparse_old(b"sparse", 2000, [(i * 20, b"x") for i in range(30)])
    raw = bytearray(archive(*members, sparse, archives.sparse_1_0(b"a", 99, [(5, b"x")])))
    for at, content in damage:
        begin = at % len(raw)
        raw[begin : begin + len(content)] = content
        if mend:  # the check sum of what may be a header, so that the damage is read
            start = begin // 512 * 512
            head = raw[start : start + 512]
            if len(head) == 512:
                head[148:156] = b" " * 8
                raw[start + 148 : start + 156] = b"%06o\0 " % sum(head)
    before = shared.around()
    with Quick(shared.dest, bytes(raw)):
        assert shared.around() == before


@examples
@given(st.dictionaries(st.binary(min_size=1, max_size=20), st.binary(max_size=20), max_size=5))
def test_pax_records_are_read_as_written(pax: dict[bytes, bytes]) -> None:
    pax = {key: pax[key] for key in pax if b"=" not in key and not key.startswith(b"GNU.")}
    assert pax_records(archives.records(pax)) == pax


@examples
@given(st.binary(max_size=60))
def test_pax_parser_takes_anything(data: bytes) -> None:
    with contextlib.suppress(UnpackError):
        pax_records(data)


@examples
@given(st.integers(-(2**50), 2**50))
def test_numbers_are_read_as_written(value: int) -> None:
    assert header_number(archives.number(value, 12)) == value
    if value >= 0:
        assert header_number(b"%o" % value) == value


@examples
@given(st.binary(max_size=300))
def test_names_are_shown_on_one_line(name: bytes) -> None:
    text = shown(name)
    assert text
    assert text.isprintable()
    text.encode()
