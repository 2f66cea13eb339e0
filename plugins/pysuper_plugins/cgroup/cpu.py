"""
The cpu controller: how much CPU time there is in a period.

Kernel: Documentation/scheduler/sched-bwc.rst; Documentation/admin-guide/cgroup-v2.rst, "CPU".
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from pysuper.errors import ConfigError
from pysuper.spec import Limits
from pysuper_plugins.cgroup.settings import Controller, Setting

__all__ = ["CPU_V1", "CPU_V2"]

_PERIOD_US = 100_000
_REMEDY = "cpu_max is in cores: at least 0.01, and in v1 no more than the cgroup above has"


def _v1(limits: Limits, directory: str) -> Iterator[Setting]:
    if limits.cpu_max is not None:
        values = {
            "cpu.cfs_period_us": str(_PERIOD_US),
            "cpu.cfs_quota_us": str(_quota_us(limits.cpu_max)),
        }
        for file, value in values.items():
            yield Setting(path=f"{directory}/{file}", value=value, shows=value, remedy=_REMEDY)


def _v2(limits: Limits, directory: str) -> Iterator[Setting]:
    if limits.cpu_max is not None:
        value = f"{_quota_us(limits.cpu_max)} {_PERIOD_US}"
        yield Setting(path=f"{directory}/cpu.max", value=value, shows=value, remedy=_REMEDY)


def _quota_us(cores: float) -> int:
    if not (math.isfinite(cores) and cores > 0):
        raise ConfigError(f"cpu_max is {cores}: not a number of cores", remedy=_REMEDY)
    return round(cores * _PERIOD_US)


#: Cores become microseconds of CPU time in a period.
CPU_V1 = Controller(("cpu_max",), _v1)
CPU_V2 = Controller(("cpu_max",), _v2)
