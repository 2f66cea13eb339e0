"""The trace of a start: what it tells, when, and that it changes nothing."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import attrs
import pexpect
import pytest
import trio

import pysuper
from machine import PATIENCE, Snapshot
from pysuper import registry
from pysuper.drivers import Context, Launcher, NetworkDriver, Phase, PlanBuilder
from pysuper.launcher.client import reap, receive
from pysuper.plan import Plan
from pysuper.process import standard_files
from pysuper.receipts import FileHolds
from pysuper.steps import Barrier, Setsid, SetUmask
from registered import register as register  # noqa: PLC0414 - a fixture

Traced = pysuper.Traced
PYSUPER = [sys.executable, "-m", "pysuper"]
#: `+ 12.34 ms   0.12 ms  what`, with its numbers; the second one may be missing, or be `failed`.
LINE = re.compile(r"pysuper: \+ +(?P<at>\d+\.\d\d) ms +(?:(?P<took>\d+\.\d\d) ms|(?P<failed>failed)|)  (?P<what>\S.*)")


def kinds(told: list[Traced]) -> list[str]:
    """Each part once, in order."""
    found = [traced.kind for traced in told]
    return [kind for before, kind in pairwise(["", *found]) if kind != before]


async def test_everything_on_the_way_to_the_command_is_told_in_order(supervisor, spec) -> None:
    told: list[Traced] = []
    container = await supervisor.start(spec("exit 3"), trace=told.append)
    assert kinds(told) == ["planning", "driver", "launch", "step", "receipts", "command"]
    steps = [traced for traced in told if traced.kind == "step"]
    assert [traced.index for traced in steps] == list(range(len(container.plan.steps)))
    assert [traced.description for traced in steps] == [step.describe() for step in container.plan.steps]
    assert {traced.index for traced in told if traced.kind != "step"} == {None}
    assert told[-1].description == f"execute 'sh' '-c' {'exit 3'!r}"
    assert f"check that {len(container.receipts)} promises are in force" == told[-2].description
    launch = [traced.description for traced in told if traced.kind == "launch"]
    assert launch[1:] == list(container.plan.describe())[: len(launch) - 1]
    assert (await container.wait()).exit_code == 3


async def test_times_are_seconds_since_the_start_and_add_up(supervisor, spec) -> None:
    told: list[Traced] = []
    await supervisor.start(spec(), trace=told.append)
    assert not any(traced.failed for traced in told)
    assert [traced.kind for traced in told if traced.seconds is None] == ["command"]
    times = [(traced.at - (traced.seconds or 0), traced.at) for traced in told]
    assert all(0 <= began <= ended for began, ended in times)
    assert all(one[1] <= other[0] + 1e-6 for one, other in pairwise(times))  # one after the other
    assert told[-1].at < 60


async def test_a_step_is_told_when_it_is_done_and_not_when_all_are(supervisor, spec, register) -> None:
    told: list[Traced] = []
    at_barrier: list[Traced] = []

    class Waits(NetworkDriver):
        def contribute(self, plan: PlanBuilder) -> None:
            plan.add(Phase.SESSION, SetUmask(umask=1))
            plan.add(Phase.SESSION, Barrier(name="waits"))

        async def at_barrier(self, name: str, pid: int) -> None:
            at_barrier.extend(told)

    await supervisor.start(spec(network=register("waits", Waits)), trace=told.append)
    assert at_barrier[-1].description == "set the umask to 001"
    assert "wait for the supervisor (waits)" in [traced.description for traced in told]


async def test_the_command_does_not_run_before_it_is_told_that_it_will(supervisor, spec, tmp_path) -> None:
    (shared := tmp_path / "shared").mkdir()
    shared.chmod(0o777)

    def tell(traced: Traced) -> None:
        if traced.kind == "command":
            time.sleep(0.3 * PATIENCE)
            assert list(shared.iterdir()) == []

    mounts = (pysuper.BindMount(source=str(shared), target="/shared"),)
    container = await supervisor.start(spec("touch /shared/ran", mounts=mounts), trace=tell)
    assert (await container.wait()).exit_code == 0
    assert [path.name for path in shared.iterdir()] == ["ran"]


async def test_a_process_that_is_not_to_trace_says_nothing_of_its_steps() -> None:
    quiet = Plan(
        id="box.0",
        clone=(),
        holder=None,
        ids=None,
        cgroup=None,
        phases={Phase.SESSION: (Setsid(), SetUmask(umask=1))},
        command=None,
        checks=(),
        warnings=(),
    )
    assert await said(quiet) == ["barrier"]
    assert await said(attrs.evolve(quiet, trace=True)) == ["done", "done", "barrier"]


async def said(plan: Plan) -> list[str]:
    """What the process of a plan says until it waits for its command."""
    launcher: Launcher = registry.load("pysuper.launcher", "python")()
    found: list[str] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(launcher.serve)
        with standard_files(None, None, None) as files:
            async with launcher.launch(plan, files, {}) as launched:
                while "barrier" not in found:
                    message, _, _ = await receive(launched.status)
                    assert message is not None
                    found.append(next(iter(message)))
                signal.pidfd_send_signal(launched.pidfd, signal.SIGKILL)
                await reap(launched.pid, launched.pidfd)
        nursery.cancel_scope.cancel()
    return found


async def test_what_joins_the_container_later_is_not_traced(supervisor, spec) -> None:
    told: list[Traced] = []
    container = await supervisor.start(spec("exec sleep 1000"), trace=told.append)
    before = list(told)
    async with container.execute(["true"]) as execution:
        assert (await execution.wait()).exit_code == 0
    (await container.open_socket()).close()
    assert told == before


async def test_a_step_that_fails_is_told_as_the_last_one(supervisor, spec) -> None:
    told: list[Traced] = []
    limit = pysuper.Rlimit("nofile", 1 << 40, 1 << 40)
    with pytest.raises(pysuper.LaunchError) as caught:
        await supervisor.start(spec(rlimits=(limit,)), trace=told.append)
    last = told[-1]
    assert (last.description, last.failed, last.seconds, last.kind) == (caught.value.step, True, None, "step")
    assert last.index == told[-2].index + 1
    assert not any(traced.failed for traced in told[:-1])


@pytest.mark.parametrize("place", ["contribute", "host", "promise"])
async def test_a_driver_that_fails_is_told_where_it_does(supervisor, spec, register, place) -> None:
    class Fails(NetworkDriver):
        def contribute(self, plan: PlanBuilder) -> None:
            if place == "contribute":
                raise ValueError(place)
            if place == "promise":
                plan.check(FileHolds(path="/proc/{pid}/comm", content="another"))

        @asynccontextmanager
        async def host(self, context: Context) -> AsyncIterator[None]:
            if place == "host":
                raise ValueError(place)
            yield

    told: list[Traced] = []
    with pytest.raises(pysuper.PysuperError):
        await supervisor.start(spec(network=register("fails", Fails)), trace=told.append)
    description = {
        "contribute": "make the plan",
        "host": "enter the network driver 'fails' of third-party 1.0",
        "promise": r"check that \d+ promises are in force",
    }[place]
    assert re.fullmatch(description, told[-1].description)
    assert [traced for traced in told if traced.failed] == [told[-1]]


async def test_a_command_that_cannot_be_executed_is_told_twice(supervisor, spec) -> None:
    told: list[Traced] = []
    with pytest.raises(pysuper.CommandNotFound):
        await supervisor.start(spec(command=("no-such-command",)), trace=told.append)
    commands = [(traced.description, traced.failed) for traced in told if traced.kind == "command"]
    assert commands == [("execute 'no-such-command'", False), ("execute 'no-such-command'", True)]


@pytest.mark.parametrize("kind", ["planning", "driver", "launch", "step", "receipts", "command"])
async def test_who_is_told_may_raise_and_the_start_is_undone(supervisor, spec, kind) -> None:
    def tell(traced: Traced) -> None:
        if traced.kind == kind:
            raise ZeroDivisionError

    before = Snapshot.take()
    with pytest.raises(ZeroDivisionError):
        async with pysuper.open_supervisor() as doomed:
            await doomed.start(spec("exec sleep 1000"), trace=tell)
    before.require_nothing_left()


# --- on the command line ---


def run(*argv: str) -> tuple[int, list[str]]:
    """The exit status of `pysuper run --trace`, and what it and its command say, in the order in which they do."""
    command = [*PYSUPER, "run", "--trace", *argv]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, check=False
    )
    return done.returncode, done.stdout.decode().splitlines()


def test_the_trace_is_complete_before_the_command_says_anything() -> None:
    status, lines = run("--name", "box", "--", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (status, lines[-2:]) == (3, ["out", "err"])
    found = [LINE.fullmatch(line) for line in lines[:-3]]
    assert all(found), lines
    what = [match["what"] for match in found if match]
    assert what[:2] == ["choose the drivers", "make the plan"]
    assert "set the host name to box" in what
    assert what[-1] == f"execute 'sh' '-c' {'echo out; echo err >&2; exit 3'!r}"
    assert [match["what"] for match in found if match and match["took"] is None] == what[-1:]


def test_the_last_line_of_the_trace_has_the_total_and_its_parts() -> None:
    _, lines = run("true")
    last, total = LINE.fullmatch(lines[-2]), lines[-1]
    assert last is not None
    assert total.startswith(f"pysuper: {last['at']} ms until the command: planning ")
    steps = sum("  make the device" in line or "  hide" in line for line in lines)
    counted = re.search(r", host side \d+\.\d\d ms, launch .*, (\d+) steps \d+\.\d\d ms, receipts \d", total)
    assert counted is not None
    assert int(counted[1]) > steps > 5


def test_a_step_that_fails_is_shown_and_then_the_error() -> None:
    status, lines = run("--ulimit", "nofile=9999999999", "true")
    assert status == 125
    failed = LINE.fullmatch(lines[-2])
    assert failed is not None
    assert (failed["failed"], failed["what"]) == ("failed", "limit nofile to 9999999999 (hard 9999999999)")
    assert lines[-1].startswith("pysuper: could not limit nofile")


def test_without_the_option_nothing_is_shown() -> None:
    done = subprocess.run([*PYSUPER, "run", "true"], capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_no_text_of_the_user_forges_a_line_or_drives_the_terminal(tmp_path: Path) -> None:
    hostile = tmp_path / "a\npysuper: +   0.00 ms    0.00 ms  \x1b[2J"
    hostile.mkdir()
    _, lines = run("--mount", f"type=bind,src={hostile},dst=/x", "true")
    step, warning = (line for line in lines if "[2J" in line)
    for shown in (step, warning):
        assert shown.isprintable()
        assert r"a\npysuper" in shown


def test_the_container_of_a_file_is_traced(tmp_path: Path) -> None:
    (tmp_path / "box.toml").write_text('[container.box]\ncommand = ["echo", "ran"]\n')
    status, lines = run("-f", str(tmp_path / "box.toml"))
    assert (status, lines[-1]) == (0, "ran")
    assert any(line.endswith("  set the host name to box") for line in lines)


def test_on_a_terminal_the_trace_comes_before_the_commands_screen() -> None:
    process = pexpect.spawn(sys.executable, ["-m", "pysuper", "run", "--trace", "--", "tty"], timeout=20)
    said = process.read().decode()
    process.close()
    assert process.exitstatus == 0
    assert said.endswith("/dev/pts/0\r\n")
    lines = said.removesuffix("/dev/pts/0\r\n").removesuffix("\r\n").split("\r\n")
    assert [line for line in lines[:-1] if not LINE.fullmatch(line)] == []
    assert "  open a pseudo-terminal and hand its master to the supervisor" in said
