"""
This machine's own file system, copy-on-write: the container sees the host's programs, and its writes vanish with it.

Home directories, /root, /tmp and /run of the host are hidden; what the container shall see of them is mounted.
"""

from __future__ import annotations

import os

from pysuper.drivers import Detection, Phase, PlanBuilder, RootfsDriver
from pysuper.steps import Mount, Overlay, Symlink

#: Path and mode of what is empty in the container.
_HIDDEN = (("/home", "0755"), ("/root", "0700"), ("/run", "0755"), ("/tmp", "1777"))
_SYSTEM = ("/dev", "/proc", "/sys")


class HostRootfs(RootfsDriver):
    """A copy-on-write view of this machine's /; writes vanish."""

    @classmethod
    def detect(cls) -> Detection:
        with open("/proc/filesystems") as file:
            if "overlay" in file.read().split():
                return Detection(True)
        if os.path.isdir(f"/lib/modules/{os.uname().release}/kernel/fs/overlayfs") and os.geteuid() == 0:
            return Detection(True)  # the kernel loads it at the first mount
        return Detection(False, "the kernel has no overlay file system; modprobe overlay loads it")

    def contribute(self, plan: PlanBuilder) -> None:
        if plan.context.privileged:
            plan.add(Phase.ROOTFS, Overlay(source="/", target="/", idmap=plan.idmap))
        else:
            self._compose(plan)
        for path, mode in _HIDDEN:
            options: dict[str, str | None] = {
                "mode": mode,
                "uid": str(plan.host_uid(0)),
                "gid": str(plan.host_gid(0)),
            }
            plan.add(Phase.MOUNTS, Mount(fstype="tmpfs", target=path, flags=("nosuid", "nodev"), options=options))

    @staticmethod
    def _compose(plan: PlanBuilder) -> None:
        """
        Without privileges / cannot be a layer, since mounts below it are locked; its directories one by one can,
        mount_namespaces(7).
        """
        plan.add(Phase.ROOTFS, Mount(fstype="tmpfs", target="/", options={"mode": "0755"}))
        left_out = {*_SYSTEM, *(path for path, _ in _HIDDEN)}
        for entry in sorted(os.scandir("/"), key=lambda e: e.name):
            if entry.is_symlink():
                plan.add(Phase.ROOTFS, Symlink(text=os.readlink(entry.path), target=entry.path))
            elif entry.is_dir() and entry.path not in left_out and os.access(entry.path, os.R_OK | os.X_OK):
                plan.add(Phase.ROOTFS, Overlay(source=entry.path, target=entry.path, userxattr=True))
