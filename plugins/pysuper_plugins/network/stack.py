"""
The network of a stack: one network namespace, with loopback only, that the containers of a file share.

They reach each other at 127.0.0.1, and by the names in their /etc/hosts; the host is not reachable, nor can it reach
them. Abstract unix sockets belong to the network namespace, so that these are shared too, unix(7).
"""

from __future__ import annotations

import os

import attrs

from pysuper.drivers import NetworkDriver, Phase, PlanBuilder
from pysuper.errors import DriverError
from pysuper.receipts import OwnNamespace, SameNamespace
from pysuper.steps import Bind, EnterNamespace


@attrs.frozen
class StackOptions:
    """
    What `pysuper up` fills in; nobody writes it into a file.

    Attributes:
        namespace: A path that leads to the namespace, such as /proc/PID/fd/N.
        hosts: A file to show as /etc/hosts, or None.
    """

    namespace: str | None = None
    hosts: str | None = None


class StackNetwork(NetworkDriver):
    """Loopback, shared by the containers of a stack."""

    Options = StackOptions
    namespace = "joined"
    reusable = True

    def contribute(self, plan: PlanBuilder) -> None:
        if not plan.context.privileged:
            raise DriverError(
                "without root, containers cannot share a network namespace", remedy='network = "own" or "host"'
            )
        path = self.options.namespace
        if path is None:
            raise DriverError("the network stack is that of a stack's containers", remedy="use it with pysuper up")
        plan.add(Phase.NAMESPACES, EnterNamespace(namespace="net", path=path))
        plan.check(OwnNamespace(namespace="net"), SameNamespace(namespace="net", path=path))
        if self.options.hosts is not None:
            flags = ("ro", "nosuid", "nodev", "noexec")
            source = os.path.realpath(self.options.hosts)
            plan.add(Phase.MOUNTS, Bind(source=source, target="/etc/hosts", flags=flags, recursive=False))
