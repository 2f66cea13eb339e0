"""
The user namespace: uid 0 of the container is nobody on the host. user_namespaces(7).

As host root a container gets 65,536 host ids of its own. The namespace exists before the container's first process,
which mounts as host root and enters it last; that is also how the ids of files are mapped instead of changed.

As an ordinary user the container is born in it, and its root is the user. If the machine gives the user more ids, the
container has some of them, too: newuidmap(1) maps them while the process waits, before it does anything else.
"""

from __future__ import annotations

import os
from typing import Any, Literal

import attrs

from pysuper.drivers import Detection, IdMap, NamespaceDriver, Phase, PlanBuilder
from pysuper.errors import DriverError
from pysuper.receipts import FileHolds
from pysuper.steps import Barrier
from pysuper.subids import COUNT, NoSubIds, SubIds, SubIdsRefused, map_ids

_RANGE = 65536
_BARRIER = "id maps"


@attrs.frozen
class UserOptions:
    """
    Attributes:
        ids: How many there are: `range` is 65,536, `one` is only the caller's own, `auto` is a range if there is one.
    """

    ids: Literal["auto", "range", "one"] = "auto"


class UserNamespace(NamespaceDriver):
    """Own users and groups: root in the container has no rights outside."""

    Options = UserOptions
    argument = "ids"
    reusable = True

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self._ids: IdMap | None = None

    @classmethod
    def detect(cls) -> Detection:
        for path, remedy in (
            ("/proc/sys/user/max_user_namespaces", "sysctl user.max_user_namespaces=10000"),
            ("/proc/sys/kernel/unprivileged_userns_clone", "sysctl kernel.unprivileged_userns_clone=1"),
        ):
            if os.geteuid() == 0 and "unprivileged" in path:
                continue
            try:
                with open(path) as file:
                    if int(file.read()) == 0:
                        return Detection(False, f"user namespaces are switched off; {remedy} allows them")
            except FileNotFoundError:
                continue
        return Detection(True)

    def contribute(self, plan: PlanBuilder) -> None:
        plan.ids = self._ids = self._map(plan)
        plan.namespace("user")
        if plan.ids.helped:
            plan.add(Phase.SESSION, Barrier(name=_BARRIER))
        for name, lines in (("uid_map", plan.ids.uids), ("gid_map", plan.ids.gids)):
            text = " ".join(str(number) for line in lines for number in line)
            plan.check(FileHolds(path=f"/proc/{{pid}}/{name}", content=text))

    async def at_barrier(self, name: str, pid: int) -> None:
        if name != _BARRIER or self._ids is None:
            return
        try:
            await map_ids(pid, self._ids.uids, self._ids.gids)
        except SubIdsRefused as error:
            if self.options.ids == "range":
                raise DriverError(str(error)) from error
            raise  # which has the container started with one

    def _map(self, plan: PlanBuilder) -> IdMap:
        context, wanted = plan.context, self.options.ids
        if context.privileged:
            if wanted == "one":
                raise DriverError("a single id is what ordinary users have, root's containers have 65,536")
            line = (0, context.uid_base, _RANGE)
            return IdMap((line,), (line,), privileged=True)
        uids, gids = (0, os.geteuid(), 1), (0, os.getegid(), 1)
        subids = context.subids
        if isinstance(subids, SubIds) and wanted != "one":
            return IdMap((uids, (1, subids.uid, COUNT)), (gids, (1, subids.gid, COUNT)), privileged=False, helped=True)
        if wanted == "range":
            raise subids if isinstance(subids, NoSubIds) else DriverError("there are no ids but the caller's own")
        if wanted == "auto" and isinstance(subids, NoSubIds) and subids.meant:
            plan.warn(f"it has one user id: {subids}")
        return IdMap((uids,), (gids,), privileged=False)
