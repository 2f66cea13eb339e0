"""Commands executed in running containers, descriptors handed to them, and sockets opened in their networks."""

from __future__ import annotations

import errno
import os
import resource
import signal
import socket
import subprocess
import sys
import termios
import textwrap
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

import pysuper
from machine import PATIENCE, Snapshot, alive, cgroup_driver, cgroups, children, wait_until
from pysuper import process, receipts, steps
from pysuper.container import Container
from pysuper.plan import Phase
from pysuper.spec import NAMESPACES, Limits, Rlimit

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user has one id only")
needs_cgroup = pytest.mark.skipif(cgroup_driver() == "none", reason="no cgroup can be had here")

SHAREABLE = sorted(set(NAMESPACES) - {"mnt", "pid"})

#: All that a process can know of how it is confined; a shell reads it.
CONFINEMENT = """
    for name in mnt pid net uts ipc user cgroup time; do readlink /proc/self/ns/$name; done
    cat /proc/self/uid_map /proc/self/gid_map /proc/self/cgroup
    grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp|SigIgn|SigBlk|Umask|Cpus_allowed_list)' /proc/self/status
    cat /proc/self/limits /proc/self/mounts /proc/self/oom_score_adj
    pwd; hostname; umask; env | grep -v '^_=' | sort
"""


@pytest.fixture
async def container(supervisor, spec) -> Container:
    """A running container that does nothing."""
    started: Container = await supervisor.start(spec("exec sleep 1000"))
    return started


async def executed(container: Container, script: str, **options: Any) -> tuple[int, str]:
    """Execute a shell script in a container: its exit status, and what it has written to stdout."""
    read, write = os.pipe()
    with os.fdopen(read, "rb") as output:
        try:
            async with container.execute(["sh", "-c", script], stdout=write, **options) as execution:
                os.close(write)
                write = -1
                said = await trio.to_thread.run_sync(output.read)
                return (await execution.wait()).status, said.decode()
        finally:
            if write != -1:
                os.close(write)


def processes(container: Container) -> set[int]:
    """The processes in the pid namespace of a container, as the host sees them; proc_pid_ns(5)."""
    inside = os.readlink(f"/proc/{container.pid}/ns/pid")
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                if os.readlink(entry / "ns/pid") == inside:
                    found.add(int(entry.name))
    return found


# --- it is what the first command is ---


@pytest.mark.parametrize("init", [True, False])
async def test_it_is_confined_as_the_first_command_is(supervisor, spec, init) -> None:
    read, write = os.pipe()
    wanted = spec(f"{CONFINEMENT} exec >&-; exec sleep 1000", init=init, environment={"GIVEN": "yes"})
    wanted = attrs.evolve(wanted, rlimits=(Rlimit("nofile", 64, 128), Rlimit("core", 0, 0)), working_dir="/usr")
    container = await supervisor.start(wanted, stdout=write)
    os.close(write)
    with os.fdopen(read) as file:
        first = await trio.to_thread.run_sync(file.read)
    status, second = await executed(container, CONFINEMENT)
    assert status == 0
    assert second.splitlines() == first.splitlines()
    assert "CapEff:\t00000000000005fb" in second


async def test_its_namespaces_are_the_containers_own(container) -> None:
    script = f"for name in {' '.join(NAMESPACES)}; do readlink /proc/self/ns/$name; done"
    _, output = await executed(container, script)
    inside = dict(zip(NAMESPACES, output.split(), strict=True))
    assert inside == {name: os.readlink(f"/proc/{container.pid}/ns/{name}") for name in NAMESPACES}
    assert not set(inside.values()) & {os.readlink(f"/proc/self/ns/{name}") for name in NAMESPACES}


@pytest.mark.parametrize("shared", [*SHAREABLE, "pid"])
async def test_shared_namespaces_stay_the_hosts(supervisor, spec, shared) -> None:
    container = await supervisor.start(spec("exec sleep 1000", share=frozenset({shared})))
    script = f"for name in {' '.join(NAMESPACES)}; do readlink /proc/self/ns/$name; done"
    status, output = await executed(container, script)
    assert status == 0
    inside = dict(zip(NAMESPACES, output.split(), strict=True))
    assert inside == {name: os.readlink(f"/proc/{container.pid}/ns/{name}") for name in NAMESPACES}
    assert inside[shared] == os.readlink(f"/proc/self/ns/{shared}")


@needs_cgroup
async def test_a_fork_bomb_in_it_stops_at_the_containers_pids_max(supervisor, spec) -> None:
    container = await supervisor.start(spec("exec sleep 1000", limits=Limits(pids_max=20)))
    await executed(container, "for i in $(seq 60); do sleep 1000 >&- & done", stderr=None)
    counted = container.statistics()
    assert counted.pids_current is not None
    assert counted.pids_current <= 20
    assert counted.pids_max_hits


@needs_cgroup
async def test_out_of_processes_is_an_error_and_leaves_nothing(supervisor, spec) -> None:
    container = await supervisor.start(spec("exec sleep 1000", limits=Limits(pids_max=4)))  # for a moment it takes two
    async with container.execute(["sleep", "1000"]):
        before = Snapshot.take()
        with pytest.raises(pysuper.LaunchError, match=r"could not fork in.* EAGAIN .*is pids_max reached\?") as caught:
            await executed(container, "true")
        assert caught.value.errno == errno.EAGAIN
        before.require_nothing_left()
    assert await executed(container, "exit 4") == (4, "")


@as_root
@pytest.mark.parametrize("kind", ["dir", "chroot"])
async def test_its_root_is_the_containers(supervisor, spec, own_busybox, kind) -> None:
    rootfs = pysuper.DriverChoice(kind, {"path": str(own_busybox)})
    container = await supervisor.start(spec("exec sleep 1000", rootfs=rootfs))
    look = "stat -c %d:%i / /..; cd /; pwd -P; cd ../../..; pwd -P; ls -x /"
    read, write = os.pipe()
    other = await supervisor.start(spec(look, rootfs=rootfs), stdout=write)
    os.close(write)
    with os.fdopen(read) as file:
        expected = await trio.to_thread.run_sync(file.read)
    await other.wait()
    assert (await executed(container, look))[1] == expected
    outside = os.stat(f"/proc/{container.pid}/root")
    assert (await executed(container, "stat -c %d:%i /"))[1] == f"{outside.st_dev}:{outside.st_ino}\n"


async def test_nothing_but_the_standard_descriptors_is_open(container) -> None:
    listing = "for fd in /proc/self/fd/*; do readlink $fd || true; done; echo /proc/self/fd/*"
    _, listed = await executed(container, listing)
    descriptors = {int(path.rpartition("/")[2]) for path in listed.splitlines()[-1].split()}
    assert {0, 1, 2} <= descriptors
    assert len(descriptors) <= 4  # the shell's glob opens one itself
    assert "socket:" not in listed
    assert "/ns/" not in listed
    assert "host" not in listed


async def test_receipts_are_taken_of_it(container) -> None:
    async with container.execute(["sleep", "1000"]) as execution:
        promised = {receipt.promise for receipt in execution.receipts}
    assert "NoNewPrivs is 1" in promised
    assert "nofile is limited to 1024 (hard 1024)" in promised
    if cgroup_driver() != "none":
        assert any(
            promise.startswith(("the process is listed in", "the process is in the cgroup")) for promise in promised
        )


async def test_a_promise_that_does_not_hold_stops_it(container) -> None:
    broken = receipts.ProcessStatus(field="NoNewPrivs", value="2")
    container.plan = attrs.evolve(container.plan, checks=(*container.plan.checks, broken))
    before = Snapshot.take()
    with pytest.raises(pysuper.LimitError, match="not in force.*NoNewPrivs"):
        await executed(container, "touch /ran")
    before.require_nothing_left()
    assert not os.path.exists(f"/proc/{container.pid}/root/ran")


async def test_being_killed_is_no_broken_promise(container, monkeypatch) -> None:
    def take(checks: tuple[receipts.Check, ...], pid: int) -> tuple[receipts.Receipt, ...]:
        os.kill(pid, signal.SIGKILL)
        assert wait_until(lambda: not alive(pid))
        return really(checks, pid)

    really = receipts.take
    monkeypatch.setattr(receipts, "take", take)
    with pytest.raises(pysuper.LaunchError, match="the process that joins box was killed while it was set up"):
        await executed(container, "true")


# --- what is asked for ---


@pytest.mark.parametrize("code", [0, 3, 125, 255])
async def test_the_exit_code_is_the_commands(container, code) -> None:
    async with container.execute(["sh", "-c", f"exit {code}"]) as execution:
        ended = await execution.wait()
    assert (ended.exit_code, ended.signal, ended.status) == (code, None, code)
    assert await execution.wait() == ended


async def test_the_signal_that_ended_it_is_reported(container) -> None:
    async with container.execute(["sh", "-c", "kill -USR1 $$"]) as execution:
        ended = await execution.wait()
    assert (ended.exit_code, ended.signal, ended.status) == (None, signal.SIGUSR1, 128 + signal.SIGUSR1)


async def test_signals_reach_it(container) -> None:
    read, write = os.pipe()
    script = "trap 'echo caught; exit 7' TERM; echo ready; while :; do sleep 0.01; done"
    with os.fdopen(read) as file:
        async with container.execute(["sh", "-c", script], stdout=write) as execution:
            os.close(write)
            assert await trio.to_thread.run_sync(file.readline) == "ready\n"
            execution.send_signal(signal.SIGTERM)
            assert await trio.to_thread.run_sync(file.readline) == "caught\n"
            assert (await execution.wait()).exit_code == 7
            execution.send_signal(signal.SIGTERM)
            execution.kill()


async def test_its_input_and_its_outputs_are_the_callers(container) -> None:
    given, theirs_in = os.pipe()
    outputs = [os.pipe(), os.pipe()]
    command = ["sh", "-c", "tr a-z A-Z; echo err >&2"]
    async with container.execute(command, stdin=given, stdout=outputs[0][1], stderr=outputs[1][1]) as execution:
        for descriptor in (given, outputs[0][1], outputs[1][1]):
            os.close(descriptor)
        with os.fdopen(theirs_in, "wb") as stdin:
            stdin.write(b"something\n")
        said = []
        for read, _ in outputs:
            with os.fdopen(read, "rb") as file:
                said.append(await trio.to_thread.run_sync(file.read))
        assert (await execution.wait()).exit_code == 0
    assert said == [b"SOMETHING\n", b"err\n"]


async def test_environment_and_directory_can_be_chosen(supervisor, spec, monkeypatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    container = await supervisor.start(spec("exec sleep 1000", environment={"ONE": "1", "TWO": "2"}))
    script = "echo $ONE $TWO $THREE $HOME; pwd; env"
    _, output = await executed(container, script, environment={"TWO": "two", "THREE": "3"}, working_dir="/etc")
    assert output.splitlines()[:2] == ["1 two 3 /root", "/etc"]
    assert "SECRET" not in output
    with pytest.raises(pysuper.LaunchError, match="working directory /no/such"):
        await executed(container, "true", working_dir="/no/such")


@pytest.mark.parametrize(
    ("command", "settings", "what"),
    [
        (["a\0"], {}, "command: an argument contains a NUL character"),
        ("true", {}, "command: is a string"),
        (["true"], {"environment": {"A": "\0"}}, "environment: the value of 'A' contains a NUL"),
        (["true"], {"environment": {"A=B": ""}}, "environment: 'A=B' is not a name"),
        (["true"], {"working_dir": "etc"}, "working_dir: 'etc' is not an absolute path"),
        (["true"], {"user": ""}, "user: '' is not a user"),
    ],
)
async def test_what_cannot_be_executed_anywhere_is_refused(supervisor, spec, command, settings, what) -> None:
    container = await supervisor.start(spec("exec sleep 1000"))
    with pytest.raises(pysuper.ConfigError, match=what):
        async with container.execute(command, **settings):
            raise AssertionError("executed")


@as_root
async def test_the_user_can_be_chosen(supervisor, spec, busybox) -> None:
    rootfs = pysuper.DriverChoice("dir", {"path": str(busybox)})
    script = "echo $(id -u) $(id -g) $(id -G) $HOME; grep CapEff /proc/self/status"
    container = await supervisor.start(spec("exec sleep 1000", rootfs=rootfs, user="ada"))
    ada = "1000 1000 1000 2000 /home/ada\nCapEff:\t0000000000000000\n"
    root = "0 0 0 /root\nCapEff:\t00000000000005fb\n"
    assert await executed(container, script) == (0, ada)
    assert await executed(container, script, user="root") == (0, root)
    container = await supervisor.start(spec("exec sleep 1000", rootfs=rootfs))
    assert await executed(container, script) == (0, root)
    assert await executed(container, script, user="ada") == (0, ada)
    with pytest.raises(pysuper.LaunchError, match="no user 'nemo'"):
        await executed(container, "true", user="nemo")


async def test_without_a_command_it_is_the_login_shell(container) -> None:
    with os.fdopen(os.memfd_create("stdin"), "w+b") as script:
        script.write(b"exit 9\n")
        script.seek(0)
        async with container.execute([], stdin=script.fileno()) as execution:
            assert (await execution.wait()).exit_code == 9


async def test_what_cannot_be_executed_is_told_apart(container) -> None:
    with pytest.raises(pysuper.CommandNotFound, match="no-such-command") as missing:
        async with container.execute(["no-such-command"]):
            pytest.fail("entered")
    assert missing.value.exit_code == 127
    with pytest.raises(pysuper.CommandNotExecutable, match="Permission denied") as refused:
        async with container.execute(["/etc/passwd"]):
            pytest.fail("entered")
    assert refused.value.exit_code == 126


async def test_it_can_have_a_terminal(container) -> None:
    script = "tty; stty size; echo $TERM; sleep 1000; echo not reached"
    async with container.execute(["sh", "-c", script], terminal=True, terminal_size=(33, 99)) as execution:
        assert execution.terminal is not None
        assert termios.tcgetwinsize(execution.terminal) == (33, 99)
        said = b""
        while said.count(b"\n") < 3:
            await trio.lowlevel.wait_readable(execution.terminal)
            said += os.read(execution.terminal, 4096)
        assert said.split()[:3] == [b"/dev/pts/0", b"33", b"99"]
        status = None
        while status is None:  # bash loses a signal that comes between its fork and the execve
            os.write(execution.terminal, b"\x03")  # Ctrl-C
            with trio.move_on_after(0.2):
                status = (await execution.wait()).status
        assert status == 128 + signal.SIGINT
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(execution.terminal)


async def test_many_run_at_once(container) -> None:
    before = Snapshot.take()
    codes = []

    async def one(code: int) -> None:
        codes.append((await executed(container, f"sleep 0.2; exit {code}"))[0])

    async with trio.open_nursery() as nursery:
        for code in range(20):
            nursery.start_soon(one, code)
    assert sorted(codes) == list(range(20))
    before.require_nothing_left()


# --- how it ends ---


#: Has a child in its process group, and ignores what asks politely.
STUBBORN = "trap '' TERM HUP INT; sleep 1000 & echo ready; wait; sleep 1000"


@pytest.mark.parametrize("way", ["kill", "leave", "cancel", "raise"])
async def test_it_is_killed_with_its_children(container, way) -> None:
    quiet = processes(container)
    before = Snapshot.take()
    read, write = os.pipe()
    begun = time.monotonic()
    with os.fdopen(read) as file, trio.CancelScope() as scope, suppress(ZeroDivisionError):
        async with container.execute(["sh", "-c", STUBBORN], stdout=write) as execution:
            os.close(write)
            assert await trio.to_thread.run_sync(file.readline) == "ready\n"
            assert len(processes(container)) == len(quiet) + 2
            if way == "kill":
                execution.kill()
                assert (await execution.wait()).signal == signal.SIGKILL
            elif way == "cancel":
                scope.cancel()
                await execution.wait()
            elif way == "raise":
                raise ZeroDivisionError
    assert (await execution.wait()).signal == signal.SIGKILL
    assert time.monotonic() - begun < 0.9 * PATIENCE  # and not after a bound
    assert wait_until(lambda: processes(container) == quiet)
    before.require_nothing_left()


async def test_what_it_leaves_running_ends_with_the_container(container) -> None:
    quiet = processes(container)
    assert await executed(container, "sleep 1000 >&- & exit 3") == (3, "")
    (left,) = processes(container) - quiet
    await container.stop()
    await container.wait()
    assert not alive(left)


async def test_it_ends_with_the_container(container) -> None:
    async with container.execute(["sleep", "1000"]) as execution:
        await container.stop()
        await container.wait()
        with trio.fail_after(1 * PATIENCE):
            assert (await execution.wait()).signal == signal.SIGKILL
    with pytest.raises(pysuper.LaunchError, match="box has ended"):
        await executed(container, "true")
    with pytest.raises(pysuper.LaunchError, match="box has ended"):
        await container.open_socket()
    with pytest.raises(pysuper.LaunchError, match="box has ended"):
        container.pause()


async def test_it_does_not_keep_the_container_from_ending(supervisor, spec) -> None:
    container = await supervisor.start(spec("exit 5"))
    record = await container.wait()
    assert record.exit_code == 5
    container = await supervisor.start(spec("sleep 0.3; exit 6"))
    async with container.execute(["sh", "-c", STUBBORN], stdout=None):
        assert (await container.wait()).exit_code == 6


@pytest.mark.parametrize("init", [True, False])
async def test_containers_that_end_at_any_moment_of_it_leave_nothing(supervisor, spec, init) -> None:
    outcomes = set()
    await (await supervisor.start(spec("true"))).wait()  # takes what a supervisor keeps
    before = Snapshot.take()
    delay = 0
    while delay < 24 or (len(outcomes) < 2 and delay < 400):  # later and later, until it also ends afterwards
        delay += 1
        container = await supervisor.start(spec("exec sleep 1000", init=init))
        async with trio.open_nursery() as nursery:

            async def end(container: Container = container, delay: int = delay) -> None:
                await trio.sleep(delay**2 / 50_000 * PATIENCE)
                container.kill()

            nursery.start_soon(end)
            try:
                async with container.execute(["sh", "-c", "exec sleep 1000"]) as execution:
                    outcomes.add((await execution.wait()).signal)
            except pysuper.LaunchError as error:
                outcomes.add("error")
                assert str(error).startswith(("box has ended", "could not", "the process that joins box was killed"))
        await container.wait()
        before.require_nothing_left()
    assert outcomes == {"error", signal.SIGKILL}


async def test_a_container_that_ends_ends_what_hangs_on_its_way_in(container, tmp_path) -> None:
    fifo = tmp_path / "fifo"  # opening it waits for a reader
    os.mkfifo(fifo)
    hanging = {**container.plan.phases, Phase.CGROUP: (steps.JoinCgroup(path=str(fifo)),)}
    container.plan = attrs.evolve(container.plan, phases=hanging)
    (launcher,) = children() - {container.pid}
    with trio.fail_after(5 * PATIENCE):
        async with trio.open_nursery() as nursery:

            async def attempt() -> None:
                with pytest.raises(pysuper.LaunchError, match="box has ended meanwhile"):
                    await executed(container, "true")

            nursery.start_soon(attempt)
            await trio.sleep(0.1 * PATIENCE)
            assert len(children()) == 3
            await container.stop()
            await container.wait()
            assert children() == {launcher}


@needs_cgroup
async def test_a_paused_container_refuses_it(container) -> None:
    container.pause()
    assert container.paused
    with pytest.raises(pysuper.LaunchError, match="cannot execute a command in box: it is paused; resume it first"):
        await executed(container, "true")
    container.resume()
    assert not container.paused
    assert await executed(container, "exit 3") == (3, "")
    container.pause()
    with trio.fail_after(5 * PATIENCE):
        await container.stop()
        await container.wait()
    assert not container.paused


@needs_cgroup
async def test_it_can_be_ended_in_a_paused_container_which_stays_paused(supervisor, spec) -> None:
    script = "while :; do echo tick; sleep 0.01; done"
    read, write = os.pipe()
    os.set_blocking(read, False)
    container = await supervisor.start(spec(script), stdout=write)
    os.close(write)
    quiet = processes(container)
    with os.fdopen(read, "rb") as file:
        async with container.execute(["sleep", "1000"]), container.execute(["sleep", "1000"]):
            container.pause()
        assert container.paused
        # The shell's own sleeps come and go.
        assert wait_until(lambda: len(processes(container)) <= len(quiet) + 1)
        await trio.sleep(0.1)
        file.read()
        await trio.sleep(0.2)
        assert file.read() is None  # it does not tick
        container.resume()
        await trio.sleep(0.2)
        assert b"tick" in file.read()


async def test_it_is_one_process(container) -> None:
    """Nothing of ours stays in front of it, that would count for the container's limits, or hold memory."""
    before, quiet = children(), processes(container)
    async with container.execute(["sleep", "1000"]):
        assert children() - before == processes(container) - quiet
        assert len(children() - before) == 1


async def test_the_launcher_may_die_meanwhile(container) -> None:
    (launcher,) = children() - {container.pid}
    async with container.execute(["sh", "-c", "sleep 0.3; exit 7"]) as execution:
        os.kill(launcher, signal.SIGKILL)
        assert await executed(container, "exit 8") == (8, "")  # by a new launcher
        assert (await execution.wait()).exit_code == 7


@pytest.mark.parametrize("victim", ["launcher", "joiner"])
async def test_commands_start_while_what_starts_them_is_being_killed(container, victim) -> None:
    outcomes = []
    ours = os.readlink("/proc/self/ns/pid")
    quiet = processes(container)

    async def one() -> None:
        try:
            async with container.execute(["sh", "-c", "exit 7"]) as execution:
                outcomes.append((await execution.wait()).status)
        except pysuper.LaunchError as error:
            assert "was killed while it was set up" in str(error)
            outcomes.append(-1)

    async with trio.open_nursery() as nursery:
        for number in range(20):
            nursery.start_soon(one)
            await trio.sleep(0.001 * number)
            for child in children() - {container.pid}:
                with suppress(OSError):
                    # It leads a session, and holds the places of a command's descriptors.
                    is_launcher = os.getsid(child) == child and os.path.exists(f"/proc/{child}/fd/9")
                    if os.readlink(f"/proc/{child}/ns/pid") != ours or is_launcher != (victim == "launcher"):
                        continue
                    if victim == "joiner" or number % 7 == 0:
                        os.kill(child, signal.SIGKILL)
    assert len(outcomes) == 20
    assert set(outcomes) <= {7, -1, 128 + signal.SIGKILL}
    if victim == "launcher":  # which dies three times, with at most one command on its way
        assert outcomes.count(7) >= 17
    assert processes(container) == quiet


@pytest.mark.parametrize("heard", ["in time", "late", "never"])
async def test_what_dies_right_after_its_fork_leaves_nothing(container, monkeypatch, heard) -> None:
    async def receive(status: Any) -> tuple[dict[str, Any] | None, list[int], int]:
        message, descriptors, sender = await really(status)
        if message is not None and "forked" in message:
            os.killpg(sender, signal.SIGKILL)
            assert wait_until(lambda: not alive(sender))
            if heard == "late":
                await trio.sleep(0.05)
            elif heard == "never":
                os.close(descriptors[0])
                return await really(status)
        return message, descriptors, sender

    really = process.receive
    before = Snapshot.take()
    with monkeypatch.context() as patched, pytest.raises(pysuper.LaunchError, match="was killed while it was set up"):
        patched.setattr(process, "receive", receive)
        await executed(container, "true")
    before.require_nothing_left()
    assert await executed(container, "exit 4") == (4, "")


@as_root
@pytest.mark.parametrize("free", range(20))
async def test_out_of_descriptors_is_an_error_and_leaves_nothing(container, free) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
    taken: list[int] = []
    outcomes = []
    before = Snapshot.take()
    try:
        with suppress(OSError):
            while True:
                taken.append(os.open("/dev/null", os.O_RDONLY))
        for _ in range(free):
            os.close(taken.pop())
        for attempt in (execute_and_wait, open_and_close):
            try:
                await attempt(container)
            except pysuper.PysuperError as error:
                assert "EMFILE" in str(error)
                outcomes.append(False)
            else:
                outcomes.append(True)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in taken:
            os.close(descriptor)
    before.require_nothing_left()
    assert outcomes == sorted(outcomes)  # a socket takes fewer
    if free in (0, 19):
        assert outcomes == [free == 19] * 2
    assert await executed(container, "exit 4") == (4, "")


async def execute_and_wait(container: Container) -> None:
    async with container.execute(["true"], terminal=True) as execution:
        await execution.wait()


async def open_and_close(container: Container) -> None:
    (await container.open_socket()).close()


#: A supervisor of one container, in which it executes a command; it says when both run.
SUPERVISOR = textwrap.dedent(
    """
    import sys, trio, pysuper
    async def main():
        async with pysuper.open_supervisor() as supervisor:
            choice = pysuper.DriverChoice(sys.argv[1])
            share = frozenset(sys.argv[2:])
            spec = pysuper.ContainerSpec(name="one", command=("sleep", "1000"), cgroup=choice, share=share)
            container = await supervisor.start(spec)
            async with container.execute(["sh", "-c", "sleep 1000 & exec sleep 1000"]):
                print("ready", flush=True)
                await trio.sleep_forever()
    trio.run(main)
    """
)


@pytest.fixture
def other_supervisor(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """A process with such a supervisor, sharing the namespaces of the parameter, when all that it starts runs."""
    command = [sys.executable, "-c", SUPERVISOR, cgroup_driver(), *request.param]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            assert wait_until(lambda: len(descendants(process.pid)) == 5)  # the launcher, the init, and three commands
            yield process
        finally:
            process.kill()


def descendants(pid: int) -> set[int]:
    """The children of a process, and theirs."""
    return set().union(children(pid), *(children(child) for child in children(pid)))


@pytest.mark.parametrize("other_supervisor", [(), ("pid",)], indirect=True)
def test_kill_9_of_the_supervisor_leaves_nothing(other_supervisor) -> None:
    others = {path for path in cgroups() if "/pysuper.one." not in path}
    everything = descendants(other_supervisor.pid)
    other_supervisor.kill()
    other_supervisor.wait()
    # What was executed is left to PID 1 of this machine, and the container's init ends when that has reaped it.
    assert wait_until(lambda: not any(alive(pid) for pid in everything) and cgroups() <= others, bound=4)


# --- nothing can look into it on its way in (CVE-2016-9962) ---

#: Tries everything on each process that comes to be, and says what it could see of what that was before its execve(2).
SPY = """
    import os

    def read(path):
        with open(path, "rb") as file:
            return file.read()

    def look(name, what):
        path = f"/proc/{name}/{what}"
        if what == "exe":
            return "python" in os.readlink(path)
        if what == "maps":
            return b"python" in read(path)
        before = read(f"/proc/{name}/comm")
        if what in ("environ", "mem"):
            open(path).close()
        else:
            os.readlink(path)
        # A process has its new name right after it can be looked into.
        return b"python" in before and b"python" in read(f"/proc/{name}/comm")

    known = set(os.listdir("/proc"))
    print("watching", flush=True)
    while True:
        for name in set(os.listdir("/proc")) - known:
            for what in ("exe", "maps", "environ", "mem", "cwd", "root", "ns/user", "fd/0", "fd/11", "fd/12", "fd/13"):
                try:
                    if look(name, what):
                        print("LEAK", what, flush=True)
                except OSError as error:
                    print("refused", what, error.errno, flush=True)
"""


@pytest.mark.skipif(not os.path.exists("/usr/bin/python3"), reason="the spy in the container is a Python program")
async def test_the_container_cannot_look_into_what_joins_it(supervisor, spec) -> None:
    read, write = os.pipe()
    container = await supervisor.start(spec(command=("/usr/bin/python3", "-c", textwrap.dedent(SPY))), stdout=write)
    os.close(write)
    said = set()

    async def listen(file: Any) -> None:
        while line := await trio.to_thread.run_sync(file.readline):
            said.add(tuple(line.split()))

    with os.fdopen(read) as file:
        assert await trio.to_thread.run_sync(file.readline) == "watching\n"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen, file)
            for _ in range(100):
                async with container.execute(["true"]) as execution:
                    await execution.wait()
            await container.stop()
    assert {line for line in said if line[0] == "LEAK"} == set()
    # It did see some on their way in.
    denied = {what for _, what, number in said if int(number) in {errno.EACCES, errno.EPERM}}
    assert denied >= {"exe", "maps", "environ", "mem", "cwd", "root", "ns/user", "fd/0", "fd/12"}


# --- more descriptors ---


@pytest.mark.parametrize("init", [True, False])
async def test_a_command_gets_exactly_the_descriptors_that_it_was_given(supervisor, spec, init) -> None:
    pipes = {number: os.pipe() for number in (3, 5, 9)}
    script = """
        echo three >&3; read line <&5; echo $line >&9
        for number in 3 4 5 6 7 8 9 10 11 12 13; do (readlink /proc/$$/fd/$number >&9); done
        exec 3>&- 9>&-; exec sleep 1000
    """
    given = {3: pipes[3][1], 5: pipes[5][0], 9: pipes[9][1]}
    container = await supervisor.start(spec(script, init=init), descriptors=given)
    for descriptor in given.values():
        os.close(descriptor)
    with os.fdopen(pipes[5][1], "w") as file:
        file.write("five\n")
    with os.fdopen(pipes[3][0]) as three, os.fdopen(pipes[9][0]) as nine:
        assert await trio.to_thread.run_sync(three.read) == "three\n"  # to the end: nobody else holds it open
        said = [line.split(":")[0] for line in (await trio.to_thread.run_sync(nine.read)).splitlines()]
        assert said == ["five", "pipe", "pipe", "pipe"]
    if init:
        ours = [os.readlink(f"/proc/{container.pid}/fd/{name}") for name in os.listdir(f"/proc/{container.pid}/fd")]
        assert not any(kind.startswith("pipe:") for kind in ours)
    status, output = await executed(container, "for fd in 3 4 5 6 7 8 9; do readlink /proc/self/fd/$fd; done")
    assert (status, output) == (1, "")


async def test_every_number_can_be_given(supervisor, spec) -> None:
    read, write = os.pipe()
    script = 'for number in 3 4 5 6 7 8 9; do eval "echo $number >&$number"; done'
    container = await supervisor.start(spec(script), descriptors=dict.fromkeys(range(3, 10), write))
    os.close(write)
    with os.fdopen(read) as file:
        assert (await trio.to_thread.run_sync(file.read)).split() == list("3456789")
    assert (await container.wait()).exit_code == 0


@pytest.mark.parametrize("number", [-1, 0, 2, 10])
async def test_other_numbers_are_refused(supervisor, spec, number) -> None:
    with pytest.raises(pysuper.ConfigError, match="from 3 to 9"):
        await supervisor.start(spec(), descriptors={number: 1})


# --- sockets in its network ---

#: Answers every connection to a port of 127.0.0.1 with a word.
SERVER = """
import socket, sys
with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as server:
    print("ready", flush=True)
    while True:
        server.accept()[0].sendall(sys.argv[2].encode())
"""
needs_python = pytest.mark.skipif(not os.path.exists("/usr/bin/python3"), reason="the server is a Python program")


@pytest.fixture
def host_port() -> Iterator[int]:
    """A port of the host's 127.0.0.1 where something listens, and answers nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


async def serving(supervisor: Any, spec: Any, port: int, **fields: Any) -> Container:
    """A container in which a server listens."""
    read, write = os.pipe()
    command = ("/usr/bin/python3", "-c", SERVER, str(port), "inside")
    container: Container = await supervisor.start(spec(command=command, **fields), stdout=write)
    os.close(write)
    with os.fdopen(read) as file:
        assert await trio.to_thread.run_sync(file.readline) == "ready\n"
    return container


@needs_python
async def test_a_socket_reaches_the_containers_servers_and_not_the_hosts(supervisor, spec, host_port) -> None:
    container = await serving(supervisor, spec, 8000)
    with await container.open_socket() as channel:
        await channel.connect(("127.0.0.1", 8000))
        assert await channel.recv(100) == b"inside"
    with await container.open_socket() as channel, pytest.raises(ConnectionRefusedError):
        await channel.connect(("127.0.0.1", host_port))
    with trio.socket.socket() as ours, pytest.raises(ConnectionRefusedError):
        await ours.connect(("127.0.0.1", 8000))


async def test_a_socket_in_a_shared_network_is_the_hosts(supervisor, spec, host_port) -> None:
    container = await supervisor.start(spec("exec sleep 1000", share=frozenset({"net"})))
    (launcher,) = children() - {container.pid}
    os.kill(launcher, signal.SIGSTOP)  # it is not needed for that
    try:
        with trio.fail_after(2 * PATIENCE), await container.open_socket() as channel:
            await channel.connect(("127.0.0.1", host_port))
    finally:
        os.kill(launcher, signal.SIGCONT)


async def test_a_socket_is_of_the_kind_that_was_asked_for(container) -> None:
    with await container.open_socket(socket.AF_INET6, socket.SOCK_DGRAM) as channel:
        assert (channel.family, channel.type) == (socket.AF_INET6, socket.SOCK_DGRAM)
        assert not os.get_inheritable(channel.fileno())
    before = Snapshot.take()
    with pytest.raises(pysuper.LaunchError, match="could not open a socket.* E(AF|SOCKT)NOSUPPORT"):
        await container.open_socket(44)
    before.require_nothing_left()


async def test_a_socket_that_cannot_be_had_in_a_shared_network_is_the_same_error(supervisor, spec) -> None:
    container = await supervisor.start(spec("exec sleep 1000", share=frozenset({"net"})))
    with pytest.raises(pysuper.LaunchError, match="could not open a socket.* E(AF|SOCKT)NOSUPPORT"):
        await container.open_socket(44)


@needs_cgroup
async def test_sockets_are_had_where_nothing_can_be_executed(supervisor, spec) -> None:
    container = await supervisor.start(spec("exec sleep 1000", limits=Limits(pids_max=2)))
    (await container.open_socket()).close()
    container.pause()
    (await container.open_socket()).close()


# --- statistics ---


@needs_cgroup
async def test_statistics_are_those_of_the_cgroup(container) -> None:
    assert container.statistics().pids_current == 2
    async with container.execute(["sleep", "1000"]):
        assert container.statistics().pids_current == 3
