"""
Rules for drivers of networks.
"""

from __future__ import annotations

import os
from typing import cast

from pysuper.drivers import NetworkDriver
from pysuper.testing.driver import DriverTests
from pysuper.testing.rules import NotHere, require, rule
from pysuper.testing.stage import IDLE, interpreter

__all__ = ["NetworkDriverTests"]

#: Connects to itself, by TCP.
_LOOPBACK = """
import socket
with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname(), 5) as client:
    print("connected")
"""


class NetworkDriverTests(DriverTests):
    """
    What holds for drivers of the group pysuper.network: the container is in the network namespace that they say.

    Attributes:
        joins: A path that leads to the namespace which containers join, of a driver whose `namespace` is "joined", if
            it is told by its options which one that is.
    """

    kind = "network"
    joins: str | None = None

    @rule(
        "The container is in a network namespace of its own, in the host's, or in the one that it joins: in what the "
        "driver declares as `namespace`.",
        because="who may open a port, sniff, or reach the host's abstract sockets follows from it, and pysuper warns "
        "of what is shared by what is declared.",
    )
    async def test_is_in_the_declared_namespace(self) -> None:
        self.require_working()
        declared = cast("type[NetworkDriver]", self.load()).namespace
        async with self.stage() as stage:
            container = await stage.start(self.spec(IDLE, init=False))
            found = os.readlink(f"/proc/{container.pid}/ns/net")
            joined = (await stage.executed(container, "readlink", "/proc/self/ns/net")).strip()
        ours = os.readlink("/proc/self/ns/net")
        do = 'declare namespace = "own", "joined" or "host", as contribute() does it'
        if declared == "host":
            require(found == ours, f"it declares the host's, {ours}, and is in {found}", do=do)
        else:
            require(found != ours, f"it declares {declared!r}, and is in the host's, {ours}", do=do)
        if declared == "joined" and self.joins is not None:
            wanted = os.readlink(self.joins)
            require(
                found == wanted, f"it was told to join {wanted}, and is in {found}", do="enter the one of the options"
            )
        require(joined == found, f"a command that joins is in {joined}, the container in {found}", do="promise it")

    @rule(
        "Two containers with a network of their own are in different ones.",
        because="ports and abstract sockets of one would be the other's, too.",
    )
    async def test_two_containers_have_different_networks(self) -> None:
        self.require_working()
        if cast("type[NetworkDriver]", self.load()).namespace != "own":
            raise NotHere(f"{self.title} declares a namespace that is not the container's own")
        async with self.stage() as stage:
            one, two = [
                os.readlink(f"/proc/{(await stage.start(self.spec(IDLE, init=False))).pid}/ns/net") for _ in range(2)
            ]
        require(one != two, f"both are in {one}", do="leave it to the driver `net` to make the namespace")

    @rule(
        "Loopback works.",
        because="programs talk to themselves at 127.0.0.1, also those that have no network; in a new namespace the "
        "interface is down.",
    )
    async def test_loopback_works(self) -> None:
        self.require_working()
        async with self.stage() as stage:
            output = await stage.output(self.spec(**interpreter(_LOOPBACK)))
        require(output == "connected\n", f"it printed {output!r}", do="add the step LoopbackUp, if nobody else does")
