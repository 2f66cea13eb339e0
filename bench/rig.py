"""What all measurements need: a root file system, the C programs, and cgroups that are gone afterwards."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import attrs

from pysuper import syscalls
from pysuper.capabilities import mask
from pysuper_plugins.cgroup.mounts import hierarchies

__all__ = ["PYSUPER", "Rig", "set_up"]

PYSUPER = str(Path(sys.executable).parent / "pysuper")
_HERE = Path(__file__).parent
#: Steps of a plan that floor.c takes, too.
_FLOOR_STEPS = frozenset(
    {
        "become_root",
        "bind",
        "bound_capabilities",
        "join_cgroup",
        "join_namespace",
        "landlock",
        "loopback_up",
        "mask_path",
        "mknod",
        "mount",
        "new_session_keyring",
        "no_new_privileges",
        "pivot_root",
        "private_mounts",
        "read_only_path",
        "seccomp",
        "set_capabilities",
        "set_hostname",
        "set_rlimit",
        "set_umask",
        "set_user",
        "setsid",
        "symlink",
        "unshare",
    }
)
#: How those cgroups are called that the compared programs may leave behind.
_LEFT_BEHIND = ("pysuper-floor.", "bench-", "lxc.", "libpod", "conmon")


@attrs.frozen(kw_only=True)
class Rig:
    """
    Attributes:
        scratch: A directory that is removed afterwards.
        root: The root file system of every container, made of this machine's busybox; it has /bin/stamp.
        floor, hide, stamp: The C programs.
        floor_options: By level, what makes the floor as isolated as it should be here.
        beyond_floor: Steps of pysuper that the floor does not take, so that it is less isolated.
    """

    scratch: Path
    root: Path
    floor: str
    hide: str
    stamp: str
    floor_options: dict[str, list[str]]
    beyond_floor: tuple[str, ...]


@contextmanager
def set_up(scratch: Path) -> Iterator[Rig]:
    """Everything, in a directory; afterwards no cgroup and no mount is left that was not there before."""
    _compile(scratch)
    floor, hide, stamp = (str(scratch / name) for name in ("floor", "hide", "stamp"))
    root = _make_root(scratch / "root", stamp)
    before = set(_cgroups())
    plan = _default_plan(root)
    try:
        yield Rig(
            scratch=scratch,
            root=root,
            floor=floor,
            hide=hide,
            stamp=stamp,
            floor_options=_floor_options(plan, scratch, root, floor),
            beyond_floor=tuple(sorted({step["do"] for step in _steps(plan)} - _FLOOR_STEPS)),
        )
    finally:
        for path in sorted(set(_cgroups()) - before):
            _remove(path)
        for mount in reversed(_mounts()):
            if mount.startswith(f"{scratch}/"):
                subprocess.run(["umount", "--lazy", mount], check=False)
        shutil.rmtree(f"/run/lxc/lock{scratch}", ignore_errors=True)  # where lxc locks what is in other directories


def _compile(scratch: Path) -> None:
    bare = ["-nostdlib", "-fno-stack-protector", "-fno-builtin"]
    for name, options in {"floor": [], "hide": [], "stamp": bare}.items():
        strict = ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-static"]
        subprocess.run([*strict, *options, "-o", scratch / name, _HERE / f"{name}.c"], check=True)


def _make_root(root: Path, stamp: str) -> Path:
    # What the programs want to find or to mount over; systemd-nspawn takes nothing without /usr for a root.
    for name in ("bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "usr", "var"):
        (root / name).mkdir(parents=True)
    (root / "bin/busybox").write_bytes(Path("/bin/busybox").read_bytes())
    (root / "bin/stamp").write_bytes(Path(stamp).read_bytes())
    for program in ("bin/busybox", "bin/stamp"):
        (root / program).chmod(0o755)
    for applet in ("cat", "ls", "sh", "sleep", "true"):
        (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")
    # Ids of containers are others than ours, and the way to the root leads through here.
    root.parent.chmod(0o755)
    return root


def _default_plan(root: Path) -> dict[str, Any]:
    """The plan of a container with the default settings."""
    command = ["--rootfs", f"dir:{root}", "--", "/bin/true"]
    # The first container of a supervisor has the controllers of cgroup v2 enabled, which the floor does not do.
    subprocess.run([PYSUPER, "run", *command], check=True)
    shown = subprocess.run([PYSUPER, "plan", "--json", *command], check=True, stdout=subprocess.PIPE)
    plan: dict[str, Any] = json.loads(shown.stdout)
    return plan


def _floor_options(plan: dict[str, Any], scratch: Path, root: Path, floor: str) -> dict[str, list[str]]:
    """Those of each level; what the full one does not know by itself is read from the plan."""
    full = [option for step in _steps(plan) for option in _options(step, scratch)]
    if plan["cgroup"]:
        cgroup = ["--cgroup2", os.path.dirname(plan["cgroup"])]
        full += cgroup
    else:
        cgroup = ["--cgroup", next(h.own for h in hierarchies() if "pids" in h.controllers and h.own)]
    start = [floor, "--root", str(root), "--level"]
    return {"basic": [*start, "basic", *cgroup], "full": [*start, "full", *full]}


def _steps(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for phase in plan["phases"].values():
        yield from phase


def _options(step: dict[str, Any], scratch: Path) -> Iterator[str]:
    match step:
        case {"do": "join_cgroup", "path": path}:
            yield from ("--cgroup", os.path.dirname(os.path.dirname(path)))
        case {"do": "mask_path", "target": target}:
            yield from ("--mask", target)
        case {"do": "read_only_path", "target": target}:
            yield from ("--read-only", target)
        case {"do": "set_capabilities", "keep": keep}:
            yield from ("--keep", f"{mask(tuple(keep)):x}")
        case {"do": "landlock", "deny": deny}:
            yield from ("--landlock", f"{sum(syscalls.LANDLOCK_ACCESS_FS[right] for right in deny):x}")
        case {"do": "seccomp", "program": program}:
            (scratch / "seccomp").write_bytes(bytes.fromhex(program))
            yield from ("--seccomp", str(scratch / "seccomp"))


# --- what is left behind ---


def _mounts() -> list[str]:
    """Where something is mounted, in the order in which it was."""
    return [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]


def _cgroups() -> Iterator[str]:
    """Those that the compared programs may have made: at the tops of the hierarchies, and in our own cgroups."""
    tops = {line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if " cgroup" in line}
    for parent in tops | {h.own for h in hierarchies() if h.own}:
        with suppress(OSError):
            yield from (f"{parent}/{name}" for name in os.listdir(parent) if name.startswith(_LEFT_BEHIND))


def _remove(path: str) -> None:
    """Remove a cgroup with those in it; one with processes in it stays."""
    for directory, _, _ in os.walk(path, topdown=False):
        with suppress(OSError):
            os.rmdir(directory)
