"""
The user namespace: uid 0 of the container is nobody on the host. user_namespaces(7).

As host root a container gets 65,536 host ids of its own. The namespace exists before the container's first process,
which mounts as host root and enters it last; that is also how the ids of files are mapped instead of changed.

As an ordinary user the container is born in it, with the one id that the user has: its root is the user.
"""

from __future__ import annotations

import os

from pysuper.drivers import Detection, IdMap, NamespaceDriver, PlanBuilder
from pysuper.receipts import FileHolds

_RANGE = 65536


class UserNamespace(NamespaceDriver):
    """Own users and groups: root in the container has no rights outside."""

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
        context = plan.context
        if context.privileged:
            line = (0, context.uid_base, _RANGE)
            plan.ids = IdMap((line,), (line,), privileged=True)
        else:
            plan.ids = IdMap(((0, os.geteuid(), 1),), ((0, os.getegid(), 1),), privileged=False)
        plan.namespace("user")
        for name, lines in (("uid_map", plan.ids.uids), ("gid_map", plan.ids.gids)):
            text = " ".join(str(number) for line in lines for number in line)
            plan.check(FileHolds(path=f"/proc/{{pid}}/{name}", content=text))
