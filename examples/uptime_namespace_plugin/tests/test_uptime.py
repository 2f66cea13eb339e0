"""The driver with real containers."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import pysuper
from pysuper.errors import DriverError
from pysuper.testing import NamespaceDriverTests
from pysuper_uptime import UptimeNamespace, parse

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not UptimeNamespace.detect().works, reason="needs root, and time namespaces"
)

DAY = 86400
PYTHON = os.path.realpath(sys.executable)
#: The interpreter may lie where the host's view is empty, such as below /root.
MOUNTS = tuple(
    pysuper.BindMount(source=path, target=path, read_only=True) for path in {sys.base_prefix, sys.base_exec_prefix}
)


def ahead(offset: str) -> dict[str, Any]:
    """What a container is started with whose clocks are ahead."""
    return {"namespaces": {"time": pysuper.DriverChoice("uptime", argument=offset)}, "mounts": MOUNTS}


async def clock(name: str, **fields: Any) -> float:
    """What a clock shows in a container."""
    program = f"import time; print(time.clock_gettime(time.{name}))"
    done = await pysuper.run([PYTHON, "-I", "-S", "-c", program], capture_stdout=True, **fields)
    assert done.stdout is not None
    return float(done.stdout)


@pytest.fixture
async def supervisor() -> AsyncIterator[pysuper.Supervisor]:
    async with pysuper.open_supervisor() as running:
        yield running


class TestUptime(NamespaceDriverTests):
    """What every namespace driver has to keep."""

    driver = "uptime:248d"
    wrong = ("uptime:248x", "uptime:53376d")


@pytest.mark.parametrize("name", ["CLOCK_MONOTONIC", "CLOCK_BOOTTIME"])
async def test_the_clocks_of_the_container_are_ahead(name: str) -> None:
    before = time.clock_gettime(getattr(time, name))
    inside = await clock(name, **ahead("248d"))
    after = time.clock_gettime(getattr(time, name))
    assert before + 248 * DAY <= inside <= after + 248 * DAY


async def test_the_date_stays() -> None:
    before = time.time()
    assert before <= await clock("CLOCK_REALTIME", **ahead("248d")) <= time.time()


async def test_the_uptime_is_that_of_the_clocks() -> None:
    done = await pysuper.run(["cat", "/proc/uptime"], capture_stdout=True, **ahead("248d"))
    assert done.stdout is not None
    assert float(done.stdout.split()[0]) >= 248 * DAY


async def test_other_containers_are_in_their_own_time() -> None:
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    await clock("CLOCK_BOOTTIME", **ahead("248d"))
    inside = await clock("CLOCK_BOOTTIME", mounts=MOUNTS)
    assert before <= inside <= time.clock_gettime(time.CLOCK_BOOTTIME)


async def test_what_joins_the_container_is_in_the_same_time(supervisor: pysuper.Supervisor) -> None:
    container = await supervisor.start(pysuper.ContainerSpec(name="old", command=("sleep", "100"), **ahead("248d")))
    read, write = os.pipe()
    async with container.execute(["cat", "/proc/uptime"], stdout=write) as execution:
        os.close(write)
        await execution.wait()
    with open(read) as output:
        assert float(output.read().split()[0]) >= 248 * DAY
    container.kill()


async def test_the_offset_is_read_back_before_the_command_runs(supervisor: pysuper.Supervisor) -> None:
    container = await supervisor.start(pysuper.ContainerSpec(name="old", command=("sleep", "100"), **ahead("1h")))
    promised = {receipt.source: receipt.actual for receipt in container.receipts}
    assert promised[f"/proc/{container.pid}/timens_offsets"] == "monotonic 3600 0 boottime 3600 0"
    assert promised[f"/proc/{container.pid}/ns/time"] == "own"
    assert os.readlink(f"/proc/{container.pid}/ns/time") != os.readlink("/proc/self/ns/time")
    container.kill()


async def test_a_file_can_say_it_too(tmp_path: Path) -> None:
    from pysuper.config import load

    (tmp_path / "old.toml").write_text(
        """
        [container.short.namespaces]
        time = "uptime:1h"
        [container.long.namespaces]
        time = { driver = "uptime", offset = "1h" }
        """
    )
    containers = load(str(tmp_path / "old.toml"))
    for name in ("short", "long"):
        namespaces = containers[name].namespaces
        assert await clock("CLOCK_BOOTTIME", namespaces=namespaces, mounts=MOUNTS) >= 3600


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1d2h3m4s", 93784),
        ("49d17h2m47s", 4294967),
        ("248d", 248 * DAY),
        ("90m", 5400),
        ("0s", 0),
        ("53375d", 53375 * DAY),
    ],
)
def test_an_offset_is_made_of_days_hours_minutes_and_seconds(text: str, seconds: int) -> None:
    assert parse(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "248", "d", "-1d", "1.5d", "1h1d", "1d 2h", "1w", "\N{ARABIC-INDIC DIGIT TWO}d", "1d\n"]
)
async def test_anything_else_is_an_error(supervisor: pysuper.Supervisor, text: str) -> None:
    with pytest.raises(DriverError, match=r"is no offset; write one such as 248d or 49d17h2m47s"):
        await supervisor.start(pysuper.ContainerSpec(name="old", command=("true",), **ahead(text)))


@pytest.mark.parametrize("text", ["53376d", "999999999d999999999h999999999m999999999s"])
async def test_more_than_the_kernel_takes_is_an_error(supervisor: pysuper.Supervisor, text: str) -> None:
    with pytest.raises(DriverError, match=r"is too long; 53375d is the most"):
        await supervisor.start(pysuper.ContainerSpec(name="old", command=("true",), **ahead(text)))


async def test_what_the_kernel_just_takes_is_taken() -> None:
    assert await clock("CLOCK_BOOTTIME", **ahead("53375d")) >= 53375 * DAY
