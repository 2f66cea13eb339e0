"""
What archives have been used for, in both directions: the attack works on a program that believes the archive, and does
not on ours.

The setuid files of an archive are in tests/kernel/test_archive_privileges.py.
"""

from __future__ import annotations

import contextlib
import gzip
import itertools
import os
import re
import resource
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import archives
import credulous
import pytest
from archives import archive, directory, file, hard_link, member, symlink
from places import Place

MIB = 2**20

#: What does no harm even in the hands of the other: loops, a directory that is not empty, names that lead back to where
#: they began, an entry that replaces a symlink.
HARMLESS = {
    *("dotdot-inside", "dotdot-last", "symlink-loop", "symlink-loop-of-two", "symlinks-40", "symlinks-41"),
    *("directory-with-file-then-symlink", "fifo-over-symlink"),
}


@pytest.fixture
def victim(tmp_path: Path) -> Place:
    return Place(tmp_path / "credulous")


@pytest.fixture
def ours(tmp_path: Path) -> Place:
    return Place(tmp_path / "ours")


def extract(victim: Place, data: bytes) -> None:
    """Some of the attacks end in an error when the harm is done."""
    with contextlib.suppress(OSError):
        credulous.extract(data, str(victim.dest))


# --- Out of the directory ---


@pytest.mark.parametrize("case", archives.ESCAPES, ids=lambda case: case.name)
def test_escape(victim: Place, ours: Place, case: archives.Hostile) -> None:
    """
    By `..` and absolute names, by symlinks (absolute, relative, chained, swapped for a directory, longer than PATH_MAX
    as in CVE-2025-4517), by hard links to what lies outside, by modes and times that are set last.
    """
    before = victim.around()
    extract(victim, case.build(os.fsencode(victim.outside)))
    assert (victim.around() == before) == (case.name in HARMLESS)
    ours.run(case.build(os.fsencode(ours.outside)))  # which sees that nothing outside has changed


def test_a_hard_link_takes_a_secret_in(victim: Place, ours: Place) -> None:
    """Nothing outside is changed: it is read, by whoever may read what was unpacked."""

    def build(place: Place) -> bytes:
        return archive(symlink(b"s", os.fsencode(place.outside)), hard_link(b"taken", b"s/secret"))

    extract(victim, build(victim))
    assert (victim.dest / "taken").read_text() == "secret"
    assert "does not exist" in ours.fails(build(ours))
    assert not (ours.dest / "taken").exists()


# --- Privileges ---


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make device nodes")
def test_a_device_node(victim: Place, ours: Place) -> None:
    """Whoever opens it has the device: a disk, the memory."""

    def made(place: Place) -> bool:
        path = place.dest / "dev/zero"
        return path.exists() and path.stat().st_rdev == os.makedev(1, 5)

    info = tarfile.TarInfo("dev/zero")
    info.type, info.devmajor, info.devminor = tarfile.CHRTYPE, 1, 5
    data = archive(info.tobuf())
    extract(victim, data)
    assert made(victim)
    assert ours.unpacks(data)["skipped_devices"] == 1
    assert not made(ours)


# --- More than was bargained for ---


def _bytes(dest: Path) -> int:
    return sum(path.stat().st_size for path in dest.iterdir())


def _entries(dest: Path) -> int:
    return len(os.listdir(dest))


def _depth(dest: Path) -> int:
    return max(len(Path(top).relative_to(dest).parts) for top, *_ in os.walk(dest))


#: An archive, what is measured, how much of that may be there, and the option that says so (None is the default).
BOMBS: dict[str, tuple[bytes, Callable[[Path], int], int, str | None]] = {
    "a huge member": (gzip.compress(archive(file(b"bomb", bytes(64 * MIB)))), _bytes, MIB, "--max-bytes"),
    "a hole": (archive(archives.sparse_1_0(b"bomb", 2**40, [(0, b"x")])), _bytes, 2**34, None),
    "many entries": (archive(*(file(b"%d" % i, b"") for i in range(300))), _entries, 200, "--max-entries"),
    "deep directories": (archive(directory(b"d/" * 300)), _depth, 256, None),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb(victim: Place, ours: Place, bomb: str) -> None:
    data, measure, most, option = BOMBS[bomb]
    extract(victim, data)
    assert measure(victim.dest) > most
    done = ours.run(data, *([f"{option}={most}"] if option else []))
    assert done.returncode != 0
    assert measure(ours.dest) <= most


def test_a_huge_header(victim: Place, ours: Place) -> None:
    """A hundred KiB that become as many MiB in memory, before the first member."""

    def little_memory() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (64 * MIB, 64 * MIB))

    data = gzip.compress(archive(archives.extension(b"x", bytes(100 * MIB)), file(b"a")), 1)
    command = [sys.executable, credulous.__file__, victim.dest]
    done = subprocess.run(command, input=data, stderr=subprocess.PIPE, preexec_fn=little_memory, check=False)
    assert b"MemoryError" in done.stderr
    assert "an extension header of 104857600 bytes is longer" in ours.fails(data, preexec_fn=little_memory)


def test_a_size_that_leads_back(ours: Place) -> None:
    """CVE-2025-8194: who goes backwards never arrives."""
    data = archives.block(b"a", b"0", size=-512)
    assert list(itertools.islice(credulous.names(data), 1000)) == [b"a"] * 1000
    assert "the size is negative" in ours.fails(data)


# --- Names ---


def test_a_name_with_a_nul(victim: Place, ours: Place) -> None:
    """What is judged is not what is made: whoever looks for names that end in .so sees none."""
    data = archive(file(b"plugin.so\0.txt"))
    extract(victim, data)
    assert (victim.dest / "plugin.so").exists()
    assert r"plugin.so\x00.txt: the name has a NUL byte" in ours.fails(data)
    assert not os.listdir(ours.dest)


FORGED = b"x\nunpack: all is well\x1b[2K"


def test_a_name_with_a_newline(victim: Place, ours: Place) -> None:
    """The name itself is one: it is the message with it that is forged, here of a file below a file."""
    data = archive(file(FORGED), file(FORGED + b"/a"))
    with pytest.raises(OSError, match=r"\[Errno") as caught:
        credulous.extract(data, str(victim.dest))
    assert "unpack: all is well" in os.fsdecode(caught.value.filename).splitlines()[1]
    said = ours.fails(data)
    assert said.startswith(r"unpack: x\x0aunpack: all is well\x1b[2K")
    assert said.count("\n") == 1


@pytest.mark.parametrize("name", [b"a" * 2**16, b"a/" * 2**15], ids=["component", "path"])
def test_a_name_of_64_kib(victim: Place, ours: Place, name: bytes) -> None:
    """The message with it is a page of a log."""
    data = archive(member(name, b"0", b"x"))
    with pytest.raises((OSError, RecursionError)) as caught:
        credulous.extract(data, str(victim.dest))
    assert isinstance(caught.value, RecursionError) or len(caught.value.filename) > 2**16
    said = ours.fails(data)
    assert re.search("name is longer than", said)
    assert len(said) < 400
    assert not os.listdir(ours.dest)
