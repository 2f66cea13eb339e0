"""The commands about a running stack, as a user types them: real processes and sockets, a stack without containers."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from fake_stack import FakeContainer, Served, member, serve, variables
from hypothesis import given, strategies as st
from user import eventually, failure, meanwhile, on_terminal, pysuper, read

from pysuper import show
from pysuper.drivers import Statistics
from pysuper.record import ExitRecord
from pysuper.stack.lifecycle import State
from pysuper.stack.project import Project
from pysuper.tables import FileErrors
from pysuper.units import parse_duration, parse_size


@pytest.fixture(autouse=True)
def directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Projects are in a directory of the test's."""
    for name, value in variables(tmp_path).items():
        monkeypatch.setenv(name, value)


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    """A stack with one `db` and two instances of `web`."""
    async with serve(Project.of(name="demo"), member("db", memory_max=2**20), member("web", replicas=2)) as served:
        yield served


def cells(text: str) -> list[list[str]]:
    """The rows of a table."""
    return [re.split(r"  +", line) for line in text.splitlines()]


# --- start-up ---


@pytest.mark.parametrize(
    "command",
    ["ps", "stop", "start", "restart", "stats", "inspect db", "why", "pause", "resume", "down", "reload", "exec db ls"],
)
@pytest.mark.parametrize("argument", [None, "--help"])
def test_commands_start_fast(command: str, argument: str | None) -> None:
    """Each of these modules takes longer than everything else."""
    Project.of(name="past").state.mkdir(parents=True)
    program = (
        "import sys; from pysuper.cli import main; status = main(sys.argv[1:]); "
        "print(*sorted({'trio', 'stevedore', 'attrs', 'attr', 'cattrs'} & set(sys.modules)), file=sys.stderr)"
    )
    name, *rest = command.split()
    words = [name, *rest] if argument is None else [name, argument]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
    *said, imported = done.stderr.splitlines()
    assert imported == ""
    expected = [] if argument or command == "why" else ["pysuper: the stack 'past' is not running"]
    assert [line.partition(";")[0] for line in said] == expected


# --- ps, inspect ---


async def test_ps_is_a_table(served: Served) -> None:
    now = time.monotonic()
    served.stack.become("db", State.BACKOFF, detail="exited with 3", run=7, restarts=6, since=now - 125)
    container = FakeContainer(pid=99)
    served.stack.become("web-1", State.READY, container, healthy=True, status="at\x1b[2J work", since=now - 70)
    served.stack.become("web-2", State.READY, FakeContainer(paused=True), healthy=False, since=now - 7200)
    assert cells(await pysuper("ps")) == [
        ["NAME", "STATE", "HEALTH", "RUN", "RESTARTS", "PID", "SINCE", "DETAIL"],
        ["db", "backoff", "-", "7", "6", "-", "2m05s", "exited with 3"],
        ["web-1", "ready", "healthy", "1", "0", "99", "1m10s", r"at\x1b[2J work"],
        ["web-2", "paused", "unhealthy", "1", "0", "4711", "2h00m"],
    ]
    assert len(cells(await pysuper("ps", "web-2", "--project", "demo"))) == 2


async def test_ps_says_how_the_last_run_has_ended(served: Served) -> None:
    record = ExitRecord(name="db", argv=("x",), signal=9, reason="oom")
    served.stack.become("db", State.STOPPED, record=record)
    assert "killed by the kernel: out of memory" in await pysuper("ps", "db")


async def test_ps_can_be_read_by_programs(served: Served) -> None:
    told = [(instance["name"], instance["state"]) for instance in json.loads(await pysuper("ps", "--json"))]
    assert told == [("db", "ready"), ("web-1", "ready"), ("web-2", "ready")]


async def test_inspect_prints_everything(served: Served) -> None:
    (told,) = json.loads(await pysuper("inspect", "db"))
    assert told["plan"] == ["clone", "execute"]
    assert await failure("inspect") == (2, "pysuper: a NAME is missing; see pysuper inspect --help\n")


async def test_a_wrong_name_is_one_line(served: Served) -> None:
    message = "pysuper: there is no container 'wbe-1' in this stack; did you mean 'web-1'?\n"
    for command in ("ps", "stop", "inspect", "exec"):
        assert await failure(command, "wbe-1") == (2, message)


async def test_when_nothing_runs_the_error_says_what_to_do() -> None:
    assert await failure("ps") == (2, "pysuper: no project is running; `pysuper up FILE` starts one\n")
    async with serve(Project.of(name="demo"), member("db")):
        pass
    for command in ("ps", "stop", "stats", "down", "exec db"):
        assert await failure(*command.split()) == (
            125,
            "pysuper: the stack 'demo' is not running; start it with `pysuper up FILE`; "
            "`pysuper logs` and `pysuper why` know what happened before\n",
        )


async def test_a_supervisor_that_says_nothing_is_an_error() -> None:
    """It has been killed, say."""
    project = Project.of(name="demo")
    with project.lock():
        listener = trio.socket.socket(trio.socket.AF_UNIX)
        await listener.bind(str(project.control))
        listener.listen()
        async with trio.open_nursery() as nursery:

            async def hang_up() -> None:
                channel, _ = await listener.accept()
                channel.close()

            nursery.start_soon(hang_up)
            status, text = await failure("ps")
        listener.close()
    assert (status, text.count("\n")) == (125, 1)
    assert "the supervisor ended, or refused to talk to this user, before it answered" in text


# --- changes ---


async def test_changes_say_what_became_of_each(served: Served) -> None:
    assert await pysuper("stop", "web") == "web-1 stopped\nweb-2 stopped\n"
    assert await pysuper("start", "web-1") == "web-1 waiting\n"
    assert await pysuper("restart", "db") == "db waiting\n"
    served.stack.become("db", State.READY, FakeContainer())
    assert await pysuper("pause", "db") == "db paused\n"
    assert await pysuper("resume", "db") == "db ready\n"
    assert json.loads(await pysuper("stop", "db", "--json"))[0]["state"] == "stopped"
    assert {because.by for because in served.stack.becauses} == {"operator"}


async def test_a_start_can_be_waited_for(served: Served) -> None:
    for state, detail in ((State.READY, ""), (State.FAILED, "exited with 1")):
        served.stack.become("db", State.STOPPED)
        async with meanwhile("start", "--wait", "db", stderr=subprocess.PIPE) as process:
            await eventually(lambda: served.stack.instances["db"].state is State.WAITING)
            await trio.sleep(0.1)
            assert process.poll() is None
            served.stack.become("db", state, detail=detail)
            assert await process.wait() == (0 if state is State.READY else 125)
            assert process.stderr is not None
            said = await read(process.stderr, None)
    assert said == b"pysuper: db is failed: exited with 1; `pysuper why db` says more\n"


async def test_a_reload_says_what_has_changed(served: Served) -> None:
    assert await pysuper("reload") == "added: new\nkept: db, web-1, web-2\n"
    assert json.loads(await pysuper("reload", "--json"))["added"] == ["new"]


async def test_each_error_of_a_file_is_a_line(served: Served) -> None:
    def load() -> Any:
        raise FileErrors(["a.toml:1: x: no such key", "a.toml:7: y: too small"])

    served.load = load
    assert await failure("reload") == (2, "pysuper: a.toml:1: x: no such key\npysuper: a.toml:7: y: too small\n")


async def test_down_waits_for_the_end() -> None:
    done = trio.Event()

    async def down() -> None:
        assert await pysuper("down") == ""
        done.set()

    async with trio.open_nursery() as nursery, serve(Project.of(name="demo"), member("db")) as served:
        nursery.start_soon(down)
        await eventually(lambda: served.downs)
        await trio.sleep(0.3)
        assert not done.is_set()


# --- stats ---


async def test_stats_is_a_table_of_what_is_used(served: Served) -> None:
    before = Statistics(cpu_user=1.0, cpu_system=0.5, memory_current=3 * 2**18, pids_current=3)
    container = FakeContainer(counted=before)
    served.stack.become("db", State.READY, container, restarts=4)
    served.stack.become("web-2", State.FAILED)
    async with trio.open_nursery() as nursery:

        async def work() -> None:
            """Half a core, as far as anybody can see."""
            began = time.monotonic()
            while True:
                await trio.sleep(0.001)
                container.counted = attrs.evolve(before, cpu_user=1.0 + (time.monotonic() - began) / 2)

        nursery.start_soon(work)
        rows = cells(await pysuper("stats", "--no-stream"))
        nursery.cancel_scope.cancel()
    assert rows[0] == ["NAME", "CPU", "MEMORY", "LIMIT", "PIDS", "LIMIT", "CPU/MEM/IO WAIT", "RESTARTS"]
    assert 45 < float(rows[1].pop(1).removesuffix("%")) < 55
    assert rows[1] == ["db", "768K", "1M", "3", "-", "-", "4"]
    assert rows[3] == ["web-2", "-", "-", "-", "-", "-", "-", "0"]


async def test_pressure_is_shown_where_it_is_counted(served: Served) -> None:
    counted = Statistics(pressure={"cpu": 1.25, "io": 0.0})
    served.stack.become("db", State.READY, FakeContainer(counted=counted))
    assert cells(await pysuper("stats", "--no-stream", "db"))[1][6] == "1.2/-/0.0"


async def test_a_new_run_has_used_nothing_of_the_last_ones_time(served: Served) -> None:
    def used(seconds: float) -> FakeContainer:
        return FakeContainer(counted=Statistics(cpu_user=seconds, cpu_system=0.0))

    served.stack.become("db", State.READY, used(100.0))
    async with meanwhile("stats", "--json", "db", stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        found = []
        for run in (1, 2, 2):
            told = json.loads(await read(process.stdout, b"\n"))["containers"][0]
            found.append((told["run"], told["cpu_percent"]))
            served.stack.become("db", State.READY, used(0.0), run=2)
            assert run == told["run"]
    assert found == [(1, 0.0), (2, None), (2, 0.0)]


async def test_stats_go_on_until_the_stack_ends(served: Served) -> None:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    async with meanwhile("stats", "db", **pipes) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        began = time.monotonic()
        for _ in range(3):
            assert b"NAME" in await read(process.stdout, b"\ndb")
        assert time.monotonic() - began > 2
        await pysuper_down(served)
        assert b"the stack 'demo' is not running" in await read(process.stderr, None)
        assert await process.wait() == 125


async def pysuper_down(served: Served) -> None:
    """End the stack, and leave its project to the fixture."""
    async with meanwhile("down"):
        await eventually(lambda: served.downs)


async def test_on_a_terminal_each_table_is_drawn_over_the_last(served: Served) -> None:
    async with on_terminal("stats") as terminal:
        first = await terminal.expect(b"\x1b[J")
        assert first.startswith(b"\x1b[?25l\rNAME")
        assert first.count(b"\n") == 4
        second = await terminal.expect(b"\x1b[J")
        assert second.startswith(b"\r\x1b[4ANAME")
        terminal.resize(4, 20)
        await terminal.expect(b"and 2 more")
        third = await terminal.expect(b"\x1b[J")
        assert max(len(re.sub(rb"\x1b\[\w+", b"", line)) for line in third.split(b"\r\n")) < 20


@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM", "SIGHUP", "the stack ends"])
async def test_the_cursor_is_shown_again_after(served: Served, how: str) -> None:
    async with on_terminal("stats") as terminal:
        await terminal.expect(b"\x1b[?25l")
        await terminal.expect(b"web-2")
        if how == "Ctrl-C":
            terminal.type(b"\x03")
        elif how == "the stack ends":
            await pysuper_down(served)
        else:
            terminal.process.send_signal(signal.Signals[how])
        await terminal.expect(b"\x1b[?25h")
        expected = {"Ctrl-C": 130, "SIGTERM": 143, "SIGHUP": 129, "the stack ends": 125}
        assert await terminal.process.wait() == expected[how]


# --- how values are shown ---


@given(st.integers(0, 2**62))
def test_a_size_is_what_it_says_to_three_digits(number: int) -> None:
    text = show.size(number)
    assert len(text) <= 5
    assert parse_size(text, zero=True) == pytest.approx(number, rel=0.06)


@given(st.floats(0, 8e7))
def test_a_duration_is_what_it_says(seconds: float) -> None:
    text = show.duration(seconds)
    assert len(text) <= 7
    days, _, rest = text.rpartition("d")
    tolerance = 0.0006 if text.endswith("ms") else 0.051  # half of the last digit
    assert int(days or 0) * 86400 + parse_duration(rest, zero=True) == pytest.approx(seconds, rel=0.06, abs=tolerance)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (999, "999"), (1000, "1.0K"), (1024, "1K"), (64 * 2**20, "64M"), (1.5 * 2**30, "1.5G"), (100.5, "100")],
)
def test_sizes(value: float, text: str) -> None:
    assert show.size(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0ms"),
        (0.0034, "3ms"),
        (0.0996, "0.1s"),
        (9.94, "9.9s"),
        (9.96, "10s"),
        (59.6, "1m00s"),
        (3599.6, "1h00m"),
        (86399.9, "1d00h"),
        (3e5, "3d11h"),
    ],
)
def test_durations(value: float, text: str) -> None:
    assert show.duration(value) == text


def test_a_table_cannot_be_forged() -> None:
    assert show.columns([("A", "B"), ("x\n", "\x1b")]) == [r"A    B", r"x\n  \x1b"]
