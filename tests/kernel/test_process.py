"""How the command of a container behaves: exit codes, signals, environment, orphans, descriptors, users."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import trio

import pysuper
from machine import children


@pytest.mark.parametrize("init", [True, False])
@pytest.mark.parametrize("code", [0, 3, 125, 255])
async def test_the_exit_code_is_the_commands(supervisor, spec, code, init) -> None:
    record = await (await supervisor.start(spec(f"exit {code}", init=init))).wait()
    assert (record.exit_code, record.signal, record.reason, record.status) == (code, None, "exited", code)


async def test_the_signal_that_ended_the_command_is_reported(supervisor, spec) -> None:
    record = await (await supervisor.start(spec("kill -USR1 $$"))).wait()
    assert (record.exit_code, record.signal, record.reason) == (None, signal.SIGUSR1, "signaled")
    assert record.status == 128 + signal.SIGUSR1


async def test_a_missing_command_is_127(supervisor, spec) -> None:
    for command in ("no-such-command", "/no/such/command"):
        with pytest.raises(pysuper.CommandNotFound, match="no") as caught:
            await supervisor.start(spec(command=(command,)))
        assert caught.value.exit_code == 127


@pytest.mark.skipif(os.geteuid() != 0, reason="writes to a directory root file system")
async def test_what_cannot_be_executed_is_126(supervisor, spec, own_busybox) -> None:
    (own_busybox / "plain").write_text("data\n")
    (own_busybox / "garbage").write_text("not a program\n")
    (own_busybox / "garbage").chmod(0o755)
    (own_busybox / "orphan").write_text("#!/no/interpreter\n")
    (own_busybox / "orphan").chmod(0o755)
    foreign = bytearray(Path("/bin/busybox").read_bytes()[:4096])
    foreign[18:20] = (0xB7 if os.uname().machine == "x86_64" else 0x3E).to_bytes(2, "little")  # e_machine, elf(5)
    (own_busybox / "foreign").write_bytes(foreign)
    (own_busybox / "foreign").chmod(0o755)
    rootfs = pysuper.DriverChoice("dir", {"path": str(own_busybox)})
    for command, reason in (
        ("/plain", "Permission denied"),
        ("/garbage", "architecture"),
        ("/orphan", "interpreter is missing"),
        ("/foreign", "architecture"),
        ("/bin", "is a directory"),
    ):
        with pytest.raises(pysuper.CommandNotExecutable, match=reason) as caught:
            await supervisor.start(spec(command=(command,), rootfs=rootfs))
        assert caught.value.exit_code == 126


@pytest.mark.parametrize("init", [True, False])
async def test_no_signal_is_ignored_or_blocked(output, init) -> None:
    found = await output("exec grep -E 'Sig(Ign|Blk)' /proc/self/status", init=init)
    masks = {int(line.split()[1], 16) for line in found.splitlines()}
    own = 0b11 << 31  # signals 32 and 33 are the C library's, which lets nobody change them, signal(7)
    assert {mask & ~own for mask in masks} == {0}


async def test_the_environment_is_clean(output, monkeypatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    found = (await output("env", environment={"GIVEN": "yes"})).splitlines()
    names = {line.partition("=")[0] for line in found} - {"PWD", "SHLVL", "_", "OLDPWD"}
    assert names == {"PATH", "HOME", "LANG", "GIVEN"}
    assert "HOME=/root" in found


@pytest.mark.parametrize("init", [True, False])
async def test_only_standard_descriptors_are_open(output, init) -> None:
    # The shell's glob opens one itself, for the time of the listing.
    listed = await output("for fd in /proc/self/fd/*; do readlink $fd || true; done; echo /proc/self/fd/*", init=init)
    descriptors = {int(path.rpartition("/")[2]) for path in listed.splitlines()[-1].split()}
    assert {0, 1, 2} <= descriptors
    assert len(descriptors) <= 4
    assert "socket:" not in listed
    assert "memfd:plan" not in listed


async def test_stdout_and_stderr_stay_apart() -> None:
    done = await pysuper.run(["sh", "-c", "echo out; echo err >&2"], capture_stdout=True, capture_stderr=True)
    assert (done.stdout, done.stderr) == (b"out\n", b"err\n")


async def test_stdin_is_passed_and_ends() -> None:
    done = await pysuper.run(["cat"], stdin=b"some\0thing\n" * 10000, capture_stdout=True)
    assert done.stdout == b"some\0thing\n" * 10000


async def test_signals_reach_the_command(supervisor, spec) -> None:
    read, write = os.pipe()
    container = await supervisor.start(
        spec('trap "echo caught; exit 7" TERM; echo ready; while :; do sleep 0.01; done'), stdout=write
    )
    os.close(write)
    with os.fdopen(read) as file:
        assert await trio.to_thread.run_sync(file.readline) == "ready\n"
        container.send_signal(signal.SIGTERM)
        assert await trio.to_thread.run_sync(file.readline) == "caught\n"
    assert (await container.wait()).exit_code == 7


async def test_stop_kills_what_ignores_the_stop_signal(supervisor, spec) -> None:
    read, write = os.pipe()
    script = 'trap "" TERM; sleep 1000 & echo ready; while :; do sleep 1000; done'
    container = await supervisor.start(spec(script, stop_timeout=0.2), stdout=write)
    os.close(write)
    with os.fdopen(read) as file:
        await trio.to_thread.run_sync(file.readline)
    await container.stop()
    record = await container.wait()
    assert (record.signal, record.reason) == (signal.SIGKILL, "stopped")


async def test_a_timeout_ends_the_run(supervisor, spec) -> None:
    record = await (await supervisor.start(spec("sleep 1000", timeout=0.2))).wait()
    assert record.reason == "timeout"
    assert record.wall_seconds < 60


async def test_the_init_reaps_orphans(output) -> None:
    # Each inner shell ends at once, and its sleep becomes an orphan of PID 1.
    script = """
        for i in $(seq 200); do sh -c 'sleep 0.05 & exit'; done
        for try in $(seq 200); do
            zombies=$(grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null | wc -l)
            sleepers=$(ls -d /proc/[0-9]* | wc -l)
            [ $zombies -eq 0 ] && [ $sleepers -lt 10 ] && echo clean && exit
            sleep 0.05
        done
        echo $zombies zombies
    """
    assert await output(script) == "clean\n"


async def test_when_the_command_ends_the_rest_ends(supervisor, spec) -> None:
    container = await supervisor.start(spec("setsid sleep 1000 & exit 0"))
    record = await container.wait()
    assert record.exit_code == 0  # and `nothing_is_left` sees that the sleep is gone


async def test_a_container_cannot_reach_the_inits_program(output) -> None:
    found = await output("readlink /proc/1/exe || echo denied; ls /proc/1/fd || echo denied; cat /proc/1/cmdline")
    assert found.startswith("denied\ndenied\npysuper-init")


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user has one id only")
async def test_users_come_from_the_container(output, busybox) -> None:
    rootfs = pysuper.DriverChoice("dir", {"path": str(busybox)})
    script = "echo $(id -u) $(id -g) $(id -G) $HOME; grep CapEff /proc/self/status"
    found = (await output(script, rootfs=rootfs, user="ada")).split()
    assert found == ["1000", "1000", "1000", "2000", "/home/ada", "CapEff:", "0000000000000000"]
    found = (await output(script, rootfs=rootfs, user="1000:2000")).split()
    assert found[:2] == ["1000", "2000"]
    found = (await output(script, rootfs=rootfs, user="4321")).split()
    assert found[:4] == ["4321", "0", "0", "/"]


async def test_an_unknown_user_is_an_error(supervisor, spec) -> None:
    with pytest.raises(pysuper.LaunchError, match="no user 'nemo'"):
        await supervisor.start(spec(user="nemo"))


async def test_no_command_means_the_login_shell() -> None:
    async with pysuper.open_supervisor() as supervisor:
        with os.fdopen(os.memfd_create("stdin"), "w+b") as script:
            script.write(b"exit 9\n")
            script.seek(0)
            container = await supervisor.start(pysuper.ContainerSpec(name="shell"), stdin=script.fileno())
            assert (await container.wait()).exit_code == 9


async def test_a_missing_working_directory_is_an_error(supervisor, spec) -> None:
    with pytest.raises(pysuper.LaunchError, match="working directory /no/such"):
        await supervisor.start(spec(working_dir="/no/such"))


async def test_the_supervisor_has_no_child_but_launcher_and_containers(supervisor, spec) -> None:
    (launcher,) = children()
    container = await supervisor.start(spec("exec sleep 60"))
    assert children() == {launcher, container.pid}


@pytest.mark.parametrize("init", [True, False])
async def test_no_signal_is_ignored_or_blocked_not_even_those_of_the_c_library(supervisor, spec, init) -> None:
    script = "grep -E 'Sig(Ign|Blk)' /proc/self/status | tr -d '\\n' | grep -xE 'SigBlk:.0+SigIgn:.0+'"
    container = await supervisor.start(spec(f"{script} && exec sleep 60 || exit 9", init=init))
    async with container.execute(["sh", "-c", script]) as execution:
        assert (await execution.wait()).exit_code == 0
    await container.stop()
    assert (await container.wait()).reason == "stopped"


async def test_capabilities_are_the_default_set(output) -> None:
    found = dict(line.split() for line in (await output("grep -E 'Cap|NoNew' /proc/self/status")).splitlines())
    assert found["CapEff:"] == found["CapPrm:"] == found["CapBnd:"] == "00000000000005fb"
    assert found["CapInh:"] == found["CapAmb:"] == "0000000000000000"
    assert found["NoNewPrivs:"] == "1"
