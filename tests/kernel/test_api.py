"""The Python API, as its documentation promises it."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest
import trio

import pysuper
from machine import PATIENCE
from pysuper import registry
from pysuper.testing.faults import few_descriptors


def test_what_is_tested_is_the_launcher_that_the_test_is_named_for(request: pytest.FixtureRequest) -> None:
    named = request.node.callspec.params["launcher"]
    assert registry.load_launcher(None) == registry.load_launcher(named)


async def test_run_returns_record_and_output() -> None:
    done = await pysuper.run(["echo", "hello"], capture_stdout=True)
    assert (done.stdout, done.stderr, done.record.status) == (b"hello\n", None, 0)
    assert done.record.receipts


async def test_run_checks_the_exit_status_unless_told_otherwise() -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        await pysuper.run(["sh", "-c", "echo said; exit 3"], capture_stdout=True)
    assert (caught.value.returncode, caught.value.stdout) == (3, b"said\n")
    assert (await pysuper.run(["sh", "-c", "exit 3"], check=False)).record.exit_code == 3


async def test_a_command_needs_no_name_that_a_container_can_have() -> None:
    with pytest.raises(pysuper.CommandNotFound):
        await pysuper.run(["no such [command]"])
    assert (await pysuper.run([])).record.name == "run"  # a login shell, with nothing to read


async def test_a_program_that_ignores_sigchld_is_told_before_anything_is_started() -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with pytest.raises(pysuper.PysuperError, match=r"SIGCHLD is ignored.*SIG_DFL"):
            await pysuper.run(["true"])
    finally:
        signal.signal(signal.SIGCHLD, before)


async def test_a_command_that_is_a_string_is_refused() -> None:
    with pytest.raises(pysuper.ConfigError, match="command: is a string; give a list"):
        await pysuper.run("true")


async def test_a_terminal_that_nobody_would_read_is_refused() -> None:
    with trio.fail_after(10 * PATIENCE), pytest.raises(pysuper.ConfigError, match="terminal: .* use open_supervisor"):
        await pysuper.run(["true"], terminal=True)


async def test_an_error_is_raised_as_it_is_not_in_a_group() -> None:
    with pytest.raises(pysuper.CommandNotFound):
        await pysuper.run(["no-such-command"])


async def test_leaving_the_supervisor_stops_what_still_runs(spec) -> None:
    async with pysuper.open_supervisor() as supervisor:
        container = await supervisor.start(spec("exec sleep 1000"))
    assert (await container.wait()).reason == "stopped"


async def test_a_command_that_has_ended_by_itself_was_not_stopped(supervisor, spec) -> None:
    container = await supervisor.start(spec("exit 5"))
    await container._process.ended.wait()  # and is still to be reaped
    await container.stop()
    record = await container.wait()
    assert (record.reason, record.exit_code) == ("exited", 5)


async def test_cancelling_the_scope_ends_the_container(spec) -> None:
    with trio.move_on_after(0.5) as scope:
        async with pysuper.open_supervisor() as supervisor:
            await (await supervisor.start(spec("sleep 1000"))).wait()
    assert scope.cancelled_caught  # and `nothing_is_left` looks for the rest


async def test_an_exception_in_the_block_ends_the_containers_and_is_raised(spec) -> None:
    with pytest.raises(ZeroDivisionError):
        async with pysuper.open_supervisor() as supervisor:
            await supervisor.start(spec("exec sleep 1000"))
            raise ZeroDivisionError


async def test_many_containers_run_at_once(supervisor, spec) -> None:
    begun = time.monotonic()
    containers = [await supervisor.start(spec("sleep 0.5")) for _ in range(10)]
    assert {(await container.wait()).exit_code for container in containers} == {0}
    one_after_the_other = 10 * 0.5
    assert time.monotonic() - begun < one_after_the_other


async def test_a_container_that_ended_can_be_asked_and_signalled(supervisor, spec) -> None:
    container = await supervisor.start(spec("exit 5"))
    assert (await container.wait()).exit_code == 5
    assert (await container.wait()).exit_code == 5
    container.send_signal(15)
    container.kill()
    await container.stop()


async def test_a_failed_start_hurts_no_other_container(supervisor, spec) -> None:
    container = await supervisor.start(spec("sleep 0.3; exit 6"))
    with pytest.raises(pysuper.CommandNotFound):
        await supervisor.start(spec(command=("no-such-command",)))
    assert (await container.wait()).exit_code == 6


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
async def test_a_network_that_cannot_be_made_is_a_launch_error(supervisor) -> None:
    for free in range(4):
        with few_descriptors(free), pytest.raises(pysuper.LaunchError, match="EMFILE"):
            async with supervisor.shared_network():
                raise AssertionError("made")


async def test_a_network_of_a_supervisor_that_has_ended_is_a_launch_error() -> None:
    async with pysuper.open_supervisor() as supervisor:
        pass
    with trio.fail_after(10 * PATIENCE), pytest.raises(pysuper.LaunchError, match="the supervisor has ended"):
        async with supervisor.shared_network():
            raise AssertionError("made")
