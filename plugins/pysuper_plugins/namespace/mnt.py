"""
The mount namespace: an own view of the file system, with a private /dev, /proc, /sys and the user's mounts.

What is masked or read-only under /proc is what moby masks: files that leak the host's state, or with which root
changes the host.
"""

from __future__ import annotations

import functools
import os
import posixpath
from collections.abc import Mapping, Sequence

from pysuper.drivers import NamespaceDriver, Phase, PlanBuilder
from pysuper.errors import DriverError
from pysuper.receipts import MountFlags
from pysuper.spec import BindMount, TmpfsMount
from pysuper.steps import Bind, MaskPath, Mknod, Mount, PrivateMounts, ReadOnlyPath, Step, Symlink
from pysuper_plugins.devices import nodes

_MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
_QUIET_READ_ONLY = ("ro", "nosuid", "nodev", "noexec")
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

#: Path, major and minor number, Documentation/admin-guide/devices.txt.
_DEVICES = (
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
)
#: By whether the container is privileged; one that is not must not make devices, but may show those of the host.
_NODES: Mapping[bool, tuple[Step, ...]] = {
    True: tuple(Mknod(target=path, major=major, minor=minor) for path, major, minor in _DEVICES),
    False: tuple(Bind(source=path, target=path, flags=("nosuid", "noexec")) for path, _, _ in _DEVICES),
}
_SYMLINKS = (
    Symlink(text="/proc/self/fd", target="/dev/fd"),
    Symlink(text="/proc/self/fd/0", target="/dev/stdin"),
    Symlink(text="/proc/self/fd/1", target="/dev/stdout"),
    Symlink(text="/proc/self/fd/2", target="/dev/stderr"),
    Symlink(text="pts/ptmx", target="/dev/ptmx"),
)
#: What is not taken from the devices that a container is given.
_PRIVATE = frozenset({*(path for path, _, _ in _DEVICES), *(link.target for link in _SYMLINKS)})
#: The group that owns terminals in every distribution.
_TTY_GROUP = 5


class MountNamespace(NamespaceDriver):
    """An own view of the file system; every mount of the container is made in it, so that none is seen outside."""

    reusable = True

    def contribute(self, plan: PlanBuilder) -> None:
        plan.namespace("mnt")
        plan.add(Phase.SESSION, PrivateMounts())
        plan.add(Phase.MOUNTS, Mount(fstype="proc", target="/proc", flags=("nosuid", "nodev", "noexec")))
        self._add_sys(plan)
        self._add_devices(plan)
        for mount in plan.context.spec.mounts:
            self._add_mount(plan, mount)
        self._add_masks(plan)
        plan.check(MountFlags(target="/dev", flags=("nosuid",)))

    @staticmethod
    def _add_sys(plan: PlanBuilder) -> None:
        unmask = plan.context.spec.unmask
        flags = ("nosuid", "nodev", "noexec") if _in("/sys", unmask) else _QUIET_READ_ONLY
        if plan.context.privileged or "net" in plan.own:
            plan.add(Phase.MOUNTS, Mount(fstype="sysfs", target="/sys", flags=flags))
            return
        # A new sysfs shows the network namespace, and so is for its owner alone; the host's may be shown to anybody.
        plan.add(Phase.MOUNTS, Bind(source="/sys", target="/sys", flags=flags))
        if not _in("/sys/fs/cgroup", unmask):
            plan.add(Phase.MASKS, MaskPath(target="/sys/fs/cgroup"))

    @staticmethod
    def _add_masks(plan: PlanBuilder) -> None:
        unmask = plan.context.spec.unmask
        hidden, checks = _masks(tuple(unmask))
        plan.add(Phase.MASKS, *hidden)
        plan.check(*checks)
        if unmask:
            plan.warn(f"neither hidden nor read-only: {', '.join(unmask)}")

    def _add_devices(self, plan: PlanBuilder) -> None:
        plan.add(Phase.MOUNTS, Mount(fstype="tmpfs", target="/dev", flags=("nosuid",), options=_owned(plan, "0755")))
        plan.add(Phase.MOUNTS, *_NODES[plan.context.privileged])
        self._add_given_devices(plan)
        plan.add(Phase.MOUNTS, *_SYMLINKS)
        terminals: dict[str, str | None] = {"newinstance": None, "ptmxmode": "0666", "mode": "0620"}
        if (group := plan.host_gid(_TTY_GROUP)) is not None:
            terminals["gid"] = str(group)
        shm = _owned(plan, "1777") | {"size": "64m"}
        quiet = ("nosuid", "nodev", "noexec")
        plan.add(
            Phase.MOUNTS,
            Mount(fstype="devpts", target="/dev/pts", flags=("nosuid", "noexec"), options=terminals),
            Mount(fstype="tmpfs", target="/dev/shm", flags=quiet, options=shm),
        )

    @staticmethod
    def _add_given_devices(plan: PlanBuilder) -> None:
        spec = plan.context.spec
        for node in nodes(spec):
            if node.target in _PRIVATE:
                continue
            if plan.context.privileged:
                made = Mknod(target=node.target, major=node.major, minor=node.minor, block=node.block)
                plan.add(Phase.MOUNTS, made)
            else:
                plan.add(Phase.MOUNTS, Bind(source=node.source, target=node.target, flags=("nosuid", "noexec")))
        if spec.devices:
            sources = ", ".join(device.source for device in spec.devices)
            plan.warn(f"devices of the host can be used, and what is behind them: {sources}")

    @staticmethod
    def _add_mount(plan: PlanBuilder, mount: BindMount | TmpfsMount) -> None:
        target = posixpath.normpath(mount.target)
        if target in {"/", "/proc"} or target.startswith("/proc/"):
            raise DriverError(f"{mount.target} cannot be a mount target", remedy="choose another path")
        if isinstance(mount, TmpfsMount):
            options = _owned(plan, f"{mount.mode:04o}")
            if mount.size is not None:
                options["size"] = str(mount.size)
            plan.add(Phase.MOUNTS, Mount(fstype="tmpfs", target=target, flags=("nosuid", "nodev"), options=options))
            plan.check(MountFlags(target=target, flags=("nosuid", "nodev")))
            return
        if not os.path.exists(mount.source):
            raise DriverError(f"the mount source {mount.source} does not exist", remedy="make it first")
        flags = ("ro", "nosuid", "nodev") if mount.read_only else ("nosuid", "nodev")
        plan.add(Phase.MOUNTS, Bind(source=mount.source, target=target, flags=flags, idmap=plan.idmap))
        plan.check(MountFlags(target=target, flags=flags))


@functools.lru_cache(16)
def _masks(unmask: tuple[str, ...]) -> tuple[tuple[Step, ...], tuple[MountFlags, ...]]:
    """What hides, and makes read-only, all that is not to be left as it is; and what is promised of that."""
    read_only, masked, promised = (
        [path for path in paths if not _in(path, unmask)] for paths in (_READ_ONLY, _MASKED, ("/proc/sys", "/sys"))
    )
    hidden = (*(ReadOnlyPath(target=path) for path in read_only), *(MaskPath(target=path) for path in masked))
    return hidden, tuple(MountFlags(target=path, flags=("ro",)) for path in promised)


def _in(path: str, unmask: Sequence[str]) -> bool:
    """Whether a path, or something above it, is to be left as it is."""
    return any(other in ("ALL", path) or path.startswith(f"{other}/") for other in unmask)


def _owned(plan: PlanBuilder, mode: str) -> dict[str, str | None]:
    """Options of a tmpfs that belongs to the container's root."""
    return {"mode": mode, "uid": str(plan.host_uid(0)), "gid": str(plan.host_gid(0))}
