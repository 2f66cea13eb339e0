"""Limits, by hitting them, and what the record says of it."""

from __future__ import annotations

import os
import resource
import shutil
from pathlib import Path

import pytest

import pysuper
from machine import cgroup_driver
from pysuper import DriverChoice, Limits, Rlimit

needs_cgroup = pytest.mark.skipif(cgroup_driver() == "none", reason="no cgroup can be had here")

#: Starts at most 200 sleeping processes: a fork bomb that ends by itself where nothing stops it.
BOMB = "for i in $(seq 200); do sleep 1000 & done 2>/dev/null; set -- /proc/[0-9]*; echo $#"


@needs_cgroup
async def test_a_fork_bomb_stops_at_pids_max(supervisor, spec) -> None:
    quiet = await supervisor.start(spec("exec sleep 1000", limits=Limits(pids_max=20)))
    record = await (await supervisor.start(spec(BOMB, limits=Limits(pids_max=20)), stderr=None)).wait()
    assert record.pids_max_hits is not None
    assert record.pids_max_hits > 0
    assert os.path.exists(f"/proc/{quiet.pid}")
    promised = [receipt for receipt in record.receipts if receipt.source.endswith("pids.max")]
    assert [(receipt.expected, receipt.actual) for receipt in promised] == [("20", "20")]


@needs_cgroup
async def test_without_the_limit_the_bomb_goes_off(output) -> None:
    """The other direction: the test above could fail."""
    assert int(await output(BOMB)) == 202  # with the init and the shell


@needs_cgroup
async def test_no_more_than_pids_max_processes_run(supervisor, spec) -> None:
    container = await supervisor.start(spec(f"{BOMB}; exec sleep 1000", limits=Limits(pids_max=20)), stderr=None)
    inside = Path(f"/proc/{container.pid}/ns/pid").readlink()
    count = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                count += (entry / "ns/pid").readlink() == inside
            except OSError:
                continue
    assert count <= 20


@needs_cgroup
async def test_parallel_containers_never_share_a_limit(supervisor, spec) -> None:
    records = []
    for _ in range(2):
        script = "for i in $(seq 12); do sleep 1000 & done"
        records.append(await supervisor.start(spec(script, name="same", limits=Limits(pids_max=20))))
    assert [(await container.wait()).pids_max_hits for container in records] == [0, 0]


@needs_cgroup
async def test_out_of_memory_is_told_from_other_kills(supervisor, spec) -> None:
    hog = "exec python3 -c 'x = bytearray(300 << 20)'" if shutil.which("python3") else "tail /dev/zero"
    command = ("/usr/bin/env", "sh", "-c", hog.replace("python3", "/usr/bin/python3"))
    record = await (await supervisor.start(spec(command=command, limits=Limits(memory_max=64 << 20)))).wait()
    assert (record.reason, record.signal) == ("oom", 9)
    assert record.oom_kills
    assert record.memory_peak is not None
    assert 32 << 20 < record.memory_peak <= 64 << 20
    record = await (await supervisor.start(spec("kill -9 $$", limits=Limits(memory_max=64 << 20)))).wait()
    assert (record.reason, record.signal, record.oom_kills) == ("signaled", 9, 0)


@needs_cgroup
async def test_a_kill_on_request_is_none_of_the_kernels_that_had_killed_another_process(supervisor, spec) -> None:
    container = await supervisor.start(spec("exec sleep 1000", limits=Limits(memory_max=64 << 20)))
    async with container.execute(["tail", "/dev/zero"]) as hog:
        assert (await hog.wait()).signal == 9
    container.kill()
    record = await container.wait()
    assert record.oom_kills
    assert (record.reason, record.signal) == ("signaled", 9)


@needs_cgroup
async def test_cpu_time_is_limited_and_counted(supervisor, spec) -> None:
    script = "exec timeout 2 sh -c 'while :; do :; done'"
    record = await (await supervisor.start(spec(script, limits=Limits(cpu_max=0.2)))).wait()
    assert 0.05 < record.user_seconds + record.system_seconds < 0.5 * record.wall_seconds


@needs_cgroup
async def test_cpuset_binds_to_the_named_cpu(output) -> None:
    found = await output("grep Cpus_allowed_list /proc/self/status", limits=Limits(cpuset_cpus="0"))
    assert found.split() == ["Cpus_allowed_list:", "0"]


@pytest.mark.parametrize("name", ["v1", "v2"])
async def test_a_limit_that_cannot_be_had_is_an_error(supervisor, spec, name) -> None:
    if cgroup_driver() == name:
        pytest.skip(f"{name} works here")
    with pytest.raises(pysuper.DriverError, match="pids") as caught:
        await supervisor.start(spec(cgroup=DriverChoice(name), limits=Limits(pids_max=20)))
    assert caught.value.exit_code == 125


async def test_no_cgroup_holds_no_limit(supervisor, spec) -> None:
    with pytest.raises(pysuper.DriverError, match="pids_max"):
        await supervisor.start(spec(cgroup=DriverChoice("none"), limits=Limits(pids_max=20)))


@pytest.mark.parametrize(
    "limits",
    [
        {"pids_max": 0},
        {"pids_max": -7},
        {"memory_max": 0},
        {"memory_max": -1},
        {"cpu_max": 0.0},
        {"cpu_max": float("nan")},
        {"cpuset_cpus": "nine"},
    ],
)
async def test_absurd_limits_are_refused(supervisor, spec, limits) -> None:
    with pytest.raises(pysuper.PysuperError, match=next(iter(limits))):
        await supervisor.start(spec(limits=Limits(**limits)))


async def test_resource_limits_hold(output) -> None:
    assert (await output("ulimit -n")).strip() == "1024"
    limits = (Rlimit("nofile", 64, 128), Rlimit("core", 0, 0))
    assert (await output("ulimit -n; ulimit -Hn; ulimit -c", rlimits=limits)).split() == ["64", "128", "0"]


async def test_every_resource_limit_is_read_back(supervisor, spec) -> None:
    names = sorted(name[7:].lower() for name in dir(resource) if name.startswith("RLIMIT_"))
    few = {
        "memlock": 1 << 20,
        "msgqueue": 1 << 18,
        "nofile": 500,
        "nproc": 900,
        "sigpending": 900,
        "nice": 0,
        "rtprio": 0,
    }
    most = {name: few.get(name, 1 << 30) for name in names if name != "ofile"}
    wanted = tuple(Rlimit(name, max(value - 1, 0), value) for name, value in most.items())
    container = await supervisor.start(spec("true", rlimits=wanted))
    found = {receipt.promise: receipt.actual for receipt in (await container.wait()).receipts}
    for limit in wanted:
        assert found[f"{limit.name} is limited to {limit.soft} (hard {limit.hard})"] == f"{limit.soft} {limit.hard}"


@needs_cgroup
async def test_usage_is_counted(supervisor, spec) -> None:
    record = await (await supervisor.start(spec("i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done"))).wait()
    assert record.user_seconds > 0
    assert record.memory_peak is not None
    assert record.memory_peak > 100_000
    assert record.wall_seconds > 0


@needs_cgroup
async def test_the_container_cannot_raise_its_own_limit(output) -> None:
    """The gate, tested with the value that is there: cgroups are not in the container's view."""
    script = "ls /sys/fs/cgroup | wc -l; cat /proc/self/cgroup | grep -c ':/$'; wc -l < /proc/self/cgroup"
    visible, rooted, total = (await output(script, limits=Limits(pids_max=20))).split()
    assert visible == "0"
    assert int(rooted) >= 1
    assert int(total) >= int(rooted)
