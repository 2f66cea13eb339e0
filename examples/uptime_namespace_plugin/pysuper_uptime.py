"""
The namespace driver `uptime`: a container that believes the machine has been up for longer than it has.

    pysuper run --namespace time=uptime:248d -- cat /proc/uptime

What breaks after months of uptime can so be tested today: 2^32 milliseconds are 49 days and 17 hours, and 2^31 ticks of
10 milliseconds, which is what a signed counter of jiffies holds, are 248 days and 13 hours.

A time namespace shifts CLOCK_MONOTONIC and CLOCK_BOOTTIME, /proc/uptime with them, and no other clock: the date stays.
Its offsets can be written until the first process is in it. So a container cannot be born in it, as it is in that of
the driver `time`: its first process makes the namespace, writes the offsets, and only then enters.

Man: time_namespaces(7).
"""

from __future__ import annotations

import os
import re

import attrs

from pysuper.drivers import Detection, NamespaceDriver, Phase, PlanBuilder
from pysuper.errors import DriverError
from pysuper.receipts import FileHolds, OwnNamespace
from pysuper.steps import EnterNamespace, Unshare, WriteFile

#: Seconds; half of what the kernel's clocks hold (KTIME_SEC_MAX), and more than 146 years.
MOST = 4_611_686_018
OFFSET = r"(?:([0-9]{1,9})d)?(?:([0-9]{1,9})h)?(?:([0-9]{1,9})m)?(?:([0-9]{1,9})s)?"


@attrs.frozen
class UptimeOptions:
    """
    Attributes:
        offset: How much longer: days, hours, minutes and seconds, such as 248d or 49d17h2m47s.
    """

    offset: str


class UptimeNamespace(NamespaceDriver):
    """`uptime:OFFSET`: own CLOCK_BOOTTIME and CLOCK_MONOTONIC, which are ahead of the host's."""

    Options = UptimeOptions
    argument = "offset"
    namespace = "time"

    @classmethod
    def detect(cls) -> Detection:
        works = os.path.exists("/proc/self/timens_offsets")
        return Detection(works, "" if works else "this kernel has no time namespaces (CONFIG_TIME_NS)")

    def __init__(self, options: UptimeOptions) -> None:
        super().__init__(options)
        self._seconds = parse(options.offset)

    def contribute(self, plan: PlanBuilder) -> None:
        # Not `plan.namespace("time")`: the container would be born in one whose offsets nobody can write any more.
        offsets = f"monotonic {self._seconds} 0\nboottime {self._seconds} 0"
        plan.add(
            Phase.NAMESPACES,
            Unshare(namespaces=("time",)),
            WriteFile(path="/proc/self/timens_offsets", content=offsets),
            EnterNamespace(namespace="time", path="/proc/self/ns/time_for_children"),
        )
        plan.check(OwnNamespace(namespace="time"))
        plan.check(FileHolds(path="/proc/{pid}/timens_offsets", content=" ".join(offsets.split())))


def parse(text: str) -> int:
    """
    Seconds.

    Raises:
        DriverError: It is something else, or too long.
    """
    found = re.fullmatch(OFFSET, text)
    if not found or not text:
        raise DriverError(f"namespace uptime: {text!r} is no offset", remedy="write one such as 248d or 49d17h2m47s")
    days, hours, minutes, seconds = (int(number) for number in found.groups(default="0"))
    total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    if total > MOST:
        raise DriverError(f"namespace uptime: {text} is too long", remedy=f"{MOST // 86400}d is the most")
    return total
