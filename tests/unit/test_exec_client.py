"""`pysuper exec`: bytes, signals and sizes between a user and a command, which here runs outside of any container."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import termios
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from fake_stack import FakeContainer, Served, member, serve, variables
from trio.lowlevel import FdStream
from user import eventually, failure, finished, meanwhile, on_terminal, pysuper, read

from pysuper.stack.lifecycle import State
from pysuper.stack.operations import Operations
from pysuper.stack.project import Project


@pytest.fixture
async def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Served]:
    """A stack with one container."""
    for name, value in variables(tmp_path).items():
        monkeypatch.setenv(name, value)
    async with serve(Project.of(name="demo"), member("db")) as served:
        yield served


@pytest.fixture
def container(served: Served) -> FakeContainer:
    """The container."""
    container = FakeContainer()
    served.stack.become("db", State.READY, container)
    return container


# --- in a pipe ---


async def test_pipes_are_pipes(container: FakeContainer) -> None:
    assert await pysuper("exec", "db", "tr", "a-z", "A-Z", stdin=b"hello\n") == "HELLO\n"
    done = await finished("exec", "db", "--", "sh", "-c", "echo out; echo err >&2")
    assert (done.stdout, done.stderr) == ("out\n", "err\n")


@pytest.mark.parametrize(("script", "status"), [("exit 7", 7), ("kill -9 $$", 137), ("kill -15 $$", 143)])
async def test_the_status_is_that_of_the_command(container: FakeContainer, script: str, status: int) -> None:
    assert (await finished("exec", "db", "sh", "-c", script)).returncode == status


async def test_a_command_that_is_not_there_is_127(container: FakeContainer) -> None:
    assert await failure("exec", "db", "nonsense") == (127, "pysuper: nonsense is not there\n")


async def test_options_end_where_the_command_begins(container: FakeContainer) -> None:
    options = ["-i", "-u", "ada", "-w", "/tmp", "-e", "A=1", "-e", "B=x=y"]
    assert await pysuper("exec", *options, "db", "echo", "-e", "-u") == "-u\n"
    (executed,) = container.executed
    settings = {"user": "ada", "working_dir": "/tmp", "environment": {"A": "1", "B": "x=y"}}
    assert executed == {"command": ["echo", "-e", "-u"], "terminal_size": None, **settings}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["-e", "A", "db"], "--env A: not NAME=VALUE"),
        (["-e", "=A", "db"], "--env =A: not NAME=VALUE"),
        ([], "the NAME of a container is missing; see pysuper exec --help"),
        (["db", "x" * 65536], "the request has 65669 bytes, and may have 65536; shorten it"),
    ],
)
async def test_wrong_usage_is_one_line(container: FakeContainer, argv: list[str], message: str) -> None:
    assert await failure("exec", *argv) == (2, f"pysuper: {message}\n")


async def test_bytes_that_are_not_text_reach_the_command(container: FakeContainer) -> None:
    async with meanwhile("exec", "db", "printf", b"%s", b"\xff\xfe", stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert await read(process.stdout, None) == b"\xff\xfe"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1])
async def test_signals_are_passed_on(container: FakeContainer, number: signal.Signals) -> None:
    script = f"trap 'echo caught; exit 9' {number.name[3:]}; echo ready; while :; do sleep 0.01; done"
    async with meanwhile("exec", "db", "sh", "-c", script, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        await read(process.stdout, b"ready")
        process.send_signal(number)
        assert b"caught" in await read(process.stdout, None)
        assert await process.wait() == 9


async def test_a_signal_that_comes_before_the_command_cancels_it(
    container: FakeContainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def start_for_ever(*_: object, **__: object) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(Operations, "_OPERATIONS", {"exec": start_for_ever})
    async with meanwhile("exec", "db", "true", stderr=subprocess.PIPE) as process:
        await trio.sleep(0.5)
        process.send_signal(signal.SIGUSR1)
        await trio.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 143
        assert process.stderr is not None
        assert await read(process.stderr, None) == b""


async def test_a_signal_that_comes_early_is_passed_on_late(
    served: Served, container: FakeContainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, go_on = trio.Event(), trio.Event()
    execute = Operations._OPERATIONS["exec"]

    async def start_late(*given: object, **settings: object) -> object:
        asked.set()
        await go_on.wait()
        return await execute(*given, **settings)

    monkeypatch.setattr(Operations, "_OPERATIONS", {"exec": start_late})
    async with meanwhile("exec", "db", "sleep", "1000") as process:
        await asked.wait()
        process.send_signal(signal.SIGUSR1)
        await trio.sleep(0.5)
        go_on.set()
        assert await process.wait() == 128 + signal.SIGUSR1


async def test_a_client_that_is_killed_takes_the_command_with_it(container: FakeContainer) -> None:
    async with meanwhile("exec", "db", "sleep", "1000") as process:
        await eventually(lambda: container.processes)
        process.kill()
        await eventually(lambda: container.processes[0].returncode == -9)


async def test_a_supervisor_that_ends_is_an_error(served: Served, container: FakeContainer) -> None:
    async with meanwhile("exec", "db", "sleep", "1000", stderr=subprocess.PIPE) as process:
        await eventually(lambda: container.processes)
        async with meanwhile("down"):
            await eventually(lambda: served.downs)
        assert process.stderr is not None
        said = await read(process.stderr, None)
        assert said.startswith(b"pysuper: the supervisor ended")
        assert await process.wait() == 125


# --- on a terminal ---


async def test_on_a_terminal_the_command_has_one_of_its_own(container: FakeContainer) -> None:
    async with on_terminal("exec", "db", "sh", "-c", "tty; stty size; exit 4") as terminal:
        said = await terminal.expect(b"40 111")
        assert b"/dev/pts/" in said
        assert os.ttyname(terminal.slave).encode() not in said
        assert await terminal.process.wait() == 4
    assert container.executed[0]["terminal_size"] == (40, 111)


async def test_what_is_typed_arrives_key_by_key(container: FakeContainer) -> None:
    script = "stty raw -echo; echo ready; head -c 5 | od -An -tx1; exit 3"
    async with on_terminal("exec", "db", "sh", "-c", script) as terminal:
        await terminal.expect(b"ready")
        terminal.type(b"a\x03\x04\x1a\r")
        await terminal.expect(b"61 03 04 1a 0d")
        assert await terminal.process.wait() == 3


async def test_ctrl_c_is_for_the_command(container: FakeContainer) -> None:
    script = "trap 'echo caught; exit 5' INT; echo ready; while :; do sleep 0.01; done"
    async with on_terminal("exec", "db", "sh", "-c", script) as terminal:
        await terminal.expect(b"ready")
        terminal.type(b"\x03")
        await terminal.expect(b"caught")
        assert await terminal.process.wait() == 5


async def test_the_size_follows(container: FakeContainer) -> None:
    script = "trap 'stty size' WINCH; echo ready; while :; do sleep 0.01; done"
    async with on_terminal("exec", "db", "sh", "-c", script) as terminal:
        await terminal.expect(b"ready")
        terminal.resize(25, 77)
        await terminal.expect(b"25 77")


@pytest.mark.parametrize("how", ["the command ends", "SIGTERM", "SIGINT", "the supervisor ends"])
async def test_the_terminal_is_put_back_when(served: Served, container: FakeContainer, how: str) -> None:
    async with on_terminal("exec", "db", "sh", "-c", "echo ready; read -r line") as terminal:
        before = termios.tcgetattr(terminal.slave)
        await terminal.expect(b"ready")
        assert termios.tcgetattr(terminal.slave) != before
        if how == "the command ends":
            terminal.type(b"\r")
        elif how == "the supervisor ends":
            async with meanwhile("down"):
                await eventually(lambda: served.downs)
        else:
            terminal.process.send_signal(signal.Signals[how])
        status = await terminal.process.wait()
        expected = {"the command ends": 0, "SIGTERM": 143, "SIGINT": 130, "the supervisor ends": 125}
        assert status == expected[how]
        assert termios.tcgetattr(terminal.slave) == before


async def test_all_output_arrives_however_slowly_it_is_read(container: FakeContainer) -> None:
    """A pipe and a pseudo-terminal hold some 70 KiB: the rest has to wait for the reader, not for the clock."""
    read_end, write_end = os.pipe()
    async with on_terminal("exec", "-t", "db", "seq", "100000", stdout=write_end) as terminal:
        os.close(write_end)
        await trio.sleep(2.5)
        async with FdStream(read_end) as stream:
            said = await read(stream, None)
        assert said.decode().split() == [str(number) for number in range(1, 100001)]
        assert await terminal.process.wait() == 0


async def test_a_reader_that_has_gone_hangs_up(container: FakeContainer) -> None:
    read_end, write_end = os.pipe()
    async with on_terminal("exec", "-t", "db", "yes", stdout=write_end) as terminal:
        os.close(write_end)
        os.close(read_end)
        assert await terminal.process.wait() == 129


async def test_the_end_of_a_file_is_the_end_for_a_terminal(container: FakeContainer) -> None:
    done = await finished("exec", "-t", "db", "cat", stdin=b"line\n")
    assert done.stdout.replace("\r", "").startswith("line\n")
    assert done.returncode == 0


async def test_a_process_that_stays_is_not_waited_for(container: FakeContainer) -> None:
    script = "setsid sleep 8 & echo done"
    for terminal in ("--tty", "--no-tty"):
        with trio.fail_after(6):
            async with on_terminal("exec", terminal, "db", "sh", "-c", script) as user:
                await user.expect(b"done")
                assert await user.process.wait() == 0


# --- a terminal that the command must not have ---


async def test_a_command_never_holds_the_users_terminal(container: FakeContainer) -> None:
    script = "test -t 0 || test -t 1 || test -t 2 || echo none; echo err >&2; echo out"
    async with on_terminal("exec", "--no-tty", "db", "sh", "-c", script) as terminal:
        said = await terminal.expect(b"out")
        assert re.findall(rb"\w+", said) == [b"none", b"err", b"out"]
        assert await terminal.process.wait() == 0


async def test_what_is_typed_goes_through_a_pipe(container: FakeContainer) -> None:
    read_end, write_end = os.pipe()
    async with FdStream(read_end) as output, on_terminal("exec", "db", "cat", stdout=write_end) as terminal:
        os.close(write_end)
        terminal.type(b"typed\n")
        assert await read(output, b"\n") == b"typed\n"
        terminal.type(b"\x04")
        assert await read(output, None) == b""
        assert await terminal.process.wait() == 0


async def test_a_signal_at_the_terminal_is_passed_on(container: FakeContainer) -> None:
    script = "trap 'echo caught; exit 6' INT; echo ready; while :; do sleep 0.01; done"
    async with on_terminal("exec", "--no-tty", "db", "sh", "-c", script) as terminal:
        await terminal.expect(b"ready")
        terminal.type(b"\x03")
        await terminal.expect(b"caught")
        assert await terminal.process.wait() == 6
