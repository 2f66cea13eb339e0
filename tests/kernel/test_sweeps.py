"""
Sweeps: cancellation at every checkpoint, and failure of every system call, of a container's start.

Whatever is interrupted, nothing hangs, nothing is left, and the error says which step it was.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

import pysuper
from machine import CancelAt, Snapshot, children
from pysuper.container import Container


async def cancelled_at(step: int, spec: pysuper.ContainerSpec) -> bool:
    """Run a container and cancel it at a task step; whether it was cancelled before it ended."""
    with trio.fail_after(30), trio.CancelScope() as scope:
        instrument = CancelAt(scope, step)
        trio.lowlevel.add_instrument(instrument)
        try:
            async with pysuper.open_supervisor() as supervisor:
                container = await supervisor.start(spec)
                await container.wait()
        finally:
            trio.lowlevel.remove_instrument(instrument)
    return scope.cancelled_caught


@pytest.mark.parametrize("init", [True, False])
async def test_cancellation_at_every_checkpoint_leaves_nothing(spec, init) -> None:
    step = 1
    before = Snapshot.take()
    while await cancelled_at(step, spec("sleep 0.01", init=init, stop_timeout=0.05)):
        Snapshot.take_settled(before).assert_equals(before)
        step += 1
    assert step > 20  # a start has that many checkpoints at least


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
    "mkdirat",
    "mknodat",
    "mount_setattr",
    "move_mount",
    "open_tree",
    "openat2",
    "pivot_root",
    "prctl",
    "prlimit64",
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
def failing(launcher: int, name: str, when: int) -> Iterator[None]:
    """Let the n-th call of a system call fail in every process that the launcher clones, strace(1)."""
    command = ["strace", "-f", "-qq", "-o", "/dev/null", "-p", str(launcher), "-e", f"trace={name}"]
    command += ["-e", f"inject={name}:error=EPERM:when={when}"]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        while f"TracerPid:\t{tracer.pid}" not in Path(f"/proc/{launcher}/status").read_text():
            assert tracer.poll() is None, tracer.stderr.read() if tracer.stderr else ""
        yield
    finally:
        tracer.terminate()
        tracer.communicate()


@pytest.mark.skipif(not shutil.which("strace"), reason="needs strace")
@pytest.mark.skipif(os.geteuid() != 0, reason="attaches to a process that is not dumpable")
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
            Snapshot.take_settled(running).assert_equals(running)
            if not failed:
                return
        pytest.fail(f"{name} failed {when} times")
