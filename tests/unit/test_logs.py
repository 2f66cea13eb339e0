"""`pysuper logs` and `pysuper events`, and how they show a record."""

from __future__ import annotations

import itertools
import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from machine import PATIENCE
from pysuper import cli
from pysuper.stack.display import Display, describe
from pysuper.stack.journal import Journal
from pysuper.stack.project import Project
from pysuper.stack.spec import JournalSpec

COMMAND = [sys.executable, "-m", "pysuper"]


@pytest.fixture(autouse=True)
def directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYSUPER_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("PYSUPER_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("NO_COLOR", raising=False)


@pytest.fixture
def journal() -> Iterator[Journal]:
    """Of a stack that has ended."""
    project = Project.of(name="shop")
    with project.lock():
        made = Journal(project.state, JournalSpec())
    yield made
    made.close()


@pytest.fixture
def shop(journal: Journal) -> Journal:
    journal.write("up", pid=1, file="/x/shop.toml")
    for name in ("web-1", "web-2", "db"):
        journal.write("started", name, 1, pid=7)
    journal.output("web-1", 1, "stdout", b"one\n")
    journal.output("web-2", 1, "stderr", b"two\n")
    journal.output("db", 1, "stdout", b"three\nfour\n")
    journal.write("dropped", "db", 1, lines=2, bytes=2048)
    journal.write("ready", "db", 1)
    return journal


@pytest.fixture
def show(capfdbinary: pytest.CaptureFixture[bytes]) -> Any:
    """What a command prints."""

    def run(*argv: str) -> bytes:
        assert cli.main(argv) == 0
        stdout, stderr = capfdbinary.readouterr()
        assert stderr == b""
        return stdout

    return run


def record(kind: str, container: str | None = "web", **fields: Any) -> dict[str, Any]:
    who = {} if container is None else {"container": container, "run": 1}
    return {"at": 1.5, "boot": "b", "time": "2026-11-24T01:39:12.123456Z", "kind": kind, **who, **fields}


def shown(*given: dict[str, Any], **settings: Any) -> str:
    display = Display(["web", "db-1"], **{"terminal": False, **settings})
    return "".join(map(display.text, given))


# --- how a record looks ---


@pytest.mark.parametrize(
    ("kind", "fields", "sentence"),
    [
        ("waiting", {"detail": "db (healthy)"}, "waiting for db (healthy)"),
        ("starting", {"run": 2}, "starting (run 2)"),
        ("started", {"pid": 123, "run": 2, "event": "started"}, "started (pid 123, run 2)"),
        ("ready", {"event": "became-ready"}, "ready"),
        ("unhealthy", {"detail": "no answer in 1 s"}, "unhealthy: no answer in 1 s"),
        ("status", {"text": "warming\nup"}, r"says: warming\nup"),
        ("exited", {"summary": "exited with 3", "record": {"wall_seconds": 1.234}}, "exited with 3 after 1.2s"),
        ("exited", {"summary": "did not start: x", "record": {"wall_seconds": 0.0}}, "did not start: x"),
        ("restarting", {"delay": 0.2, "run": 3, "detail": "x"}, "restarting in 0.2s (restart 3): x"),
        ("restarting", {"because": {"by": "operator", "who": "uid 0"}}, "restarting (by uid 0)"),
        ("failed", {"detail": "x", "because": {"by": "strategy", "container": "db"}}, "failed: x (because of db)"),
        ("stopping", {"because": {"by": "stack"}}, "stopping (the stack ends)"),
        ("stopped", {"because": {"by": "reload"}}, "stopped (by reload)"),
        ("dropped", {"lines": 12, "bytes": 3000}, "wrote too fast: 12 lines (2.9K) are left out"),
        ("new", {"a": 1, "b": "x\x1b"}, r"new run=1 a=1 b=x\x1b"),
        ("exited", {"pid": 3}, "exited run=1 pid=3"),
        ("exited", {"summary": "x", "record": {"wall_seconds": "x"}, "because": 3}, "x"),
    ],
)  # fmt: skip
def test_what_happens_to_a_container_is_a_sentence(kind: str, fields: dict[str, Any], sentence: str) -> None:
    for terminal in (False, True):
        assert shown(record(kind, **fields), terminal=terminal) == f"web  * {sentence}\n"


@pytest.mark.parametrize(
    ("kind", "fields", "sentence"),
    [
        ("up", {"pid": 7, "file": "/x/shop.toml"}, "up: /x/shop.toml (pid 7)"),
        ("down", {"status": 3}, "down: exit status 3"),
        ("reloaded", {"added": ["a", "b"], "changed": [], "removed": ["c"]}, "reloaded: added a, b; removed c"),
        ("reloaded", {"added": [], "changed": [], "removed": []}, "reloaded: nothing has changed"),
        ("journal-lost", {"records": 5}, "the journal could not be written: 5 records are lost"),
    ],
)  # fmt: skip
def test_what_happens_to_the_stack_is_a_sentence_without_a_name(
    kind: str, fields: dict[str, Any], sentence: str
) -> None:
    assert shown(record(kind, None, **fields)) == f"     * {sentence}\n"


def test_a_line_says_whose_it_is_and_which_stream() -> None:
    said = [record("stdout", text="a"), record("stderr", "db-1", text="b"), record("stdout", "longer", text="c")]
    assert shown(*said) == "web  | a\ndb-1 ! b\nlonger | c\n"
    assert shown(*said, prefix=False) == "a\nb\nc\n"
    assert shown(said[0], timestamps=True) == "2026-11-24T01:39:12.123456Z web  | a\n"
    assert shown(said[0], timestamps=True, prefix=False) == "2026-11-24T01:39:12.123456Z a\n"


def test_a_container_keeps_its_colour() -> None:
    text = shown(record("stdout", text="a"), record("ready"), record("up", None), terminal=True, colour=True)
    output, event, stack = text.splitlines()
    assert (output, event) == ("\x1b[36mweb  |\x1b[0m a", "\x1b[36mweb  *\x1b[0m ready")
    assert stack == "     * up"
    many = (shown(record("ready", f"web-{number}"), terminal=True, colour=True) for number in range(50))
    assert {int(line[3]) for line in many} == {1, 2, 3, 4, 5, 6}


@given(st.text())
def test_on_a_terminal_no_text_can_drive_it_or_forge_a_line(text: str) -> None:
    for kind in ("stdout", "stderr"):
        line = shown(record(kind, text=text), terminal=True)
        assert line.endswith("\n")
        assert line[:-1].isprintable()
    for kind in ("status", "new"):
        assert shown(record(kind, text=text))[:-1].isprintable()


def test_a_tab_is_spaces_on_a_terminal() -> None:
    assert shown(record("stdout", text="a\tb\x1b[2J"), terminal=True) == r"web  | a       b\x1b[2J" + "\n"


def test_elsewhere_output_is_what_the_container_wrote() -> None:
    assert shown(record("stdout", text="a\tb\x1b[2J\r\udcff")) == "web  | a\tb\x1b[2J\r\udcff\n"


def test_the_parts_of_a_line_are_joined_unless_somebody_else_comes_between() -> None:
    def part(text: str, container: str = "web", kind: str = "stdout") -> dict[str, Any]:
        return record(kind, container, text=text, partial=True)

    end = record("stdout", text="c")
    assert shown(part("a"), part("b"), end) == "web  | abc\n"
    assert shown(part("a"), part("b"), end, prefix=False) == "abc\n"
    assert shown(part("a"), part("b", "db-1"), end) == "web  | a\ndb-1 | b\nweb  | c\n"
    assert shown(part("a"), part("b", kind="stderr"), end) == "web  | a\nweb  ! b\nweb  | c\n"
    assert shown(part("a"), end | {"run": 2}) == "web  | a\nweb  | c\n"
    assert shown(part("a"), record("ready"), end) == "web  | a\nweb  * ready\nweb  | c\n"
    assert shown(part("a")) == "web  | a"
    assert shown(part("a"), end, terminal=True) == "web  | a\nweb  | c\n"


def test_a_record_that_is_odd_is_shown_somehow() -> None:
    odd = [None, 1, -1.5, "", "x\n", [], {}, [[]], {"by": None}, {"wall_seconds": None}]
    keys = "detail text summary record because delay lines bytes records added changed removed partial file pid status"
    kinds = "waiting status exited restarting dropped journal-lost up down reloaded ready stdout x"
    for kind, value in itertools.product(kinds.split(), odd):
        assert shown(record(kind, **dict.fromkeys(keys.split(), value))).startswith("web  ")
    assert describe({"kind": "x"}) == "x"


# --- the commands ---


def test_logs_show_what_containers_say_and_what_is_missing(shop: Journal, show: Any) -> None:
    assert show("logs") == (
        b"web-1 | one\nweb-2 ! two\ndb    | three\ndb    | four\ndb    * wrote too fast: 2 lines (2K) are left out\n"
    )
    assert show("logs", "--no-prefix", "web") == b"one\ntwo\n"


def test_events_show_what_has_happened_and_when(shop: Journal, show: Any) -> None:
    lines = show("events").decode().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z ", line) for line in lines)
    assert [line[28:] for line in lines] == [
        "      * up: /x/shop.toml (pid 1)",
        "web-1 * started (pid 7, run 1)",
        "web-2 * started (pid 7, run 1)",
        "db    * started (pid 7, run 1)",
        "db    * ready",
    ]
    assert [line[28:] for line in show("events", "-n", "1", "db").decode().splitlines()] == ["db * ready"]


@pytest.mark.parametrize(
    ("names", "texts"),
    [
        (["web-2"], [b"two"]),
        (["web"], [b"one", b"two"]),
        (["web-1", "db"], [b"one", b"three", b"four"]),
    ],
)
def test_a_member_is_all_of_its_instances(names: list[str], texts: list[bytes], shop: Journal, show: Any) -> None:
    shop.write("dropped", "web-3", 1, lines=1, bytes=1)
    found = show("logs", "--no-prefix", *names).splitlines()
    assert [line for line in found if b"*" not in line] == texts


def test_records_that_are_lost_concern_every_container(shop: Journal, show: Any) -> None:
    shop.write("journal-lost", records=3)
    for command in ("logs", "events"):
        assert b"3 records are lost" in show(command, "web-1")
    assert b"up:" not in show("events", "web-1")


def test_the_last_lines_and_those_since_a_time_can_be_chosen(shop: Journal, show: Any, tmp_path: Path) -> None:
    assert show("logs", "-n", "2", "db", "--no-prefix") == b"four\ndb * wrote too fast: 2 lines (2K) are left out\n"
    assert show("logs", "--tail=0") == b""
    assert show("logs", "-n", "max") == show("logs")
    assert show("logs", "--since", "1h") == show("logs")
    assert show("logs", "--since", "2100-01-01") == b""
    past = record("stdout", "old", text="old") | {"time": "2020-01-01T00:00:00.000000Z"}
    file = tmp_path / "state" / "shop" / "journal.jsonl"
    file.write_text(json.dumps(past) + "\n" + file.read_text())
    assert show("logs").startswith(b"old   | old\n")
    assert b"old" not in show("logs", "--since", "2020-01-01T00:00:00.000001Z")
    assert b"old" in show("logs", "--since", "2020-01-01T00:00:00Z")


def test_timestamps_can_be_shown(shop: Journal, show: Any) -> None:
    assert re.fullmatch(rb"\S{26}Z web-1 \| one\n", show("logs", "-t", "web-1"))


def test_json_is_what_is_in_the_journal(shop: Journal, show: Any, tmp_path: Path) -> None:
    shop.output("db", 1, "stdout", b"\xff\x1b\n")
    kept = (tmp_path / "state" / "shop" / "journal.jsonl").read_bytes().splitlines(keepends=True)
    both = show("logs", "--json").splitlines(keepends=True) + show("events", "--json").splitlines(keepends=True)
    assert sorted(both) == sorted(kept)


def test_every_byte_of_a_container_comes_out_again(shop: Journal, show: Any) -> None:
    data = bytes(range(256)) * 300 + b"end"
    shop.output("bin", 1, "stdout", data)
    assert show("logs", "--no-prefix", "bin") == data


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["logs", "wbe-1"], "nothing is known of a container 'wbe-1'; did you mean 'web-1'?"),
        (["events", "we"], "nothing is known of a container 'we'; did you mean 'web'?"),
        (["logs", "-n", "x"], "'x' is not a whole number, such as 20, or max; see pysuper logs --help"),
        (["logs", "--since", "x"], "'x' is not a time, such as 10m (ago) or 2026-11-24T01:39:12Z; see pysuper logs"),
        (["events", "--no-prefix"], "option --no-prefix not recognized"),
        (["logs", "--project", "shp"], "no project shp is known; did you mean 'shop'?"),
        (["logs", "--file", "/x/shop.toml"], "no project shop-"),
    ],
)
def test_what_cannot_be_shown_is_an_error(
    argv: list[str], message: str, shop: Journal, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(argv) == 2
    stdout, stderr = capsys.readouterr()
    assert (stdout, len(stderr.splitlines())) == ("", 1)
    assert message in stderr


def on_a_terminal(*argv: str) -> str:
    """What a command prints on a terminal."""
    ours, theirs = pty.openpty()
    with subprocess.Popen([*COMMAND, *argv], stdout=theirs, stdin=subprocess.DEVNULL) as process:
        os.close(theirs)
        text = b""
        try:
            while chunk := os.read(ours, 65536):
                text += chunk
        except OSError:  # EIO: nobody has it open any more
            pass
        os.close(ours)
    assert process.returncode == 0
    return text.decode().replace("\r\n", "\n")


def test_on_a_terminal_there_are_colours_and_no_control_characters(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.output("db", 1, "stdout", b"\x1b[2J\xff\rdb | forged\n")
    escaped = r"\x1b[2J\udcff\rdb | forged"
    assert re.fullmatch(r"\x1b\[3[1-6]mdb \|\x1b\[0m " + re.escape(escaped) + "\n", on_a_terminal("logs"))
    monkeypatch.setenv("NO_COLOR", "1")
    assert on_a_terminal("logs") == f"db | {escaped}\n"


# --- following ---


class Following:
    """A command in a process, which follows a stack that runs."""

    def __init__(self, *argv: str) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, *argv],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def ends(self) -> tuple[str, str, int]:
        stdout, stderr = self.process.communicate(timeout=10 * PATIENCE)
        return stdout, stderr, self.process.returncode


def test_what_is_followed_is_shown_at_once_and_until_the_stack_ends(journal: Journal) -> None:
    with Project.of(name="shop").lock():
        journal.output("db", 1, "stdout", b"1\n2\n")
        following = Following("logs", "-f", "-n", "1", "--no-prefix")
        assert following.line() == "2\n"
        journal.output("db", 1, "stdout", b"3\n")
        assert following.line() == "3\n"
        journal.output("db", 1, "stdout", b"4\n")
    assert following.ends() == ("4\n", "", 0)


def test_a_stack_that_has_ended_is_shown_and_not_waited_for(shop: Journal) -> None:
    stdout, stderr, status = Following("events", "--follow").ends()
    assert (len(stdout.splitlines()), stderr, status) == (5, "", 0)


def test_an_interrupt_ends_quietly(shop: Journal) -> None:
    with Project.of(name="shop").lock():
        following = Following("logs", "-f")
        assert following.line() == "web-1 | one\n"
        following.process.send_signal(signal.SIGINT)
        assert following.ends()[1:] == ("", 130)


@pytest.mark.parametrize("more", [False, True])
def test_a_reader_that_has_seen_enough_ends_it_quietly(more: bool, shop: Journal) -> None:
    with Project.of(name="shop").lock():
        following = Following("logs", "-f")
        assert following.line() == "web-1 | one\n"
        assert following.process.stdout is not None
        following.process.stdout.close()
        if more:
            shop.output("db", 1, "stdout", b"more\n")
        assert following.process.wait(10 * PATIENCE) in (0, 128 + signal.SIGPIPE)
        assert following.process.stderr is not None
        assert following.process.stderr.read() == ""
        following.process.stderr.close()


def test_a_reader_that_ends_early_is_no_error(journal: Journal) -> None:
    journal.output("db", 1, "stdout", b"x\n" * 100_000)
    script = '"$0" -m pysuper logs | head -n 1'
    done = subprocess.run(["sh", "-c", script, sys.executable], capture_output=True, check=False)
    assert (done.stdout, done.stderr) == (b"db | x\n", b"")


@pytest.mark.parametrize("command", ["logs", "events"])
def test_nothing_heavy_is_imported(command: str, shop: Journal) -> None:
    program = (
        "import sys; from pysuper.cli import main; status = main(sys.argv[1:]); "
        "print(*sorted({'trio', 'stevedore', 'attrs', 'attr', 'cattrs', 'tomllib', 'ctypes'} & set(sys.modules)),"
        " file=sys.stderr); sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", program, command, "db"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "\n")
    assert "db" in done.stdout
