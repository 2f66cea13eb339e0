"""
The cpuset controller: on which cores there is CPU time.

Kernel: Documentation/admin-guide/cgroup-v1/cpusets.rst; Documentation/admin-guide/cgroup-v2.rst,
"Cpuset".
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator

from pysuper.errors import ConfigError, DriverError, describe_errno
from pysuper.spec import Limits
from pysuper_plugins.cgroup import files
from pysuper_plugins.cgroup.settings import Controller, Setting

__all__ = ["CPUSET_V1", "CPUSET_V2", "format_cores", "parse_cores"]

_REMEDY = "no core and memory node can be had that the cgroup above has not, or keeps exclusive"


def _v1(limits: Limits, directory: str) -> Iterator[Setting]:
    """
    A new v1 cpuset has neither cores nor memory nodes, and nothing can join it before it has both:
    it gets what the supervisor has, in case that the limit is left out or was not even wanted.

    Raises:
        DriverError: The supervisor has not got one of these cores.
    """
    parent = os.path.dirname(directory)
    for file in ("cpuset.mems", "cpuset.cpus"):
        inherited = files.read(f"{parent}/{file}")
        yield Setting(path=f"{directory}/{file}", value=inherited, remedy=_REMEDY)
    if limits.cpuset_cpus is not None:
        value = _chosen("v1", limits.cpuset_cpus, f"{parent}/cpuset.cpus")
        yield Setting(path=f"{directory}/cpuset.cpus", value=value, shows=value, remedy=_REMEDY)


def _v2(limits: Limits, directory: str) -> Iterator[Setting]:
    """
    v2 takes any list, and means all cores of the cgroup above if none of the list is there: only
    `cpuset.cpus.effective` says what holds.

    Raises:
        DriverError: The supervisor has not got one of these cores.
    """
    if limits.cpuset_cpus is not None:
        file = "cpuset.cpus.effective"
        value = _chosen("v2", limits.cpuset_cpus, f"{os.path.dirname(directory)}/{file}")
        yield Setting(path=f"{directory}/cpuset.cpus", value=value, shows=value, remedy=_REMEDY)
        yield Setting(path=f"{directory}/{file}", value=None, shows=value)


def _chosen(version: str, wanted: str, available: str) -> str:
    """The list `wanted` as the kernel prints it, if the file `available` has all of it."""
    cores, here = parse_cores(wanted), files.read(available)
    if absent := cores - parse_cores(here):
        raise DriverError(
            f"cgroup {version}: cpuset_cpus is {wanted!r}, but {available} has no "
            f"{format_cores(absent)}: {describe_errno(errno.ERANGE)}",
            remedy=f"choose from {here}",
        )
    return format_cores(cores)


def parse_cores(text: str) -> set[int]:
    """
    The numbers of a list such as `0-2,4`; cpuset(7), "List format".

    Raises:
        ConfigError: It is no such list.
    """
    cores: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,5})(?:-(\d{1,5}))?\s*", part, re.ASCII)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if first > last:
            raise ConfigError(f"{text!r} is not a list of cores", remedy="cpuset_cpus looks like 0-2,4")
        cores.update(range(first, last + 1))
    return cores


def format_cores(cores: Iterable[int]) -> str:
    """The inverse of `parse_cores`, as short as the kernel prints it."""
    ranges: list[tuple[int, int]] = []
    for core in sorted(cores):
        if ranges and core == ranges[-1][1] + 1:
            ranges[-1] = (ranges[-1][0], core)
        else:
            ranges.append((core, core))
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in ranges)


#: v1 also fills a cpuset that nobody wanted to limit, because its hierarchy has to be joined for
#: another reason.
CPUSET_V1 = Controller(("cpuset_cpus",), _v1)
CPUSET_V2 = Controller(("cpuset_cpus",), _v2)
