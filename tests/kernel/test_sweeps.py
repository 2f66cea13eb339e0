"""
Sweeps: cancellation at every checkpoint, and failure of every system call, of a container's start, of a command that
is executed in it, and of a socket that is opened in its network.

Whatever is interrupted, nothing hangs, nothing is left, and the error says which step it was.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

import pysuper
from machine import Snapshot, cgroup_driver, children
from pysuper.container import Container
from pysuper.testing.faults import cancelled_at


async def sweep(attempt: Callable[[], Awaitable[None]]) -> int:
    """Cancel at every checkpoint; how many there are."""
    step = 1
    before = Snapshot.take()
    while await cancelled_at(step, attempt):
        before.require_nothing_left()
        step += 1
    return step


@pytest.mark.parametrize(("init", "trace"), [(True, None), (False, None), (True, lambda _: None)])
async def test_cancellation_at_every_checkpoint_leaves_nothing(spec, init, trace) -> None:
    async def run() -> None:
        async with pysuper.open_supervisor() as supervisor:
            container = await supervisor.start(spec("sleep 0.01", init=init, stop_timeout=0.05), trace=trace)
            await container.wait()

    assert await sweep(run) > 20  # a start has that many checkpoints at least


async def execute(container: Container) -> None:
    """Execute a command, on a terminal; KilledError if it was by somebody."""
    async with container.execute(["sleep", "0.01"], terminal=True) as execution:
        if (await execution.wait()).signal == signal.SIGKILL:
            raise KilledError


async def open_socket(container: Container) -> None:
    """Open a socket, and close it."""
    (await container.open_socket()).close()


class KilledError(Exception):
    """A command was killed."""


JOINING = [execute, open_socket]


@pytest.mark.parametrize("join", JOINING)
async def test_cancellation_of_what_joins_a_container_leaves_nothing(supervisor, spec, join) -> None:
    container = await supervisor.start(spec("exec sleep 1000"))
    assert await sweep(partial(join, container)) > 5
    assert container.statistics().pids_current in {2, None}


@pytest.mark.skipif(cgroup_driver() == "none", reason="no cgroup can be had here")
async def test_cancellation_while_the_container_is_being_paused_leaves_nothing(supervisor, spec) -> None:
    container: Container = await supervisor.start(spec("exec sleep 1000"))
    before = Snapshot.take()
    for delay in range(1, 30):
        with trio.fail_after(30), trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(execute, container)
                await trio.lowlevel.checkpoint()  # it has begun, however late a short sleep ends
                await trio.sleep(delay / 3000)
                container.pause()
                scope.deadline = trio.current_time() + 0.01
        assert container.paused
        before.require_nothing_left()
        container.resume()
    assert container.statistics().pids_current in {2, None}


#: What the set-up of a container calls, beside what every process calls all the time.
SYSCALLS = [
    "capset",
    "chdir",
    "chown",
    "chroot",
    "clone",
    "clone3",
    "dup2",
    "execve",
    "fchdir",
    "fchmodat",
    "fchownat",
    "fork",
    "fsconfig",
    "fsmount",
    "fsopen",
    "keyctl",
    "landlock_add_rule",
    "landlock_create_ruleset",
    "landlock_restrict_self",
    "mkdirat",
    "mknodat",
    "mount_setattr",
    "move_mount",
    "open_tree",
    "openat2",
    "pivot_root",
    "prctl",
    "prlimit64",
    "sendmsg",
    "setgroups",
    "sethostname",
    "setns",
    "setresgid",
    "setresuid",
    "setsid",
    "symlinkat",
    "umount2",
    "unshare",
]


@contextmanager
def failing(launcher: int, name: str, when: int, fault: str = "error=EPERM") -> Iterator[None]:
    """Let the n-th call of a system call fail in every process that the launcher clones, strace(1)."""
    command = ["strace", "-f", "-qq", "-o", "/dev/null", "-p", str(launcher), "-e", f"trace={name}"]
    command += ["-e", f"inject={name}:{fault}:when={when}"]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        while f"TracerPid:\t{tracer.pid}" not in Path(f"/proc/{launcher}/status").read_text():
            assert tracer.poll() is None, tracer.stderr.read() if tracer.stderr else ""
        yield
    finally:
        tracer.terminate()
        tracer.communicate()


needs_strace = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("strace"), reason="attaches to a process that is not dumpable, with strace"
)


@needs_strace
@pytest.mark.parametrize("name", SYSCALLS)
async def test_failure_of_every_system_call_is_an_error_that_names_the_step(spec, name) -> None:
    wanted = spec("exit 0", mounts=(pysuper.TmpfsMount(target="/scratch"),), read_only=True)
    async with pysuper.open_supervisor() as supervisor:
        await (await supervisor.start(wanted)).wait()  # takes what a supervisor keeps, such as a block of ids
        (launcher,) = children()
        running = Snapshot.take()
        for when in range(1, 300):
            with failing(launcher, name, when), trio.fail_after(30):
                try:
                    container: Container = await supervisor.start(wanted)
                except pysuper.PysuperError as error:
                    assert str(error).startswith(("could not", "not in force", "sh:", "/", "working", "the first"))
                    failed = True
                else:
                    await container.wait()
                    failed = False
            running.require_nothing_left()
            if not failed:
                return
        pytest.fail(f"{name} failed {when} times")


#: What a process that joins a container calls, and the launcher does not.
JOINING_SYSCALLS = [
    "capset",
    "chdir",
    "dup2",
    "execve",
    "keyctl",
    "landlock_restrict_self",
    "prlimit64",
    "setgroups",
    "setns",
    "setresgid",
    "setresuid",
    "setsid",
    "socket",
]


@needs_strace
@pytest.mark.parametrize("fault", ["error=EPERM", "signal=KILL"])
@pytest.mark.parametrize("name", JOINING_SYSCALLS)
@pytest.mark.parametrize("join", JOINING)
async def test_what_joins_a_container_fails_or_dies_at_every_system_call(spec, join, name, fault) -> None:
    async with pysuper.open_supervisor() as supervisor:
        container: Container = await supervisor.start(spec("exec sleep 1000"))
        (launcher,) = children() - {container.pid}
        running = Snapshot.take()
        for when in range(1, 300):
            failed = False
            with failing(launcher, name, when, fault), trio.fail_after(30):
                try:
                    await join(container)
                except pysuper.PysuperError as error:
                    assert str(error).startswith(("could not", "not in force", "sleep:", "/", "working", "the process"))
                    failed = True
                except KilledError:  # on its last steps to the command
                    failed = True
            running.require_nothing_left()
            assert container.statistics().pids_current in {2, None}
            if not failed:
                return
        pytest.fail(f"{name} failed {when} times")
