"""The uts namespace: an own host name. uts_namespaces(7)."""

from __future__ import annotations

from pysuper.drivers import NamespaceDriver, Phase, PlanBuilder
from pysuper.steps import SetHostname


class UtsNamespace(NamespaceDriver):
    """An own host name: `hostname`, or the container's name."""

    reusable = True

    def contribute(self, plan: PlanBuilder) -> None:
        spec = plan.context.spec
        plan.namespace("uts")
        plan.add(Phase.NAMESPACES, SetHostname(hostname=spec.hostname or spec.name))
