"""
Whether a limit is really enforced: a program that goes beyond it, and what becomes of that program.

Each program runs in the container, on the interpreter of the test run, and says what it saw.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import attrs

from pysuper.record import ExitRecord
from pysuper.spec import BindMount, ContainerSpec, Limits
from pysuper.testing.rules import NotHere, require
from pysuper.testing.stage import Stage, interpreter

__all__ = ["ENFORCED", "Enforced"]

_MIB = 1 << 20
_PIDS = 20
_MEMORY = 64 * _MIB
_CORES = 0.1
#: Of the time that has passed. What is not limited gets more, unless the machine has ten times more to do than it can.
_SHARE = 0.3
_RATE = 2 * _MIB
_AMOUNT = 6 * _MIB

_ENFORCE = "write the limit in `host`, before the container is launched, and let its process join in Phase.CGROUP"
_COUNT = "return what the kernel has counted from Cgroup.statistics()"


class Make(Protocol):
    """Makes a spec that has the driver under test."""

    def __call__(self, **fields: Any) -> ContainerSpec: ...


@attrs.frozen
class Enforced:
    """
    Attributes:
        limits: What is asked for.
        check: Raises Broken if it is not enforced, NotHere if that cannot be found out on this machine.
    """

    limits: Callable[[], Limits]
    check: Callable[[Stage, Make], Awaitable[None]]


_FORK = f"""
import os, time
children, number = 0, 0
try:
    while children < {10 * _PIDS}:
        if os.fork() == 0:
            time.sleep(1000)
        children += 1
except OSError as error:
    number = error.errno
print(children, number)
"""


async def _pids_max(stage: Stage, make: Make) -> None:
    record, output = await stage.recorded(make(limits=_pids(), **interpreter(_FORK)))
    children, number = map(int, output.split())
    found = f"with pids_max = {_PIDS} a program has made {children} children"
    require(children < _PIDS, found, do=_ENFORCE)
    require(number == errno.EAGAIN, f"{found}, and got {errno.errorcode.get(number, number)}, not EAGAIN", do=_ENFORCE)
    require(record.pids_max_hits, f"a fork was refused, and pids_max_hits is {record.pids_max_hits}", do=_COUNT)


def _pids() -> Limits:
    return Limits(pids_max=_PIDS)


def _allocate(size: int) -> str:
    """Use that many bytes, all of them."""
    return f"print(len(b'x' * {size}))"


async def _memory_max(stage: Stage, make: Make) -> None:
    record, output = await stage.recorded(make(limits=_memory(), **interpreter(_allocate(_MEMORY // 4))))
    found = f"with memory_max = {_MEMORY} a program that uses a quarter of it ended with {_end(record)}"
    require(output, found, do="write the limit in bytes")
    await _require_killed(stage, make, _memory())


def _memory() -> Limits:
    return Limits(memory_max=_MEMORY)


async def _memory_swap_max(stage: Stage, make: Make) -> None:
    if len(Path("/proc/swaps").read_text().splitlines()) < 2:
        raise NotHere("this machine has no swap, so that memory_swap_max cannot be told from memory_max")
    await _require_killed(stage, make, _swap())


def _swap() -> Limits:
    return Limits(memory_max=_MEMORY, memory_swap_max=_MEMORY // 16)


async def _require_killed(stage: Stage, make: Make, limits: Limits) -> None:
    """A program that uses more than `memory_max` is killed, and counted."""
    record, output = await stage.recorded(make(limits=limits, **interpreter(_allocate(4 * _MEMORY))))
    wanted = ", ".join(f"{name} = {getattr(limits, name)}" for name in limits.wanted)
    require(not output, f"with {wanted} a program has used {4 * _MEMORY} bytes", do=_ENFORCE)
    found = f"a program was killed because of {wanted}, and oom_kills is {record.oom_kills}, the reason {record.reason}"
    require(record.reason == "oom", found, do=_COUNT)
    peak = record.memory_peak
    require(peak is not None and peak <= _MEMORY, f"memory_max is {_MEMORY}, and memory_peak {peak}", do=_COUNT)


_SPIN = """
import time
begin, used = time.monotonic(), time.process_time()
while time.monotonic() < begin + 2:
    pass
print((time.process_time() - used) / (time.monotonic() - begin))
"""


async def _cpu_max(stage: Stage, make: Make) -> None:
    _, output = await stage.recorded(make(limits=_cores(), **interpreter(_SPIN)))
    found = f"with cpu_max = {_CORES} a busy loop had {float(output):.2f} of a core"
    require(float(output) < _SHARE, found, do=_ENFORCE)


def _cores() -> Limits:
    return Limits(cpu_max=_CORES)


async def _cpuset_cpus(stage: Stage, make: Make) -> None:
    here = os.sched_getaffinity(0)
    if len(here) < 2:
        raise NotHere("this process may run on one core only, so that none can be left out")
    _, output = await stage.recorded(
        make(limits=_cpuset(), **interpreter("import os; print(*os.sched_getaffinity(0))"))
    )
    wanted = _cpuset().cpuset_cpus
    require(
        output.split() == [wanted], f"with cpuset_cpus = {wanted} a program may run on {output.strip()}", do=_ENFORCE
    )


def _cpuset() -> Limits:
    return Limits(cpuset_cpus=str(max(os.sched_getaffinity(0))))


_READ = """
import mmap, os, time
file = os.open("/mnt/data", os.O_RDONLY | os.O_DIRECT)
buffer, begin = mmap.mmap(-1, 1 << 20), time.monotonic()
while os.readv(file, [buffer]):
    pass
print(time.monotonic() - begin)
"""


async def _io_max(stage: Stage, make: Make) -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        Path(directory, "data").write_bytes(os.urandom(_AMOUNT))
        os.chmod(directory, 0o755)
        os.sync()  # what is not on the disk yet would be read from memory
        running = interpreter(_READ)
        running["mounts"] += (BindMount(source=directory, target="/mnt", read_only=True),)
        _, output = await stage.recorded(make(limits=_io(), **running))
    passed, least = float(output), _AMOUNT / _RATE / 2
    found = f"with rbps = {_RATE} a program has read {_AMOUNT} bytes in {passed:.2f} s"
    require(passed > least, found, do=_ENFORCE)


def _io() -> Limits:
    """Raises NotHere if there is no disk of which it is known that files are on it."""
    device = os.stat("/var/tmp").st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    if number not in {path.read_text().strip() for path in Path("/sys/block").glob("*/dev")}:
        raise NotHere(f"/var/tmp is on the device {number}, which is no whole disk")
    return Limits(io_max={number: {"rbps": _RATE}})


def _end(record: ExitRecord) -> str:
    return f"exit status {record.exit_code}, signal {record.signal}, reason {record.reason}"


#: By the names that `Limits` has for them.
ENFORCED: Mapping[str, Enforced] = {
    "pids_max": Enforced(_pids, _pids_max),
    "memory_max": Enforced(_memory, _memory_max),
    "memory_swap_max": Enforced(_swap, _memory_swap_max),
    "cpu_max": Enforced(_cores, _cpu_max),
    "cpuset_cpus": Enforced(_cpuset, _cpuset_cpus),
    "io_max": Enforced(_io, _io_max),
}
