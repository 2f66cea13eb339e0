"""What protects this machine: which of it a plan has, and what each weakening takes away, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pysuper.landlock import version
from pysuper.plan import Context, Plan
from pysuper.planning import build_plan, choose_drivers
from pysuper.privileges import grant
from pysuper.protections import PROTECTIONS, protections
from pysuper.spec import ContainerSpec, Device, DriverChoice, Limits, Rlimit
from stackfiles import PYSUPER

ALL = tuple(p.name for p in PROTECTIONS if p.name != "landlock" or version() >= 2)
privileged = pytest.mark.skipif(os.geteuid() != 0, reason="the plan of root")


def plan_of(**fields: Any) -> Plan:
    spec = ContainerSpec(name="box", command=("true",), **fields)
    context = Context(id="box.1", spec=spec, privileged=True, uid_base=1 << 29)
    return build_plan(context, choose_drivers(spec))


@privileged
def test_a_container_with_all_defaults_has_all_of_them() -> None:
    assert protections(plan_of()) == ALL


@privileged
@pytest.mark.parametrize(
    ("fields", "lost"),
    [
        ({"capabilities": ("SYS_ADMIN",)}, {"capabilities", "landlock"} & {*ALL}),
        ({"no_new_privileges": False}, {"no_new_privs"}),
        ({"landlock": False}, {"landlock"} & {*ALL}),
        ({"share": frozenset({"user"})}, {"user namespace", "several ids", "locked mounts"}),
        ({"share": frozenset({"pid"})}, {"pid namespace"}),
        ({"network": DriverChoice("host")}, {"net namespace"}),
        ({"share": frozenset({"ipc", "uts", "cgroup"})}, {"ipc namespace", "uts namespace", "cgroup namespace"}),
        ({"rootfs": DriverChoice("chroot", argument="/usr")}, {"pivot_root"}),
        ({"unmask": ("/proc/sys",)}, {"read-only /proc/sys"}),
        ({"unmask": ("ALL",)}, {"read-only /proc/sys", "read-only /sys", "masked /proc"}),
        ({"devices": (Device(source="/dev/zero", target="/dev/z"),)}, {"private /dev"}),
        ({"limits": Limits(pids_max=-1)}, {"pids limit"}),
        ({"rlimits": (Rlimit("nofile", 64, -1),)}, {"descriptor limit"}),
    ],
)
def test_each_weakening_takes_its_own_away(fields: dict[str, Any], lost: set[str]) -> None:
    assert set(ALL) - set(protections(plan_of(**fields))) == lost


@privileged
def test_privileged_leaves_little() -> None:
    spec = grant(ContainerSpec(name="box", command=("true",)), privileged=True)
    context = Context(id="box.1", spec=spec, privileged=True, uid_base=1 << 29)
    left = set(protections(build_plan(context, choose_drivers(spec))))
    assert not left & {
        "seccomp",
        "landlock",
        "capabilities",
        "no_new_privs",
        "user namespace",
        "masked /proc",
        "private /dev",
    }
    assert "pids limit" in left


@privileged
def test_the_report_and_the_doctor_tell_what_is_in_force(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    subprocess.run([PYSUPER, "run", "--report", report, "--", "true"], check=True, timeout=60)
    assert tuple(json.loads(report.read_text())["protections"]) == ALL
    doctor = subprocess.run([PYSUPER, "doctor", "--security"], capture_output=True, text=True, check=True, timeout=60)
    lines = doctor.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == [f"yes  {name}" for name in ALL]
    assert "CVE-2019-5736" in doctor.stdout
