"""The host's network: no network namespace of its own. Not a boundary."""

from __future__ import annotations

import os

from pysuper.drivers import NetworkDriver, Phase, PlanBuilder
from pysuper.steps import Bind

_RESOLVER = "/etc/resolv.conf"


class HostNetwork(NetworkDriver):
    """The host's interfaces and ports, its abstract unix sockets too, and its name resolution."""

    namespace = "host"
    reusable = True

    def contribute(self, plan: PlanBuilder) -> None:
        if not os.path.exists(_RESOLVER):
            return
        source = os.path.realpath(_RESOLVER)
        # On a view of the host the link stays, and leads to where the host's /run is hidden.
        target = source if plan.context.spec.rootfs.name == "host" else _RESOLVER
        plan.add(Phase.MOUNTS, Bind(source=source, target=target, flags=("ro", "nosuid", "nodev", "noexec")))
