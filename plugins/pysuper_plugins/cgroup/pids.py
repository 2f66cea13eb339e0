"""
The pids controller: how many processes and threads there may be.

Kernel: Documentation/admin-guide/cgroup-v1/pids.rst; Documentation/admin-guide/cgroup-v2.rst,
"PID".
"""

from __future__ import annotations

from collections.abc import Iterator

from pysuper.spec import DEFAULT_PIDS_MAX, Limits
from pysuper_plugins.cgroup.settings import Controller, Setting

__all__ = ["PIDS"]


def _settings(limits: Limits, directory: str) -> Iterator[Setting]:
    number = DEFAULT_PIDS_MAX if limits.pids_max is None else limits.pids_max
    value = "max" if number == -1 else str(number)
    yield Setting(
        path=f"{directory}/pids.max",
        value=value,
        shows=value,
        remedy="pids_max is a number from 0 to 4194304, or -1 for no limit",
    )


#: For v1 and v2.
PIDS = Controller(("pids_max",), _settings)
