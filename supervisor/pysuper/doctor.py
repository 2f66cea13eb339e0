"""
What this kernel and this user can do, and the remedy for each thing that they cannot.

Nothing is changed: a probe reads /proc, or makes a system call whose effect ends with its descriptor.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import attrs

from pysuper import landlock, syscalls
from pysuper.contexts import is_privileged
from pysuper.errors import PysuperError, describe_errno
from pysuper.planning import make_plan
from pysuper.protections import PROTECTIONS
from pysuper.registry import available, load_launcher
from pysuper.spec import NAMESPACES, ContainerSpec
from pysuper.subids import NoSubIds, find as find_subids

__all__ = ["Finding", "examine", "examine_security"]

_UPGRADE = "boot a newer kernel"
#: File systems whose mounts can map ids, and the kernel that brought it; mount_setattr(2), "ID-mapped mounts".
_IDMAPPED = {
    "btrfs": (5, 15),
    "erofs": (5, 19),
    "ext4": (5, 12),
    "f2fs": (5, 18),
    "squashfs": (6, 2),
    "tmpfs": (6, 3),
    "vfat": (5, 12),
    "xfs": (5, 12),
}
#: Controllers, by their name in cgroup v1, and the limits that they hold.
_CONTROLLERS = {
    "pids": "pids_max",
    "memory": "memory_max",
    "cpu": "cpu_max",
    "cpuset": "cpuset_cpus",
    "blkio": "io_max",
}


@attrs.frozen(kw_only=True)
class Finding:
    """One thing that can be done here, or not; `remedy` helps in that case."""

    subject: str
    works: bool
    detail: str
    remedy: str | None = None


def examine() -> Iterator[Finding]:
    """Everything, the most basic first, and last whether all of it is enough for a container."""
    yield _user()
    if not is_privileged():
        yield _user_ids()
    yield from _kernel()
    yield from _namespaces()
    yield _idmapped_root()
    yield _overlay()
    yield from _cgroups()
    yield _seccomp()
    yield _landlock()
    yield _terminal()
    yield _launcher()
    yield _container()


def _release() -> tuple[int, int]:
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int("".join(c for c in minor if c.isdigit()))


def examine_security() -> Iterator[Finding]:
    """
    What protects this machine from a container with all defaults, which is started for that.

    Raises:
        PysuperError: It does not start.
    """
    import trio

    from pysuper.supervisor import run

    done = trio.run(partial(run, ["true"], name="doctor"))
    for protection in PROTECTIONS:
        in_force = protection.name in done.record.protections
        yield Finding(
            subject=protection.name,
            works=in_force,
            detail=protection.guards if in_force else f"nothing guards against {protection.guards}",
        )


def _user() -> Finding:
    if is_privileged():
        return Finding(subject="user", works=True, detail="root: every container has 65,536 ids of its own")
    return Finding(
        subject="user",
        works=True,
        detail=f"{os.geteuid()}, without privileges: who is root in a container is this user outside",
    )


def _user_ids() -> Finding:
    """Whether containers of an ordinary user have more ids than one."""
    subject = "several user ids"
    try:
        slices = len(find_subids())
    except NoSubIds as error:
        detail = f"a container has one: {error.args[0]}"
        return Finding(subject=subject, works=False, detail=detail, remedy=error.remedy)
    others = "further ones share them" if slices > 1 else "all share them"
    detail = f"/etc/subuid and /etc/subgid have enough for {slices} at a time, {others}; newuidmap maps them"
    return Finding(subject=subject, works=True, detail=detail)


def _kernel() -> Iterator[Finding]:
    release = os.uname().release
    yield Finding(
        subject="kernel",
        works=_release() >= (5, 12),
        detail=f"{release}; 5.12 has all the system calls, 5.19 maps the ids of overlays",
        remedy=_UPGRADE,
    )
    probes: tuple[tuple[str, Callable[[], int]], ...] = (
        ("fsopen and fsmount", lambda: syscalls.new_mount("tmpfs", {}, 0)),
        ("openat2", lambda: syscalls.openat2(syscalls.AT_FDCWD, "/", os.O_PATH, syscalls.RESOLVE_IN_ROOT)),
        ("pidfd_open", lambda: os.pidfd_open(os.getpid())),
    )
    for name, probe in probes:
        try:
            os.close(probe())
            detail, works = "works", True
        except OSError as error:
            # Who may not mount on the host may in a user namespace.
            works = error.errno == errno.EPERM and not is_privileged()
            detail = describe_errno(error.errno or 0)
        yield Finding(subject=name, works=works, detail=detail, remedy=_UPGRADE)


def _namespaces() -> Iterator[Finding]:
    switches = {
        "user": (
            ("/proc/sys/kernel/unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone=1"),
            (
                "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
                "1",
                "sysctl kernel.apparmor_restrict_unprivileged_userns=0",
            ),
        )
    }
    for name in NAMESPACES:
        subject = f"{name} namespaces"
        if not os.path.exists(f"/proc/self/ns/{name}"):
            remedy = f"--share {name}, or a kernel with CONFIG_{name.upper()}_NS"
            yield Finding(subject=subject, works=False, detail="not in this kernel", remedy=remedy)
            continue
        path = f"/proc/sys/user/max_{name}_namespaces"
        most = _read(path) or "unlimited"
        if most == "0":
            remedy = f"sysctl user.max_{name}_namespaces=10000"
            yield Finding(subject=subject, works=False, detail=f"{path} is 0", remedy=remedy)
            continue
        for path, off, remedy in switches.get(name, ()):
            if _read(path) == off and not is_privileged():
                yield Finding(subject=subject, works=False, detail=f"{path} is {off}", remedy=remedy)
                break
        else:
            yield Finding(subject=subject, works=True, detail=f"at most {most}")


def _idmapped_root() -> Finding:
    fstype = next(kind for point, kind, _ in reversed(_mounts()) if point == "/")
    since = _IDMAPPED.get(fstype)
    return Finding(
        subject="id-mapped mounts of /",
        works=since is not None and _release() >= since,
        detail=f"{fstype}, since Linux {since[0]}.{since[1]}" if since else f"not known of {fstype}",
        remedy="--share user, or a --rootfs on ext4, xfs or btrfs",
    )


def _overlay() -> Finding:
    loaded = "overlay" in _read("/proc/filesystems").split()
    module = Path(f"/lib/modules/{os.uname().release}/kernel/fs/overlayfs").is_dir()
    return Finding(
        subject="overlay file system",
        works=loaded or (module and is_privileged()),
        detail="in the kernel" if loaded else "a module, loaded when it is used" if module else "missing",
        remedy="modprobe overlay, or --rootfs dir:PATH, which needs none",
    )


def _cgroups() -> Iterator[Finding]:
    v1 = {option for _, kind, options in _mounts() if kind == "cgroup" for option in options}
    v2_roots = [point for point, kind, _ in _mounts() if kind == "cgroup2"]
    v2 = {name for root in v2_roots for name in _read(f"{root}/cgroup.controllers").split()}
    for controller, limit in _CONTROLLERS.items():
        homes = []
        if controller in v1:
            homes.append("v1")
        if (controller if controller != "blkio" else "io") in v2:
            homes.append("v2")
        yield Finding(
            subject=f"limit {limit}",
            works=bool(homes),
            detail=f"controller on cgroup {' and '.join(homes)}" if homes else "no controller is mounted",
            remedy=f"mount a cgroup hierarchy with it; some kernels need cgroup_enable={controller} to boot",
        )
    working = []
    for entry in available():
        if entry.registration.kind == "cgroup":
            works = entry.detection is not None and entry.detection.works
            reason = entry.detection.reason if entry.detection else entry.error
            yield Finding(subject=f"cgroup driver {entry.registration.name}", works=works, detail=reason or "works")
            if works and entry.registration.name != "none":
                working.append(entry.registration.name)
    if not is_privileged():
        yield Finding(
            subject="delegated cgroup",
            works=bool(working),
            detail=f"for {', '.join(working)}" if working else "none, so that no limit can be promised",
            remedy="start pysuper by systemd-run --user --scope -p Delegate=yes, or see docs/rootless.md",
        )


def _seccomp() -> Finding:
    actions = _read("/proc/sys/kernel/seccomp/actions_avail")
    return Finding(
        subject="seccomp filters",
        works=bool(actions),
        detail=actions or "not in this kernel",
        remedy="a kernel with CONFIG_SECCOMP_FILTER",
    )


def _landlock() -> Finding:
    version = landlock.version()
    return Finding(
        subject="landlock rules",
        works=version >= landlock.NEEDED,
        detail=f"version {version} of the interface" if version else "not in this kernel, or not switched on",
        remedy="a kernel with CONFIG_SECURITY_LANDLOCK, booted with landlock among lsm=; containers start without it",
    )


def _terminal() -> Finding:
    try:
        os.close(os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY))
    except OSError as error:
        detail = f"/dev/ptmx: {describe_errno(error.errno or 0)}"
        return Finding(subject="pseudo-terminals", works=False, detail=detail, remedy="mount devpts at /dev/pts")
    return Finding(subject="pseudo-terminals", works=True, detail="/dev/ptmx")


def _launcher() -> Finding:
    try:
        launcher, why = load_launcher()
    except PysuperError as error:
        return Finding(subject="launcher", works=False, detail=str(error), remedy="install pysuper again")
    detail = f"{launcher.__name__}, since {why}" if why else launcher.__name__
    return Finding(subject="launcher", works=True, detail=detail)


def _container() -> Finding:
    try:
        make_plan(ContainerSpec(name="doctor", command=("true",)))
    except PysuperError as error:
        return Finding(subject="a container", works=False, detail=str(error))
    return Finding(subject="a container", works=True, detail="with all defaults, can be planned: pysuper plan")


def _read(path: str) -> str:
    """The content of a file, empty if there is none to read."""
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return ""


def _mounts() -> list[tuple[str, str, list[str]]]:
    """`(mount point, file system, options of the file system)`, proc_pid_mountinfo(5)."""
    mounts = []
    for line in _read("/proc/self/mountinfo").splitlines():
        mount, _, filesystem = line.partition(" - ")
        kind, _, options = filesystem.split(" ", 2)
        mounts.append((mount.split()[4], kind, options.split(",")))
    return mounts
