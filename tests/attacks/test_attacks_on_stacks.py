"""Attacks on a supervisor from one of its containers, and from other users: descriptors, orders, forged lines."""

from __future__ import annotations

import array
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import attrs
import pyte
import pytest
from attackcore import LANES, PYTHON

from machine import PATIENCE, cgroup_driver, wait_until
from ordinary import BECOME_USER, USER, Public
from pysuper.stack.display import Display
from pysuper.stack.reading import records

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, which can also be an ordinary user"),
    pytest.mark.skipif(not os.path.exists(PYTHON), reason=f"there is no {PYTHON}, which containers see too"),
]

#: Somebody else, who is neither root nor the ordinary user of these tests.
STRANGER = 54399
DESCRIPTORS = 200

#: What the container does: it sends descriptors with its reports, more than anybody can hold, and says what it says.
HOSTILE = f"""
import array, os, socket, time
channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
channel.connect(os.environ["NOTIFY_SOCKET"])
rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0] * {DESCRIPTORS}))]
for _ in range(50):
    while True:
        try:
            channel.sendmsg([b"STATUS=fine\\n"], rights)
        except OSError:  # too many are on their way
            time.sleep(0.01)
        else:
            break
for line in LINES:
    os.write(1, line)
channel.send(b"STATUS=flooded\\x1b[2J\\nREADY=1")
time.sleep(1000)
"""
#: A line of somebody else, or of the supervisor, as a terminal would show it; and one that takes away what is there.
FORGED = "bank | paid: 1000000"
LINES = [
    f"\r{FORGED}\n".encode(),
    f"fine\x1b[1B\x1b[1G{FORGED}\n".encode(),
    f"fine\x1b[2J\x1b[H{FORGED}\n".encode(),
    f"fine\x0b\x0d{FORGED}\n".encode(),
    f"fine\xc2\x85{FORGED}\n".encode("latin-1"),
    f"fine\xc2\x9b1G{FORGED}\n".encode("latin-1"),
]


@attrs.frozen
class Running:
    """
    A stack with a hostile container, `box`.

    Attributes:
        pysuper: How its user calls pysuper, and with which variables.
        pid: Of its supervisor.
        project: Its runtime directory.
        journal: The directory of its journal.
    """

    pysuper: list[str]
    environment: dict[str, str]
    pid: int
    project: Path
    journal: Path

    def descriptors(self) -> int:
        """How many its supervisor has."""
        return len(os.listdir(f"/proc/{self.pid}/fd"))


@pytest.fixture(scope="module", params=LANES)
def running(request: pytest.FixtureRequest) -> Iterator[Running]:
    user = request.param == "user"
    public: Public | None = request.getfixturevalue("public") if user else None
    with tempfile.TemporaryDirectory(prefix="pysuper-attacks-", dir="/var/tmp") as name:
        top = Path(name)
        top.chmod(0o755)
        (top / "program.py").write_text(HOSTILE.replace("LINES", repr(LINES)))
        (top / "stack.toml").write_text(
            textwrap.dedent(f"""
                [container.box]
                command = ["{PYTHON}", "/program.py"]
                volumes = ["./program.py:/program.py:ro"]
                ready = "notify"
                network = "own"
                stop_grace_period = "100ms"
                cgroup = {{ driver = "{"none" if user else cgroup_driver()}" }}
            """)
        )
        environment = {"PATH": os.environ["PATH"], "HOME": name}
        environment |= {"PYSUPER_RUNTIME_DIR": f"{top}/run", "PYSUPER_STATE_DIR": f"{top}/state"}
        command = [sys.executable, "-m", "pysuper"]
        if public is not None:
            subprocess.run(["chown", "-R", f"{USER}:{USER}", top], check=True)
            environment["PYTHONPATH"] = str(public.home / "site")
            command[:1] = [*BECOME_USER, "env", public.python]
        with subprocess.Popen(
            [*command, "up", str(top / "stack.toml")],
            cwd=top,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as up:
            try:
                assert wait_until(lambda: up.poll() is not None or _is_ready(top), 30 * PATIENCE)
                (project,) = (top / "run").iterdir()
                (journal,) = (top / "state").iterdir()
                yield Running(command, environment, up.pid, project, journal)
            finally:
                up.send_signal(signal.SIGTERM)
                said, _ = up.communicate(timeout=30 * PATIENCE)
                print(said.decode())


def _is_ready(top: Path) -> bool:
    return any(record["kind"] == "ready" for state in top.glob("state/*") for record in records(state))


def send_descriptors(channel: socket.socket, data: bytes) -> None:
    channel.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0] * DESCRIPTORS))])


# --- descriptors ---


def test_a_flood_of_descriptors_fills_who_takes_them() -> None:
    """What the defence is taken from: whoever makes room for descriptors has them."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    before, got = len(os.listdir("/proc/self/fd")), []
    with ours, theirs:
        for _ in range(3):
            send_descriptors(theirs, b"STATUS=fine")
            got += socket.recv_fds(ours, 4096, DESCRIPTORS)[1]
        assert len(os.listdir("/proc/self/fd")) >= before + 3 * DESCRIPTORS
    for descriptor in got:
        os.close(descriptor)


def test_a_flood_of_descriptors_from_a_container_leaves_none(running: Running) -> None:
    assert _status(running) == "flooded\x1b[2J"  # it has sent all that it wanted to
    assert running.descriptors() < DESCRIPTORS


def _status(running: Running) -> str:
    return str([record["text"] for record in records(running.journal) if record["kind"] == "status"][-1])


def test_a_flood_of_descriptors_at_the_control_socket_leaves_none(running: Running) -> None:
    before = running.descriptors()
    for request in (b'{"do": "ps"', b" " * 100, b'{"do": "ps"}\n'):
        with socket.socket(socket.AF_UNIX) as channel:
            channel.connect(str(running.project / "control"))
            with suppress(OSError):  # it hangs up on us
                for _ in range(50):
                    send_descriptors(channel, request)
            most = running.descriptors()
            assert most < before + 20
    assert wait_until(lambda: running.descriptors() <= before)


# --- orders ---

ASK = """
import os, socket, sys
os.setgroups([]); os.setresgid(UID, UID, UID); os.setresuid(UID, UID, UID)
channel = socket.socket(socket.AF_UNIX)
channel.settimeout(20)
try:
    channel.connect(sys.argv[1])
    channel.send(b'{"do": "ps"}\\n')
    print("told" if channel.recv(100) else "hung up")
except OSError as error:
    print(type(error).__name__)
""".replace("UID", str(STRANGER))


def asked_by_a_stranger(path: Path) -> str:
    """What comes of an order that another user gives."""
    done = subprocess.run([PYTHON, "-c", ASK, path], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()


def test_only_root_and_the_user_give_orders(running: Running) -> None:
    assert asked_by_a_stranger(running.project / "control") == "PermissionError"
    modes = {
        path: path.stat().st_mode for path in (running.project.parent, running.project, running.project / "control")
    }
    for path in modes:  # whoever opens all of this by mistake
        path.chmod(0o777)
    try:
        assert asked_by_a_stranger(running.project / "control") in {
            "hung up",
            "ConnectionResetError",
            "BrokenPipeError",
        }
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


def test_a_socket_that_anybody_may_use_takes_orders_from_a_stranger() -> None:
    """The same question, without the defence."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name, socket.socket(socket.AF_UNIX) as listener:
        os.chmod(name, 0o755)
        listener.bind(f"{name}/control")
        os.chmod(f"{name}/control", 0o666)
        listener.listen()
        with subprocess.Popen([PYTHON, "-c", ASK, f"{name}/control"], stdout=subprocess.PIPE, text=True) as stranger:
            channel, _ = listener.accept()
            with channel:
                assert json.loads(channel.recv(100)) == {"do": "ps"}
                channel.send(b"{}\n")
            assert stranger.communicate(timeout=60)[0] == "told\n"


# --- lines ---


def rows(text: str) -> list[str]:
    """What a terminal shows."""
    screen = pyte.Screen(80, 40)
    pyte.Stream(screen).feed(text.replace("\n", "\r\n"))
    return [row.rstrip() for row in screen.display if row.strip()]


def test_no_line_of_a_container_looks_like_another_ones(running: Running) -> None:
    def said() -> list[dict]:
        wanted = (r for r in records(running.journal) if r["kind"] in {"stdout", "status", "ready"})
        return [record for record in wanted if record.get("text") != "fine"]

    assert wait_until(lambda: len(said()) >= len(LINES) + 2)
    naive = "".join(f"box | {r['text']}\n" for r in said() if r["kind"] == "stdout")
    assert FORGED in rows(naive)
    display = Display(["box", "bank"], terminal=True)
    shown = "".join(map(display.text, said()))
    assert len(rows(shown)) == len(said())
    assert all(row.startswith(("box  |", "box  *")) for row in rows(shown))
    assert "\x1b" not in shown


@pytest.mark.parametrize("command", [["ps"], ["logs"], ["events"], ["why", "box"], ["stats", "--no-stream"]])
def test_no_command_passes_an_escape_on_to_a_terminal(running: Running, command: list[str]) -> None:
    assert any("\x1b" in record.get("text", "") for record in records(running.journal))
    ours, theirs = os.openpty()
    with subprocess.Popen(
        [*running.pysuper, *command, "--project", running.project.name],
        cwd=running.project.parents[1],
        env=running.environment | {"NO_COLOR": "1", "TERM": "dumb"},
        stdout=theirs,
        stderr=theirs,
    ) as shown:
        os.close(theirs)
        said = b""
        with suppress(OSError):  # hung up
            while chunk := os.read(ours, 65536):
                said += chunk
        os.close(ours)
    assert b"box" in said
    assert b"\x1b" not in said
    assert b"\xc2\x9b" not in said
    assert b"\r\r" not in said
    assert shown.returncode == 0


def test_no_line_of_a_container_becomes_a_record(running: Running) -> None:
    """The journal is lines of JSON; whatever is said stays within one."""
    deadline = time.monotonic() + 20 * PATIENCE
    while time.monotonic() < deadline:
        lines = (running.journal / "journal.jsonl").read_bytes().splitlines()
        if sum(b'"kind": "stdout"' in line for line in lines) == len(LINES):
            break
    found = [json.loads(line) for line in lines]
    assert {record.get("container", "box") for record in found} == {"box"}
    assert sum(record["kind"] == "stdout" for record in found) == len(LINES)
