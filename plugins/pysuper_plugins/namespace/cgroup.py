"""The cgroup namespace: the container's cgroup looks like the root of the tree. cgroup_namespaces(7)."""

from __future__ import annotations

from pysuper.drivers import NamespaceDriver, PlanBuilder


class CgroupNamespace(NamespaceDriver):
    """The path of the container's cgroup, and all above it, cannot be seen from inside."""

    reusable = True

    def contribute(self, plan: PlanBuilder) -> None:
        plan.namespace("cgroup")
