"""The journal: what is written, what a full disk does to it, and how it is read."""

from __future__ import annotations

import errno
import itertools
import json
import os
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from machine import PATIENCE
from pysuper.errors import PysuperError
from pysuper.stack import journal as writing, reading
from pysuper.stack.journal import MAX_LINE, Journal, LineSplitter
from pysuper.stack.reading import names, parse_since, records
from pysuper.stack.spec import JournalSpec


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path, JournalSpec())
    yield made
    made.close()


def small(directory: Path, **settings: int) -> Journal:
    """A journal whose files have room for some lines only."""
    return Journal(directory, JournalSpec(**{"max_size": 2000, **settings}))


def lines(directory: Path) -> list[dict[str, Any]]:
    """The newest file; every line of it has to be one of JSON."""
    return [json.loads(line) for line in (directory / "journal.jsonl").read_bytes().splitlines()]


def texts(directory: Path, **arguments: Any) -> list[str]:
    return [record["text"] for record in records(directory, **arguments)]


# --- what is written ---


def test_a_record_says_when_and_what_and_of_whom(journal: Journal, tmp_path: Path) -> None:
    before = (time.monotonic(), datetime.now(UTC))
    journal.write("exited", "web-1", 2, pid=5, limits=MappingProxyType({"pids_max": 3}))
    journal.write("up")
    exited, up = lines(tmp_path)
    assert list(exited) == ["at", "boot", "time", "kind", "container", "run", "pid", "limits"]
    assert exited | {"kind": "exited", "container": "web-1", "run": 2, "pid": 5, "limits": {"pids_max": 3}} == exited
    assert list(up) == ["at", "boot", "time", "kind"]
    assert before[0] - 1e-6 <= exited["at"] <= up["at"] <= time.monotonic()
    assert before[1] <= datetime.fromisoformat(exited["time"]) <= datetime.now(UTC)
    assert exited["time"].endswith("Z")
    assert Path("/proc/sys/kernel/random/boot_id").read_text().startswith(exited["boot"])
    assert len(exited["boot"]) == 8


def test_output_is_a_record_for_each_line_and_one_write_for_all(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = []
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: writes.append(fd) or real(fd, data))
    journal.output("web-1", 3, "stderr", b'one\n\n"2"\\n\t\x1b[31m\r\nend')
    assert len(writes) == 1
    found = lines(tmp_path)
    assert [record["text"] for record in found] == ["one", "", '"2"\\n\t\x1b[31m\r', "end"]
    assert [record.get("partial") for record in found] == [None, None, None, True]
    assert list(found[0]) == ["at", "boot", "time", "kind", "container", "run", "text"]
    assert {(record["kind"], record["container"], record["run"]) for record in found} == {("stderr", "web-1", 3)}


def test_output_that_is_not_there_is_no_record(journal: Journal, tmp_path: Path) -> None:
    journal.output("web-1", 1, "stdout", b"")
    assert lines(tmp_path) == []


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=60) | st.sampled_from([b"\n", "€".encode(), b"\xed\xb3\xbf\\"])))
def test_every_byte_comes_back_however_output_is_cut(chunks: list[bytes]) -> None:
    splitter = LineSplitter()
    data = b"".join(chunks)
    passed = [splitter.feed(chunk) for chunk in chunks] + [splitter.finish()]
    assert all(piece.endswith(b"\n") or not piece for piece in passed[:-1])
    assert b"".join(passed) == data
    found = [(text, partial) for piece in passed for text, partial in writing._texts(piece)]
    # As it is read back from JSON.
    joined = "".join(json.loads(json.dumps(text)) + "\n" * (not partial) for text, partial in found)
    assert joined.encode(errors="surrogateescape") == data


@given(st.integers(1, 4), st.integers(1, 3 * MAX_LINE), st.integers(1, 2 * MAX_LINE))
@settings(max_examples=30, deadline=None)
def test_a_long_line_is_kept_in_pieces_and_never_in_memory(width: int, length: int, chunk: int) -> None:
    character = {1: "a", 2: "é", 3: "€", 4: "😀"}[width]
    data = b"x" + character.encode() * length + b"\n"
    splitter = LineSplitter()
    found = []
    for start in range(0, len(data), chunk):
        found += list(writing._texts(splitter.feed(data[start : start + chunk])))
        assert len(splitter._rest) <= MAX_LINE
    assert splitter.finish() == b""
    assert "".join(text for text, _ in found) == data.decode()[:-1]
    assert [partial for _, partial in found] == [True] * (len(found) - 1) + [False]
    assert all(len(text.encode()) <= MAX_LINE for text, _ in found)
    assert all(len(text.encode()) > MAX_LINE - width for text, _ in found[:-1])


def test_a_long_line_that_is_not_utf_8_is_cut_anywhere() -> None:
    assert [len(text) for text, _ in writing._texts(b"\x80" * (MAX_LINE + 1))] == [MAX_LINE, 1]


def test_the_last_lines_of_each_container_are_at_hand(journal: Journal) -> None:
    journal.output("web", 1, "stdout", b"".join(b"%d\n" % number for number in range(50)))
    journal.output("web", 1, "stderr", b"x\ny")
    assert journal.tail("web", 4, run=1) == ["48", "49", "x", "y"]
    assert len(journal.tail("web", 100, run=1)) == 20
    assert journal.tail("web", 0, run=1) == []
    assert journal.tail("db", 3, run=1) == []
    assert journal.tail("web", 3, run=2) == []
    journal.output("web", 2, "stdout", b"again\n")
    assert (journal.tail("web", 3, run=1), journal.tail("web", 3, run=2)) == ([], ["again"])


def test_listeners_get_each_record_as_it_is_written(journal: Journal, tmp_path: Path) -> None:
    heard: list[dict[str, Any]] = []
    end = journal.subscribe(heard.append)
    journal.write("started", "web", 1, pid=3)
    journal.output("web", 1, "stdout", b"a\nb")
    end()
    journal.write("ready", "web", 1)
    assert heard == lines(tmp_path)[:-1]


def test_post_mortems_have_files_of_their_own(journal: Journal, tmp_path: Path) -> None:
    exits = Journal(tmp_path, JournalSpec(), stem="exits")
    exits.write("exited", "web", 1)
    exits.close()
    assert [record["kind"] for record in records(tmp_path, "exits")] == ["exited"]
    assert list(records(tmp_path)) == []


def test_files_are_for_nobody_else(journal: Journal, tmp_path: Path) -> None:
    assert (tmp_path / "journal.jsonl").stat().st_mode & 0o7777 == 0o600


def test_a_link_in_place_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").symlink_to(tmp_path / "target")
    with pytest.raises(PysuperError, match=r"could not open the journal .*/journal.jsonl: Too many levels"):
        Journal(tmp_path, JournalSpec())
    assert not (tmp_path / "target").exists()


# --- rotation ---


def test_full_files_are_renamed_and_the_oldest_is_removed(tmp_path: Path) -> None:
    journal = small(tmp_path, max_files=3)
    for number in range(100):
        journal.output("web", 1, "stdout", b"%d\n" % number)
    journal.close()
    assert sorted(os.listdir(tmp_path)) == ["journal.1.jsonl", "journal.2.jsonl", "journal.jsonl"]
    assert all(file.stat().st_size <= 2000 for file in tmp_path.iterdir())
    assert all(file.stat().st_size > 1500 for file in tmp_path.glob("journal.?.jsonl"))
    found = texts(tmp_path)
    assert len(found) > 25
    assert found == [str(number) for number in range(100 - len(found), 100)]


def test_one_file_is_enough(tmp_path: Path) -> None:
    journal = small(tmp_path, max_files=1)
    for number in range(100):
        journal.output("web", 1, "stdout", b"%d\n" % number)
    journal.close()
    assert os.listdir(tmp_path) == ["journal.jsonl"]
    assert texts(tmp_path)[-1] == "99"


def test_more_than_a_file_may_have_is_written_all_the_same(tmp_path: Path) -> None:
    journal = small(tmp_path)
    journal.output("web", 1, "stdout", b"x\n" * 100)
    journal.output("web", 1, "stdout", b"y\n")
    journal.close()
    assert sorted(os.listdir(tmp_path)) == ["journal.1.jsonl", "journal.jsonl"]
    assert texts(tmp_path) == ["x"] * 100 + ["y"]
    assert len(lines(tmp_path)) == 1


def test_files_above_a_lower_limit_are_removed(tmp_path: Path) -> None:
    for number in range(1, 8):
        (tmp_path / f"journal.{number}.jsonl").touch()
    journal = small(tmp_path, max_files=3)
    for _ in range(60):
        journal.write("up")
    journal.close()
    assert sorted(os.listdir(tmp_path)) == ["journal.1.jsonl", "journal.2.jsonl", "journal.jsonl"]


def test_a_journal_goes_on_where_the_last_one_ended(tmp_path: Path) -> None:
    for _ in range(30):
        journal = small(tmp_path)
        journal.write("up")
        journal.close()
    assert len(list(records(tmp_path))) == 30
    assert (tmp_path / "journal.1.jsonl").exists()


def test_a_rotation_that_failed_half_way_loses_nothing_when_it_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = small(tmp_path)
    real = Path.rename

    def fails(path: Path, target: Path) -> Path:
        if path.name == "journal.jsonl":
            raise OSError(errno.EIO, "broken")
        return real(path, target)

    for number in range(40):
        journal.output("web", 1, "stdout", b"%d\n" % number)
    before = len(list(tmp_path.iterdir()))
    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", fails)
        for number in range(40, 60):
            journal.output("web", 1, "stdout", b"%d\n" % number)
    journal.output("web", 1, "stdout", b"60\n")
    journal.close()
    found = list(records(tmp_path))
    assert len(list(tmp_path.iterdir())) == before + 1
    assert [record["kind"] for record in found[-2:]] == ["journal-lost", "stdout"]
    assert [record["text"] for record in found[:-2]] == [str(n) for n in range(60 - found[-2]["records"])]


# --- a disk that is full ---


def on_full_disk(journal: Journal) -> None:
    """Let the next write fail with ENOSPC."""
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, journal._descriptor)
    os.close(full)


def test_what_a_full_disk_does_not_take_is_counted_and_the_count_written_first(
    journal: Journal, tmp_path: Path
) -> None:
    heard: list[dict[str, Any]] = []
    journal.subscribe(heard.append)
    journal.write("up")
    on_full_disk(journal)
    journal.output("web", 1, "stdout", b"a\nb\nc\n")
    assert journal.tail("web", 3, run=1) == ["a", "b", "c"]
    journal.write("ready", "web", 1)
    journal.write("down")
    kinds = ["up", "journal-lost", "ready", "down"]
    assert [record["kind"] for record in lines(tmp_path)] == kinds
    assert lines(tmp_path)[1]["records"] == 3
    assert [record["kind"] for record in heard] == ["up", "stdout", "stdout", "stdout", *kinds[1:]]


@pytest.mark.parametrize("taken", [1, 100, 250, 100_000])
def test_a_line_that_was_cut_short_is_cut_off_and_whole_ones_stay(
    taken: int, journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write
    journal.write("up")
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", lambda fd, data: real(fd, data[:taken]))
        journal.output("web", 1, "stdout", b"0\n1\n2\n")
    assert (tmp_path / "journal.jsonl").read_bytes().endswith(b"\n")
    journal.write("down")
    found = lines(tmp_path)
    kept = [record["text"] for record in found if record["kind"] == "stdout"]
    assert kept == ["0", "1", "2"][: len(kept)]
    assert sum(record.get("records", 0) for record in found) == 3 - len(kept)
    assert (len(kept) > 0) == (taken > 200)


def test_what_cannot_be_cut_off_at_once_is_cut_off_later(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "broken")

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", lambda fd, data: real(fd, data[:40]))
        patched.setattr(os, "ftruncate", fail)
        journal.write("up")
    assert not (tmp_path / "journal.jsonl").read_bytes().endswith(b"\n")
    journal.write("down")
    assert [record["kind"] for record in lines(tmp_path)] == ["journal-lost", "down"]


@pytest.mark.parametrize("before", ["", '{"kind": "old"}\n'])
def test_a_line_that_a_killed_supervisor_has_not_ended_is_cut_off(before: str, tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_text(before + '{"kind": "' + "x" * 10_000)
    journal = Journal(tmp_path, JournalSpec())
    journal.write("up")
    journal.close()
    assert [record["kind"] for record in lines(tmp_path)] == ["old"] * bool(before) + ["up"]


def test_a_journal_can_begin_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def fail(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", fail)
        journal = Journal(tmp_path, JournalSpec())
        journal.write("up")
    assert os.open is real
    journal.write("down")
    journal.close()
    assert [record["kind"] for record in lines(tmp_path)] == ["journal-lost", "down"]


def test_a_journal_outlives_its_directory(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    journal = small(tmp_path / "state")
    for file in (tmp_path / "state").iterdir():
        file.unlink()
    (tmp_path / "state").rmdir()
    for _ in range(100):
        journal.write("up")
    journal.close()


FULL = """
import sys
from pathlib import Path
from pysuper.stack.journal import Journal
from pysuper.stack.spec import JournalSpec
directory = Path(sys.argv[1])
filler = directory / "filler"
filler.write_bytes(bytes(30_000))
journal = Journal(directory, JournalSpec())
for number in range(2000):
    journal.output("web", 1, "stdout", b"%d\\n" % number)
filler.unlink()
journal.write("down")
sys.stdout.buffer.write((directory / "journal.jsonl").read_bytes())
"""


def can_mount() -> bool:
    probe = ["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"]
    return os.geteuid() == 0 and subprocess.run(probe, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not can_mount(), reason="cannot mount a small file system")
def test_a_file_system_that_is_really_full_loses_only_what_does_not_fit(tmp_path: Path) -> None:
    mount = 'mount -t tmpfs -o size=64k none "$2" && exec "$0" -c "$1" "$2"'
    command = ["unshare", "-m", "sh", "-c", mount, sys.executable, FULL, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    *kept, lost, down = (json.loads(line) for line in done.stdout.splitlines())
    assert [record["text"] for record in kept] == [str(number) for number in range(len(kept))]
    assert len(kept) > 50
    assert (lost["kind"], lost["records"], down["kind"]) == ("journal-lost", 2000 - len(kept), "down")


# --- reading ---


def test_a_reader_of_nothing_reads_nothing(tmp_path: Path) -> None:
    assert list(records(tmp_path / "none")) == []
    assert names(tmp_path / "none") == []


FORGED = [
    b"",
    b"[]",
    b"null",
    b"1",
    b'"kind"',
    b"{",
    b"\xff\xfe\x00",
    b"\x00" * 100,
    b"[" * 100_000,
    b"9" * 10_000,
    b'{"kind": "up"}',
    b'{"kind": 1, "time": "x"}',
    b'{"kind": "up", "time": null}',
    b'{"kind": "up", "time": "x", "container": []}',
]


def test_what_is_no_record_is_passed_over(journal: Journal, tmp_path: Path) -> None:
    journal.write("up")
    with (tmp_path / "journal.jsonl").open("ab") as file:
        file.write(b"\n".join(FORGED) + b"\n")
    journal.write("down")
    for last in (None, 10, 2):
        assert [record["kind"] for record in records(tmp_path, last=last)] == ["up", "down"]


@pytest.mark.parametrize("chunk", [1, 7, 150, 2**20])
def test_the_last_records_are_found_from_the_end(chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_CHUNK", chunk)
    journal = small(tmp_path, max_files=10)
    for number in range(60):
        journal.output("web" if number % 2 else "db", 1, "stdout", b"%d\n" % number)
    journal.close()
    with (tmp_path / "journal.jsonl").open("ab") as file:
        file.write(b'{"half')
    everything = [str(number) for number in range(60)]
    assert texts(tmp_path) == everything
    for last in (0, 1, 5, 30, 59, 60, 1000):
        assert texts(tmp_path, last=last) == everything[max(60 - last, 0) :]
    assert texts(tmp_path, last=3, wanted=lambda record: record["container"] == "db") == ["54", "56", "58"]


def test_the_last_of_many_take_little_memory(tmp_path: Path) -> None:
    line = json.dumps({"kind": "stdout", "time": "", "container": "web", "run": 1, "text": "x" * 1000}) + "\n"
    (tmp_path / "journal.jsonl").write_text(line * 32_000)
    tracemalloc.start()
    try:
        for arguments in ({"last": 10}, {"wanted": lambda _: False}):
            tracemalloc.reset_peak()
            assert len(list(records(tmp_path, **arguments))) == arguments.get("last", 0)
            assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    finally:
        tracemalloc.stop()


def test_containers_are_known_by_their_records(journal: Journal, tmp_path: Path) -> None:
    journal.write("up", pid=1)
    journal.write("starting", "web-1")
    journal.output("db", 1, "stdout", b'{"container": "forged"}\n"container": "forged"\n')
    assert names(tmp_path) == ["db", "web-1"]


class Follower:
    """Reads in a thread, until it is told that the stack has ended."""

    def __init__(self, directory: Path, **arguments: Any) -> None:
        self.found: list[dict[str, Any]] = []
        self.alive = True
        self._thread = threading.Thread(target=self._run, args=(directory, arguments))
        self._thread.start()

    def _run(self, directory: Path, arguments: dict[str, Any]) -> None:
        for record in records(directory, alive=lambda: self.alive, **arguments):
            self.found.append(record)

    def has(self, condition: Callable[[list[dict[str, Any]]], bool]) -> None:
        end = time.monotonic() + 10 * PATIENCE
        while not condition(self.found):
            assert time.monotonic() < end, self.found
            time.sleep(0.01)

    def ends(self) -> list[dict[str, Any]]:
        self.alive = False
        self._thread.join(10 * PATIENCE)
        assert not self._thread.is_alive()
        return self.found


def test_a_reader_that_follows_gets_what_comes_until_the_stack_ends(journal: Journal, tmp_path: Path) -> None:
    journal.write("up")
    follower = Follower(tmp_path)
    follower.has(lambda found: len(found) == 1)
    journal.write("started", "web", 1)
    follower.has(lambda found: len(found) == 2)
    journal.write("down")
    assert [record["kind"] for record in follower.ends()] == ["up", "started", "down"]


def test_what_was_written_just_before_the_end_is_read(journal: Journal, tmp_path: Path) -> None:
    def ends() -> bool:
        journal.write("down")
        return False

    assert [record["kind"] for record in records(tmp_path, alive=ends)] == ["down"]


def test_a_reader_that_follows_may_come_before_the_journal(tmp_path: Path) -> None:
    follower = Follower(tmp_path)
    time.sleep(0.15)
    journal = Journal(tmp_path, JournalSpec())
    journal.write("up")
    follower.has(lambda found: len(found) == 1)
    journal.close()
    assert len(follower.ends()) == 1


def test_a_reader_that_follows_can_begin_with_the_last(journal: Journal, tmp_path: Path) -> None:
    journal.output("web", 1, "stdout", b"a\nb\nc\n")
    for last, begin in ((1, ["c"]), (0, [])):
        follower = Follower(tmp_path, last=last, wanted=lambda record: record["kind"] == "stdout")
        follower.has(lambda found, begin=begin: len(found) == len(begin))
        time.sleep(0.15)
        journal.output("web", 1, "stdout", b"d\n")
        assert [record["text"] for record in follower.ends()][: len(begin) + 1] == [*begin, "d"]


def test_a_line_that_is_half_written_when_a_reader_comes_is_read_when_it_is_whole(
    journal: Journal, tmp_path: Path
) -> None:
    journal.output("web", 1, "stdout", b"a\nb\n")
    file = tmp_path / "journal.jsonl"
    *lines, last = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines) + last[:40])
    follower = Follower(tmp_path, last=1)
    follower.has(lambda found: len(found) == 1)
    with file.open("ab") as rest:
        rest.write(last[40:])
    assert [record["text"] for record in follower.ends()] == ["a", "b"]


@pytest.mark.parametrize("max_files", [1, 2, 50])
def test_a_reader_that_follows_survives_rotation(max_files: int, tmp_path: Path) -> None:
    journal = small(tmp_path, max_files=max_files)
    follower = Follower(tmp_path)
    for number in range(60):
        journal.output("web", 1, "stdout", b"%d\n" % number)
        # Less than a file between two looks; the last file is full by then, or not.
        if number % 7 == 0:
            follower.has(lambda found, number=number: bool(found) and found[-1]["text"] == str(number))
    journal.close()
    assert [record["text"] for record in follower.ends()] == [str(number) for number in range(60)]


def test_a_reader_that_is_late_reads_all_files_that_came_meanwhile(tmp_path: Path) -> None:
    journal = small(tmp_path, max_files=100)
    follower = Follower(tmp_path)
    for number in range(3000):
        journal.output("web", 1, "stdout", b"%d\n" % number)
    journal.close()
    assert [record["text"] for record in follower.ends()] == [str(number) for number in range(3000)]


def test_a_line_that_is_cut_off_while_it_is_read_does_not_spoil_the_next(journal: Journal, tmp_path: Path) -> None:
    follower = Follower(tmp_path)
    journal.write("up")
    file = tmp_path / "journal.jsonl"
    whole = file.stat().st_size
    with file.open("ab") as torn:
        torn.write(b'{"at": 1, "torn": "')
    time.sleep(0.25)
    os.truncate(file, whole)
    journal.write("down")
    assert [record["kind"] for record in follower.ends()] == ["up", "down"]


@pytest.mark.parametrize("rotations", [1, 2, 3])
@pytest.mark.parametrize("moment", range(6))
def test_files_that_are_renamed_while_they_are_opened_are_read_once_and_in_order(
    rotations: int, moment: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = small(tmp_path, max_files=50)

    def fill(first: int) -> None:
        for number in range(first, first + 12):
            journal.output("web", 1, "stdout", b"%d\n" % number)

    for first in (0, 12, 24):
        fill(first)
    real = reading._File
    opened = 0

    def open_and_rotate(path: Path) -> reading._File:
        nonlocal opened
        opened += 1
        if opened == moment + 1:
            for rotation in range(rotations):
                fill(36 + 12 * rotation)
        return real(path)

    monkeypatch.setattr(reading, "_File", open_and_rotate)
    found = [int(text) for text in texts(tmp_path)]
    journal.close()
    assert found == list(range(len(found)))
    assert len(found) >= 36


def test_a_file_that_grows_until_it_is_renamed_is_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = small(tmp_path, max_files=50)
    real = reading._Files.find_newer
    written = iter(range(60))

    def write_and_look(files: reading._Files) -> bool:
        for number in itertools.islice(written, 20):
            journal.output("web", 1, "stdout", b"%d\n" % number)
        return real(files)

    monkeypatch.setattr(reading._Files, "find_newer", write_and_look)
    answers = iter([True] * 8)
    found = [record["text"] for record in records(tmp_path, alive=lambda: next(answers, False))]
    journal.close()
    assert found == [str(number) for number in range(60)]


def test_a_file_that_is_found_under_two_names_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = small(tmp_path, max_files=50)
    for number in range(60):
        journal.output("web", 1, "stdout", b"%d\n" % number)
    journal.close()
    real = reading._File

    def open_and_rename(path: Path) -> reading._File:
        file = real(path)
        if path.name == "journal.2.jsonl":
            monkeypatch.setattr(reading, "_File", real)
            for number in range(len(list(tmp_path.iterdir())) - 1, 0, -1):
                reading.file_of(tmp_path, "journal", number).rename(reading.file_of(tmp_path, "journal", number + 1))
        return file

    monkeypatch.setattr(reading, "_File", open_and_rename)
    assert texts(tmp_path) == [str(number) for number in range(60)]
    assert not (tmp_path / "journal.1.jsonl").exists()


@pytest.mark.parametrize("moment", range(4))
def test_a_rotation_that_is_half_done_hides_no_file(moment: int, tmp_path: Path) -> None:
    journal = small(tmp_path, max_files=50)
    for number in range(60):
        journal.output("web", 1, "stdout", b"%d\n" % number)
    journal.close()
    count = len(list(tmp_path.iterdir()))
    assert count >= 4
    for number in range(count - 1, moment - 1, -1):
        reading.file_of(tmp_path, "journal", number).rename(reading.file_of(tmp_path, "journal", number + 1))
    assert texts(tmp_path) == [str(number) for number in range(60)]


def test_a_reader_that_follows_finds_the_last_file_when_there_was_no_room_for_another(tmp_path: Path) -> None:
    current, older, oldest = (reading.file_of(tmp_path, "journal", number) for number in range(3))
    alive = True
    journal = Journal(tmp_path, JournalSpec())
    journal.output("web", 1, "stdout", b"0\n1\n")
    journal.close()
    found = records(tmp_path, alive=lambda: alive)
    assert next(found)["text"] == "0"
    current.rename(oldest)
    journal.output("web", 1, "stdout", b"2\n")
    journal.close()
    current.rename(older)
    alive = False
    assert [record["text"] for record in found] == ["1", "2"]


# --- points in time ---


def test_a_duration_is_a_time_ago() -> None:
    ago = datetime.now(UTC) - datetime.fromisoformat(parse_since("1h30m"))
    assert abs(ago - timedelta(hours=1.5)) < timedelta(seconds=5)
    assert parse_since("9" * 15) == "1970-01-01T00:00:00.000000Z"


def test_a_time_may_have_an_offset_and_is_local_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC-3")
    time.tzset()
    try:
        assert parse_since("2026-11-24T01:39:12") == "2026-11-23T22:39:12.000000Z"
        assert parse_since("2026-11-24T01:39:12.5Z") == "2026-11-24T01:39:12.500000Z"
        assert parse_since("2026-11-24 01:39:12+01:00") == "2026-11-24T00:39:12.000000Z"
        assert parse_since("2026-11-24") == "2026-11-23T21:00:00.000000Z"
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("text", ["", "x", "10 minutes", "-5m", "2026-13-01"])
def test_what_is_no_time_is_an_error_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match="is not a time, such as 10m"):
        parse_since(text)
