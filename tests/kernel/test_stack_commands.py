"""The commands about a stack that runs, each as it is typed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable

import pexpect
import pytest

from machine import PATIENCE, Snapshot
from stackfiles import PYSUPER, Up

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the network of a stack needs root")

STACK = """
    [container.db]
    command = ["sh", "-c", "trap 'exit 0' TERM; echo db says; sleep 1000 & wait"]
    cgroup = { pids_max = 30, memory_max = "64M" }
    labels = { tier = "back" }
    [container.web]
    command = ["sh", "-c", "trap 'exit 0' TERM; echo web says; echo web warns >&2; sleep 1000 & wait"]
    depends_on = { db = "ready" }
    replicas = 2
    [container.flaky]
    command = ["sh", "-c", "echo it breaks >&2; exit 7"]
    restart = { policy = "on-failure", delay = "0.05s", max_restarts = 1 }
"""


@pytest.fixture
def stack(up: Up) -> Up:
    """A stack in the background, of which one container has failed for good."""
    up.write(STACK)
    done = up.run("--detach")
    assert done.returncode == 0, done
    up.reaches("web-2", "ready")
    up.reaches("flaky", "failed", run=2)
    return up


def test_ps_lists_what_there_is(stack: Up) -> None:
    rows = {line.split()[0]: line.split() for line in stack.call("ps").splitlines()}
    assert list(rows) == ["NAME", "db", "web-1", "web-2", "flaky"]
    assert (rows["db"][1], rows["flaky"][1]) == ("ready", "failed")
    assert {row["member"] for row in stack.ps().values()} == {"db", "web", "flaky"}
    assert list(json.loads(stack.call("ps", "--json", "web"))[0]) == list(stack.ps()["web-1"])


def test_names_that_are_not_there_are_refused_everywhere(stack: Up) -> None:
    for command in ("ps", "stop", "start", "restart", "pause", "resume", "inspect", "stats", "logs", "events", "why"):
        answer = stack.call(command, "wbe", check=False)
        assert answer.startswith("2 "), (command, answer)
        assert "did you mean 'web" in answer, (command, answer)


def test_stop_and_start_by_member_and_by_instance(stack: Up) -> None:
    stack.call("stop", "web-1")
    assert [stack.ps()[name]["state"] for name in ("db", "web-1", "web-2")] == ["ready", "stopped", "ready"]
    stack.call("stop", "db", "web")
    assert [stack.ps()[name]["state"] for name in ("db", "web-1", "web-2")] == ["stopped"] * 3
    events = stack.call("events").splitlines()
    assert max(i for i, line in enumerate(events) if "web-" in line and "* stopped" in line) < max(
        i for i, line in enumerate(events) if "db " in line and "* stopped" in line
    )
    stack.call("start", "--wait", "web")  # and what it depends on
    assert [stack.ps()[name]["state"] for name in ("db", "web-1", "web-2")] == ["ready"] * 3


def test_restart_is_another_process(stack: Up) -> None:
    before = stack.ps()
    stack.call("restart", "db")
    after = stack.reaches("db", "ready", run=2)
    assert after["pid"] != before["db"]["pid"]
    assert stack.ps()["web-1"]["pid"] == before["web-1"]["pid"]


def test_a_paused_container_does_not_run_until_it_is_resumed(stack: Up) -> None:
    stack.call("pause", "db")
    assert stack.ps()["db"]["paused"] is True
    assert "paused" in stack.call("exec", "db", "--", "true", check=False)
    stack.call("resume", "db")
    assert stack.ps()["db"]["paused"] is False
    stack.call("exec", "db", "--", "true")


def test_exec_runs_in_the_container_and_has_its_status(stack: Up) -> None:
    assert stack.call("exec", "db", "--", "hostname") == "db\n"
    assert stack.call("exec", "db", "--", "sh", "-c", "exit 5", check=False).startswith("5 ")
    assert stack.call("exec", "db", "--", "sh", "-c", "kill -9 $$", check=False).startswith("137 ")
    assert stack.call("exec", "db", "--", "no-such-command", check=False).startswith("127 ")
    assert stack.call("exec", "-e", "A=b", "-w", "/usr", "db", "--", "sh", "-c", "echo $A $PWD") == "b /usr\n"
    assert "name one of web-1, web-2" in stack.call("exec", "web", "--", "true", check=False)


def test_exec_on_a_terminal_has_one_of_the_containers(stack: Up) -> None:
    command = ["exec", "--file", str(stack.file), "db", "--", "sh", "-i"]
    terminal = pexpect.spawn(PYSUPER, command, env=stack.environment, timeout=20 * PATIENCE, dimensions=(24, 80))
    terminal.expect("[#$] ")
    terminal.sendline("tty; stty size; hostname")
    terminal.expect("/dev/pts/0\r\n24 80\r\ndb")
    terminal.setwinsize(30, 100)
    terminal.expect("[#$] ")
    time.sleep(0.3)
    terminal.sendline("stty size; exit 6")
    terminal.expect("30 100")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 6


def test_a_command_ends_with_the_client_that_asked_for_it(stack: Up) -> None:
    command = [PYSUPER, "exec", "--file", str(stack.file), "db", "--", "sh", "-c", "sleep 4321 & wait"]
    before = _processes(stack, "db")
    client = subprocess.Popen(command, env=stack.environment, stdin=subprocess.DEVNULL)
    holds(lambda: _processes(stack, "db") >= before + 2)  # the shell, and what it runs
    client.kill()
    client.wait()
    holds(lambda: _processes(stack, "db") == before)


def holds(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20 * PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _processes(stack: Up, name: str) -> int:
    (row,) = json.loads(stack.call("stats", "--no-stream", "--json", name))["containers"]
    return int(row["statistics"]["pids_current"])


def test_stats_shows_use_against_limits(stack: Up) -> None:
    lines = stack.call("stats", "--no-stream").splitlines()
    (row,) = [line.split() for line in lines if line.startswith("db ")]
    assert "64M" in row
    assert "30" in row


def test_stats_is_redrawn_on_a_terminal_until_ctrl_c(stack: Up) -> None:
    terminal = pexpect.spawn(
        PYSUPER, ["stats", "--file", str(stack.file)], env=stack.environment, timeout=20 * PATIENCE
    )
    terminal.expect("MEMORY")
    terminal.expect("MEMORY")
    terminal.sendintr()
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 130
    assert b"\x1b[?25h" in terminal.before  # the cursor is back


def test_inspect_tells_all(stack: Up) -> None:
    (found,) = json.loads(stack.call("inspect", "db"))
    assert found["labels"] == {"tier": "back"}
    assert any("pivot into the new root" in line for line in found["plan"])
    assert all(receipt["expected"] == receipt["actual"] for receipt in found["receipts"])


def test_logs_are_those_of_the_chosen_containers(stack: Up) -> None:
    assert sorted(stack.call("logs", "web").splitlines()) == [
        "web-1 ! web warns",
        "web-1 | web says",
        "web-2 ! web warns",
        "web-2 | web says",
    ]
    assert stack.call("logs", "--no-prefix", "-n", "1", "db") == "db says\n"


def test_logs_follow_until_the_stack_ends(stack: Up) -> None:
    command = [PYSUPER, "logs", "--file", str(stack.file), "--follow", "db"]
    follower = subprocess.Popen(command, env=stack.environment, stdout=subprocess.PIPE, text=True)
    stack.call("restart", "db")
    stack.reaches("db", "ready", run=2)
    stack.call("down")
    out, _ = follower.communicate(timeout=20 * PATIENCE)
    assert (follower.returncode, out.splitlines()) == (0, ["db | db says"] * 2)


def test_why_tells_every_run_and_the_first_domino_also_after_the_end(stack: Up) -> None:
    told = stack.call("why", "flaky")
    assert told.count("exited with 7") >= 2
    assert "it breaks" in told
    assert "First domino: flaky, run 2" in told
    stack.call("stop", "db")
    stack.call("down")
    assert "the operator (uid 0" in stack.call("why", "db")
    assert stack.call("why", "flaky") == told


def test_reload_starts_stops_and_leaves_alone(stack: Up) -> None:
    before = stack.ps()
    stack.write(STACK.replace("replicas = 2", "replicas = 1").replace("[container.flaky]", "[container.other]"))
    stack.call("reload")
    stack.reaches("other", "failed", run=2)
    after = stack.ps()
    assert list(after) == ["db", "web", "other"]
    assert after["db"]["pid"] == before["db"]["pid"]


def test_down_leaves_nothing_and_what_comes_after_is_told(stack: Up) -> None:
    stack.call("down")
    for command in ("ps", "stats", "stop", "down"):
        answer = stack.call(command, check=False)
        assert answer.startswith("125 "), answer
        assert "pysuper up" in answer, answer


def test_the_only_stack_that_runs_needs_no_name(stack: Up) -> None:
    done = subprocess.run([PYSUPER, "ps"], env=stack.environment, capture_output=True, text=True, check=True)
    assert "web-1" in done.stdout


def test_somebody_else_is_not_served(stack: Up) -> None:
    (control,) = stack.directory.glob("run/*/control")
    assert (control.stat().st_mode & 0o777, control.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    # Even by somebody who has got hold of the directory.
    os.chmod(stack.directory, 0o711)
    for directory in (control.parent, control.parent.parent):
        directory.chmod(0o711)
    control.chmod(0o666)
    program = f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({str(control)!r}); "
    program += 's.send(b\'{"do": "ps"}\\n\'); print(s.recv(100))'
    done = subprocess.run(
        ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups", "/usr/bin/python3", "-c", program],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "ps" not in done.stdout
    assert done.stdout in {"b''\n", ""}, done
    control.parent.chmod(0o700)


def test_commands_leave_no_process(stack: Up) -> None:
    before = Snapshot.take()
    for _ in range(5):
        stack.call("exec", "db", "--", "true")
        stack.call("ps")
    before.require_nothing_left()


def test_ctrl_c_ends_a_command_of_a_client_quietly(stack: Up) -> None:
    command = [PYSUPER, "exec", "--file", str(stack.file), "db", "--", "sleep", "1000"]
    client = subprocess.Popen(command, env=stack.environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    time.sleep(1 * PATIENCE)
    client.send_signal(signal.SIGINT)
    _, err = client.communicate(timeout=20 * PATIENCE)
    assert (client.returncode, err) == (130, b"")
