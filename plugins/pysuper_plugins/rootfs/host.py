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
#: Where a partition of its own belongs to what the machine is, hier(7); elsewhere it is the user's to mount.
_PARTS = ("/opt", "/srv", "/usr", "/var")
_SYSTEM = ("/dev", "/proc", "/sys")


class HostRootfs(RootfsDriver):
    """A copy-on-write view of this machine's /; writes vanish."""

    reusable = True

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
            # A layer is one file system: what is mounted below is not in it.
            for path in _parts():
                plan.add(Phase.ROOTFS, Overlay(source=path, target=path, idmap=plan.idmap))
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
        mounted = [path for path, _ in _mounts()]
        for entry in sorted(os.scandir("/"), key=lambda e: e.name):
            path = entry.path
            if entry.is_symlink():
                plan.add(Phase.ROOTFS, Symlink(text=os.readlink(path), target=path))
            elif entry.is_dir() and path not in left_out and os.access(path, os.R_OK | os.X_OK):
                if any(_is_below(point, path) for point in mounted):
                    # Its mounts are locked to it: it can be shown with them, and so not be a layer.
                    plan.add(Phase.ROOTFS, Bind(source=path, target=path, flags=("ro", "nosuid", "nodev")))
                else:
                    plan.add(Phase.ROOTFS, Overlay(source=path, target=path, userxattr=True))


def _mounts() -> list[tuple[str, str]]:
    """`(mount point, type of the file system)` of every mount, proc_pid_mountinfo(5)."""
    with open("/proc/self/mountinfo", errors="surrogateescape") as file:
        halves = [line.split(" - ") for line in file]
    return [(mount.split()[4], source.split()[0]) for mount, source in halves]


def _parts() -> list[str]:
    """The partitions that this machine's programs and data are spread over, outermost first."""
    with open("/proc/filesystems") as file:
        on_disk = {line.strip() for line in file if not line.startswith("nodev")}
    return sorted(
        {path for path, fstype in _mounts() if fstype in on_disk and any(_is_below(path, part) for part in _PARTS)}
    )


def _is_below(path: str, directory: str) -> bool:
    return path == directory or path.startswith(f"{directory}/")
