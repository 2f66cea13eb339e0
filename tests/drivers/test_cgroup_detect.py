"""Where the hierarchies are, which driver works here, and for whom."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cgroup_machine
import pytest
from cgroup_machine import PREFIX, as_root, box, context, only, run_python

from pysuper_plugins.cgroup.mounts import Hierarchy, hierarchies, parse
from pysuper_plugins.cgroup.v1 import V1Cgroup

pytestmark = as_root
NOBODY = 65534
nothing_left = cgroup_machine.nothing_left

#: Makes a container's cgroup with a process in it, kills that, and says what was seen.
ROUND_TRIP = """
import json, os, trio
from cgroup_machine import FORK_BOMB, box, context, first_line, left_behind
from pysuper.errors import PysuperError
from pysuper.receipts import take
from pysuper_plugins.cgroup.v1 import V1Cgroup
from pysuper_plugins.cgroup.v2 import V2Cgroup

async def main(driver, user, **arguments):
    # Only now, as nobody may not be able to import what root has installed.
    if user:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    seen = {"detect": [driver.detect().works, driver.detect().reason]}
    try:
        async with box(driver, context(privileged=os.geteuid() == 0, **arguments)) as it:
            first_line(it.start("sh", "-c", "echo ready; exec sleep 60"))
            seen["receipts"] = [r.source for r in take(it.plan.checks, it.processes[0].pid)]
            seen["directories"] = it.directories
            seen["own"] = open("/proc/self/cgroup").read()
            seen["statistics"] = it.cgroup.statistics().pids_current
            if "freezer" in it.plan.to_json() or it.plan.cgroup:
                it.cgroup.freeze()
            it.cgroup.kill()
            seen["killed"] = it.processes[0].wait(5)
    except PysuperError as error:
        seen["error"] = f"{type(error).__name__}: {error}"
    seen["left"] = left_behind()
    print(json.dumps(seen))
"""


def round_trip(driver: str, *, before: str = "", user: int = 0, **arguments: Any) -> dict[str, Any]:
    """What ROUND_TRIP saw, in a mount namespace in which the shell text `before` was run."""
    code = f"{ROUND_TRIP}\ntrio.run(lambda: main({driver}, {user}, **{arguments!r}))"
    done = run_python(code, before=before)
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    assert seen["left"] == []
    return seen


def v1_tops() -> dict[str, str]:
    """The mount point of each v1 hierarchy that containers join, by its first controller."""
    always = ("pids", "memory", "cpu", "cpuacct", "freezer", "devices")
    found: dict[str, str] = {}
    for line in Path("/proc/mounts").read_text().splitlines():
        _, top, fstype, options, *_ = line.split()
        controllers = [c for c in always if c in options.split(",")]
        if fstype == "cgroup" and controllers:
            found[controllers[0]] = top
    return found


def own_directory(top: str) -> str:
    """Where the test process is in the hierarchy mounted there."""
    return next(h.own or "" for h in hierarchies() if h.top == top)


#: With the numbers of devices and the order of mounts that Docker on a v1 host shows.
DOCKER = """\
100 90 0:50 / /sys ro,nosuid - sysfs sysfs ro
101 100 0:51 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
102 101 0:28 /docker/abc /sys/fs/cgroup/cpu,cpuacct ro master:11 - cgroup cgroup rw,cpuacct,cpu
103 101 0:29 /docker/abc /sys/fs/cgroup/pids ro master:12 propagate_from:2 - cgroup cgroup rw,pids
104 101 0:30 /docker/abc /sys/fs/cgroup/systemd ro - cgroup cgroup rw,xattr,name=systemd
"""
DOCKER_OWN = "3:pids:/docker/abc/inner\n2:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc\n0::/x\n"


def test_a_hierarchy_is_found_below_the_root_of_its_mount() -> None:
    assert parse(DOCKER, DOCKER_OWN) == (
        Hierarchy(
            controllers=frozenset({"cpu", "cpuacct"}),
            name="cpu,cpuacct",
            top="/sys/fs/cgroup/cpu,cpuacct",
            own="/sys/fs/cgroup/cpu,cpuacct",
            path="/docker/abc",
            device=os.makedev(0, 28),
        ),
        Hierarchy(
            controllers=frozenset({"pids"}),
            name="pids",
            top="/sys/fs/cgroup/pids",
            own="/sys/fs/cgroup/pids/inner",
            path="/docker/abc/inner",
            device=os.makedev(0, 29),
        ),
    )


@pytest.mark.parametrize(
    ("root", "path", "own"),
    [
        ("/", "/", "/top"),
        ("/", "/a/b", "/top/a/b"),
        ("/a", "/a", "/top"),
        ("/a", "/a/b", "/top/b"),
        ("/a", "/ab", None),
        ("/a", "/", None),
        ("/", "/../b", None),
        ("/..", "/", None),
        ("/a\\040b", "/a b/c", "/top/c"),
    ],
)
def test_the_own_cgroup_below_a_mount(root: str, path: str, own: str | None) -> None:
    for fstype, options, line in [("cgroup", "rw,pids", "4:pids"), ("cgroup2", "rw", "0:")]:
        text = f"1 2 0:9 {root} /top rw shared:1 - {fstype} none {options}"
        (found,) = parse(text, f"{line}:{path}\n")
        assert (found.top, found.own) == ("/top", own)
        assert found.version == (1 if fstype == "cgroup" else 2)


def test_a_mount_point_is_read_as_the_kernel_escapes_it() -> None:
    """The kernel escapes a newline, but not all that Python takes for one."""
    text = "1 2 0:9 / /my\\040own\\134\x0c\u2028cgroups rw - cgroup2 none rw\n"
    assert [found.top for found in parse(text, "0::/\n")] == ["/my own\\\x0c\u2028cgroups"]


def test_the_own_cgroup_is_where_the_kernel_lists_this_process() -> None:
    found = hierarchies()
    if not found:
        pytest.skip("no cgroup is mounted")
    for hierarchy in found:
        assert str(os.getpid()) in Path(f"{hierarchy.own}/cgroup.procs").read_text().split()


@only("v1", "pids")
@pytest.mark.parametrize("dropped", ["pids", "memory", "cpu", "cpuacct", "freezer", "devices"])
@pytest.mark.parametrize("how", ["umount", "mount -t tmpfs none", "mount -o remount,bind,ro"])
def test_v1_works_with_any_set_of_hierarchies(dropped: str, how: str) -> None:
    tops = v1_tops()
    if dropped not in tops:
        pytest.skip(f"no {dropped} is mounted by itself")
    covered = "mount -t cgroup2 none /mnt" if dropped == "pids" else ":"
    seen = round_trip("V1Cgroup", before=f"{how} {tops[dropped]}\n{covered}")
    assert seen["killed"] == -9
    directories = {Path(directory).parent for directory in seen["directories"]}
    assert len(directories) == len(tops) - 1
    assert not any(f"{tops[dropped]}/" in source for source in seen["receipts"])
    assert seen["detect"][0] == (dropped != "pids")
    assert (seen["statistics"] is None) == (dropped == "pids")


@only("v1", "pids", "memory", "cpu")
@pytest.mark.parametrize(("dropped", "limits"), [("pids", {"pids_max": 5}), ("memory", {"memory_max": 1 << 24})])
def test_v1_names_the_controller_that_a_limit_needs(dropped: str, limits: dict[str, Any]) -> None:
    top = v1_tops()[dropped]
    name = next(iter(limits))
    seen = round_trip("V1Cgroup", before=f"umount {top}", **limits)
    expected = f"cgroup v1: {name} needs the {dropped} controller, which is mounted nowhere; "
    assert seen["error"].startswith(f"DriverError: {expected}mount -t cgroup -o {dropped} none")
    seen = round_trip("V1Cgroup", before=f"mount -o remount,bind,ro {top}", **limits)
    assert f"{dropped} controller, which is not writable: the supervisor's" in seen["error"]
    seen = round_trip("V1Cgroup", before=f"umount {top}", best_effort=True, **limits)
    assert seen["killed"] == -9


BOMB = """
async def bomb():
    async with box(V1Cgroup, context(pids_max=100)) as it:
        it.say(FORK_BOMB)
        await trio.sleep(0.2)
    print(left_behind())
"""


@only("v1", "pids", "freezer")
def test_v1_ends_a_fork_bomb_that_it_cannot_freeze() -> None:
    code = f"{ROUND_TRIP}{BOMB}\ntrio.run(bomb)"
    done = run_python(code, before=f"umount {v1_tops()['freezer']}")
    assert (done.stdout, done.stderr) == ("[]\n", "")


@only("v1", "pids", "devices")
async def test_v1_guards_devices_only_for_root() -> None:
    """The kernel lets nobody else write devices.deny."""
    for privileged in (True, False):
        async with box(V1Cgroup, context(privileged=privileged)) as it:
            guarded = [c for c in it.plan.checks if "devices.list" in c.describe()]
            assert len(guarded) == privileged
            tops = {str(Path(directory).parent) for directory in it.directories}
            assert privileged or v1_tops().get("devices") not in tops


@only("v1", "pids")
def test_v1_says_why_it_cannot_work() -> None:
    tops = " ".join(v1_tops().values())
    seen = round_trip("V1Cgroup", before=f"umount {tops}")
    assert seen["error"].startswith("DriverError: cgroup v1: no hierarchy is mounted and writable")
    seen = round_trip("V1Cgroup", user=NOBODY)
    assert not seen["detect"][0]
    assert "pids controller, which is not writable" in seen["detect"][1]
    assert seen["detect"][1].endswith("run as root, or have that directory given to you")


@only("v1", "pids", "memory")
def test_v1_finds_its_own_cgroup_when_only_that_is_mounted(tmp_path: Path) -> None:
    before = ""
    for name in ("pids", "memory"):
        (tmp_path / name).mkdir()
        top = v1_tops()[name]
        before += f"mount --bind {own_directory(top)} {tmp_path}/{name}\numount {top}\n"
    seen = round_trip("V1Cgroup", before=before, pids_max=9)
    for name in ("pids", "memory"):
        assert any(f"{tmp_path}/{name}/pysuper." in path for path in seen["directories"])
    assert seen["killed"] == -9


@only("v2")
def test_v2_says_why_it_cannot_work() -> None:
    top = v2_top()
    seen = round_trip("V2Cgroup", before=f"umount -l {top}")
    assert seen["detect"] == [
        False,
        "cgroup v2 is mounted nowhere; mount -t cgroup2 none /sys/fs/cgroup, or use --cgroup v1",
    ]
    seen = round_trip("V2Cgroup", user=NOBODY)
    assert seen["detect"][1].startswith(f"cgroup v2: {own_directory(top)} is not delegated to uid")
    assert "systemd-run --user --scope -p Delegate=yes" in seen["detect"][1]


@only("v1", "pids")
@only("v2")
def test_v2_names_the_controller_that_v1_has() -> None:
    seen = round_trip("V2Cgroup", pids_max=5)
    expected = f"which is mounted as v1 at {v1_tops()['pids']}; use --cgroup v1"
    assert seen["detect"][1] == f"cgroup v2: pids_max needs the pids controller, {expected}"
    assert seen["error"] == f"DriverError: {seen['detect'][1]}"


def v2_top() -> str:
    return next(h.top for h in hierarchies() if h.version == 2)


@pytest.fixture
def above() -> Iterator[Path]:
    """A v2 cgroup for a supervisor; see `enter`."""
    directory = Path(v2_top(), f"pysuper.{PREFIX}.above")
    directory.mkdir()
    try:
        yield directory
    finally:
        with contextlib.suppress(FileNotFoundError):
            Path(directory, "pysuper.supervisor").rmdir()
        directory.rmdir()


def enter(directory: Path) -> str:
    """Shell text that moves the shell into a cgroup."""
    return f"echo $$ > {directory}/cgroup.procs"


def give_away(directory: Path) -> None:
    for path in (directory, directory / "cgroup.procs", directory / "cgroup.subtree_control"):
        os.chown(path, NOBODY, NOBODY)


@only("v2")
def test_v2_works_in_a_delegated_cgroup_without_root(above: Path) -> None:
    give_away(above)
    seen = round_trip("V2Cgroup", before=enter(above), user=NOBODY)
    assert Path(seen["directories"][0]).parent == above
    assert seen["killed"] == -9


@only("v2", "pids", "memory")
@pytest.mark.parametrize("limits", [{"pids_max": 5}, {"memory_max": 1 << 26}])
def test_v2_makes_room_in_a_delegated_cgroup(above: Path, limits: dict[str, int]) -> None:
    """A cgroup whose children have controllers may have no processes of its own."""
    Path(v2_top(), "cgroup.subtree_control").write_text("+pids +memory")
    give_away(above)
    seen = round_trip("V2Cgroup", before=enter(above), user=NOBODY, **limits)
    assert (seen["detect"], seen.get("error")) == ([True, ""], None)
    assert Path(seen["directories"][0]).parent == above
    assert f"{seen['directories'][0]}/{next(iter(limits)).replace('_', '.')}" in seen["receipts"]
    assert seen["own"] == f"0::/{above.name}/pysuper.supervisor\n"
    assert seen["killed"] == -9


@only("v2")
def test_root_leaves_a_cgroup_that_is_not_its_own(above: Path) -> None:
    """Such as the session of its login: to that systemd would do as it likes."""
    seen = round_trip("V2Cgroup", before=enter(above))
    assert Path(seen["directories"][0]).parent == above.parent
    os.setxattr(above, "trusted.delegate", b"1")
    seen = round_trip("V2Cgroup", before=enter(above))
    assert Path(seen["directories"][0]).parent == above
