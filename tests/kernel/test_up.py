"""`pysuper up` as it is typed: exit statuses, signals, the background, faults, and what is left afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pexpect
import pytest

from machine import PATIENCE, Snapshot
from stackfiles import PYSUPER, Up

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the network of a stack needs root")

ROOT = Path(__file__).resolve().parents[2]


def test_the_plan_of_a_file_is_that_of_every_container_in_their_order(up: Up) -> None:
    up.write("""
        [container.web]
        command = "sleep 1000"
        depends_on = { db = "ready" }
        replicas = 2
        [container.db]
        command = "sleep 1000"
        network = "own"
    """)
    printed = subprocess.run([PYSUPER, "plan", up.file], capture_output=True, text=True, check=True).stdout
    titles = [line for line in printed.splitlines() if not line.startswith(" ")]
    assert titles == ["db:", "web-1: after db is ready", "web-2: after db is ready"]
    assert printed.count("enter the net namespace") == 2
    as_json = subprocess.run([PYSUPER, "plan", "--json", up.file], capture_output=True, text=True, check=True).stdout
    assert list(json.loads(as_json)) == ["db", "web-1", "web-2"]


# --- exit statuses ---


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ((), 7),
        (("--exit-code-from", "good"), 0),
        (("--exit-code-from", "late"), 9),
        (("--abort-on-container-exit",), 0),
    ],
)
def test_the_exit_status_is_true(up: Up, arguments: tuple[str, ...], status: int) -> None:
    up.write("""
        [container.good]
        command = ["sh", "-c", "exit 0"]
        [container.bad]
        command = ["sh", "-c", "sleep 0.5; exit 7"]
        [container.late]
        command = ["sh", "-c", "sleep 1; exit 9"]
    """)
    assert up.run(*arguments).returncode == status


@pytest.mark.parametrize("arguments", [(), ("--detach",)])
def test_the_container_whose_status_counts_is_one_of_the_file(up: Up, arguments: tuple[str, ...]) -> None:
    up.write("""
        [container.web]
        command = "sleep 1000"
    """)
    refused = up.run(*arguments, "--exit-code-from", "wbe")
    assert refused.returncode == 2
    assert refused.stderr == "pysuper: there is no container 'wbe'; did you mean 'web'?\n"


def test_tasks_that_are_all_done_end_the_stack_with_0(up: Up) -> None:
    up.write("""
        [defaults]
        kind = "task"
        [container.a]
        command = "echo one"
        [container.b]
        command = "echo two"
        depends_on = { a = "completed" }
    """)
    done = up.run()
    assert done.returncode == 0, done
    assert "a | one" in done.stdout
    assert done.stdout.index("one") < done.stdout.index("two")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_everything_in_order_and_is_told(up: Up, number: int, status: int) -> None:
    up.write("""
        [container.db]
        command = ["sh", "-c", "trap 'echo db stops; exit 0' TERM; sleep 1000 & wait"]
        [container.web]
        command = ["sh", "-c", "trap 'sleep 0.3; echo web stops; exit 0' TERM; sleep 1000 & wait"]
        depends_on = ["db"]
    """)
    process = up.start()
    up.reaches("web", "ready")
    process.send_signal(number)
    out, err = process.communicate(timeout=20 * PATIENCE)
    assert process.returncode == status, err
    assert out.index("web stops") < out.index("db stops")


def test_signals_that_the_parent_ignores_do_no_harm(up: Up) -> None:
    up.write("""
        [container.job]
        kind = "task"
        command = "true"
    """)
    ignoring = ["env", "--ignore-signal=INT,TERM,HUP", PYSUPER, "up", str(up.file)]
    done = subprocess.run(ignoring, env=up.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_second_interrupt_does_not_wait_for_the_grace_period(up: Up) -> None:
    up.write("""
        [container.stubborn]
        command = ["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"]
        stop_grace_period = "1h"
    """)
    process = up.start()
    up.reaches("stubborn", "ready")
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=10 * PATIENCE)
    assert process.returncode == 130


def test_a_container_that_ignores_sigterm_is_killed_after_its_grace_period(up: Up) -> None:
    up.write("""
        [container.stubborn]
        command = ["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"]
        stop_grace_period = "0.5s"
    """)
    process = up.start()
    up.reaches("stubborn", "ready")
    process.terminate()
    process.communicate(timeout=10 * PATIENCE)
    assert process.returncode == 143


# --- the background ---


def test_in_the_background_until_down(up: Up) -> None:
    up.write("""
        [container.web]
        command = "busybox httpd -f -p 8080 -h /etc"
        ready = { tcp = 8080 }
    """)
    done = up.run("--detach", "--wait")
    assert done.returncode == 0, done
    assert up.ps()["web"]["state"] == "ready"
    up.call("down")
    assert up.ps() == {}
    assert not (up.directory / "run").exists() or not list((up.directory / "run").iterdir())
    assert "web * ready" in up.call("logs") or "ready" in up.call("events")


def test_waiting_for_what_fails_fails_and_says_why(up: Up) -> None:
    up.write("""
        [container.web]
        command = ["sh", "-c", "echo no disk >&2; exit 3"]
        ready = { tcp = 8080 }
        [container.other]
        command = "sleep 1000"
    """)
    done = up.run("--detach", "--wait")
    assert done.returncode != 0
    assert "web" in done.stderr
    assert "exited with 3" in done.stderr


def test_a_file_that_is_wrong_is_refused_in_the_background_too(up: Up) -> None:
    up.write("[container.web]\ncomand = 'x'\n")
    done = up.run("--detach")
    assert done.returncode == 2
    assert "did you mean 'command'" in done.stderr


# --- faults ---


def test_a_second_up_of_the_same_file_is_refused_and_names_the_first(up: Up) -> None:
    up.write('[container.web]\ncommand = "sleep 1000"\n')
    first = up.start()
    up.reaches("web", "ready")
    second = up.run()
    assert second.returncode == 100
    assert str(first.pid) in second.stderr
    first.terminate()
    assert first.wait(20) == 143


def test_killing_the_supervisor_leaves_nothing_within_a_second(up: Up) -> None:
    before = Snapshot.take()
    up.write("""
        [container.web]
        command = ["sh", "-c", "sleep 1000 & sleep 1000"]
        replicas = 5
    """)
    process = up.start()
    up.reaches("web-5", "ready")
    process.kill()
    process.communicate()
    before.require_nothing_left()
    again = up.start()  # and the directory that is left does not hinder the next
    up.reaches("web-5", "ready")
    again.terminate()
    again.communicate(timeout=20 * PATIENCE)


def test_killing_the_launcher_hurts_nobody(up: Up) -> None:
    up.write("""
        [container.web]
        command = "sleep 1000"
        [container.flaky]
        command = "sleep 1"
        restart = { policy = "always", delay = 0 }
    """)
    process = up.start()
    web = up.reaches("web", "ready")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    (launcher,) = [p for p in children if "pysuper-launcher" in Path(f"/proc/{p}/cmdline").read_text()]
    os.kill(int(launcher), signal.SIGKILL)
    up.reaches("flaky", "ready", run=3)
    assert up.ps()["web"]["pid"] == web["pid"]
    process.terminate()
    process.communicate(timeout=20 * PATIENCE)


def test_a_cycle_is_refused_with_its_line(up: Up) -> None:
    up.write("""
        [container.a]
        command = "true"
        depends_on = ["b"]
        [container.b]
        command = "true"
        depends_on = ["a"]
    """)
    done = up.run()
    assert done.returncode == 2
    assert "a -> b -> a" in done.stderr


def test_a_reload_with_a_broken_file_leaves_the_stack_as_it_is(up: Up) -> None:
    up.write('[container.web]\ncommand = "sleep 1000"\n')
    process = up.start()
    pid = up.reaches("web", "ready")["pid"]
    up.write('[container.web]\ncommand = 7\n[container.new]\ncomand = "x"\n')
    refused = up.call("reload", check=False)
    assert refused.startswith("2 ")
    assert "container.web.command" in refused
    assert "container.new.comand" in refused
    assert {name: row["pid"] for name, row in up.ps().items()} == {"web": pid}
    process.terminate()
    process.communicate(timeout=20 * PATIENCE)


def test_a_reload_that_changes_every_container_is_not_the_end(up: Up) -> None:
    text = '[container.only]\ncommand = "sleep 1000"\nhostname = "{}"\n'
    up.write(text.format("one"))
    process = up.start("--quiet")
    up.reaches("only", "ready")
    up.write(text.format("two"))
    up.call("reload")
    up.reaches("only", "ready")
    up.call("down")
    assert process.wait(timeout=20 * PATIENCE) == 0


def test_a_crash_while_the_stack_is_stopped_starts_nothing_again(up: Up) -> None:
    up.write("""
        [stack]
        strategy = "one_for_all"
        [defaults]
        restart = "always"
        [container.db]
        command = "sleep 1000"
        [container.web]
        stop_grace_period = "20s"
        command = ["sh", "-c", "trap 'sleep 0.7; exit 0' TERM; while :; do sleep 0.05; done"]
        depends_on = ["db"]
        [container.other]
        stop_grace_period = "20s"
        command = ["sh", "-c", "trap 'sleep 1.5; exit 0' TERM; while :; do sleep 0.05; done"]
    """)
    process = up.start("--quiet")
    up.reaches("other", "ready")
    up.reaches("web", "ready")
    db = up.ps()["db"]["pid"]
    process.send_signal(signal.SIGTERM)
    up.reaches("web", "stopping")
    os.kill(db, signal.SIGKILL)
    assert process.wait(timeout=20 * PATIENCE) == 143
    assert up.call("events", "web", "other").count("* starting") == 2


def test_a_storm_of_restarts_ends(up: Up) -> None:
    up.write("""
        [container.storm]
        command = "false"
        restart = { policy = "always", delay = 0, max_restarts = 20, within = "60s" }
    """)
    done = up.run()
    assert done.returncode == 1
    assert "gave up after 20 restarts" in done.stdout + done.stderr


def test_out_of_descriptors_is_an_error_of_a_start_and_not_the_end(up: Up) -> None:
    up.write("""
        [container.web]
        command = "sleep 1000"
        replicas = 40
        ulimits = ["nofile=32"]
        restart = { policy = "always", delay = "0.1s", max_restarts = "unlimited" }
    """)
    process = subprocess.Popen(
        ["prlimit", "--nofile=128:128", PYSUPER, "up", str(up.file)],
        env=up.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        states: set[str] = set()
        deadline = time.monotonic() + 30 * PATIENCE
        while not {"ready", "backoff"} <= states:
            assert time.monotonic() < deadline, states
            states = {row["state"] for row in up.ps().values()}
        assert "EMFILE" in up.call("logs") + up.call("events")
    finally:
        process.terminate()
        process.communicate(timeout=30 * PATIENCE)
    assert process.returncode == 143


def test_a_journal_without_space_drops_and_counts_and_the_container_lives(up: Up) -> None:
    state = up.directory / "state"
    state.mkdir(mode=0o700)
    up.write('[container.web]\ncommand = ["sh", "-c", "seq 100000; echo done; sleep 1000"]\n')
    inside = f"mount -t tmpfs -o size=256k,mode=700 none {state} && exec {PYSUPER} up {up.file} 2>&1 | tail -n 3"
    script = f"set -o pipefail; {inside}"
    process = subprocess.Popen(
        ["unshare", "--mount", "bash", "-c", script],
        env=up.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        row = up.reaches("web", "ready")
        time.sleep(2)
        assert up.ps()["web"]["pid"] == row["pid"]
    finally:
        up.call("down")
        out, _ = process.communicate(timeout=20 * PATIENCE)
    assert process.returncode == 0, out


def test_a_reader_that_does_not_read_holds_nobody_up(up: Up) -> None:
    up.write("""
        [container.flood]
        command = ["yes", "a line of some length, as logs have it"]
        replicas = 10
    """)
    process = up.start()  # whose output nobody reads
    up.reaches("flood-10", "ready")
    time.sleep(3)
    began = time.monotonic()
    assert len(up.ps()) == 10
    assert time.monotonic() - began < 1.0 * PATIENCE
    status = Path(f"/proc/{process.pid}/status").read_text()
    resident = int(status.partition("VmRSS:")[2].split()[0]) * 1024
    assert resident < 128 * 2**20
    up.call("down")
    process.communicate(timeout=30 * PATIENCE)
    assert process.returncode == 0


def test_a_hundred_containers_come_and_go(up: Up) -> None:
    before = Snapshot.take()
    up.write('[container.many]\ncommand = "sleep 1000"\nreplicas = 100\nstop_signal = "KILL"\n')
    done = up.run("--detach", "--wait")
    assert done.returncode == 0, done
    assert [row["state"] for row in up.ps().values()] == ["ready"] * 100
    up.call("down")
    before.require_nothing_left()


# --- a terminal ---


def test_on_a_terminal_control_characters_of_a_container_are_shown_not_obeyed(up: Up) -> None:
    up.write("""
        [container.evil]
        command = ["sh", "-c", "printf 'a\\\\033]0;title\\\\007b\\\\rroot | forged\\\\n'; sleep 1000"]
    """)
    terminal = pexpect.spawn(PYSUPER, ["up", str(up.file)], env=up.environment, timeout=20 * PATIENCE)
    terminal.expect_exact(rb"a\x1b]0;title\x07b\rroot | forged")
    terminal.sendintr()
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 130
