"""Limits become what the kernel is told, and what it will show; nothing here touches a cgroup."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from cgroup_machine import MIB, context, plan_of, run_python
from hypothesis import given, strategies as st

from pysuper.drivers import NoOptions
from pysuper.errors import ConfigError, DriverError, PysuperError
from pysuper.receipts import FileHolds
from pysuper.spec import Limits
from pysuper_plugins.cgroup import settings
from pysuper_plugins.cgroup.blkio import BLKIO_V1, IO_V2
from pysuper_plugins.cgroup.cpu import CPU_V1, CPU_V2
from pysuper_plugins.cgroup.cpuset import CPUSET_V1, CPUSET_V2, format_cores, parse_cores
from pysuper_plugins.cgroup.memory import MEMORY_V1, MEMORY_V2
from pysuper_plugins.cgroup.none import NoCgroup
from pysuper_plugins.cgroup.pids import PIDS
from pysuper_plugins.cgroup.settings import Controller, Setting

PAGE = os.sysconf("SC_PAGESIZE")
UNLIMITED = (2**63 - 1) // PAGE * PAGE


def written(controller: Controller, directory: object = "/sys/box", **limits: object) -> list[tuple[str, str]]:
    """`(file, value)` of every write."""
    made = controller.settings(Limits(**limits), str(directory))  # type: ignore[arg-type]
    return [(Path(s.path).name, s.value) for s in made if s.value is not None]


def promised(controller: Controller, directory: object = "/sys/box", **limits: object) -> dict[str, str]:
    """What each file will show."""
    made = controller.settings(Limits(**limits), str(directory))  # type: ignore[arg-type]
    return {Path(check.path).name: check.content for check in settings.checks(made)}


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    """A directory that has the files of a cgroup with four cores, and that counts swap."""
    for file, content in {
        "cgroup.type": "domain",
        "cpuset.cpus": "0-2,5",
        "cpuset.mems": "0",
        "cpuset.cpus.effective": "0-2,5",
        "memory.memsw.limit_in_bytes": "9223372036854771712",
        "memory.swap.max": "max",
    }.items():
        (tmp_path / file).write_text(f"{content}\n")
    return tmp_path


@pytest.mark.parametrize(("wanted", "value"), [(None, "1024"), (20, "20"), (0, "0"), (-1, "max")])
def test_pids_max(wanted: int | None, value: str) -> None:
    assert written(PIDS, pids_max=wanted) == [("pids.max", value)]
    assert promised(PIDS, pids_max=wanted) == {"pids.max": value}


@given(memory=st.integers(PAGE, 2**66), swap=st.none() | st.integers(0, 2**66))
def test_memory_is_counted_in_whole_pages(memory: int, swap: int | None) -> None:
    """By what the kernel's page_counter_memparse makes of a number, and shows of it."""
    # "/proc" has neither of the files, the next test has; here only the first setting counts.
    v1 = next(MEMORY_V1.settings(Limits(memory_max=memory, memory_swap_max=swap), "/sys/box"))
    v2 = next(MEMORY_V2.settings(Limits(memory_max=memory, memory_swap_max=swap), "/sys/box"))
    rounded = min(memory // PAGE * PAGE, UNLIMITED)
    assert v1.value == v1.shows == v2.value == str(rounded)
    assert v2.shows == ("max" if rounded == UNLIMITED else str(rounded))
    assert int(str(v1.value)) < 2**63


@pytest.mark.parametrize(
    ("memory", "swap", "both"),
    [
        (10 * MIB + 1, None, 10 * MIB),
        (10 * MIB, 0, 10 * MIB),
        (10 * MIB + 1, 5 * MIB + 4095, 15 * MIB),
        (10 * MIB, 2**70, UNLIMITED),
    ],
)
def test_v1_limits_the_sum_of_memory_and_swap(parent: Path, memory: int, swap: int | None, both: int) -> None:
    limits = {"memory_max": memory, "memory_swap_max": swap}
    expected = [
        ("memory.limit_in_bytes", str(memory // PAGE * PAGE)),
        ("memory.memsw.limit_in_bytes", str(both)),
    ]
    assert written(MEMORY_V1, parent / "box", **limits) == expected
    assert promised(MEMORY_V1, parent / "box", **limits) == dict(expected)


@pytest.mark.parametrize(
    ("memory", "swap", "value", "shows"),
    [
        (10 * MIB, None, "0", "0"),
        (None, 5 * MIB + 1, str(5 * MIB), str(5 * MIB)),
        (10 * MIB, 2**70, str(UNLIMITED), "max"),
    ],
)
def test_v2_limits_swap_by_itself(parent: Path, memory: int | None, swap: int | None, value: str, shows: str) -> None:
    limits = {"memory_max": memory, "memory_swap_max": swap}
    assert written(MEMORY_V2, parent / "box", **limits)[-1] == ("memory.swap.max", value)
    assert promised(MEMORY_V2, parent / "box", **limits)["memory.swap.max"] == shows


def test_v1_cannot_limit_swap_without_memory(parent: Path) -> None:
    with pytest.raises(DriverError, match=r"needs memory_max.*; set memory_max too"):
        written(MEMORY_V1, parent / "box", memory_swap_max=0)


SWAPS = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
ASK = """
from pysuper.spec import Limits
from pysuper_plugins.cgroup import memory
for controller in (memory.MEMORY_V1, memory.MEMORY_V2):
    try:
        for setting in controller.settings(Limits(memory_max=1 << 20), "{directory}"):
            print(setting.path, setting.value, setting.shows, sep=":")
    except Exception as error:
        print(type(error).__name__, error)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
@pytest.mark.parametrize("device", ["", "/dev/zram0 partition 1024 0 -2\n"], ids=["none", "some"])
def test_swap_that_is_not_counted(tmp_path: Path, device: str) -> None:
    """Promised to be absent, or refused if it is there; another file is mounted on /proc/swaps."""
    (tmp_path / "cgroup.type").touch()
    (tmp_path / "swaps").write_text(SWAPS + device)
    done = run_python(
        ASK.format(directory=tmp_path / "box"),
        before=f"mount --bind {tmp_path}/swaps /proc/swaps",
    )
    lines = done.stdout.splitlines()
    assert lines[0].endswith("memory.limit_in_bytes:1048576:1048576")
    if device:
        assert lines[1].startswith("DriverError cgroup v1: there is no memory.memsw.limit_in_bytes")
        assert lines[1].endswith("switch swap off with swapoff -a")
        assert lines[3].startswith("DriverError cgroup v2: there is no memory.swap.max")
    else:
        no_swap = "/proc/swaps:None:Filename Type Size Used Priority"
        assert [lines[1], lines[3]] == [no_swap, no_swap]


def test_cores_become_a_quota() -> None:
    assert written(CPU_V1, cpu_max=0.5) == [
        ("cpu.cfs_period_us", "100000"),
        ("cpu.cfs_quota_us", "50000"),
    ]
    assert promised(CPU_V1, cpu_max=0.5) == dict(written(CPU_V1, cpu_max=0.5))
    assert written(CPU_V2, cpu_max=1.25) == [("cpu.max", "125000 100000")]
    assert promised(CPU_V2, cpu_max=1.25) == {"cpu.max": "125000 100000"}
    assert written(CPU_V1) == written(CPU_V2) == []


def test_a_v1_cpuset_is_filled_before_anyone_joins(parent: Path) -> None:
    filled = [("cpuset.mems", "0"), ("cpuset.cpus", "0-2,5")]
    assert written(CPUSET_V1, parent / "box") == filled
    assert promised(CPUSET_V1, parent / "box") == {}
    limited = {"cpuset_cpus": "5, 0,1"}
    assert written(CPUSET_V1, parent / "box", **limited) == [*filled, ("cpuset.cpus", "0-1,5")]
    assert promised(CPUSET_V1, parent / "box", **limited) == {"cpuset.cpus": "0-1,5"}


def test_a_v2_cpuset_is_judged_by_what_is_effective(parent: Path) -> None:
    limited = {"cpuset_cpus": "5,0-1"}
    assert written(CPUSET_V2, parent / "box", **limited) == [("cpuset.cpus", "0-1,5")]
    files = {"cpuset.cpus": "0-1,5", "cpuset.cpus.effective": "0-1,5"}
    assert promised(CPUSET_V2, parent / "box", **limited) == files
    assert written(CPUSET_V2, parent / "box") == []


@pytest.mark.parametrize("controller", [CPUSET_V1, CPUSET_V2])
def test_a_core_that_is_not_there_is_an_error(parent: Path, controller: Controller) -> None:
    with pytest.raises(DriverError, match=r"has no 3-4,6: ERANGE .*; choose from 0-2,5$"):
        written(controller, parent / "box", cpuset_cpus="2-6")


@given(st.sets(st.integers(0, 99999), min_size=1, max_size=50))
def test_a_list_of_cores_reads_back(cores: set[int]) -> None:
    text = format_cores(cores)
    assert parse_cores(text) == cores
    assert format_cores(parse_cores(text)) == text


@given(st.sets(st.integers(0, 12), min_size=1))
def test_a_list_of_cores_is_as_short_as_can_be(cores: set[int]) -> None:
    ranges = [part.split("-") for part in format_cores(cores).split(",")]
    for (*_, last), (first, *_) in pairwise(ranges):
        assert int(last) + 1 < int(first)


@pytest.mark.parametrize("text", ["", ",", "a", "-1", "2-1", "0-", "1.5", "0-1:1/2", "\u0661", "9" * 9, "0\n1"])
def test_what_is_no_list_of_cores(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a list of cores"):
        parse_cores(text)


@given(st.text(max_size=12))
def test_any_text_is_a_list_of_cores_or_an_error(text: str) -> None:
    with contextlib.suppress(ConfigError):
        assert parse_cores(text)


def test_each_v1_rate_has_a_file_and_v2_has_one_line_a_device() -> None:
    limits = {"io_max": {"8:0": {"rbps": 1, "wiops": 4}, "8:16": {"rbps": 2}}}
    assert written(BLKIO_V1, **limits) == [
        ("blkio.throttle.read_bps_device", "8:0 1"),
        ("blkio.throttle.write_iops_device", "8:0 4"),
        ("blkio.throttle.read_bps_device", "8:16 2"),
    ]
    assert promised(BLKIO_V1, **limits) == {
        "blkio.throttle.read_bps_device": "8:16 2 8:0 1",
        "blkio.throttle.write_iops_device": "8:0 4",
    }
    assert written(IO_V2, **limits) == [
        ("io.max", "8:0 rbps=1 wbps=max riops=max wiops=4"),
        ("io.max", "8:16 rbps=2 wbps=max riops=max wiops=max"),
    ]
    assert promised(IO_V2, **limits) == {
        "io.max": "8:16 rbps=2 wbps=max riops=max wiops=max 8:0 rbps=1 wbps=max riops=max wiops=4"
    }


def block_devices() -> Iterator[Path]:
    return (path for path in Path("/dev").iterdir() if stat.S_ISBLK(path.stat().st_mode))


def test_a_device_may_be_named_by_its_path() -> None:
    device = next(block_devices(), None)
    if device is None:
        pytest.skip("there is no block device")
    number = device.stat().st_rdev
    name = f"{os.major(number)}:{os.minor(number)}"
    limits = {"io_max": {str(device): {"rbps": 7}, name: {"wbps": 8}}}
    assert written(IO_V2, **limits) == [("io.max", f"{name} rbps=7 wbps=8 riops=max wiops=max")]


NONSENSE = [
    (MEMORY_V1, {"memory_max": PAGE - 1}, "less than one page"),
    (MEMORY_V2, {"memory_max": -1}, "less than one page"),
    (MEMORY_V2, {"memory_swap_max": -1}, "less than 0"),
    (CPU_V1, {"cpu_max": 0.0}, "not a number of cores"),
    (CPU_V2, {"cpu_max": float("nan")}, "not a number of cores"),
    (CPU_V2, {"cpu_max": float("inf")}, "not a number of cores"),
    (BLKIO_V1, {"io_max": {"8:0": {"rbps": 0}}}, r"8:0: rbps = 0"),
    (BLKIO_V1, {"io_max": {"8:0": {"bps": 1}}}, r"give rbps, wbps, riops, wiops"),
    (IO_V2, {"io_max": {"/dev/null": {"rbps": 1}}}, "/dev/null is not a block device"),
    (IO_V2, {"io_max": {"/nowhere": {"rbps": 1}}}, "/nowhere: ENOENT"),
    (IO_V2, {"io_max": {"a\0b": {"rbps": 1}}}, "null byte"),
]


@pytest.mark.parametrize(("controller", "limits", "message"), NONSENSE)
def test_a_value_without_sense(controller: Controller, limits: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        written(controller, "/sys/box", **limits)
    assert caught.value.remedy


def refuse(limits: Limits, directory: str) -> Iterator[Setting]:
    yield Setting(path=f"{directory}/first", value="1", shows="1")
    raise DriverError("refused")


def missing(controller: str, limits: str) -> PysuperError:
    return DriverError(f"no {controller} for {limits}")


def test_best_effort_leaves_out_what_cannot_be_had_and_promises_the_rest() -> None:
    controllers = {
        "pids": PIDS,
        "memory": Controller(("memory_max",), refuse),
        "cpu": CPU_V2,
    }
    here = {"pids": "/a", "memory": "/b"}
    limits: dict[str, Any] = {"memory_max": MIB, "cpu_max": 1.0, "pids_max": 5}
    strict, lenient = context(**limits).spec, context(best_effort=True, **limits).spec
    chosen = settings.choose(lenient, controllers, here, missing)  # type: ignore[arg-type]
    assert [check.path for check in settings.checks(chosen.settings)] == ["/a/pids.max", "/b/first"]
    assert chosen.left_out == ("left out: refused", "left out: no cpu for cpu_max")
    with pytest.raises(DriverError, match=r"^refused$"):
        settings.choose(strict, controllers, here, missing)  # type: ignore[arg-type]
    with pytest.raises(DriverError, match=r"^no cpu for cpu_max$"):
        settings.choose(strict, {"cpu": CPU_V2}, here, missing)  # type: ignore[arg-type]


async def test_without_a_cgroup_there_is_nothing_but_honesty() -> None:
    driver, it = NoCgroup(NoOptions()), context()
    plan = plan_of(driver, it)
    assert (plan.cgroup, plan.steps, plan.checks, driver.traces(it)) == (None, (), (), ())
    async with driver.host(it) as cgroup:
        assert cgroup.processes() == []
        cgroup.kill()
        cgroup.thaw()
        assert cgroup.statistics().pids_current is None
        with pytest.raises(DriverError, match="cannot freeze"):
            cgroup.freeze()


@pytest.mark.parametrize("limits", [{"pids_max": 5}, {"memory_max": MIB, "cpu_max": 1.0}])
def test_without_a_cgroup_no_limit_can_be_had(limits: dict[str, Any]) -> None:
    names = ", ".join(limits)
    with pytest.raises(DriverError, match=f"cgroup none holds no limits, but there is {names}; pysuper doctor"):
        plan_of(NoCgroup(NoOptions()), context(**limits))
    assert plan_of(NoCgroup(NoOptions()), context(best_effort=True, **limits)).checks == ()


def test_a_missing_file_is_not_taken_for_a_limit() -> None:
    check = next(iter(settings.checks([Setting(path="/a", value="1", shows="1")])))
    assert check == FileHolds(path="/a", content="1")
    assert list(settings.checks([Setting(path="/a", value="1")])) == []
