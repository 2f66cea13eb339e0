"""Warm spares: as confined as any container, used once, replaced, and gone when nobody needs them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tarfile
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext, suppress
from functools import partial
from typing import ClassVar

import pytest
import trio

import pysuper
from machine import PATIENCE, Snapshot, alive, cgroup_driver, cgroups, children, wait_until
from pysuper.drivers import Context, Hook, LifecycleEvent, NetworkDriver, PlanBuilder, Trace
from pysuper.errors import DriverError
from pysuper.pool import Pool
from pysuper.receipts import InCgroup
from pysuper.testing.faults import cancelled_at, few_descriptors
from pysuper_plugins.cgroup.mounts import hierarchies
from registered import register as register  # noqa: PLC0414 - a fixture

#: What a command can find out about what holds it, but for what each container has of its own.
LOOK = r"""
grep -vE '^(Pid|PPid|NSpid|NStgid|NSpgid|NSsid|Vm|Rss|voluntary|nonvoluntary|Hugetlb|Cpus|Mems|Tgid|SigQ|Speculation)' \
    /proc/self/status
sed 's/^[0-9]* [0-9]* [0-9:]* //; s/uid=[0-9]*,gid=[0-9]*//; s/gid=[0-9]*//' /proc/self/mountinfo
cat /proc/self/limits
cut -d: -f2- /proc/self/cgroup
env | sort
ls /proc/self/fd | head -n 3
hostname; umask; pwd
"""


async def said(pool_or_supervisor: object, *spec: pysuper.ContainerSpec, stdin: int | None = None) -> str:
    """What a container writes to its standard output."""
    read, write = os.pipe2(os.O_CLOEXEC)
    async with trio.lowlevel.FdStream(read) as stream:
        try:
            container = await pool_or_supervisor.start(*spec, stdin=stdin, stdout=write)  # type: ignore[attr-defined]
        finally:
            os.close(write)
        text = b"".join([chunk async for chunk in stream])
        record = await container.wait()
    assert record.status == 0, text
    return text.decode()


async def full(pool: Pool) -> None:
    """Wait until there is nothing to prepare."""
    with trio.fail_after(10 * PATIENCE):
        while pool.ready < pool.size:
            await trio.sleep(0.005)


@pytest.mark.parametrize("init", [True, False])
async def test_a_spare_is_as_confined_as_any_container(supervisor, spec, init: bool) -> None:
    wanted = spec(LOOK, init=init)
    cold = await said(supervisor, wanted)
    async with supervisor.pool(wanted, size=1) as pool:
        assert await said(pool) == cold
    assert "NoNewPrivs:\t1" in cold


async def test_the_promises_of_a_spare_are_read_back(supervisor, spec) -> None:
    cold = await supervisor.start(spec("exec sleep 1000"))
    async with supervisor.pool(spec("exec sleep 1000"), size=1) as pool:
        warm = await pool.start()
    promised = [
        [re.sub(r"\d{6,}", "BASE", receipt.promise.replace(container.plan.id, "ID")) for receipt in container.receipts]
        for container in (warm, cold)
    ]
    assert promised[0] == promised[1]
    assert all(receipt.holds for receipt in warm.receipts)


async def test_its_command_does_not_run_before_it_is_taken(supervisor, spec, tmp_path) -> None:
    mounts = (pysuper.BindMount(source=str(tmp_path), target="/shared"),)
    async with supervisor.pool(spec("touch /shared/ran", mounts=mounts), size=2) as pool:
        await full(pool)
        assert list(tmp_path.iterdir()) == []
        await (await pool.start()).wait()
        assert [path.name for path in tmp_path.iterdir()] == ["ran"]


async def test_each_is_used_once_and_replaced(supervisor, spec) -> None:
    async with supervisor.pool(spec("ls /tmp; touch /tmp/trace; hostname"), size=2) as pool:
        taken = []
        for _ in range(5):
            taken.append(pool._spares[0].pid)
            assert await said(pool) == "box\n"
            assert taken[-1] not in {spare.pid for spare in pool._spares}
            await full(pool)
    assert len(set(taken)) == 5


async def test_it_has_the_descriptors_that_it_is_taken_with(supervisor, spec) -> None:
    read, write = os.pipe2(os.O_CLOEXEC)
    extra, into = os.pipe2(os.O_CLOEXEC)
    os.write(write, b"a job\n")
    os.close(write)
    async with supervisor.pool(spec("cat; echo more >&7; readlink /proc/self/fd/2; ls /proc/self/fd"), size=1) as pool:
        out, to = os.pipe2(os.O_CLOEXEC)
        container = await pool.start(stdin=read, stdout=to, stderr=None, descriptors={7: into})
        for descriptor in (read, to, into):
            os.close(descriptor)
        await container.wait()
    with open(out) as output, open(extra) as more:
        assert output.read().split() == ["a", "job", "/dev/null", "0", "1", "2", "3", "7"]
        assert more.read() == "more\n"


async def test_without_a_spare_it_starts_as_ever(supervisor, spec) -> None:
    async with supervisor.pool(spec("exec sleep 1000"), size=1) as pool:
        containers = [await pool.start() for _ in range(3)]
        assert len({container.pid for container in containers}) == 3


@pytest.mark.skipif(cgroup_driver() == "none", reason="no cgroup can be had here")
async def test_one_that_dies_while_it_waits_is_replaced(supervisor, spec) -> None:
    async with supervisor.pool(spec("echo runs"), size=1) as pool:
        (spare,) = pool._spares
        signal.pidfd_send_signal(spare._pidfd, signal.SIGKILL)
        with trio.fail_after(10 * PATIENCE):
            while spare in pool._spares:
                await trio.sleep(0.001)
        await full(pool)
        assert await said(pool) == "runs\n"


async def test_one_that_has_just_died_is_not_taken(supervisor, spec) -> None:
    async with supervisor.pool(spec("echo runs"), size=1) as pool:
        (spare,) = pool._spares
        signal.pidfd_send_signal(spare._pidfd, signal.SIGKILL)
        os.waitid(os.P_PIDFD, spare._pidfd, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222 - nobody else is to notice
        assert await said(pool) == "runs\n"
        with trio.fail_after(10 * PATIENCE):
            await spare._over.wait()


async def test_what_cannot_be_prepared_is_told_at_once(supervisor, spec) -> None:
    with pytest.raises(pysuper.LaunchError, match="nobody-here"):
        async with supervisor.pool(spec(user="nobody-here"), size=2):
            raise AssertionError("entered")


async def test_what_cannot_be_executed_is_told_who_starts_it(supervisor, spec) -> None:
    async with supervisor.pool(spec(command=("/no/such",)), size=1) as pool:
        with pytest.raises(pysuper.CommandNotFound, match="/no/such"):
            await pool.start()
        await full(pool)


async def test_a_start_with_wrong_arguments_or_without_descriptors_takes_no_spare(supervisor, spec) -> None:
    async with supervisor.pool(spec("echo runs"), size=1) as pool:
        (spare,) = pool._spares
        with pytest.raises(pysuper.ConfigError, match="from 3 to 9"):
            await pool.start(descriptors={11: 0})
        with few_descriptors(0), pytest.raises(pysuper.LaunchError, match="EMFILE"):
            await pool.start()
        assert list(pool._spares) == [spare]
        assert await said(pool) == "runs\n"


async def test_the_time_of_a_container_counts_from_when_it_is_taken(supervisor, spec) -> None:
    async with supervisor.pool(spec("exec sleep 1000", timeout=1.0), size=1) as pool:
        await trio.sleep(1.2)
        container = await pool.start()
        record = await container.wait()
    assert record.reason == "timeout"
    assert record.wall_seconds > 0.9


async def test_what_was_started_goes_on_when_the_pool_ends(spec) -> None:
    before = Snapshot.take()
    async with pysuper.open_supervisor() as supervisor:
        async with supervisor.pool(spec("exec sleep 1000"), size=2) as pool:
            container = await pool.start()
        assert pool.ready == 0
        container.send_signal(signal.SIGKILL)
        assert (await container.wait()).signal == signal.SIGKILL
    before.require_nothing_left()


async def test_a_terminal_is_there_before_it_is_taken(supervisor, spec) -> None:
    async with supervisor.pool(spec("test -t 0 && test -t 1 && exit 3", terminal=True), size=1) as pool:
        container = await pool.start()
        assert container.terminal is not None
        assert (await container.wait()).exit_code == 3


@pytest.mark.parametrize("size", [0, 1])
async def test_a_command_that_is_over_at_once_has_left_its_output_in_the_terminal(supervisor, spec, size: int) -> None:
    async def block() -> None:
        while True:  # so that all that a container says until its end is heard at once
            time.sleep(0.02)  # noqa: ASYNC251
            await trio.lowlevel.checkpoint()

    wanted = spec("echo over", terminal=True)
    async with supervisor.pool(wanted, size=size) as pool, trio.open_nursery() as nursery:
        nursery.start_soon(block)
        for start in (pool.start, partial(supervisor.start, wanted)) * 5:
            container = await start()
            assert container.terminal is not None
            assert os.read(container.terminal, 100) == b"over\r\n"
            await container.wait()
        nursery.cancel_scope.cancel()


# --- places ---


async def test_the_next_container_comes_into_the_place_of_one_that_has_ended(register, spec) -> None:
    told: list[LifecycleEvent] = []
    hooks = [register("recorder", recorder(told))]
    async with pysuper.open_supervisor(hooks=hooks) as supervisor, supervisor.pool(spec("true"), size=0) as pool:
        containers = []
        for _ in range(3):
            containers.append(await pool.start())
            assert (await containers[-1].wait()).success
    assert len({id(container.plan) for container in containers}) == 1
    assert all(receipt.holds for container in containers for receipt in container.receipts)
    runs = [event.id for event in told if event.kind == "exited"]
    assert len(set(runs)) == 3  # each has a name of its own for hooks


async def test_nothing_is_left_there_of_the_last_one(supervisor, spec) -> None:
    leave = "touch /tmp/trace /dev/shm/trace /usr/trace; ipcmk -M 9 -S 1 >/dev/null; sleep 1000 >/dev/null 2>&1 &"
    script = f"ls -A /tmp /dev/shm; ls /usr; ipcs; ls -d /proc/[0-9]*; {leave}"
    async with supervisor.pool(spec(script), size=0) as pool:
        outputs = [await said(pool) for _ in range(3)]
    assert len(set(outputs)) == 1
    assert "trace" not in outputs[0]


needs_v1 = pytest.mark.skipif(cgroup_driver() != "v1", reason="only v1 keeps cgroups")


def directories(container: pysuper.Container) -> dict[str, str]:
    """The cgroups of a container, by hierarchy."""
    checks = [check for check in container.plan.checks if isinstance(check, InCgroup)]
    tops = {hierarchy.name: hierarchy.own for hierarchy in hierarchies()}
    return {check.hierarchy: f"{tops[check.hierarchy]}/{os.path.basename(check.path)}" for check in checks}


@needs_v1
@pytest.mark.parametrize("limited", [False, True])
async def test_cgroups_that_carry_nothing_over_are_kept(supervisor, spec, limited: bool) -> None:
    limits = pysuper.Limits(pids_max=20, cpu_max=1.0 if limited else None)
    before, found = cgroups(), []
    async with supervisor.pool(spec("exec sleep 1000", limits=limits), size=0) as pool:
        for _ in range(2):
            container = await pool.start()
            found.append({name: os.stat(path).st_ino for name, path in directories(container).items()})
            await container.stop()
            await container.wait()
    kept = {name for name in found[0] if found[0][name] == found[1][name]}
    assert {"pids", "devices", "freezer", "cpuacct"} <= kept
    assert "memory" not in kept
    assert ("cpu" in kept) is not limited
    assert cgroups() <= before


@pytest.mark.skipif(cgroup_driver() == "none", reason="no cgroup can be had here")
async def test_what_is_counted_is_that_of_one_container(supervisor, spec) -> None:
    much = "head -c 60000000 /dev/zero | tail -c 40000000 >/dev/null; for i in $(seq 30); do sleep 0.1 & done"
    script = f"read what; test $what = little || {{ {much}; }}; exit 0"
    wanted = spec(script, limits=pysuper.Limits(pids_max=20))
    records = []
    async with supervisor.pool(wanted, size=0) as pool:
        for what in ("much", "little"):
            read, write = os.pipe2(os.O_CLOEXEC)
            os.write(write, f"{what}\n".encode())
            os.close(write)
            container = await pool.start(stdin=read, stderr=None)
            os.close(read)
            records.append(await container.wait())
    first, second = records
    assert first.pids_max_hits
    assert second.pids_max_hits == 0
    assert first.user_seconds + first.system_seconds > 2 * (second.user_seconds + second.system_seconds)
    assert first.memory_peak > 4 * second.memory_peak


@needs_v1
async def test_a_container_that_was_paused_leaves_a_place_where_the_next_one_runs(supervisor, spec) -> None:
    async with supervisor.pool(spec("exec sleep 1000"), size=0) as pool:
        for _ in range(2):
            container = await pool.start()
            container.pause()
            container.kill()
            assert (await container.wait()).signal == signal.SIGKILL
        with trio.fail_after(PATIENCE):
            container = await pool.start()
        assert not container.paused


@needs_v1
async def test_what_was_put_into_a_cgroup_that_is_kept_is_killed_and_removed(supervisor, spec) -> None:
    async with supervisor.pool(spec("exec sleep 1000"), size=0) as pool:
        for below in ("", "/below"):
            container = await pool.start()
            directory = f"{directories(container)['pids']}{below}"
            os.makedirs(directory, exist_ok=True)
            process = await trio.lowlevel.open_process(["sleep", "1000"])
            with open(f"{directory}/cgroup.procs", "w") as file:
                file.write(str(process.pid))
            await container.stop()
            assert (await container.wait()).reason == "stopped"
            with trio.fail_after(PATIENCE):
                assert await process.wait() == -signal.SIGKILL
            assert os.path.isdir(directory) is not bool(below)


async def test_two_at_once_have_different_places(supervisor, spec) -> None:
    async with supervisor.pool(spec("exec sleep 1000"), size=1) as pool:
        containers = [await pool.start() for _ in range(3)]
        places = {(container.plan.id, repr(container.plan.holder)) for container in containers}
        assert len(places) == 3
        await containers[1].stop()
        place = containers[1].plan
        await full(pool)
        later = [await pool.start() for _ in range(2)]
        assert sum(container.plan is place for container in later) == 1
        running = [containers[0], containers[2], *later]
        assert len({container.plan.id for container in running}) == 4


class Fresh(NetworkDriver):
    """As `none`, and does not say that it is reusable."""

    def contribute(self, plan: PlanBuilder) -> None:
        pass


class Again(Fresh):
    reusable = True


class Inherits(Again):
    """Says nothing itself."""


class Unclean(Fresh):
    reusable = True

    @asynccontextmanager
    async def host(self, context: Context) -> AsyncIterator[None]:
        yield
        raise DriverError("something is left")


@pytest.mark.parametrize(("driver", "reused"), [(Fresh, False), (Again, True), (Inherits, False), (Unclean, False)])
async def test_a_place_is_kept_if_all_drivers_say_so_and_it_is_clean(
    supervisor, spec, register, driver: type[NetworkDriver], reused: bool
) -> None:
    wanted = spec("true", network=register("special", driver))
    async with supervisor.pool(wanted, size=0) as pool:
        plans = []
        for _ in range(2):
            container = await pool.start()
            with suppress(DriverError):
                await container.wait()
            plans.append(container.plan)
    assert (plans[0] is plans[1]) == reused


class Keeps(Fresh):
    """Says what it is asked; fails where the test wants it to."""

    reusable = True
    said: ClassVar[list[str]]
    failing: ClassVar[str | None] = None

    def say(self, what: str) -> None:
        self.said.append(what)
        if what == self.failing:
            raise ValueError("cannot")

    def traces(self, context: Context) -> tuple[Trace, ...]:
        self.say("traces")
        return ()

    async def keep(self, context: Context) -> None:
        self.say("keep")

    async def drop(self, context: Context) -> None:
        self.say("drop")

    @asynccontextmanager
    async def host(self, context: Context) -> AsyncIterator[None]:
        self.say("enter")
        yield
        self.say("leave")


def keeps(failing: str | None = None) -> type[Keeps]:
    return type("Kept", (Keeps,), {"reusable": True, "said": [], "failing": failing})


async def test_what_a_driver_keeps_is_made_before_the_first_and_dropped_with_the_pool(
    supervisor, spec, register
) -> None:
    driver = keeps()
    wanted = spec("true", network=register("keeps", driver))
    async with supervisor.pool(wanted, size=0) as pool:
        for _ in range(2):
            await (await pool.start()).wait()
        assert driver.said == ["traces", "keep", "enter", "leave", "enter", "leave"]
    assert driver.said[-1] == "drop"
    driver.said.clear()
    await (await supervisor.start(wanted)).wait()
    assert driver.said == ["traces", "enter", "leave"]


async def test_of_many_places_that_are_free_some_are_given_up(supervisor, spec, register, monkeypatch) -> None:
    monkeypatch.setattr("pysuper.places._MOST_FREE", 2)
    driver = keeps()
    async with supervisor.pool(spec("exec sleep 1000", network=register("keeps", driver)), size=0) as pool:
        containers = [await pool.start() for _ in range(4)]
        for container in containers:
            await container.stop()
            await container.wait()
        with trio.fail_after(PATIENCE):
            while driver.said.count("drop") < 2:
                await trio.sleep(0.01)
        assert len(pool._places._free) == 2
    assert driver.said.count("drop") == 4


async def test_what_it_keeps_is_dropped_at_the_end_of_the_last_container(supervisor, spec, register) -> None:
    driver = keeps()
    async with supervisor.pool(spec("exec sleep 1000", network=register("keeps", driver)), size=0) as pool:
        container = await pool.start()
    assert driver.said == ["traces", "keep", "enter"]
    await container.stop()
    with trio.fail_after(PATIENCE):
        while driver.said[-2:] != ["leave", "drop"]:
            await trio.sleep(0.01)


@pytest.mark.parametrize("failing", ["traces", "keep", "enter", "leave", "drop"])
async def test_a_place_where_something_fails_is_given_up(spec, register, failing: str) -> None:
    driver, warnings = keeps(failing), list[str]()
    wanted = spec("true", network=register("keeps", driver))
    async with pysuper.open_supervisor(warn=warnings.append) as supervisor:
        free = len(supervisor._contexts._ranges._free)
        async with supervisor.pool(wanted, size=0) as pool:
            fails = pytest.raises(DriverError, match="ValueError: cannot")
            with fails if failing != "drop" else nullcontext():
                await (await pool.start()).wait()
            while failing != "drop" and "keep" in driver.said and driver.said[-1] != "drop":
                await trio.sleep(0.01)
            driver.failing = None if failing != "drop" else failing
            await (await pool.start()).wait()  # elsewhere
        assert driver.said.count("keep") == driver.said.count("drop") == {"traces": 1, "drop": 1}.get(failing, 2)
        assert len(supervisor._contexts._ranges._free) >= free
        assert not supervisor._launcher._traces
    assert [bool(re.search("ValueError: cannot", line)) for line in warnings] == [True] * (failing == "drop")


async def test_an_archive_is_looked_at_each_time(supervisor, spec, tmp_path, busybox) -> None:
    archives = []
    for name in ("old", "new"):
        (busybox / "which").write_text(name)
        archives.append(tmp_path / f"{name}.tar")
        with tarfile.open(archives[-1], "w") as archive:
            archive.add(busybox, ".")
    wanted = spec("cat /which", rootfs=pysuper.DriverChoice("tar", argument=str(archives[0])))
    async with supervisor.pool(wanted, size=0) as pool:
        assert await said(pool) == "old"
        archives[1].rename(archives[0])
        assert await said(pool) == "new"


@pytest.mark.skipif(os.geteuid() != 0, reason="ordinary users have no ranges of ids")
async def test_ids_are_given_back_when_the_pool_is_closed_and_its_containers_have_ended(supervisor, spec) -> None:
    await (await supervisor.start(spec("true"))).wait()
    before = sorted(supervisor._contexts._ranges._free)
    async with supervisor.pool(spec("exec sleep 1000"), size=1) as pool:
        await (await pool.start()).stop()
        await full(pool)
        goes_on = await pool.start()
    assert len(supervisor._contexts._ranges._free) == len(before) - 1
    await goes_on.stop()
    await goes_on.wait()
    with trio.fail_after(PATIENCE):
        while sorted(supervisor._contexts._ranges._free) != before or supervisor._launcher._traces:
            await trio.sleep(0.01)


#: A supervisor of a container in a place where others have been, in a process of its own, which says when it runs.
SUPERVISOR = textwrap.dedent(
    """
    import sys, trio, pysuper
    async def main():
        choice = pysuper.DriverChoice(sys.argv[1])
        spec = pysuper.ContainerSpec(name="pooled", command=("sh", "-c", "read line; sleep 1000"), cgroup=choice)
        async with pysuper.open_supervisor() as supervisor, supervisor.pool(spec, size=0) as pool:
            for _ in range(3):
                container = await pool.start()
                await container.stop()
            print((await pool.start(stdin=0)).pid, flush=True)
            await trio.sleep_forever()
    trio.run(main)
    """
)


def test_kill_9_of_the_supervisor_leaves_nothing_in_a_place_that_was_used_before() -> None:
    before = cgroups()
    command = [sys.executable, "-c", SUPERVISOR, cgroup_driver()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        everything = children(process.pid)
        assert pid in everything
        process.kill()
    assert wait_until(lambda: not any(alive(pid) for pid in everything) and cgroups() <= before)


# --- who is told ---


def recorder(told: list[LifecycleEvent]) -> type[Hook]:
    """A hook that keeps what it is told."""

    async def keep(_self: Hook, event: LifecycleEvent) -> None:
        told.append(event)

    kinds = ("before_create", "created", "started", "ready", "exited", "stopped", "failed")
    return type("Recorder", (Hook,), dict.fromkeys(kinds, keep))


async def test_hooks_hear_of_those_that_are_taken(register, spec) -> None:
    told: list[LifecycleEvent] = []
    hooks = [register("recorder", recorder(told))]
    async with pysuper.open_supervisor(hooks=hooks) as supervisor, supervisor.pool(spec("true"), size=3) as pool:
        await full(pool)
        assert told == []
        await (await pool.start()).wait()
    kinds = ["before_create", "created", "started", "ready", "exited", "stopped"]
    assert [event.kind for event in told] == kinds
    assert len({event.id for event in told}) == 1


async def test_a_hook_may_veto_what_is_taken(register, spec) -> None:
    async def veto(_self: Hook, _event: LifecycleEvent) -> None:
        raise ValueError("no licence")

    told: list[LifecycleEvent] = []
    vetoes = type("Vetoes", (Hook,), {"before_create": veto, "on_failure": "fail"})
    hooks = [register("vetoes", vetoes), register("recorder", recorder(told))]
    async with pysuper.open_supervisor(hooks=hooks) as supervisor, supervisor.pool(spec("true"), size=1) as pool:
        with pytest.raises(pysuper.DriverError, match="no licence"):
            await pool.start()
    assert [event.kind for event in told] == ["before_create", "exited", "failed"]


@asynccontextmanager
async def pooled(spec: pysuper.ContainerSpec) -> AsyncIterator[Pool]:
    async with pysuper.open_supervisor() as supervisor, supervisor.pool(spec, size=1) as pool:
        yield pool


async def test_cancellation_at_every_checkpoint_leaves_nothing(spec: Callable[..., pysuper.ContainerSpec]) -> None:
    async def run() -> None:
        async with pooled(spec("sleep 0.01", stop_timeout=0.05)) as pool:
            await (await pool.start()).wait()
            await full(pool)

    step, before = 1, Snapshot.take()
    while await cancelled_at(step, run):
        before.require_nothing_left()
        step += 1
    assert step > 25
