"""
The network driver `skeleton`: no network but loopback, in which every user may serve at ports below 1024.

A network driver decides what the container's network namespace is connected to. Here the driver `net` makes that
namespace (`namespace = "own"`), and this one only says how it shall be.

Kernel: Documentation/networking/ip-sysctl.rst, "ip_unprivileged_port_start".
"""

from __future__ import annotations

import attrs

from pysuper.drivers import NetworkDriver, Phase, PlanBuilder
from pysuper.errors import DriverError
from pysuper.steps import WriteFile


# CHANGE: the options that it has. Their names are keys in files, their types are checked, their docs are shown by
# `pysuper plugins show`.
@attrs.frozen
class SkeletonOptions:
    """
    Attributes:
        first_port: The lowest port at which those may serve who are not root.
    """

    first_port: int = 0


class Skeleton(NetworkDriver):
    """`skeleton:PORT`: loopback only, with ports from that one on for everybody."""

    Options = SkeletonOptions
    argument = "first_port"  # which option `skeleton:VALUE` sets
    namespace = "own"  # CHANGE: "joined" if it enters one that exists, "host" for the host's

    def contribute(self, plan: PlanBuilder) -> None:
        port = self.options.first_port
        if not 0 <= port <= 1024:
            raise DriverError(f"network skeleton: {port} is no port below 1024", remedy="write one such as 80")
        # CHANGE: what is done in the namespace. What belongs on the host's side, such as a veth pair, is made in
        # `host`, and what would outlive a killed supervisor is said in `traces`. A container waits for its driver
        # at a `steps.Barrier`, and the driver is told in `at_barrier`, with the container's pid.
        path = "/proc/sys/net/ipv4/ip_unprivileged_port_start"
        plan.add(Phase.NAMESPACES, WriteFile(path=path, content=str(port)))
