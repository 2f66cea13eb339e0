"""No network: an own network namespace in which only loopback is up."""

from __future__ import annotations

from pysuper.drivers import NetworkDriver, PlanBuilder


class NoNetwork(NetworkDriver):
    """Loopback only."""

    reusable = True

    def contribute(self, plan: PlanBuilder) -> None:
        """Nothing to add: a new network namespace is connected to nothing."""
