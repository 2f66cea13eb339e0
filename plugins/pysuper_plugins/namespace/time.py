"""The time namespace: own boot-time and monotonic clocks, without offset. time_namespaces(7)."""

from __future__ import annotations

import os

from pysuper.drivers import Detection, NamespaceDriver, PlanBuilder


class TimeNamespace(NamespaceDriver):
    """Own CLOCK_BOOTTIME and CLOCK_MONOTONIC, which run as the host's do."""

    reusable = True

    @classmethod
    def detect(cls) -> Detection:
        if os.path.exists("/proc/self/ns/time"):
            return Detection(True)
        return Detection(False, "this kernel has no time namespaces; --share time does without")

    def contribute(self, plan: PlanBuilder) -> None:
        plan.namespace("time")
