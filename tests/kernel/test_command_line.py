"""`pysuper run` as a user types it: on a terminal, in a pipe, and when it goes wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pexpect
import pytest

from machine import cgroup_driver, children

ROOT = Path(__file__).resolve().parents[2]
PYSUPER = [sys.executable, "-m", "pysuper"]
PROMPT = r"root@[a-z0-9-]+:/# "


def pysuper(*arguments: str, before: Sequence[str] = (), **options: object) -> subprocess.CompletedProcess[str]:
    defaults: dict[str, object] = {"capture_output": True, "text": True, "timeout": 60, "check": False}
    if "input" not in options:
        defaults["stdin"] = subprocess.DEVNULL
    return subprocess.run([*before, *PYSUPER, *arguments], **(defaults | options))  # type: ignore  # noqa: PLW1510


@pytest.fixture
def terminal() -> Iterator[pexpect.spawn]:
    """An interactive bash in a container, on a terminal of 40 rows and 111 columns."""
    process = pexpect.spawn(sys.executable, ["-m", "pysuper", "run", "/bin/bash"], dimensions=(40, 111), timeout=20)
    process.expect(PROMPT)
    yield process
    process.close(force=True)


def settle(process: pexpect.spawn) -> int:
    """Wait for the end; the exit status as a shell has it."""
    process.expect(pexpect.EOF)
    process.wait()
    return int(128 + process.signalstatus if process.signalstatus else process.exitstatus)


def test_bash_is_interactive_without_any_flag(terminal: pexpect.spawn) -> None:
    terminal.sendline("tty; stty size; echo $TERM-")
    terminal.expect(r"/dev/pts/0\r\n40 111\r\n")
    terminal.expect(PROMPT)
    terminal.sendline("exit 9")
    assert settle(terminal) == 9


def test_the_window_has_its_size_when_the_command_begins() -> None:
    for _ in range(5):
        process = pexpect.spawn(
            sys.executable, ["-m", "pysuper", "run", "stty", "size"], dimensions=(31, 97), timeout=20
        )
        process.expect("31 97")
        assert settle(process) == 0


def test_the_window_size_follows(terminal: pexpect.spawn) -> None:
    terminal.setwinsize(25, 77)
    time.sleep(0.2)
    terminal.sendline("stty size")
    terminal.expect("25 77")


def test_ctrl_c_interrupts_what_runs_inside_and_nothing_else(terminal: pexpect.spawn) -> None:
    terminal.sendline("sleep 1000; echo status $?")
    time.sleep(0.3)
    terminal.sendcontrol("c")
    terminal.expect(r"\^C")
    terminal.expect(PROMPT)
    terminal.sendline("echo still $((20 + 3))")
    terminal.expect("still 23")


def test_job_control_works(terminal: pexpect.spawn) -> None:
    terminal.sendline("sleep 1000")
    time.sleep(0.3)
    terminal.sendcontrol("z")
    terminal.expect("Stopped")
    terminal.expect(PROMPT)
    terminal.sendline("kill %1; fg; echo status $?")
    terminal.expect("status 143")


def test_ctrl_d_ends_the_shell(terminal: pexpect.spawn) -> None:
    terminal.sendcontrol("d")
    assert settle(terminal) == 0


@pytest.mark.parametrize("how", ["exit", "SIGTERM", "SIGHUP", "SIGINT", "SIGKILL of the container"])
def test_the_terminal_is_restored_whatever_happens(how: str) -> None:
    master, slave = os.openpty()
    try:
        before = termios.tcgetattr(slave)
        command = [*PYSUPER, "run", "--stop-timeout", "1s", "sleep", "1000"]
        process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
        deadline = time.monotonic() + 20
        while termios.tcgetattr(slave) == before and time.monotonic() < deadline:
            time.sleep(0.01)  # raw mode, once the container runs
        assert termios.tcgetattr(slave) != before
        if how == "SIGKILL of the container":
            for child in children(process.pid):
                if os.readlink(f"/proc/{child}/ns/pid") != os.readlink("/proc/self/ns/pid"):
                    os.kill(child, signal.SIGKILL)
        else:
            process.send_signal(signal.SIGTERM if how == "exit" else getattr(signal, how))
        assert process.wait(20) in (143, 129, 130, 137)
        assert termios.tcgetattr(slave) == before
    finally:
        os.close(master)
        os.close(slave)


def test_exit_codes_are_the_commands() -> None:
    assert pysuper("run", "--", "sh", "-c", "exit 3").returncode == 3
    assert pysuper("run", "--", "sh", "-c", "kill -9 $$").returncode == 137
    assert pysuper("run", "--", "true").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "status", "part"),
    [
        (["run", "no-such-command"], 127, "no-such-command"),
        (["run", "/etc/passwd"], 126, "Permission denied"),
        (["run", "--rootfs", "dir:/no/such", "true"], 125, "/no/such"),
        (["run", "--rootfs", "dirr:/", "true"], 125, "did you mean"),
        (["run", "--rootfs", "tar:/etc/passwd", "true"], 125, "/etc/passwd"),
        (["run", "--cgroup", "none", "--pids-limit", "20", "true"], 125, "pids_max"),
        (["run", "--pids-limit", "0", "true"], 2, "0"),
        (["run", "--pids-limit", "many", "true"], 2, "many"),
        (["run", "-m", "-5", "true"], 2, "-5"),
        (["run", "-m", "1", "true"], 2, "memory"),
        (["run", "--cpus", "nan", "true"], 2, "nan"),
        (["run", "--cpuset-cpus", "4095", "true"], 125, "4095"),
        (["run", "--name", "a/b", "true"], 2, "a/b"),
        (["run", "--report", "", "true"], 2, "--report"),
        (["run", "--rootfs", "dir:", "true"], 2, "dir:/srv/root"),
        (["run", "--rootfs", "chroot:", "true"], 2, "chroot:/srv/root"),
        (["run", "--name", "..", "true"], 2, "name"),
        (["run", "--name", "a\nb", "true"], 2, "name"),
        (["run", "--name", "x" * 65536, "true"], 2, "name"),
        (["run", "-v", "/no/such:/x", "true"], 125, "/no/such"),
        (["run", "-w", "/no/such", "true"], 125, "/no/such"),
        (["run", "-u", "nemo", "true"], 125, "nemo"),
        (["run", "--no-such-flag"], 2, "--no-such-flag"),
        (["no-such-command"], 2, "no-such-command"),
    ],
)
def test_bad_input_is_one_clear_line_and_the_right_code(arguments: list[str], status: int, part: str) -> None:
    if "-m" in arguments and cgroup_driver() == "none":
        pytest.skip("no cgroup can be had here")
    result = pysuper(*arguments)
    assert (result.returncode, result.stdout) == (status, ""), result.stderr
    lines = [line for line in result.stderr.splitlines() if not line.startswith("usage:")]
    assert len(lines) == 1, result.stderr
    assert part in lines[0]
    assert "Traceback" not in result.stderr


def test_debug_shows_the_traceback() -> None:
    result = pysuper("run", "no-such-command", env={**os.environ, "PYSUPER_DEBUG": "1"})
    assert result.returncode == 127
    assert "Traceback" in result.stderr


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_a_signal_to_pysuper_ends_the_container(number: int, status: int) -> None:
    process = subprocess.Popen(
        [*PYSUPER, "run", "--", "sh", "-c", "echo ready; exec sleep 1000"], stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.wait(20) == status


def test_the_command_can_handle_the_signal() -> None:
    script = 'trap "echo bye; exit 5" TERM; echo ready; while :; do sleep 0.01; done'
    process = subprocess.Popen([*PYSUPER, "run", "--", "sh", "-c", script], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == "bye\n"
        assert process.wait(20) == 5


def test_a_second_ctrl_c_kills() -> None:
    script = 'trap "" INT; echo ready; while :; do sleep 0.01; done'
    process = subprocess.Popen([*PYSUPER, "run", "--", "sh", "-c", script], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(5) in (130, 137)


def test_pipes_are_pipes() -> None:
    result = pysuper("run", "--", "sh", "-c", "cat; echo err >&2", input="in\n" * 100_000)
    assert (result.stdout, result.stderr) == ("in\n" * 100_000, "err\n")


def test_a_closed_stdin_and_stdout_do_no_harm() -> None:
    command = " ".join(PYSUPER) + " run -- sh -c 'cat; echo x; exit 4' <&- >&-"
    assert subprocess.run(["sh", "-c", command], check=False, timeout=60).returncode == 4


def test_a_full_standard_error_changes_nothing() -> None:
    with open("/dev/full", "w") as full:
        result = pysuper("run", "-v", "/tmp:/mnt", "sh", "-c", "exit 7", capture_output=False, stderr=full)
        assert result.returncode == 7  # of which a line would say that /mnt can be written to
        assert pysuper("run", "no-such-command", capture_output=False, stderr=full).returncode == 127


def test_a_standard_input_that_cannot_be_read_is_an_empty_one() -> None:
    with open(os.devnull, "w") as null:
        result = pysuper("run", "-t", "sh", "-c", "sleep 0.3; exit 7", stdin=null)
    assert (result.returncode, result.stderr) == (7, "")


@pytest.mark.parametrize("ignored", ["CHLD", "TERM,INT,HUP,QUIT,USR1,USR2"])
def test_signals_that_the_parent_ignores_do_no_harm(ignored: str) -> None:
    result = pysuper("run", "echo", "hello", before=["env", f"--ignore-signal={ignored}"])
    assert (result.returncode, result.stdout) == (0, "hello\n"), result.stderr


def test_a_current_directory_that_was_removed_does_no_harm(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    script = f'cd {gone} && rmdir {gone} && exec "$@"'
    result = pysuper("run", "echo", "hello", before=["sh", "-c", script, "sh"])
    assert (result.returncode, result.stdout) == (0, "hello\n"), result.stderr


def test_the_umask_of_the_caller_hides_nothing_from_users_of_the_container(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    result = pysuper("run", "-u", "1000", "-v", f"{source}:/a/new/place:ro", "ls", "/a/new", umask=0o077)
    assert (result.returncode, result.stdout) == (0, "place\n"), result.stderr


#: Without the right to raise a limit, which most have who run in somebody else's container.
LIMITED = ["prlimit", "--nofile=512", "setpriv", "--bounding-set=-sys_resource"]


def test_a_caller_with_few_descriptors_gives_as_many() -> None:
    done = pysuper("run", "sh", "-c", "ulimit -Sn; ulimit -Hn", before=LIMITED)
    assert (done.returncode, done.stdout.split()) == (0, ["512", "512"]), done.stderr
    done = pysuper("run", "--ulimit", "nofile=513", "true", before=LIMITED)
    assert (done.returncode, done.stderr.count("\n")) == (125, 1)
    assert "could not limit nofile to 513" in done.stderr
    assert "ulimit -Ha" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="another user has no ids beside his own to be that one")
def test_a_limit_is_read_back_without_a_capability_for_it() -> None:
    done = pysuper("run", "--share", "user", "--user", "1000", "id", "-u", before=LIMITED)
    assert (done.returncode, done.stdout) == (0, "1000\n"), done.stderr


def test_a_reader_that_goes_away_ends_the_writer() -> None:
    command = " ".join(PYSUPER) + " run yes | head -n 1"
    assert subprocess.run(["sh", "-c", command], capture_output=True, check=True, timeout=60).stdout == b"y\n"


def test_the_report_is_written_for_every_end(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    for arguments, reason in (
        (["--", "sh", "-c", "exit 3"], "exited"),
        (["--", "sh", "-c", "kill -15 $$"], "signaled"),
        (["--timeout", "0.2", "sleep", "1000"], "timeout"),
        (["no-such-command"], "start-failed"),
    ):
        pysuper("run", "--report", str(report), *arguments)
        record = json.loads(report.read_text())
        assert record["reason"] == reason
        report.unlink()
    assert list(tmp_path.iterdir()) == []


def test_a_file_describes_the_same_container() -> None:
    example = str(ROOT / "examples/shell.toml")
    result = pysuper("run", "-f", example, "--", "sh", "-c", "hostname; exit 6")
    assert (result.returncode, result.stdout) == (6, "shell\n")


def test_a_bad_file_names_file_line_and_key(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text('[container.web]\ncommand = "true"\nhostnam = "x"\n[container.web.cgroup]\npids_max = -3\n')
    result = pysuper("run", "-f", str(path))
    assert result.returncode == 2
    assert f"{path}:3" in result.stderr
    assert f"{path}:5" in result.stderr
    assert "did you mean 'hostname'" in result.stderr or 'did you mean "hostname"' in result.stderr


def test_plan_runs_nothing(tmp_path: Path) -> None:
    result = pysuper("plan", "-v", f"{tmp_path}:/data", "--", "touch", "/data/made")
    assert result.returncode == 0
    assert "pivot into the new root" in result.stdout
    assert json.loads(pysuper("plan", "--json", "true").stdout)["phases"]
    assert list(tmp_path.iterdir()) == []


def test_chroot_says_that_it_is_no_boundary(own_busybox: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    result = pysuper("run", "--rootfs", f"chroot:{own_busybox}", "--", "echo", "ran")
    assert (result.returncode, result.stdout) == (0, "ran\n")
    assert "no boundary" in result.stderr
