"""What happens when something dies, or runs out."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import trio
import trio.testing

import pysuper
from machine import PATIENCE, Snapshot, alive, cgroup_driver, cgroups, children, wait_until
from pysuper.container import Container
from pysuper.spec import Limits
from pysuper.testing.faults import few_descriptors

#: A supervisor of two containers in a process of its own, which says when they run.
SUPERVISOR = textwrap.dedent(
    """
    import sys, trio, pysuper
    async def main():
        async with pysuper.open_supervisor() as supervisor:
            choice = pysuper.DriverChoice(sys.argv[1])
            for name in ("one", "two"):
                command = ("sh", "-c", "sleep 1000 & exec sleep 1000")
                spec = pysuper.ContainerSpec(name=name, command=command, cgroup=choice)
                container = await supervisor.start(spec)
                print(container.pid, flush=True)
            await trio.sleep_forever()
    trio.run(main)
    """
)


@pytest.fixture
def other_supervisor():
    """A supervisor process with two containers: the process and the pids of the containers."""
    process = subprocess.Popen([sys.executable, "-c", SUPERVISOR, cgroup_driver()], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process, process.stdout:
        yield process, [int(process.stdout.readline()) for _ in range(2)]
        process.kill()


#: One that is interrupted by Ctrl-C at the n-th line of its own code that is executed; it says how many were left.
INTERRUPTED = textwrap.dedent(
    """
    import signal, sys, trio, pysuper
    from pysuper import container, execution, guard, hooks, pool, process, supervisor
    from pysuper.launcher import client
    lines = int(sys.argv[2])
    files = {module.__file__ for module in (client, container, execution, guard, hooks, pool, process, supervisor)}

    def count(frame, event, argument):
        global lines
        if frame.f_code.co_filename not in files:
            return None
        lines -= 1
        if lines == 0:
            signal.raise_signal(signal.SIGINT)
        return count

    async def main():
        spec = pysuper.ContainerSpec(name="box", command=("sleep", "1000"), cgroup=pysuper.DriverChoice(sys.argv[1]))
        async with pysuper.open_supervisor() as supervisor, supervisor.pool(spec, size=1) as pool:
            await supervisor.start(spec)
            container = await pool.start()
            async with container.execute(["true"]) as execution:
                await execution.wait()
            await container.stop()
            await pool.start()

    sys.settrace(count)
    try:
        trio.run(main)
    except KeyboardInterrupt:
        print("interrupted")
    sys.settrace(None)
    print(lines)
    """
)


def interrupted(line: int) -> list[str]:
    command = [sys.executable, "-c", INTERRUPTED, cgroup_driver(), str(line)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=10 * PATIENCE)
    assert done.stderr == ""
    return done.stdout.split()


def test_ctrl_c_at_any_moment_ends_the_supervisor_and_leaves_nothing() -> None:
    many = 10**6
    executed = many - int(interrupted(many)[-1])
    before = cgroups()
    for line in range(1, executed - executed // 10, executed // 25):  # not always as many, so not at the very end
        assert interrupted(line)[0] == "interrupted"
        assert wait_until(lambda: cgroups() <= before)


def test_kill_9_of_the_supervisor_leaves_nothing_within_a_second(other_supervisor) -> None:
    others = {path for path in cgroups() if "/pysuper.one." not in path and "/pysuper.two." not in path}
    process, pids = other_supervisor
    everything = children(process.pid)
    assert set(pids) < everything
    assert all(alive(pid) for pid in everything)
    process.kill()
    process.wait()
    assert wait_until(lambda: not any(alive(pid) for pid in everything) and cgroups() <= others)


def test_kill_9_of_launcher_and_supervisor_one_after_the_other_leaves_nothing(other_supervisor) -> None:
    others = {path for path in cgroups() if "/pysuper.one." not in path and "/pysuper.two." not in path}
    process, pids = other_supervisor
    (launcher,) = children(process.pid) - set(pids)
    os.kill(launcher, signal.SIGKILL)
    assert wait_until(lambda: len(children(process.pid) - set(pids) - {launcher}) == 1)
    time.sleep(0.2 * PATIENCE)  # the new launcher is told what the old one knew
    everything = children(process.pid)
    assert all(alive(pid) for pid in pids)
    process.kill()
    process.wait()
    assert wait_until(lambda: not any(alive(pid) for pid in everything) and cgroups() <= others)


async def test_killing_the_launcher_hurts_no_running_container(supervisor, spec) -> None:
    (first,) = children()
    container = await supervisor.start(spec("sleep 0.5; exit 7"))
    os.kill(first, signal.SIGKILL)
    second = await supervisor.start(spec("exit 8"))  # by a new launcher
    assert (await second.wait()).exit_code == 8
    assert (await container.wait()).exit_code == 7
    assert first not in children()


async def test_containers_start_while_launchers_are_being_killed(supervisor, spec) -> None:
    done = 0

    async def start() -> None:
        nonlocal done
        container: Container = await supervisor.start(spec("exit 0"))
        assert (await container.wait()).exit_code == 0
        done += 1

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(start)
        for _ in range(3):
            await trio.sleep(0.03)
            ours = os.readlink("/proc/self/ns/pid")
            for child in children():
                with contextlib.suppress(OSError):
                    if os.readlink(f"/proc/{child}/ns/pid") == ours:  # the launcher, and no container
                        os.kill(child, signal.SIGKILL)
    assert done == 10


@pytest.mark.parametrize("then", [signal.SIGCONT, signal.SIGKILL])
async def test_starts_wait_for_a_launcher_that_stands_still(supervisor, spec, then: signal.Signals) -> None:
    ended = []

    async def start() -> None:
        container: Container = await supervisor.start(spec("exit 4"))
        ended.append((await container.wait()).exit_code)

    (launcher,) = children()
    os.kill(launcher, signal.SIGSTOP)
    try:
        async with trio.open_nursery() as nursery:
            for _ in range(60):  # more than there is room for in its socket
                nursery.start_soon(start)
            await trio.testing.wait_all_tasks_blocked(0.1)
            assert children() == {launcher}
            os.kill(launcher, then)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(launcher, signal.SIGCONT)
    assert ended == [4] * 60


async def test_starts_that_wait_for_a_launcher_can_be_cancelled(supervisor, spec) -> None:
    (launcher,) = children()
    for _ in range(2):
        before = Snapshot.take()
        os.kill(launcher, signal.SIGSTOP)
        async with trio.open_nursery() as nursery:
            for _ in range(60):
                nursery.start_soon(supervisor.start, spec("exec sleep 1000"))
            await trio.testing.wait_all_tasks_blocked(0.1)
            nursery.cancel_scope.cancel()
            os.kill(launcher, signal.SIGCONT)  # what it has been asked for cannot be called back
    before.require_nothing_left()  # nor was there after the first time, but the locks of more ranges of ids
    assert (await (await supervisor.start(spec("exit 4"))).wait()).exit_code == 4


async def test_kill_9_of_pid_1_ends_the_container(supervisor, spec) -> None:
    container = await supervisor.start(spec("sleep 1000 & exec sleep 1000"))
    os.kill(container.pid, signal.SIGKILL)
    record = await container.wait()
    assert (record.signal, record.reason) == (signal.SIGKILL, "signaled")


@pytest.mark.parametrize("free", range(12))
async def test_out_of_descriptors_is_an_error_and_leaves_nothing(supervisor, spec, free) -> None:
    try:
        with few_descriptors(free):
            await (await supervisor.start(spec())).wait()
    except pysuper.PysuperError as error:
        assert "EMFILE" in str(error) or "Too many open files" in str(error)
    else:
        assert free >= 4  # it takes that many, at least
    assert (await (await supervisor.start(spec("exit 4"))).wait()).exit_code == 4


@pytest.mark.parametrize("free", range(12))
async def test_out_of_descriptors_what_a_driver_runs_confined_leaves_nothing(supervisor, spec, free) -> None:
    with few_descriptors(free), contextlib.suppress(pysuper.PysuperError, OSError):
        await supervisor._sandbox(spec("echo out; echo err >&2"), stdin=0)
    assert await supervisor._sandbox(spec("echo out; echo err >&2"), stdin=0) == (0, "out\n", "err\n")


@pytest.mark.skipif(cgroup_driver() == "none", reason="no cgroup can be had here")
async def test_a_frozen_container_is_killed(supervisor, spec) -> None:
    container = await supervisor.start(spec("exec sleep 1000", stop_timeout=0.2))
    container.pause()
    with trio.fail_after(5 * PATIENCE):
        await container.stop()
        await container.wait()


@pytest.mark.skipif(cgroup_driver() == "none", reason="no cgroup can be had here")
async def test_500_orphans_are_reaped(supervisor, spec) -> None:
    script = "for i in $(seq 500); do (sleep 0 &) ; done; " + "while set -- /proc/[0-9]*; [ $# -gt 6 ]; do :; done"
    with trio.fail_after(60 * PATIENCE):
        container = await supervisor.start(spec(script, limits=Limits(pids_max=600)))
        assert (await container.wait()).exit_code == 0


async def test_200_runs_leave_nothing_behind(supervisor, spec) -> None:
    limit = trio.CapacityLimiter(8)
    codes = set()

    async def one() -> None:
        async with limit:
            codes.add((await (await supervisor.start(spec("exit 0"))).wait()).exit_code)

    async with trio.open_nursery() as nursery:
        for _ in range(200):
            nursery.start_soon(one)
    assert codes == {0}  # and `nothing_is_left` looks for the rest


async def test_a_failing_step_names_itself(supervisor, spec) -> None:
    with pytest.raises(pysuper.LaunchError, match="limit nofile") as caught:
        await supervisor.start(spec(rlimits=(pysuper.Rlimit("nofile", 1 << 40, 1 << 40),)))
    assert "setrlimit(2)" in str(caught.value)


@pytest.mark.skipif(cgroup_driver() == "none", reason="no cgroup can be had here")
async def test_a_limit_that_leaves_no_room_for_the_command_says_so(supervisor, spec) -> None:
    with pytest.raises(pysuper.LaunchError, match=r"^could not start the command of \S+: EAGAIN .*pids_max reached\?"):
        await supervisor.start(spec("true", limits=Limits(pids_max=1)))
