"""The network namespace: own interfaces, ports, routes and abstract unix sockets. network_namespaces(7)."""

from __future__ import annotations

from pysuper.drivers import NamespaceDriver, Phase, PlanBuilder
from pysuper.steps import LoopbackUp


class NetNamespace(NamespaceDriver):
    """Own interfaces, ports, routes and abstract unix sockets; loopback is up."""

    reusable = True

    def contribute(self, plan: PlanBuilder) -> None:
        plan.namespace("net")
        plan.add(Phase.NAMESPACES, LoopbackUp())
