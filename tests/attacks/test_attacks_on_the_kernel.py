"""Attacks on what all containers share: settings of the kernel, cgroups, devices, terminals, keys, sockets, a root."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from attackcore import HERE, PRIVILEGED, Attack, Battle, Weak, parametrized

from machine import cgroup_driver

UNCONFINED = {"security_opt": [["seccomp", "unconfined"], ["landlock", False]]}
#: With a limit of its own; no user namespace protects the files of its cgroup.
LIMITED = {"pids_max": 20}
#: A directory with a device node that containers are not given; attackrunner.py makes it.
VOLUME = ("VOLUME", "/volume")


def absent(path: str) -> str | None:
    return None if os.path.exists(path) else f"this kernel has no {path}"


def no_version_1() -> str | None:
    return None if cgroup_driver() == "v1" else "there is no cgroup v1 here"


def no_cgroup() -> str | None:
    return "no cgroup can be had here" if cgroup_driver() == "none" else None


def no_vsock() -> str | None:
    try:
        socket.socket(socket.AF_VSOCK).close()
    except OSError as error:
        return f"this kernel has no AF_VSOCK: {error.strerror}"
    return None


def no_injection() -> str | None:
    legacy = Path("/proc/sys/dev/tty/legacy_tiocsti")
    return "dev.tty.legacy_tiocsti is 0" if legacy.exists() and legacy.read_text().strip() == "0" else None


OUTSIDE = "it belongs to host root, which the container's root is not, and is on a read-only mount"

SETTINGS = [
    Attack(program="write_core_pattern", weak={"root": PRIVILEGED}, why=f"CVE-2022-0811: {OUTSIDE}"),
    Attack(program="write_sysctl", weak={"root": PRIVILEGED}, why=f"CVE-2022-0811: {OUTSIDE}"),
    Attack(
        program="open_sysrq_trigger",
        weak={"root": PRIVILEGED},
        missing=lambda: absent("/proc/sysrq-trigger"),
        why=f"CVE-2022-0811: {OUTSIDE}",
    ),
    Attack(program="write_setting_of_sysfs", weak={"root": PRIVILEGED}, why=OUTSIDE),
    Attack(
        program="unmount_masks",
        weak={"root": Weak(grant={"cap_add": ["SYS_ADMIN"]}, change=("unlock_mounts",), fields={"share": ["user"]})},
        strong={"root": Weak(grant={"cap_add": ["SYS_ADMIN"]})},  # an ordinary user's are its own to undo, with that
        why="mounts are locked: they come from a mount namespace of more privileges",
    ),
]


CGROUPS = [
    Attack(
        program="write_release_agent",
        weak={"root": PRIVILEGED},
        missing=no_version_1,
        why="CVE-2022-0492: cgroup trees cannot be mounted, nor written to by who is not host root",
    ),
    Attack(
        program="rewrite_own_limit",
        weak={"root": Weak(grant=PRIVILEGED.grant, fields=PRIVILEGED.fields, **LIMITED)},
        strong=Weak(grant={"cap_add": ["SYS_ADMIN"]}),
        missing=no_cgroup,
        why="the files of its cgroup belong to host root",
    ),
    Attack(
        program="rewrite_own_limit_in_user_namespace",
        weak={"root": Weak(grant=UNCONFINED, fields={"share": ["user"]}, **LIMITED)},
        missing=no_version_1,  # the root of a cgroup namespace keeps its limits: nsdelegate of cgroup v2
        why="seccomp refuses user namespaces, and the files of its cgroup belong to host root",
    ),
]


DEVICES = [
    Attack(program="make_device", weak={"root": PRIVILEGED}, why="mknod is for CAP_MKNOD outside"),
    Attack(
        program="open_device_of_volume",
        weak={"root": Weak(change=("allow_devices",), fields={"cgroup": "none"}, mounts=(VOLUME,))},
        strong=Weak(mounts=(VOLUME,)),
        why="volumes are nodev, and cgroup v1 has a controller that denies other devices",
    ),
]


OTHERS = [
    Attack(
        program="push_into_terminal",
        weak=Weak(grant=UNCONFINED, fields={"init": False}, without=("Setsid",), inherited=("session",)),
        missing=no_injection,
        why="CVE-2017-5226: a session of its own, and seccomp refuses TIOCSTI",
    ),
    Attack(
        program="connect_to_abstract_socket",
        weak=Weak(grant={"security_opt": [["landlock", False]]}, fields={"network": "host"}),
        why="CVE-2020-15257: abstract sockets are of a network namespace, and of Landlock's scope in the host's",
    ),
    Attack(
        program="open_vsock",
        weak=Weak(grant=UNCONFINED),
        missing=no_vsock,
        why="no network namespace confines AF_VSOCK; seccomp refuses it",
    ),
    Attack(
        program="read_key_of_the_session",
        weak=Weak(grant=UNCONFINED, without=("NewSessionKeyring",)),
        strong=Weak(grant=UNCONFINED),
        missing=lambda: absent("/proc/keys"),
        why="a session keyring of its own, and seccomp refuses keyctl",
    ),
]


WAYS_OUT = [
    Attack(
        program="chroot_twice",
        weak={},  # see below
        strong=Weak(grant={"cap_add": ["SYS_CHROOT"]}),
        why="pivot_root: above the root there is nothing",
    ),
    Attack(
        program="unmount_root",
        weak={
            "root": Weak(
                grant={"cap_add": ["SYS_ADMIN", "SYS_CHROOT"]},
                change=("only_chroot", "unlock_mounts"),
                fields={"share": ["user"]},
            )
        },
        strong=Weak(grant={"cap_add": ["SYS_ADMIN", "SYS_CHROOT"]}),
        why="pivot_root, and the old root is detached",
    ),
]

ATTACKS = [*SETTINGS, *CGROUPS, *DEVICES, *OTHERS, *WAYS_OUT]


@parametrized(ATTACKS)
def test_it_succeeds_without_the_defence_and_fails_with_it(battle: Battle, attack: Attack) -> None:
    battle.check(attack)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_who_is_only_in_a_chroot_gets_out_of_it(tmp_path: Path) -> None:
    """The other direction of `chroot_twice`: no driver of pysuper's gives SYS_CHROOT to who is only in a chroot."""
    (tmp_path / "tmp").mkdir()
    root = os.stat("/")
    enter = f"import os, sys; sys.path.insert(0, {str(HERE)!r}); import attackprograms; os.chroot({str(tmp_path)!r})"
    attack = f"print(attackprograms.attempt('chroot_twice', {{'root': [{root.st_dev}, {root.st_ino}]}})[0])"
    command = [sys.executable, "-c", f"{enter}; os.chdir('/'); {attack}"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "True\n"
