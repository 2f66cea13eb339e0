"""The limits hold, for real processes in real cgroups, and what they did is counted."""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path
from typing import Any

import attrs
import cgroup_machine
import pytest
import trio
from cgroup_machine import (
    MIB,
    Box,
    as_root,
    box,
    context,
    each_driver,
    first_line,
)

from pysuper import receipts
from pysuper.drivers import CgroupDriver
from pysuper.errors import LimitError
from pysuper.spec import DEFAULT_PIDS_MAX
from pysuper_plugins.cgroup import files
from pysuper_plugins.cgroup.v1 import V1Cgroup

pytestmark = as_root
nothing_left = cgroup_machine.nothing_left

SLEEP = "import time; print('ready', flush=True); time.sleep(60)"

FORK_UNTIL_REFUSED = """
import os, time
children = 0
try:
    while True:
        if os.fork() == 0:
            time.sleep(60)
        children += 1
except OSError as error:
    print(children, error.errno, flush=True)
time.sleep(60)
"""

READ_DIRECTLY = """
import mmap, os, sys, time
file = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECT)
buffer = mmap.mmap(-1, 1 << 20)
begin = time.monotonic()
while os.readv(file, [buffer]):
    pass
print(time.monotonic() - begin, flush=True)
"""


def whole_disks() -> list[str]:
    """`MAJOR:MINOR` of the disks of this machine."""
    return [path.read_text().strip() for path in Path("/sys/block").glob("*/dev")]


@pytest.fixture
def disk(tmp_path: Path) -> str:
    """`MAJOR:MINOR` of the disk that the temporary directory is on."""
    device = os.stat(tmp_path).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    if number not in whole_disks():
        pytest.skip(f"{tmp_path} is on {number}, which is no whole disk")
    return number


@each_driver("pids")
async def test_a_fork_bomb_stops_at_pids_max_and_is_counted(driver: type[CgroupDriver]) -> None:
    async with box(driver, context(pids_max=20)) as it:
        assert it.say(FORK_UNTIL_REFUSED) == f"19 {errno.EAGAIN}"
        assert it.cgroup.statistics().pids_current == 20
        assert it.cgroup.statistics().pids_max_hits == 1
        assert len(it.cgroup.processes()) == 20


@each_driver("pids")
async def test_without_a_wish_there_is_a_guard(driver: type[CgroupDriver]) -> None:
    async with box(driver, context()) as it:
        assert it.file("pids.max").read_text() == f"{DEFAULT_PIDS_MAX}\n"


@each_driver("pids")
async def test_minus_one_is_no_limit(driver: type[CgroupDriver]) -> None:
    async with box(driver, context(pids_max=-1)) as it:
        assert it.file("pids.max").read_text() == "max\n"
        it.say(SLEEP)
        receipts.take(it.plan.checks, it.processes[0].pid)


@each_driver("memory")
async def test_a_memory_hog_is_killed_and_counted(driver: type[CgroupDriver]) -> None:
    async with box(driver, context(memory_max=32 * MIB)) as it:
        hog = it.spawn("bytearray(256 << 20)")
        assert hog.wait(timeout=30) == -signal.SIGKILL
        counted = it.cgroup.statistics()
        assert counted.oom_kills == 1
        assert counted.memory_peak is not None
        assert 24 * MIB <= counted.memory_peak <= 32 * MIB


@each_driver("memory")
async def test_what_fits_into_memory_max_lives(driver: type[CgroupDriver]) -> None:
    async with box(driver, context(memory_max=64 * MIB)) as it:
        assert it.spawn("bytearray(8 << 20)").wait(timeout=30) == 0
        assert it.cgroup.statistics().oom_kills == 0


@each_driver("cpu")
async def test_a_busy_loop_gets_its_share_of_a_core(driver: type[CgroupDriver]) -> None:
    async with box(driver, context(cpu_max=0.2)) as it:
        it.say("print('ready', flush=True)\nwhile True: pass")
        before, begin = cpu_seconds(it), time.monotonic()
        await trio.sleep(1)
        used, passed = cpu_seconds(it) - before, time.monotonic() - begin
        # A period more or less at either end, and less on a busy machine.
        assert 0.1 * passed < used < 0.3 * passed
        stat = dict(line.split() for line in it.file("cpu.stat").read_text().splitlines())
        assert int(stat["nr_throttled"]) > 0


def cpu_seconds(it: Box) -> float:
    counted = it.cgroup.statistics()
    assert counted.cpu_user is not None
    assert counted.cpu_system is not None
    return counted.cpu_user + counted.cpu_system


USE_BOTH = """
import os, time
print(*os.times()[:2], flush=True)
time.sleep(0.5)
user, system = os.times()[:2]
while os.times()[0] < user + 0.5:
    sum(range(10**5))
while os.times()[1] < system + 0.5:
    os.urandom(1 << 16)
print(*os.times()[:2], flush=True)
time.sleep(60)
"""


@each_driver("cpuacct")
async def test_cpu_time_is_counted_in_seconds(driver: type[CgroupDriver]) -> None:
    async with box(driver, context()) as it:
        process = it.spawn(USE_BOTH)
        before = sum(map(float, first_line(process).split())), it.cgroup.statistics()
        after = sum(map(float, first_line(process).split())), it.cgroup.statistics()
        user = (after[1].cpu_user or 0) - (before[1].cpu_user or 0)
        system = (after[1].cpu_system or 0) - (before[1].cpu_system or 0)
        assert user + system == pytest.approx(after[0] - before[0], abs=0.1)
        # How it divides is sampled by ticks.
        assert min(user, system) > 0.2


#: Works a hundred times for five eighths of a tick, and sleeps when the timer's interrupt comes.
#: CLOCK_MONOTONIC_COARSE, which says when that is, is 6, clock_gettime(2).
AWAY_AT_TICKS = """
import time
TICK = time.clock_getres(6)
print(time.process_time(), flush=True)
time.sleep(0.2)
for _ in range(100):
    last = time.clock_gettime(6)
    start = last + TICK * (1 + (time.monotonic() - last) // TICK)
    time.sleep(max(0, start + TICK / 8 - time.monotonic()))
    while time.monotonic() < start + TICK * 6 / 8:
        pass
print(time.process_time(), flush=True)
time.sleep(60)
"""


@each_driver("cpuacct")
async def test_who_sleeps_at_each_tick_is_counted_too(driver: type[CgroupDriver]) -> None:
    async with box(driver, context()) as it:
        process = it.spawn(AWAY_AT_TICKS)
        before = float(first_line(process)), cpu_seconds(it)
        after = float(first_line(process)), cpu_seconds(it)
        assert after[1] - before[1] == pytest.approx(after[0] - before[0], abs=0.05)


@each_driver("cpuset")
async def test_a_cpuset_decides_where_it_runs(driver: type[CgroupDriver]) -> None:
    last = max(os.sched_getaffinity(0))
    async with box(driver, context(cpuset_cpus=str(last))) as it:
        assert it.say("import os; print(os.sched_getaffinity(0))") == str({last})


@each_driver("cpuset")
async def test_a_list_of_cores_may_be_written_in_any_way(driver: type[CgroupDriver]) -> None:
    cores = sorted(os.sched_getaffinity(0))
    async with box(driver, context(cpuset_cpus=",".join(map(str, reversed(cores))))) as it:
        it.say(SLEEP)
        receipts.take(it.plan.checks, it.processes[0].pid)


@each_driver("io")
async def test_reading_a_disk_takes_its_time(driver: type[CgroupDriver], tmp_path: Path, disk: str) -> None:
    (tmp_path / "data").write_bytes(os.urandom(8 * MIB))
    os.sync()
    async with box(driver, context()) as it:
        assert float(it.say(READ_DIRECTLY, str(tmp_path / "data"))) < 0.5
    async with box(driver, context(io_max={disk: {"rbps": 8 * MIB}})) as it:
        assert float(it.say(READ_DIRECTLY, str(tmp_path / "data"))) > 0.7


@each_driver("pids", "memory", "cpu", "cpuset", "io")
async def test_every_promise_is_kept(driver: type[CgroupDriver]) -> None:
    limits: dict[str, Any] = {
        "pids_max": 7,
        # Not whole pages: the kernel rounds down, and the promise knows.
        "memory_max": 50 * MIB + 1,
        "memory_swap_max": 10 * MIB + 4095,
        "cpu_max": 1.5,
        "cpuset_cpus": "0",
        "io_max": {
            # Several, because the kernel lists them in an order of its own.
            disk: {"rbps": 100 * MIB + n, "wiops": 1000 + n}
            for n, disk in enumerate(whole_disks()[:3])
        },
    }
    async with box(driver, context(**limits)) as it:
        it.say(SLEEP)
        taken = receipts.take(it.plan.checks, it.processes[0].pid)
        files = {Path(receipt.source).name for receipt in taken}
        v1 = {"cgroup", "pids.max", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"}
        v1 |= {"cpu.cfs_quota_us", "cpu.cfs_period_us", "cpuset.cpus", "devices.list"}
        v1 |= {"blkio.throttle.read_bps_device", "blkio.throttle.write_iops_device"}
        v2 = {"cgroup.procs", "pids.max", "memory.max", "memory.swap.max", "cpu.max", "io.max"}
        v2 |= {"cpuset.cpus", "cpuset.cpus.effective"}
        assert files == (v1 if driver is V1Cgroup else v2)


@each_driver("memory", "cpu")
async def test_a_limit_beyond_what_the_machine_has_is_fine(driver: type[CgroupDriver]) -> None:
    async with box(driver, context(memory_max=2**70, memory_swap_max=2**64, cpu_max=4096)) as it:
        it.say(SLEEP)
        receipts.take(it.plan.checks, it.processes[0].pid)


@each_driver()
async def test_a_process_that_did_not_join_breaks_the_promise(driver: type[CgroupDriver]) -> None:
    async with box(driver, context()) as it:
        with pytest.raises(LimitError, match="the process is (listed )?in .*pysuper"):
            receipts.take(it.plan.checks, os.getpid())


@each_driver("pids")
async def test_a_limit_that_was_changed_breaks_the_promise(driver: type[CgroupDriver]) -> None:
    async with box(driver, context(pids_max=20)) as it:
        it.say(SLEEP)
        it.file("pids.max").write_text("21")
        with pytest.raises(LimitError, match=r"pids\.max says '21', not '20'"):
            receipts.take(it.plan.checks, it.processes[0].pid)


@each_driver("devices")
async def test_only_the_private_devices_open(driver: type[CgroupDriver], tmp_path: Path) -> None:
    code = """
import os, stat, sys
def refused(make, number):
    try:
        os.mknod(f"{sys.argv[1]}/{make}.{number}", make | 0o600, os.makedev(*number))
        os.close(os.open(f"{sys.argv[1]}/{make}.{number}", os.O_RDWR | os.O_NONBLOCK))
    except PermissionError:
        return True
    return False
print(refused(stat.S_IFCHR, (1, 3)), refused(stat.S_IFCHR, (1, 11)), refused(stat.S_IFBLK, (7, 0)))
"""
    async with box(driver, context()) as it:
        # null, kmsg, loop0
        assert it.say(code, str(tmp_path)) == "False True True"


@each_driver()
async def test_statistics_are_none_where_nothing_counts(driver: type[CgroupDriver]) -> None:
    async with box(driver, context()) as it:
        it.say(SLEEP)
        counted = attrs.asdict(it.cgroup.statistics())
        there = {"cpu_user": "cpuacct.usage", "memory_current": "memory.usage_in_bytes"}
        if driver is not V1Cgroup:
            there = {"cpu_user": "cpu.stat", "memory_current": "memory.current"}
        there |= {"pids_current": "pids.current"}
        for field, file in there.items():
            here = any(Path(directory, file).exists() for directory in it.directories)
            assert (counted[field] is not None) == here


@each_driver()
async def test_pressure_is_counted_by_v2_alone(driver: type[CgroupDriver]) -> None:
    async with box(driver, context()) as it:
        it.say(SLEEP)
        pressure = it.cgroup.statistics().pressure
        here = {
            name
            for name in ("cpu", "memory", "io")
            if any(Path(d, f"{name}.pressure").exists() for d in it.directories)
        }
        assert set(pressure or {}) == here
        assert driver is not V1Cgroup or pressure is None
        assert all(0 <= share <= 100 for share in (pressure or {}).values())


def test_pressure_is_the_share_of_ten_seconds_in_which_some_waited(tmp_path: Path) -> None:
    file = tmp_path / "cpu.pressure"
    file.write_text(
        "some avg10=12.50 avg60=1.00 avg300=0.00 total=99\nfull avg10=3.00 avg60=0.00 avg300=0.00 total=9\n"
    )
    assert files.read_pressure(str(file)) == 12.5
    file.write_text("")
    assert files.read_pressure(str(file)) is None
    assert files.read_pressure(str(tmp_path / "no.pressure")) is None
