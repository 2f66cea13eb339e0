"""
Rules for drivers of namespaces.
"""

from __future__ import annotations

import os
from typing import cast

from pysuper import receipts
from pysuper.container import Container
from pysuper.drivers import NamespaceDriver
from pysuper.testing.driver import DriverTests
from pysuper.testing.plugin import contribution
from pysuper.testing.rules import require, rule
from pysuper.testing.stage import IDLE, Stage

__all__ = ["NamespaceDriverTests"]


class NamespaceDriverTests(DriverTests):
    """What holds for drivers of the group pysuper.namespace: the container is in a namespace of its own."""

    kind = "namespace"

    @property
    def namespace(self) -> str:
        """The kernel's abbreviation of what it makes."""
        return cast("type[NamespaceDriver]", self.load()).namespace or self.choice.name

    @rule(
        "That the namespace is the container's own, is a promise.",
        because="what is promised is read back from the kernel before the command runs; a namespace that the kernel "
        "did not make would go unnoticed otherwise, and the container would work on the host's.",
    )
    def test_promises_an_own_namespace(self) -> None:
        self.require_working()
        wanted = receipts.OwnNamespace(namespace=self.namespace)
        found = contribution(self.create(), self.context()).checks
        require(wanted in found, f"the checks are {[check.describe() for check in found]}", do=self._make)

    @rule(
        "The container's processes are in a namespace of their own, and those of a command that joins are in the same.",
        because="a command that is executed in a running container has to see what the container sees, and must not "
        "change what is the host's.",
    )
    async def test_all_processes_are_in_its_namespace(self) -> None:
        self.require_working()
        async with self.stage() as stage:
            container = await stage.start(self.spec(IDLE, init=False))
            ours, theirs = _inode("self", self.namespace), _inode(container.pid, self.namespace)
            require(theirs != ours, f"the first process is in the host's, {ours}", do=self._make)
            joined = await self._joined(stage, container)
            found = f"a process that joins is in {joined}, the container in {theirs}"
            require(joined == theirs, found, do="let plan.namespace() make it, so that the plan says how to enter it")

    @rule(
        "Two containers are in different ones.",
        because="a namespace that two containers share is no wall between them.",
    )
    async def test_two_containers_are_in_different_namespaces(self) -> None:
        self.require_working()
        async with self.stage() as stage:
            one, two = [_inode((await stage.start(self.spec(IDLE, init=False))).pid, self.namespace) for _ in range(2)]
        require(one != two, f"both are in {one}", do=self._make)

    @property
    def _make(self) -> str:
        return f"call plan.namespace({self.namespace!r}) in contribute(), and nothing that enters another one"

    async def _joined(self, stage: Stage, container: Container) -> str:
        """Where a command is that is executed in a container."""
        link = f"/proc/self/ns/{self.namespace}"
        return (await stage.executed(container, "readlink", link)).strip()


def _inode(pid: int | str, namespace: str) -> str:
    """`uts:[4026531838]`, namespaces(7)."""
    return os.readlink(f"/proc/{pid}/ns/{namespace}")
