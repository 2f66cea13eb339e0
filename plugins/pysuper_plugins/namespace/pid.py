"""The pid namespace: own process numbers; when its PID 1 ends, the kernel kills the rest. pid_namespaces(7)."""

from __future__ import annotations

from pysuper.drivers import NamespaceDriver, PlanBuilder


class PidNamespace(NamespaceDriver):
    """Own process numbers; no process outside can be seen or signalled."""

    reusable = True

    def contribute(self, plan: PlanBuilder) -> None:
        plan.namespace("pid")
