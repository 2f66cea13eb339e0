"""The control socket: what clients are told, and what they cannot do. Real sockets, a stack without containers."""

from __future__ import annotations

import array
import json
import os
import resource
import socket
import stat
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from fake_stack import FakeContainer, Served, member, serve, variables
from hypothesis import given, settings, strategies as st

from pysuper.drivers import Statistics
from pysuper.errors import ConfigError
from pysuper.record import ExitRecord
from pysuper.stack import control, protocol
from pysuper.stack.lifecycle import State
from pysuper.stack.operations import Operations
from pysuper.stack.project import Project
from pysuper.stack.protocol import MAX_REQUEST, Lines, TooLong, address, parse_request, parse_signal
from pysuper.stack.reading import records
from pysuper.tables import FileErrors

is_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
async def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Served]:
    """A stack with one `db` and two instances of `web`."""
    for name, value in variables(tmp_path).items():
        monkeypatch.setenv(name, value)
    async with serve(Project.of(name="demo"), member("db", memory_max=2**20), member("web", replicas=2)) as served:
        yield served


class Talk:
    """A connection that may send whatever it likes."""

    def __init__(self, project: Project) -> None:
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with address(project.control) as path:
            channel.connect(path)
        self.channel = trio.socket.from_stdlib_socket(channel)
        self.descriptors: list[int] = []
        self._rest = b""

    def __enter__(self) -> Talk:
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()
        for descriptor in self.descriptors:
            os.close(descriptor)

    async def send(self, data: bytes | dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        """Send bytes, or a message as a line, with descriptors."""
        if isinstance(data, dict):
            data = json.dumps(data).encode() + b"\n"
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        sent = await self.channel.sendmsg([data], rights)
        await trio.SocketStream(self.channel).send_all(data[sent:])

    async def line(self) -> Any:
        """The next answer; None at the end."""
        with trio.fail_after(10):
            while b"\n" not in self._rest:
                data, rights, _, _ = await self.channel.recvmsg(65536, socket.CMSG_SPACE(4))
                for _, _, packed in rights:
                    self.descriptors += array.array("i", packed)
                if not data:
                    assert self._rest == b""
                    return None
                self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return json.loads(line)


async def ask(served: Served, operation: str, **arguments: Any) -> Any:
    """The answer to a request."""
    with Talk(served.project) as talk:
        await talk.send({"do": operation, **arguments})
        return await talk.line()


async def eventually(condition: Any) -> None:
    """Wait until it holds."""
    with trio.fail_after(10):
        while not condition():
            await trio.sleep(0.005)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# --- what there is to see ---


async def test_ps_tells_where_each_instance_is(served: Served) -> None:
    failed = ExitRecord(name="db", argv=("x",), exit_code=3, reason="exited")
    served.stack.become("db", State.BACKOFF, detail="exited with 3", record=failed, run=7, restarts=6)
    served.stack.become("web-2", State.READY, FakeContainer(pid=99, paused=True), healthy=False, status="busy")
    db, web = (await ask(served, "ps", names=["db", "web-2"]))["ok"]
    assert db.pop("since") >= 0
    assert db == {
        "name": "db",
        "member": "db",
        "kind": "service",
        "state": "backoff",
        "paused": False,
        "healthy": None,
        "run": 7,
        "restarts": 6,
        "pid": None,
        "detail": "exited with 3",
        "status": "",
        "last_exit": "exited with 3",
    }
    assert (web["pid"], web["paused"], web["healthy"], web["status"]) == (99, True, False, "busy")


async def test_a_name_is_that_of_an_instance_or_of_a_member_and_none_is_all(served: Served) -> None:
    for names, found in (([], ["db", "web-1", "web-2"]), (["web"], ["web-1", "web-2"]), (["web-2"], ["web-2"])):
        assert [instance["name"] for instance in (await ask(served, "ps", names=names))["ok"]] == found
    assert await ask(served, "ps", names=["wbe-1"]) == {
        "error": "there is no container 'wbe-1' in this stack; did you mean 'web-1'?",
        "exit": 2,
    }


async def test_stats_tells_what_is_used_of_what_may_be(served: Served) -> None:
    counted = Statistics(cpu_user=1.5, memory_current=4096, pressure={"cpu": 12.5})
    served.stack.become("db", State.READY, FakeContainer(counted=counted))
    served.stack.become("web-1", State.FAILED)
    db, web, _ = (await ask(served, "stats"))["ok"]
    assert db["statistics"]["cpu_user"] == 1.5
    assert db["statistics"]["pressure"] == {"cpu": 12.5}
    assert db["limits"]["memory_max"] == 2**20
    assert web["statistics"] is None


async def test_inspect_tells_everything(served: Served) -> None:
    (db,) = (await ask(served, "inspect", names=["db"]))["ok"]
    assert db["state"] == "ready"
    assert db["labels"] == {"tier": "front"}
    assert db["plan"] == ["clone", "execute"]
    assert db["spec"]["container"]["limits"]["memory_max"] == 2**20
    assert db["spec"]["restart"]["when"] == "no"
    assert db["receipts"][0]["promise"] == "pids.max"
    served.stack.become("db", State.STOPPED)
    (db,) = (await ask(served, "inspect", names=["db"]))["ok"]
    assert (db["plan"], db["receipts"]) == ([], [])


# --- what can be changed ---


async def test_who_asks_is_known(served: Served) -> None:
    await ask(served, "stop", names=["web"])
    because = served.stack.becauses[0]
    assert (because.by, because.who) == ("operator", f"uid {os.geteuid()}, pid {os.getpid()}")


async def test_a_stop_answers_when_it_is_done(served: Served) -> None:
    served.stack.gate = trio.Event()
    with Talk(served.project) as talk:
        await talk.send({"do": "stop", "names": ["web"]})
        with trio.move_on_after(0.1):
            pytest.fail(f"it is not done: {await talk.line()}")
        served.stack.gate.set()
        assert [instance["state"] for instance in (await talk.line())["ok"]] == ["stopped"] * 2
    assert served.stack.calls == ["stop web-1 web-2", "stopped web-1 web-2"]


async def test_a_restart_that_was_begun_is_finished_without_its_client(served: Served) -> None:
    served.stack.gate = trio.Event()
    with Talk(served.project) as talk:
        await talk.send({"do": "restart", "names": ["db"]})
        await eventually(lambda: served.stack.calls)
    await trio.sleep(0.05)
    served.stack.gate.set()
    await eventually(lambda: served.stack.calls == ["stop db", "stopped db", "start db"])


async def test_a_start_answers_at_once(served: Served) -> None:
    served.stack.become("db", State.STOPPED)
    assert [instance["state"] for instance in (await ask(served, "start", names=["db"]))["ok"]] == ["waiting"]


async def test_a_start_can_be_waited_for(served: Served) -> None:
    served.stack.become("db", State.STOPPED)
    with Talk(served.project) as talk:
        await talk.send({"do": "start", "names": ["db"], "wait": True})
        await eventually(lambda: served.stack.instances["db"].state is State.WAITING)
        served.stack.become("db", State.RUNNING)
        with trio.move_on_after(0.1):
            pytest.fail(f"it is not settled: {await talk.line()}")
        served.stack.become("db", State.READY)
        assert (await talk.line())["ok"][0]["state"] == "ready"


async def test_a_start_that_fails_says_why(served: Served) -> None:
    served.stack.become("db", State.STOPPED)
    with Talk(served.project) as talk:
        await talk.send({"do": "start", "names": ["db"], "wait": True})
        await eventually(lambda: served.stack.instances["db"].state is State.WAITING)
        served.stack.become("db", State.FAILED, detail="gave up after 5 restarts in 10 s")
        assert await talk.line() == {
            "error": "db is failed: gave up after 5 restarts in 10 s; `pysuper why db` says more",
            "exit": 125,
        }


async def test_a_client_that_leaves_is_not_waited_for(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "_MAX_CLIENTS", 1)
    for _ in range(3):
        with Talk(served.project) as talk:
            await talk.send({"do": "start", "names": ["db"], "wait": True})
            await eventually(lambda: served.stack.instances["db"].state is State.WAITING)
        await trio.sleep(0.05)
        served.stack.become("db", State.STOPPED)
    assert "ok" in await ask(served, "ps")


async def test_a_pause_is_in_the_journal(served: Served) -> None:
    served.stack.become("web-1", State.STOPPED)
    for _ in range(2):  # the second changes nothing
        paused = (await ask(served, "pause"))["ok"]
    assert [(instance["name"], instance["paused"]) for instance in paused] == [("db", True), ("web-2", True)]
    assert [instance["paused"] for instance in (await ask(served, "resume", names=["db"]))["ok"]] == [False]
    told = [(r["kind"], r["container"], r["run"], r["because"]["by"]) for r in records(served.project.state)]
    assert told == [
        ("paused", "db", 1, "operator"),
        ("paused", "web-2", 1, "operator"),
        ("resumed", "db", 1, "operator"),
    ]


async def test_what_does_not_run_cannot_be_paused(served: Served) -> None:
    served.stack.become("db", State.FAILED, detail="exited with 1")
    assert await ask(served, "pause", names=["db"]) == {
        "error": "db is failed: exited with 1; `pysuper start db` starts it",
        "exit": 125,
    }


async def test_a_reload_reads_the_file_again(served: Served) -> None:
    assert (await ask(served, "reload"))["ok"]["added"] == ["new"]


async def test_a_broken_file_is_refused_with_all_that_is_wrong(served: Served) -> None:
    def load() -> Any:
        raise FileErrors(["a.toml:1: x: no such key", "a.toml:7: y: is\ntoo small"])

    served.load = load
    answer = await ask(served, "reload")
    assert answer == {"error": "a.toml:1: x: no such key\na.toml:7: y: is\\ntoo small", "exit": 2}
    assert served.stack.calls == []


async def test_a_file_that_blocks_holds_up_nobody_else(served: Served, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")

    def load() -> Any:
        raise ConfigError((tmp_path / "fifo").read_text())

    served.load = load
    with Talk(served.project) as talk:
        await talk.send({"do": "reload"})
        await trio.sleep(0.05)
        assert "ok" in await ask(served, "stop", names=["db"])
        (tmp_path / "fifo").write_text("at last")
        assert (await talk.line())["error"] == "at last"


async def test_a_reload_is_alone(served: Served) -> None:
    """It takes instances away: one that were started meanwhile would be nobody's."""
    served.stack.gate = trio.Event()
    with Talk(served.project) as stop, Talk(served.project) as reload, Talk(served.project) as start:
        await stop.send({"do": "stop", "names": ["db"]})
        await eventually(lambda: served.stack.calls == ["stop db"])
        await reload.send({"do": "reload"})
        await trio.sleep(0.1)
        await start.send({"do": "start", "names": ["web-1"]})
        await trio.sleep(0.1)
        assert served.stack.calls == ["stop db"]
        served.stack.gate.set()
        for talk in (stop, reload, start):
            assert "ok" in await talk.line()
    assert served.stack.calls == ["stop db", "stopped db", "reload", "reloaded", "start web-1"]


async def test_down_answers_although_everything_ends(served: Served) -> None:
    assert await ask(served, "down") == {"ok": None}
    assert [because.by for because in served.downs] == ["operator"]


async def test_a_client_whose_stack_ends_finds_a_closed_connection(served: Served) -> None:
    served.stack.gate = trio.Event()
    with Talk(served.project) as talk:
        await talk.send({"do": "stop", "names": ["db"]})
        await eventually(lambda: served.stack.calls)
        await ask(served, "down")
        assert await talk.line() is None


# --- commands in containers ---


@contextmanager
def pipes() -> Iterator[tuple[list[int], list[int]]]:
    """Three descriptors for a command, and our ends of them."""
    pairs = [os.pipe() for _ in range(3)]
    theirs = [pairs[0][0], pairs[1][1], pairs[2][1]]
    ours = [pairs[0][1], pairs[1][0], pairs[2][0]]
    yield theirs, ours
    for descriptor in ours:
        os.close(descriptor)


def close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


async def test_a_command_has_the_clients_descriptors(served: Served) -> None:
    with pipes() as (theirs, ours), Talk(served.project) as talk:
        await talk.send(
            {"do": "exec", "name": "db", "command": ["sh", "-c", "tr a-z A-Z; echo err >&2; exit 7"]}, theirs
        )
        close_all(theirs)
        assert await talk.line() == {"ok": None}
        os.write(ours[0], b"hello")
        os.close(ours[0])
        ours[0] = os.open(os.devnull, os.O_RDONLY)
        assert await talk.line() == {"ok": {"status": 7}}
        # The end of the output comes by itself: nobody but the command had the other end.
        assert [os.read(end, 100) for end in ours[1:]] == [b"HELLO", b"err\n"]
        assert [os.read(end, 100) for end in ours[1:]] == [b"", b""]
        assert await talk.line() is None


async def test_the_end_of_its_output_is_seen_while_the_command_goes_on(served: Served) -> None:
    with pipes() as (theirs, ours), Talk(served.project) as talk:
        command = ["sh", "-c", "exec >&- 2>&-; exec sleep 1000"]
        await talk.send({"do": "exec", "name": "db", "command": command}, theirs)
        close_all(theirs)
        assert await talk.line() == {"ok": None}
        with trio.fail_after(10):
            await trio.lowlevel.wait_readable(ours[1])
        assert os.read(ours[1], 100) == b""


async def test_a_command_can_have_a_terminal(served: Served) -> None:
    with Talk(served.project) as talk:
        await talk.send({"do": "exec", "name": "db", "command": ["tty"], "terminal": True, "size": [33, 99]})
        assert await talk.line() == {"ok": None}
        (master,) = talk.descriptors
        assert os.isatty(master)
        assert await talk.line() == {"ok": {"status": 0}}
        assert os.read(master, 100).startswith(b"/dev/pts/")
    (executed,) = served.stack.instances["db"].container.executed  # type: ignore[union-attr]
    assert executed["terminal_size"] == (33, 99)


async def test_settings_reach_the_command(served: Served) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    settings = {"user": "ada", "working_dir": "/tmp", "environment": {"A": "b"}}
    with Talk(served.project) as talk:
        await talk.send({"do": "exec", "name": "db", "command": ["true"], **settings}, [null] * 3)
        assert [await talk.line(), await talk.line()] == [{"ok": None}, {"ok": {"status": 0}}]
    os.close(null)
    (executed,) = served.stack.instances["db"].container.executed  # type: ignore[union-attr]
    assert executed == {"command": ["true"], "terminal_size": None, **settings}


async def test_signals_are_passed_on(served: Served) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    with Talk(served.project) as talk:
        script = "trap 'exit 3' USR1; while :; do sleep 0.01; done"
        await talk.send({"do": "exec", "name": "db", "command": ["sh", "-c", script]}, [null] * 3)
        assert await talk.line() == {"ok": None}
        await trio.sleep(0.1)
        await talk.send({"signal": 10})
        assert await talk.line() == {"ok": {"status": 3}}
    os.close(null)


@pytest.mark.parametrize("how", ["leaves", "sends garbage"])
async def test_a_command_is_killed_when_its_client(served: Served, how: str) -> None:
    container = FakeContainer()
    served.stack.become("db", State.READY, container)
    null = os.open(os.devnull, os.O_RDWR)
    with Talk(served.project) as talk:
        await talk.send({"do": "exec", "name": "db", "command": ["sleep", "1000"]}, [null] * 3)
        assert await talk.line() == {"ok": None}
        if how == "sends garbage":
            await talk.send(b"}\n")
            await eventually(lambda: container.processes[0].returncode is not None)
    await eventually(lambda: container.processes[0].returncode == -9)
    os.close(null)


async def test_a_command_that_is_not_there_is_an_error(served: Served) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    with Talk(served.project) as talk:
        await talk.send({"do": "exec", "name": "db", "command": ["no-such-thing"]}, [null] * 3)
        assert await talk.line() == {"error": "no-such-thing is not there", "exit": 127}
    os.close(null)


@pytest.mark.parametrize(
    ("request_", "count", "message"),
    [
        ({"name": "web"}, 3, "web has several instances; name one of web-1, web-2"),
        ({"name": "wbe-1"}, 3, "there is no container 'wbe-1' in this stack; did you mean 'web-1'?"),
        ({"name": "db"}, 0, "exec comes with the descriptors 0 to 2, or with a terminal and none"),
        ({"name": "db"}, 2, "exec comes with the descriptors 0 to 2, or with a terminal and none"),
        ({"name": "db"}, 4, "a request comes with 3 descriptors at most"),
        ({"name": "db", "terminal": True}, 3, "exec comes with the descriptors 0 to 2, or with a terminal and none"),
    ],
)
async def test_a_command_that_cannot_be_is_refused(
    served: Served, request_: dict[str, Any], count: int, message: str
) -> None:
    before = descriptors()
    with Talk(served.project) as talk:
        await talk.send({"do": "exec", "command": ["true"], **request_}, [0] * count)
        assert await talk.line() == {"error": message, "exit": 2}
    await eventually(lambda: descriptors() == before)


# --- what clients cannot do ---


async def test_only_the_owner_finds_the_socket(served: Served) -> None:
    assert stat.S_IMODE(served.project.control.stat().st_mode) == 0o600
    assert stat.S_IMODE(served.project.runtime.stat().st_mode) == 0o700


async def test_the_path_may_be_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables(tmp_path / ("x" * 200)).items():
        monkeypatch.setenv(name, value)
    async with serve(Project.of(name="demo"), member("db")) as served:
        assert "ok" in await ask(served, "ps")


@is_root
async def test_another_user_is_told_nothing(served: Served) -> None:
    """Should the directory ever let one in."""
    served.project.runtime.chmod(0o755)
    served.project.control.chmod(0o666)
    program = (
        "import os, socket, sys\n"
        "os.chdir(sys.argv[1]); os.setresuid(65534, 65534, 65534)\n"
        "channel = socket.socket(socket.AF_UNIX); channel.connect('control'); channel.settimeout(10)\n"
        "try:\n"
        """    channel.send(b'{"do": "ps"}\\n'); print(channel.recv(100) or "closed")\n"""
        "except ConnectionError:\n"
        "    print('closed')\n"
    )
    command = [sys.executable, "-c", program, str(served.project.runtime)]
    done = await trio.run_process(command, capture_stdout=True)
    assert done.stdout == b"closed\n"
    assert "ok" in await ask(served, "ps")


GARBAGE = [
    b"\n",
    b"\0\n",
    b"null\n",
    b"[]\n",
    b"{}\n",
    b"\xff\xfe\n",
    b'{"do": "ps"\n',
    b'{"do": ["ps"]}\n',
    b'{"do": "nonsense"}\n',
    b'{"do": "ps", "names": "db"}\n',
    b'{"do": "ps", "names": [1]}\n',
    b'{"do": "ps", "nmaes": []}\n',
    b'{"do": "ps", "names": ["' + b"x" * 60000 + b'"]}\n',
    b'{"do": "start", "wait": 1}\n',
    b'{"do": "exec"}\n',
    b'{"do": "exec", "name": "db", "command": ["\\ud800"]}\n',
    b'{"do": "exec", "name": "db", "command": ["a\\u0000b"]}\n',
    b'{"do": "exec", "name": "db", "command": [], "environment": {"A=B": "c"}}\n',
    b'{"do": "exec", "name": "db", "command": [], "size": [1e9, 1]}\n',
    b"[" * 60000 + b"\n",
    b"1" * 60000 + b"\n",
    b"x" * MAX_REQUEST + b"\n",
    b"x" * 10 * MAX_REQUEST,
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=lambda garbage: str(garbage[:40]))
async def test_garbage_is_an_error_in_one_line(served: Served, garbage: bytes) -> None:
    with Talk(served.project) as talk:
        with suppress(trio.BrokenResourceError):  # it was refused before all of it was read
            await talk.send(garbage)
        answer = await talk.line()
        assert answer["exit"] == 2
        assert answer["error"].isprintable()
        assert len(answer["error"]) < 200
    assert "ok" in await ask(served, "ps")


async def test_half_a_line_is_nothing(served: Served) -> None:
    with Talk(served.project) as talk:
        await talk.send(b'{"do": "do')
        talk.channel.shutdown(socket.SHUT_WR)
        assert await talk.line() is None
    assert served.downs == []


async def test_a_request_may_come_in_pieces(served: Served) -> None:
    with Talk(served.project) as talk:
        for byte in b'{"do": "ps", "names": ["db"]}\n':
            await talk.send(bytes([byte]))
        assert (await talk.line())["ok"][0]["name"] == "db"


async def test_silence_is_not_listened_to_for_ever(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "_REQUEST_PATIENCE", 0.1)
    for said in (b"", b"{"):
        with Talk(served.project) as talk:
            await talk.send(said) if said else None
            assert await talk.line() is None


async def test_one_client_too_many_is_told_so(served: Served) -> None:
    talks = [Talk(served.project) for _ in range(control._MAX_CLIENTS)]
    await trio.sleep(0.1)
    refused = await ask(served, "ps")
    assert refused == {"error": "64 clients are served already; try again", "exit": 125}
    talks.pop().__exit__()
    await trio.sleep(0.1)
    assert "ok" in await ask(served, "ps")
    for talk in talks:
        talk.__exit__()


async def test_descriptors_that_nobody_asked_for_are_closed(served: Served) -> None:
    before = descriptors()
    with Talk(served.project) as talk:
        for _ in range(200):
            try:
                await talk.send(b" ", [0] * 253)  # SCM_MAX_FD
            except (trio.BrokenResourceError, OSError):
                break
        assert (await talk.line())["error"] == "a request comes with 3 descriptors at most"
    with Talk(served.project) as talk:
        await talk.send({"do": "start", "names": ["db"], "wait": True}, [0] * 3)
        await eventually(lambda: served.stack.calls)
        for _ in range(200):
            await talk.send(b" ", [0] * 253)
        await trio.sleep(0.1)
        assert descriptors() == before + 2  # both ends of the connection
    await eventually(lambda: descriptors() == before)


async def test_descriptors_that_come_later_are_closed(served: Served) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    with Talk(served.project) as talk:
        await talk.send({"do": "exec", "name": "db", "command": ["sleep", "1000"]}, [null] * 3)
        assert await talk.line() == {"ok": None}
        before = descriptors()
        for _ in range(200):
            await talk.send(b" ", [0] * 253)
        await trio.sleep(0.1)
        assert descriptors() == before
    os.close(null)


async def test_no_descriptor_for_a_client_is_no_end(served: Served) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = descriptors()
    with Talk(served.project) as talk, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as waiting:
        await eventually(lambda: descriptors() == before + 3)  # the server's side of `talk` is there
        with address(served.project.control) as path:
            free = os.dup(0)
            os.close(free)
            resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
            try:
                waiting.connect(path)
                await trio.sleep(0.3)
                await talk.send({"do": "ps"})
                assert "ok" in await talk.line()
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "ok" in await ask(served, "ps")


async def test_a_client_that_does_not_read_holds_up_nobody(served: Served) -> None:
    served.stack.become("db", State.FAILED, detail="x" * 2**20)
    with Talk(served.project) as lazy:
        await lazy.send({"do": "ps"})
        assert "ok" in await ask(served, "ps", names=["web"])


async def test_an_error_of_ours_is_the_answer_and_not_the_end(served: Served) -> None:
    def load() -> Any:
        raise ZeroDivisionError("by\nzero")

    served.load = load
    assert await ask(served, "reload") == {"error": "unexpected ZeroDivisionError: by\\nzero", "exit": 125}

    async def stop(*_: object, **__: object) -> None:
        raise KeyError("gone")

    served.stack.stop = stop  # type: ignore[method-assign]
    assert (await ask(served, "stop"))["error"] == "unexpected KeyError: 'gone'"
    assert "ok" in await ask(served, "ps")


# --- the parser ---


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"do": "exec", "name": "db", "command": ["a\0b"]}, "command is a list of strings, not ['a\\x00b']"),
        ({"do": "exec", "name": "db", "command": ["\ud800"]}, "command is a list of strings, not ['\\ud800']"),
        ({"do": "exec", "name": "db", "command": "ls"}, "command is a list of strings, not 'ls'"),
        (
            {"do": "exec", "name": "db", "command": [], "environment": {"A=B": ""}},
            "environment is an object of strings",
        ),
        ({"do": "exec", "name": "db", "command": [], "environment": {"": ""}}, "environment is an object of strings"),
        ({"do": "exec", "name": "db", "command": [], "size": [1e9, 1]}, "size is rows and columns, not [1000000000.0"),
        ({"do": "exec", "name": "db", "command": [], "size": [-1, 1]}, "size is rows and columns, not [-1, 1]"),
        ({"do": "exec", "name": "db", "command": [], "user": 0}, "user is a string, not 0"),
        ({"do": "exec", "command": []}, "name is a name, not None"),
        ({"do": "start", "wait": 1}, "wait is true or false, not 1"),
        ({"do": "stop", "names": ["x" * 129]}, "names is a list of names, not ['xxx"),
        ({"do": "stop", "nmaes": []}, "stop has no 'nmaes'"),
        ({"do": "nonsense"}, "there is no operation 'nonsense'; is the client of the same version?"),
    ],
)
def test_what_is_wrong_with_a_request_is_said(message: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_request(json.dumps(message).encode())
    assert str(caught.value).startswith(text)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
fields = st.sampled_from(["names", "wait", "name", "command", "terminal", "size", "user", "environment"])
operations = st.sampled_from(["ps", "stop", "start", "exec", "down", "reload"])


@pytest.mark.parametrize("number", [0, 65, -1, 1.5, True, None, "15", [15]])
def test_what_is_no_signal_is_refused(number: object) -> None:
    with pytest.raises(ConfigError, match="is not the number of a signal"):
        parse_signal(json.dumps({"signal": number}).encode())
    assert parse_signal(b'{"signal": 15}') == 15


@settings(deadline=None)
@given(st.binary() | json_values.map(lambda value: json.dumps(value).encode()))
def test_whatever_comes_is_a_request_or_an_error(line: bytes) -> None:
    for parse in (parse_request, parse_signal):
        try:
            parse(line)
        except ConfigError as error:
            assert str(error).isprintable()


@settings(deadline=None)
@given(st.dictionaries(fields, json_values | operations), operations)
def test_what_is_a_request_can_be_acted_upon(message: dict[str, Any], operation: str) -> None:
    try:
        request = parse_request(json.dumps(message | {"do": operation}).encode())
    except ConfigError as error:
        assert str(error).isprintable()
        assert len(str(error)) < 300
    else:
        assert request.operation == operation
        for text in [*request.arguments.get("command", []), *request.arguments.get("environment", {}).values()]:
            assert b"\0" not in os.fsencode(text)
        assert all(isinstance(name, str) for name in request.arguments.get("names", []))


@given(st.lists(st.binary().map(lambda line: line.replace(b"\n", b""))), st.data())
def test_lines_are_the_same_however_they_are_cut(lines: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(line + b"\n" for line in lines)
    splitter, found, rest = Lines(), [], stream
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        found += splitter.feed(rest[:size])
        rest = rest[size:]
    assert found == lines


@given(st.lists(st.binary(max_size=30), max_size=20))
def test_a_long_line_is_noticed_however_it_is_cut(chunks: list[bytes]) -> None:
    stream = b"".join(chunks)
    too_long = any(len(line) >= 20 for line in stream.split(b"\n"))
    splitter = Lines(20)
    try:
        for chunk in chunks:
            splitter.feed(chunk)
    except TooLong:
        assert too_long
    else:
        assert not too_long


def test_every_request_has_an_operation() -> None:
    assert set(protocol._REQUESTS) == set(Operations._OPERATIONS)
