"""A cgroup is made whole or not at all, belongs to one container, and nothing in it outlives it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import cgroup_machine
import pytest
import trio
from cgroup_machine import (
    FORK_BOMB,
    as_root,
    box,
    context,
    each_driver,
    left_behind,
    only,
)

from pysuper.drivers import CgroupDriver, NoOptions
from pysuper.errors import DriverError, StuckError
from pysuper_plugins.cgroup import directories, files, settings
from pysuper_plugins.cgroup.mounts import hierarchies
from pysuper_plugins.cgroup.settings import Setting
from pysuper_plugins.cgroup.v1 import V1Cgroup

pytestmark = as_root
nothing_left = cgroup_machine.nothing_left

#: Ignores SIGTERM, as does its orphaned child in a session of its own; prints the pids of both.
STUBBORN = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = os.fork()
if child:
    print(os.getpid(), child, flush=True)
else:
    os.setsid()
time.sleep(60)
"""

COUNT = "print('ready', flush=True)\nwhile True: pass"


def nothing() -> None:
    """Neither configures nor kills."""


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"


def ticks(pid: int) -> int:
    """CPU time that a process has used, in clock ticks."""
    return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))


def plain_directory(driver: type[CgroupDriver]) -> str:
    """A directory of a new container, that can be joined without being configured."""
    paths = [trace.path for trace in driver(NoOptions()).traces(context())]
    return next(p for p in paths if not Path(p).parent.joinpath("cpuset.mem_exclusive").exists())


@contextmanager
def sleeper(directory: str) -> Iterator[int]:
    """A process in a cgroup that is made from outside."""
    process = os.spawnvp(os.P_NOWAIT, "sleep", ["sleep", "60"])
    try:
        Path(directory, "cgroup.procs").write_text(str(process))
        yield process
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)


@each_driver()
async def test_what_ignores_sigterm_is_gone_at_the_end(driver: type[CgroupDriver]) -> None:
    async with box(driver, context()) as it:
        pids = [int(pid) for pid in it.say(STUBBORN).split()]
        assert it.cgroup.processes() == sorted(pids)
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
    assert not any(map(alive, pids))


@each_driver("pids")
async def test_a_fork_bomb_is_gone_at_the_end(driver: type[CgroupDriver]) -> None:
    async with box(driver, context(pids_max=50)) as it:
        it.say(FORK_BOMB)
        await trio.sleep(0.2)
        begin = time.monotonic()
    assert time.monotonic() - begin < 1.5


@each_driver("pids", "freezer")
async def test_one_kill_is_enough_for_a_fork_bomb(driver: type[CgroupDriver]) -> None:
    async with box(driver, context(pids_max=200)) as it:
        it.say(FORK_BOMB)
        await trio.sleep(0.2)
        assert len(it.cgroup.processes()) > 20
        it.cgroup.kill()
        with trio.fail_after(2):
            while it.cgroup.processes():
                await trio.sleep(0.01)


@each_driver()
async def test_it_is_made_below_the_cgroup_of_the_supervisor(driver: type[CgroupDriver]) -> None:
    """So that what limits the supervisor limits the container, too."""
    for trace in driver(NoOptions()).traces(context()):
        listed = Path(trace.path).parent.joinpath("cgroup.procs").read_text().split()
        assert str(os.getpid()) in listed


@each_driver()
async def test_a_failure_inside_passes_through_and_all_is_gone(driver: type[CgroupDriver]) -> None:
    with pytest.raises(RuntimeError, match=r"^inside$"):
        async with box(driver, context()) as it:
            pids = it.say(STUBBORN).split()
            raise RuntimeError("inside")
    assert not any(alive(int(pid)) for pid in pids)


@each_driver()
async def test_a_cancelled_container_is_gone(driver: type[CgroupDriver]) -> None:
    with trio.CancelScope() as scope:
        async with box(driver, context()) as it:
            pids = it.say(STUBBORN).split()
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert not any(alive(int(pid)) for pid in pids)


@each_driver("freezer")
async def test_a_frozen_process_does_not_run_until_thawed(driver: type[CgroupDriver]) -> None:
    async with box(driver, context()) as it:
        it.say(COUNT)
        pid = it.processes[0].pid
        it.cgroup.freeze()
        await trio.sleep(0.1)
        frozen_at = ticks(pid)
        await trio.sleep(0.3)
        assert ticks(pid) == frozen_at
        it.cgroup.thaw()
        with trio.fail_after(5):
            while ticks(pid) < frozen_at + 5:
                await trio.sleep(0.01)


@each_driver("freezer")
async def test_kill_reaches_a_frozen_process(driver: type[CgroupDriver]) -> None:
    async with box(driver, context()) as it:
        it.say(COUNT)
        it.cgroup.freeze()
        await trio.sleep(0.1)
        it.cgroup.kill()
        assert it.processes[0].wait(timeout=2) == -signal.SIGKILL


@each_driver("freezer")
async def test_a_frozen_container_is_gone_at_the_end(driver: type[CgroupDriver]) -> None:
    async with box(driver, context()) as it:
        pids = it.say(STUBBORN).split()
        it.cgroup.freeze()
    assert not any(alive(int(pid)) for pid in pids)


@each_driver()
async def test_an_empty_or_a_removed_cgroup_can_be_killed(driver: type[CgroupDriver]) -> None:
    async with box(driver, context()) as it:
        it.cgroup.kill()
        assert it.cgroup.processes() == []
    it.cgroup.kill()
    assert it.cgroup.processes() == []
    assert it.cgroup.statistics().pids_current is None


@each_driver()
async def test_cgroups_made_inside_are_gone_too(driver: type[CgroupDriver]) -> None:
    async with box(driver, context()) as it:
        it.say(STUBBORN)
        below = [f"{directory}/below" for directory in it.directories]
        for path in below:
            Path(path, "further").mkdir(parents=True)
        pids = it.cgroup.processes()
        for path in below:
            if Path(path, "cpuset.cpus").exists() and driver is V1Cgroup:
                continue
            Path(path, "cgroup.procs").write_text(str(pids[0]))
            if Path(path, "freezer.state").exists():
                Path(path, "freezer.state").write_text("FROZEN")
        assert it.cgroup.processes() == pids
    assert not any(map(alive, pids))


@each_driver()
async def test_two_containers_never_share_a_cgroup(driver: type[CgroupDriver]) -> None:
    same = context(name="same")
    async with box(driver, same) as first:
        pids = [int(pid) for pid in first.say(STUBBORN).split()]
        with pytest.raises(DriverError, match=r"same: EEXIST .*; a container of that id exists"):
            async with box(driver, same):
                pytest.fail("it was shared")
        assert first.cgroup.processes() == sorted(pids)
        assert all(map(alive, pids))


@each_driver()
async def test_a_directory_that_cannot_be_made_undoes_the_others(
    driver: type[CgroupDriver],
) -> None:
    it = context()
    for trace in driver(NoOptions()).traces(it):
        Path(trace.path).mkdir()
        try:
            with pytest.raises(DriverError, match="EEXIST"):
                async with box(driver, it):
                    pytest.fail("it was made")
            assert left_behind() == [trace.path]
        finally:
            Path(trace.path).rmdir()


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"pids_max": 4194305}, r"cannot write '4194305' to .*pids\.max: EINVAL.*4194304"),
    ({"cpu_max": 0.001}, r"cannot write '100.* to .*cpu\..*: EINVAL.*at least 0\.01"),
    ({"io_max": {"9:9": {"rbps": 1}}}, r"cannot write '9:9 .*: ENODEV.*lsblk"),
]


@each_driver("pids", "cpu", "io")
@pytest.mark.parametrize(("limits", "message"), REFUSED, ids=["pids", "cpu", "io"])
async def test_a_value_that_the_kernel_refuses_undoes_everything(
    driver: type[CgroupDriver], limits: dict[str, Any], message: str
) -> None:
    with pytest.raises(DriverError, match=message):
        async with box(driver, context(**limits)):
            pytest.fail("it was made")


@each_driver("pids", "memory", "cpu", "cpuset")
async def test_any_write_that_fails_undoes_everything(driver: type[CgroupDriver]) -> None:
    """As `host` does it, with each of its writes in turn going to a file that does not exist."""
    it = context(pids_max=5, memory_max=1 << 30, cpu_max=1, cpuset_cpus="0")
    made = driver(NoOptions())
    async with made.host(it):
        wanted = made._layout(it).choice.settings  # type: ignore[attr-defined]
    paths = [trace.path for trace in made.traces(it)]
    assert len(wanted) >= 6
    for index in range(len(wanted)):
        broken = [*wanted[:index], Setting(path=f"{paths[0]}/pids.mux", value="1")]
        configure = partial(settings.apply, "test", broken)
        with pytest.raises(DriverError, match=r"cannot write '1' to .*/pids\.mux: ENOENT"):
            async with directories.made("test", paths, configure=configure, kill=nothing):
                pytest.fail("it was made")
        assert left_behind() == []


def test_a_file_that_is_missing_is_never_created(tmp_path: Path) -> None:
    limit = Setting(path=f"{tmp_path}/pids.max", value="20")
    with pytest.raises(DriverError, match=r"ENOENT.*the directory is no cgroup"):
        settings.apply("v1", [limit])
    assert list(tmp_path.iterdir()) == []


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("old")
    (tmp_path / "pids.max").symlink_to("target")
    with pytest.raises(DriverError, match="ELOOP"):
        settings.apply("v1", [Setting(path=f"{tmp_path}/pids.max", value="20")])
    assert (tmp_path / "target").read_text() == "old"


@only("v1", "freezer")
async def test_what_outlives_sigkill_is_reported_within_a_bound() -> None:
    """A v1 freezer above the container's keeps SIGKILL from arriving."""
    freezer = next(h for h in hierarchies() if "freezer" in h.controllers)
    above = Path(f"{freezer.own}/pysuper.{context(name='above').id}")
    inside = above / "container"
    inside.mkdir(parents=True)
    with ExitStack() as stack:
        stack.callback(above.rmdir)
        stack.callback(inside.rmdir)
        process = stack.enter_context(sleeper(str(inside)))
        (above / "freezer.state").write_text("FROZEN")
        stack.callback((above / "freezer.state").write_text, "THAWED")
        begin = time.monotonic()
        with pytest.raises(StuckError, match=rf"{process} \(sleep, D .*left behind: {inside};"):
            await directories.remove("v1", [str(inside)], lambda: files.kill([str(inside)]))
        assert 1.5 < time.monotonic() - begin < 3


@each_driver()
async def test_waiting_for_the_stuck_blocks_nobody(driver: type[CgroupDriver]) -> None:
    path = plain_directory(driver)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await trio.sleep(0.01)
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(others)
        with ExitStack() as stack, pytest.raises(StuckError, match=r"\d \(sleep, S \(sleeping\)\)"):
            async with directories.made("test", [path], configure=nothing, kill=nothing):
                stack.callback(os.rmdir, path)
                stack.enter_context(sleeper(path))
        nursery.cancel_scope.cancel()
    assert turns > 50


@each_driver()
async def test_cancellation_does_not_cut_the_end_short(driver: type[CgroupDriver]) -> None:
    path = plain_directory(driver)
    calls = 0

    def kill_at_last() -> None:
        nonlocal calls
        calls += 1
        if calls == 5:
            files.kill([path])

    with ExitStack() as stack, trio.CancelScope() as scope:
        async with directories.made("test", [path], configure=nothing, kill=kill_at_last):
            stack.enter_context(sleeper(path))
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert not Path(path).exists()
