"""The hooks that come with pysuper: each is heard by a real reader."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import trio

import pysuper
from machine import PATIENCE, wait_until
from pysuper.errors import DriverError
from pysuper.spec import DriverChoice
from pysuper_plugins.hook.command import CommandHook

PYSUPER = [sys.executable, "-m", "pysuper"]
STACK = """
    [hook.{hook}]
    {options}

    [defaults]
    stop_grace_period = "1s"

    [container.first]
    command = "sh -c 'sleep 0.3; echo up; exec sleep 1000'"
    ready = {{ log = "up" }}

    [container.second]
    command = "sleep 1000"
    depends_on = {{ first = "ready" }}
"""


class Up:
    """A stack in a process of its own."""

    def __init__(self, directory: Path, hook: str, options: str, **environment: str) -> None:
        file = directory / "stack.toml"
        file.write_text(STACK.format(hook=hook, options=options))
        own = {"PYSUPER_RUNTIME_DIR": str(directory / "run"), "PYSUPER_STATE_DIR": str(directory / "state")}
        self.process = subprocess.Popen(
            [*PYSUPER, "up", "--quiet", str(file)], env={**os.environ, **own, **environment}, stderr=subprocess.PIPE
        )

    def __enter__(self) -> Up:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        _, self.errors = self.process.communicate(timeout=30 * PATIENCE)


# --- systemd ---


def test_systemd_is_told_when_everything_is_ready_and_the_watchdog_is_fed(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(address)
        channel.settimeout(20 * PATIENCE)
        heard: list[str] = []

        def listen_for(text: str) -> None:
            while text not in "\n".join(heard):
                heard.append(channel.recv(4096).decode())

        with Up(tmp_path, "systemd", "", NOTIFY_SOCKET=address, WATCHDOG_USEC="400000"):
            listen_for("READY=1")
            before_ready = "\n".join(heard)
            heard.clear()
            listen_for("WATCHDOG=1")
            heard.clear()
            listen_for("WATCHDOG=1")
        listen_for("STOPPING=1")
    assert before_ready.count("READY=1") == 1
    assert "STATUS=2 ready\nREADY=1" in before_ready
    assert "STATUS=1 started, 1 waiting" in before_ready  # and not ready yet


def test_an_abstract_socket_of_systemds_is_found(tmp_path: Path) -> None:
    name = f"pysuper-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(f"\0{name}")
        channel.settimeout(20 * PATIENCE)
        command = [*PYSUPER, "run", "--hook", "systemd", "true"]
        subprocess.run(command, env={**os.environ, "NOTIFY_SOCKET": f"@{name}"}, check=True, timeout=60 * PATIENCE)
        heard = ""
        while "STOPPING=1" not in heard:
            heard += channel.recv(4096).decode() + "\n"
    assert heard.count("READY=1") == 1


async def test_without_systemd_nothing_is_told(spec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    warned: list[str] = []
    async with pysuper.open_supervisor(hooks=[DriverChoice("systemd")], warn=warned.append) as supervisor:
        assert (await (await supervisor.start(spec("exit 0"))).wait()).exit_code == 0
    assert warned == []


# --- command ---


async def test_a_command_gets_a_line_of_json_for_each_event(spec, tmp_path: Path) -> None:
    target = tmp_path / "events"
    hook = DriverChoice("command", argument=f"sh -c 'cat > {target}; echo end >> {target}'")
    async with pysuper.open_supervisor(hooks=[hook]) as supervisor:
        container = await supervisor.start(spec("exit 3"))
        pid = container.pid
        await container.wait()
    *lines, last = target.read_text().splitlines()
    assert last == "end"  # it has seen the end of its input, and was waited for
    events = [json.loads(line) for line in lines]
    kinds = [event["kind"] for event in events]
    assert kinds == ["before_create", "created", "started", "ready", "exited", "failed"]
    assert events[1]["pid"] == pid
    assert events[4]["record"]["exit_code"] == 3
    assert events[5]["detail"] == "exited with 3"
    assert all(event["container"] == "box" and event["run"] == 1 for event in events)


async def test_a_command_that_reads_late_holds_up_nobody_and_loses_only_what_it_is_told_of(
    spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CommandHook, "timeout", 0.2)
    target, go = tmp_path / "events", tmp_path / "go"
    command = f"sh -c 'until test -e {go}; do sleep 0.01; done; cat > {target}'"
    warned: list[str] = []
    async with pysuper.open_supervisor(
        hooks=[DriverChoice("command", argument=command)], warn=warned.append
    ) as running:
        for _ in range(2):  # whose records are more than a pipe holds, pipe(7)
            container = await running.start(spec(command=("true", "x" * 30_000)))
            assert (await container.wait()).exit_code == 0
        while not warned:
            await trio.sleep(0.01)
        go.touch()
        while not target.exists():
            await trio.sleep(0.01)
        await (await running.start(spec("exit 0", name="last"))).wait()
    assert "took more than 0.2 s" in warned[0]
    *_, last = lines = target.read_text().splitlines()
    assert (json.loads(last)["container"], json.loads(last)["kind"]) == ("last", "stopped")
    cut_off = [line for line in lines if not line.endswith("}")]
    assert 0 < len(cut_off) <= len(warned)
    assert all(json.loads(line)["kind"] for line in lines if line not in cut_off)


async def test_a_command_that_has_ended_is_one_warning(spec, tmp_path: Path) -> None:
    ended = tmp_path / "ended"
    hook = DriverChoice("command", argument=f"sh -c 'exec <&-; touch {ended}; exit 7'")
    warned: list[str] = []
    async with pysuper.open_supervisor(hooks=[hook], warn=warned.append) as supervisor:
        while not ended.exists():
            await trio.sleep(0.01)
        await trio.sleep(0.1)
        assert (await (await supervisor.start(spec("exit 0"))).wait()).exit_code == 0
    assert len(warned) == 1
    assert "has ended with 7" in warned[0]


@pytest.mark.parametrize("command", ["/no/such/program", "", "'"])
async def test_a_command_that_cannot_be_executed_is_an_error(command: str) -> None:
    with pytest.raises(DriverError, match="command"):
        async with pysuper.open_supervisor(hooks=[DriverChoice("command", argument=command)]):
            pass


# --- prometheus ---


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def sample(text: str, metric: str, *labels: str) -> float | None:
    """The value of a series."""
    wanted = ",".join(labels)
    found = re.search(rf"^pysuper_container_{metric}\{{{re.escape(wanted)}\}} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else None


def fetch(port: int, path: str = "/metrics") -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10 * PATIENCE) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        text: str = answer.read().decode()
        return text


def test_prometheus_reads_what_has_happened(tmp_path: Path) -> None:
    port, file = free_port(), tmp_path / "pysuper.prom"
    options = f'listen = "127.0.0.1:{port}"\nfile = "{file}"'
    with Up(tmp_path, "prometheus", options) as up:
        ready = wait_until(lambda: file.exists() and sample(file.read_text(), "ready", 'container="second"') == 1, 20)
        assert ready
        text = fetch(port)
        assert sample(text, "up", 'container="first"') == 1
        assert sample(text, "starts_total", 'container="first"') == 1
        started = sample(text, "start_seconds", 'container="first"')
        assert started is not None
        assert started >= 0.3  # it says that it is up after that
        with pytest.raises(urllib.error.HTTPError, match="404"):
            fetch(port, "/")
        with socket.create_connection(("127.0.0.1", port)) as rude:
            rude.sendall(b"\0\0\0 nonsense\r\n\r\n")
        assert fetch(port) == text
        environment = {"PYSUPER_RUNTIME_DIR": str(tmp_path / "run"), "PYSUPER_STATE_DIR": str(tmp_path / "state")}
        subprocess.run(
            [*PYSUPER, "stop", "second"], env={**os.environ, **environment}, check=True, timeout=60, capture_output=True
        )
        text = fetch(port)
        assert sample(text, "up", 'container="second"') == 0
        assert sample(text, "exits_total", 'container="second"', 'reason="stopped"') == 1
        assert text == file.read_text()
        up.process.send_signal(signal.SIGTERM)
        up.process.wait(timeout=30 * PATIENCE)
    for line in text.splitlines():
        assert re.fullmatch(r'# (HELP|TYPE) \w+ .+|\w+\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")*\} \S+', line), line


async def test_containers_that_are_gone_are_forgotten(spec, tmp_path: Path) -> None:
    file = tmp_path / "metrics"
    hook = DriverChoice("prometheus", {"file": str(file)})
    async with pysuper.open_supervisor(hooks=[hook]) as supervisor:
        await (await supervisor.start(spec("exit 0", name="first"))).wait()
        other = await supervisor.start(spec("exec sleep 60", name="other"))
        assert sample(file.read_text(), "starts_total", 'container="other"') == 1
        assert "first" not in file.read_text()
        await other.stop()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "set listen, file, or both"),
        ({"listen": "9464"}, "'9464' is not HOST:PORT"),
        ({"listen": "127.0.0.1:99999"}, "is not HOST:PORT"),
        ({"listen": "192.0.2.1:9464"}, "cannot listen at 192.0.2.1:9464: EADDRNOTAVAIL"),
        ({"file": "/no/such/directory/metrics"}, "cannot write /no/such/directory/metrics: No such file"),
    ],
)
async def test_where_metrics_cannot_be_had_is_said(options: dict[str, str], expected: str) -> None:
    with pytest.raises(DriverError, match=re.escape(expected)):
        async with pysuper.open_supervisor(hooks=[DriverChoice("prometheus", options)]):
            pass
