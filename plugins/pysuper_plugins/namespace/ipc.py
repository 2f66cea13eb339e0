"""The ipc namespace: own System V objects and POSIX message queues. ipc_namespaces(7)."""

from __future__ import annotations

from pysuper.drivers import NamespaceDriver, Phase, PlanBuilder
from pysuper.steps import Mount


class IpcNamespace(NamespaceDriver):
    """Own System V semaphores, queues and shared memory, and own POSIX message queues at /dev/mqueue."""

    reusable = True

    def contribute(self, plan: PlanBuilder) -> None:
        plan.namespace("ipc")
        plan.add(Phase.MOUNTS, Mount(fstype="mqueue", target="/dev/mqueue", flags=("nosuid", "nodev", "noexec")))
