"""The driver with real containers, on a real hierarchy: skipped where there is none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

import pysuper
from pysuper.drivers import Cgroup, Context, NoOptions
from pysuper.errors import DriverError
from pysuper.testing import CgroupDriverTests
from pysuper_pids_v1 import PidsV1

pytestmark = pytest.mark.skipif(not PidsV1.detect().works, reason=PidsV1.detect().reason)

HIERARCHY = "/sys/fs/cgroup/pids"

#: Goes on as its own child, again and again: whoever reads its pid and sends a signal there comes too late.
RUNAWAY = """
import os
os.fork(), os.fork()
while True:
    try:
        if os.fork():
            os._exit(0)
    except OSError:
        pass
"""


def spec(*command: str, **fields: Any) -> pysuper.ContainerSpec:
    """A container of this driver's."""
    return pysuper.ContainerSpec(name="pids-v1", cgroup=pysuper.DriverChoice("pids-v1"), command=command, **fields)


@asynccontextmanager
async def live(**limits: int) -> AsyncIterator[Cgroup]:
    """A cgroup without a container."""
    wanted = spec("true", limits=pysuper.Limits(**limits))
    context = Context(id="pids-v1.test", spec=wanted, privileged=True, uid_base=0)
    async with PidsV1(NoOptions()).host(context) as cgroup:
        yield cgroup


async def join(program: str) -> trio.Process:
    """Run a program in the cgroup that is live."""
    (cgroup,) = cgroups()
    script = f'echo 0 > {cgroup}/tasks; exec "$@"'
    return await trio.lowlevel.open_process(["sh", "-c", script, "sh", sys.executable, "-c", program])


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait until it holds."""
    with trio.fail_after(10):
        while not condition():
            await trio.sleep(0.001)


def cgroups() -> list[str]:
    """The cgroups of this driver's containers that exist now."""
    return [path for path, _, _ in os.walk(HIERARCHY) if "pysuper.pids-v1." in path]


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No test leaves a cgroup behind."""
    yield
    assert cgroups() == []


@pytest.fixture
async def supervisor() -> AsyncIterator[pysuper.Supervisor]:
    """A running supervisor."""
    async with pysuper.open_supervisor() as running:
        yield running


class TestPidsV1(CgroupDriverTests):
    """What every cgroup driver has to keep."""

    driver = "pids-v1"
    limits = ("pids_max",)


async def test_forks_beyond_the_limit_are_refused_and_counted(supervisor: pysuper.Supervisor) -> None:
    script = "for i in $(seq 30); do sleep 100 & done"
    container = await supervisor.start(
        spec("sh", "-c", script, limits=pysuper.Limits(pids_max=10), init=False), stderr=None
    )
    record = await container.wait()
    assert record.status != 0
    assert record.pids_max_hits == 1


@pytest.mark.parametrize(("wanted", "content"), [(None, "1024"), (20, "20"), (-1, "max")])
async def test_the_limit_is_what_was_asked_for_or_a_guard(
    supervisor: pysuper.Supervisor, wanted: int | None, content: str
) -> None:
    container = await supervisor.start(spec("sleep", "100", limits=pysuper.Limits(pids_max=wanted)))
    (cgroup,) = cgroups()
    assert Path(cgroup, "pids.max").read_text().strip() == content
    assert any(receipt.source == f"{cgroup}/pids.max" for receipt in container.receipts)
    assert str(container.pid) in Path(cgroup, "tasks").read_text().split()
    container.kill()


async def test_what_runs_in_it_is_counted_also_what_joins_later(supervisor: pysuper.Supervisor) -> None:
    container = await supervisor.start(spec("sleep", "100", init=False))
    assert container.statistics().pids_current == 1
    async with container.execute(["sleep", "100"]):
        assert container.statistics().pids_current == 2
    container.kill()


async def test_other_limits_are_an_error_that_names_them(supervisor: pysuper.Supervisor) -> None:
    limits = pysuper.Limits(pids_max=10, memory_max=2**26, cpu_max=0.5)
    with pytest.raises(DriverError, match="cannot hold memory_max, cpu_max; use --cgroup v1"):
        await supervisor.start(spec("true", limits=limits))
    container = await supervisor.start(spec("true", limits=limits, best_effort=True))
    assert [text for text in container.warnings if "memory_max" in text] == [
        "left out: cgroup pids-v1 cannot hold memory_max, cpu_max; use --cgroup v1 or --cgroup v2"
    ]
    assert (await container.wait()).status == 0


async def test_a_container_cannot_be_paused_and_goes_on(supervisor: pysuper.Supervisor) -> None:
    container = await supervisor.start(spec("sleep", "100"))
    with pytest.raises(DriverError, match="pids-v1 cannot freeze a container; use --cgroup v1 or"):
        container.pause()
    assert not container.paused
    container.kill()


async def test_nobody_runs_away_from_a_kill() -> None:
    for _ in range(20):
        async with live() as cgroup:
            process = await join(RUNAWAY)
            await process.wait()
            cgroup.kill()
            await eventually(lambda: cgroup.processes() == [])
            # That it could not fork meanwhile is not the limit's doing.
            assert cgroup.statistics().pids_max_hits == 0


async def test_a_cancelled_container_leaves_neither_cgroup_nor_process() -> None:
    with trio.CancelScope() as scope:
        async with live() as cgroup:
            process = await join("import time; time.sleep(100)")
            await eventually(lambda: cgroup.processes() == [process.pid])
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert await process.wait() == -signal.SIGKILL
    assert cgroups() == []


async def test_a_supervisor_that_is_killed_leaves_no_cgroup() -> None:
    command = [sys.executable, "-m", "pysuper", "run", "--name", "pids-v1", "--cgroup", "pids-v1", "--", "sleep", "100"]
    process = await trio.lowlevel.open_process(command, stdin=subprocess.DEVNULL)
    await eventually(lambda: bool(cgroups()))
    process.kill()
    await process.wait()
    await eventually(lambda: cgroups() == [])


async def test_a_cgroup_of_that_name_stays_somebody_elses() -> None:
    async with live():
        with pytest.raises(FileExistsError):
            async with live():
                pytest.fail("took it")
        assert len(cgroups()) == 1


def test_no_file_is_made_where_there_is_no_cgroup(tmp_path: Path) -> None:
    """Where the hierarchy should be is a directory with a file `tasks` in it."""
    script = f"""
        own=$(sed -n 's/.*:pids://p' /proc/self/cgroup)
        mount -t tmpfs none {HIERARCHY} && touch {HIERARCHY}/tasks && mkdir -p {HIERARCHY}$own
        {sys.executable} -m pysuper run --cgroup pids-v1 -- touch /ran
        echo $?; find {HIERARCHY} -type f
    """
    done = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["125", f"{HIERARCHY}/tasks"]
    assert "pids.max" in done.stderr
