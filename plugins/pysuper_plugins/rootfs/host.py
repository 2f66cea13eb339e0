"""
This machine's own file system, copy-on-write: the container sees the host's programs, and its writes vanish with it.

Home directories, /root, /tmp and /run of the host are hidden; what the container shall see of them is mounted.
"""

from __future__ import annotations

import os

from pysuper.drivers import Detection, Phase, PlanBuilder, RootfsDriver
from pysuper.steps import Bind, Mount, Overlay, Symlink

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
        mounted = _mount_points()
        for entry in sorted(os.scandir("/"), key=lambda e: e.name):
            path = entry.path
            if entry.is_symlink():
                plan.add(Phase.ROOTFS, Symlink(text=os.readlink(path), target=path))
            elif entry.is_dir() and path not in left_out and os.access(path, os.R_OK | os.X_OK):
                if any(point == path or point.startswith(f"{path}/") for point in mounted):
                    # Its mounts are locked to it: it can be shown with them, and so not be a layer.
                    plan.add(Phase.ROOTFS, Bind(source=path, target=path, flags=("ro", "nosuid", "nodev")))
                else:
                    plan.add(Phase.ROOTFS, Overlay(source=path, target=path, userxattr=True))


def _mount_points() -> list[str]:
    """Where something is mounted, proc_pid_mountinfo(5)."""
    with open("/proc/self/mountinfo", errors="surrogateescape") as file:
        return [line.split()[4] for line in file]
