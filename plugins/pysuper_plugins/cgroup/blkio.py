"""
The blkio controller of v1, which v2 calls io: how much a block device may be used.

In v1 only direct I/O and reads count; what the page cache writes back later is nobody's. v2 charges
it to whoever dirtied the memory. Setting the first limit of a device takes 15 to 30 ms: its queue
is frozen meanwhile.

Kernel: Documentation/admin-guide/cgroup-v1/blkio-controller.rst, "Throttling/Upper limit policy
files"; Documentation/admin-guide/cgroup-v2.rst, "IO Interface Files".
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Mapping

from pysuper.errors import ConfigError, describe_errno
from pysuper.spec import Limits
from pysuper_plugins.cgroup.settings import Controller, Setting

__all__ = ["BLKIO_V1", "IO_V2"]

_FILES = {
    "rbps": "blkio.throttle.read_bps_device",
    "wbps": "blkio.throttle.write_bps_device",
    "riops": "blkio.throttle.read_iops_device",
    "wiops": "blkio.throttle.write_iops_device",
}
_REMEDY = "limit whole disks, not partitions: see lsblk"

# A file has a line a device, and the kernel lists the device that this cgroup limited last first.


def _v1(limits: Limits, directory: str) -> Iterator[Setting]:
    shown: dict[str, list[str]] = {}
    for device, rates in _devices(limits.io_max).items():
        for key, rate in rates.items():
            path, value = f"{directory}/{_FILES[key]}", f"{device} {rate}"
            yield Setting(path=path, value=value, remedy=_REMEDY)
            shown.setdefault(path, []).insert(0, value)
    for path, lines in shown.items():
        yield Setting(path=path, value=None, shows=" ".join(lines))


def _v2(limits: Limits, directory: str) -> Iterator[Setting]:
    shown: list[str] = []
    path = f"{directory}/io.max"
    for device, rates in _devices(limits.io_max).items():
        # All four: the kernel answers with all, those without a limit as max.
        value = " ".join([device, *(f"{key}={rates.get(key, 'max')}" for key in _FILES)])
        yield Setting(path=path, value=value, remedy=_REMEDY)
        shown.insert(0, value)
    if shown:
        yield Setting(path=path, value=None, shows=" ".join(shown))


def _devices(io_max: Mapping[str, Mapping[str, int]]) -> dict[str, dict[str, int]]:
    """The limits of each device by `MAJOR:MINOR`."""
    devices: dict[str, dict[str, int]] = {}
    for name, rates in io_max.items():
        for key, rate in rates.items():
            if key not in _FILES or rate < 1:
                raise ConfigError(
                    f"io_max of {name}: {key} = {rate}",
                    remedy=f"give {', '.join(_FILES)} a number above 0",
                )
        if rates:
            devices.setdefault(_number(name), {}).update(rates)
    return devices


def _number(name: str) -> str:
    """`MAJOR:MINOR` of a device that is named so or by a path."""
    if re.fullmatch(r"\d+:\d+", name, re.ASCII):
        return name
    try:
        status = os.stat(name)
    except (OSError, ValueError) as error:
        reason = describe_errno(error.errno or 0) if isinstance(error, OSError) else str(error)
        raise ConfigError(f"io_max: {name}: {reason}", remedy=_REMEDY) from error
    if not stat.S_ISBLK(status.st_mode):
        raise ConfigError(f"io_max: {name} is not a block device", remedy=_REMEDY)
    return f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"


#: The numbers stay; only where they are written differs.
BLKIO_V1 = Controller(("io_max",), _v1)
IO_V2 = Controller(("io_max",), _v2)
