"""
What a plan promises of the container's cgroup, whatever version that is of.

Limits are not among the steps of a plan: the driver's host side applies them. What they are stands in the checks.
"""

from __future__ import annotations

import os
import re

import attrs

from pysuper.plan import Plan
from pysuper.receipts import FileHolds
from pysuper.steps import JoinCgroup

__all__ = ["Promises"]

#: How a line about a device node begins, and one about a disk.
_NODE, _DISK = r"[abc]", r"\d+:\d+"
_RATES = {
    "blkio.throttle.read_bps_device": "rbps",
    "blkio.throttle.write_bps_device": "wbps",
    "blkio.throttle.read_iops_device": "riops",
    "blkio.throttle.write_iops_device": "wiops",
}


@attrs.frozen(kw_only=True)
class Promises:
    """
    The cgroup of a plan.

    Attributes:
        directories: To be made, one for each hierarchy of v1, or one of v2.
        files: What is promised of files in these, in order.
        pids_max: Processes; -1 is unlimited. None, as everywhere below, is that nothing is promised.
        memory_max, memory_swap_max: Bytes; -1 is unlimited.
        cpu_quota_us, cpu_period_us: Microseconds of CPU time in a period.
        cpuset_cpus: A list of cores.
        io_max: `(MAJOR:MINOR, rbps|wbps|riops|wiops, rate)`.
        devices: `TYPE MAJOR:MINOR ACCESS` of the device nodes that may be used, or None if all may be.
    """

    directories: tuple[str, ...]
    files: tuple[FileHolds, ...]
    pids_max: int | None = None
    memory_max: int | None = None
    memory_swap_max: int | None = None
    cpu_quota_us: int | None = None
    cpu_period_us: int | None = None
    cpuset_cpus: str | None = None
    io_max: tuple[tuple[str, str, int], ...] = ()
    devices: tuple[str, ...] | None = None

    @classmethod
    def of(cls, plan: Plan) -> Promises:
        """What is in a plan."""
        joined = [os.path.dirname(step.path) for step in plan.steps if isinstance(step, JoinCgroup)]
        directories = (*joined, *([plan.cgroup] if plan.cgroup else []))
        files = tuple(
            check
            for check in plan.checks
            if isinstance(check, FileHolds) and os.path.dirname(check.path) in directories
        )
        content = {os.path.basename(check.path): check.content for check in files}
        memory = _number(content.get("memory.limit_in_bytes", content.get("memory.max")))
        both = _number(content.get("memory.memsw.limit_in_bytes"))
        swap = _number(content.get("memory.swap.max"))
        quota, period = content.get("cpu.max", "").split() or (None, None)
        return cls(
            directories=directories,
            files=files,
            pids_max=_number(content.get("pids.max")),
            memory_max=memory,
            memory_swap_max=swap if both is None or memory is None else both - memory,
            cpu_quota_us=_number(content.get("cpu.cfs_quota_us", quota)),
            cpu_period_us=_number(content.get("cpu.cfs_period_us", period)),
            cpuset_cpus=content.get("cpuset.cpus", content.get("cpuset.cpus.effective")),
            io_max=(*_rates_v1(content), *_rates_v2(content.get("io.max", ""))),
            devices=_lines(content["devices.list"], _NODE) if "devices.list" in content else None,
        )

    @property
    def controllers(self) -> tuple[str, ...]:
        """Those that the files are of: the kernel begins a file's name with its controller's."""
        return tuple(dict.fromkeys(os.path.basename(check.path).partition(".")[0] for check in self.files))

    def writes(self) -> tuple[tuple[str, str], ...]:
        """What is to be written to which file, in order, so that it is as promised."""
        found: list[tuple[str, str]] = []
        for check in self.files:
            directory, name = os.path.split(check.path)
            if name == "devices.list":
                found.append((f"{directory}/devices.deny", "a"))
                found += [(f"{directory}/devices.allow", line) for line in _lines(check.content, _NODE)]
            elif name == "cpuset.cpus.effective":
                found.append((f"{directory}/cpuset.cpus", check.content))
            elif name == "io.max" or name in _RATES:
                # The kernel lists the device last that was limited first.
                found += [(check.path, line) for line in reversed(_lines(check.content, _DISK))]
            else:
                found.append((check.path, check.content))
        return tuple(found)


def _number(text: str | None) -> int | None:
    if text is None:
        return None
    return -1 if text == "max" else int(text)


def _lines(content: str, start: str) -> tuple[str, ...]:
    """The lines of a content in which all white space is one space; each has the beginning `start`, and no more."""
    return tuple(re.split(rf" (?={start} )", content))


def _rates_v1(content: dict[str, str]) -> list[tuple[str, str, int]]:
    found = []
    for name, key in _RATES.items():
        pairs = (line.split() for line in _lines(content.get(name, ""), _DISK) if line)
        found += [(device, key, int(rate)) for device, rate in pairs]
    return found


def _rates_v2(content: str) -> list[tuple[str, str, int]]:
    found = []
    for device, *rates in (line.split() for line in _lines(content, _DISK) if line):
        pairs = (rate.split("=") for rate in rates)
        found += [(device, key, int(rate)) for key, rate in pairs if rate != "max"]
    return found
