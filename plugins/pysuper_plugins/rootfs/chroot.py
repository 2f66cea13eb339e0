"""
The classic: chroot(2) into a directory. For learning, and for kernels without pivot_root: it is no boundary.

The old root stays mounted and reachable: root with CAP_SYS_CHROOT calls chroot again and walks up. So this driver
refuses to run together with the capabilities by which one gets out.
"""

from __future__ import annotations

from pysuper.drivers import PlanBuilder
from pysuper.errors import DriverError
from pysuper_plugins.rootfs.directory import DirectoryRootfs

_WAYS_OUT = ("SYS_ADMIN", "SYS_CHROOT")


class ChrootRootfs(DirectoryRootfs):
    """`chroot:PATH`: the classic, for learning; no boundary."""

    reusable = True
    enter = "chroot"

    def contribute(self, plan: PlanBuilder) -> None:
        if found := [name for name in _WAYS_OUT if name in plan.context.spec.capabilities]:
            raise DriverError(f"rootfs chroot cannot hold a container with {', '.join(found)}", remedy="use dir:PATH")
        super().contribute(plan)
        plan.warn("rootfs chroot is no boundary: the host's root stays mounted; use dir:PATH")
