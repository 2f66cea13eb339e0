"""
Attacks on the set-up of mounts, by who has made the root file system or a volume, or changes it meanwhile.

CVE-2021-30465, CVE-2025-31133, CVE-2025-52565, CVE-2025-52881: a target, or what masks a path, is a symbolic link.
CVE-2017-1002101, CVE-2021-25741: the source of a volume is one.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from attackcore import LANES, Battle, Weak, battles

from ordinary import USER
from pysuper.testing.machine import wait_until

#: Paths are resolved as any path is: symbolic links are followed, the absolute ones to where they lead on the host.
FOLLOW_LINKS = """
from pysuper import syscalls
_openat2 = syscalls.openat2
def follow(at, path, flags, resolve):
    return _openat2(at, path if at == syscalls.AT_FDCWD else path.lstrip("/") or ".", flags, 0)
syscalls.openat2 = follow
"""
#: Two names, exchanged again and again; renameat2(2) with RENAME_EXCHANGE.
SWAP = """
import ctypes, sys, time
one, other = (argument.encode() for argument in sys.argv[1:])
renameat2 = ctypes.CDLL(None).renameat2
while renameat2(-100, one, -100, other, 2) == 0:
    time.sleep(0.0002)
"""

#: Whether an attack has succeeded, or how it was refused, and what it said.
Told = tuple[bool | str, Any]


@attrs.frozen
class Ground:
    """
    Attributes:
        tree: A root file system that the attacker has made.
        outside: A directory of the host, of which no container should know.
    """

    battle: Battle
    tree: Path
    outside: Path

    def attempts(self, program: str, *mounts: tuple[object, str], weak: bool, times: int = 1) -> list[Told]:
        """What comes of an attack from inside of the tree, made some times."""
        (outcomes,) = self.battle.run([self._container(mounts, weak, times).job([program])])
        return [told[program] for told in outcomes]

    def both(self, program: str, *mounts: tuple[object, str]) -> tuple[Told, Told]:
        """What comes of it without the defence, and with it."""
        jobs = [self._container(mounts, weak, 1).job([program]) for weak in (True, False)]
        (without,), (strong,) = self.battle.run(jobs)
        return without[program], strong[program]

    def wins(self, program: str, mount: tuple[object, str], won: Callable[[list[Told]], bool]) -> bool:
        """Whether an attack that is a race succeeds without the defence, in two hundred attempts."""
        return any(won(self.attempts(program, mount, weak=True, times=10)) for _ in range(20))

    def _container(self, mounts: Iterable[tuple[object, str]], weak: bool, times: int) -> Weak:
        return Weak(
            fields={"rootfs": f"dir:{self.tree}"},
            mounts=(("/usr", "/usr"), *((str(source), target) for source, target in mounts)),
            launcher=FOLLOW_LINKS if weak else "",
            change=("promise_nothing",) if weak else (),  # the receipts find most of it, too
            times=times,
        )


@pytest.fixture(params=LANES)
def ground(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ground]:
    battle = battles([], request)
    if request.param == "user":
        tmp_path = request.getfixturevalue("public").home / tmp_path.name
    tree, outside = tmp_path / "tree", tmp_path / "outside"
    for name in ("proc", "sys", "dev", "usr", "tmp", "etc", "data", "elsewhere/proc", "elsewhere/sys", "elsewhere/dev"):
        (tree / name).mkdir(parents=True, exist_ok=True)
    for name in ("bin", "lib", "lib64"):
        (tree / name).symlink_to(f"usr/{name}")
    outside.mkdir()
    outside.chmod(0o777)  # what a launcher of root's makes, it makes as the container's root
    if request.param == "user":
        subprocess.run(["chown", "-Rh", f"{USER}:{USER}", tmp_path], check=True)
    return Ground(battle, tree, outside)


def link(path: Path, to: str) -> None:
    """Put a link in the place of a directory."""
    if path.exists():
        path.rmdir()
    path.symlink_to(to)


@pytest.mark.parametrize("name", ["proc", "sys", "dev"])
def test_a_system_directory_that_is_a_link_leads_no_mount_astray(ground: Ground, name: str) -> None:
    link(ground.tree / name, f"elsewhere/{name}")
    (without, said_without), (succeeded, said) = ground.both("find_mounts_elsewhere")
    assert without is True, said_without
    assert succeeded == "refused", said
    assert f"/{name} is or leads through a symbolic link" in said


@pytest.mark.parametrize("target", ["/link/inside", "/data/link/deep/inside"])
def test_a_target_that_leads_through_a_link_makes_nothing_outside(ground: Ground, target: str) -> None:
    Path(f"{ground.tree}{target.partition('/link')[0]}/link").symlink_to(ground.outside)
    ((succeeded, said),) = ground.attempts("find_mounts_elsewhere", ("/usr/share", target), weak=False)
    assert succeeded == "refused", said
    assert "symbolic link" in said
    assert os.listdir(ground.outside) == []
    ground.attempts("find_mounts_elsewhere", ("/usr/share", target), weak=True)
    assert os.listdir(ground.outside) != []


def test_what_masks_a_path_is_no_link_of_a_volume(ground: Ground) -> None:
    """CVE-2025-31133: with /dev/null replaced, what was to be hidden shows a file of the host, or can be written to."""
    secret = ground.outside / "secret"
    secret.write_text("of the host")
    secret.chmod(0o644)
    volume = ground.tree / "data"
    (volume / "null").symlink_to(secret)
    (without, said_without), (succeeded, said) = ground.both("read_through_mask", (volume, "/dev"))
    assert without is True, said_without
    assert succeeded == "refused", said
    assert "/dev/null is or leads through a symbolic link" in said


def test_a_target_that_is_swapped_meanwhile_makes_nothing_outside(ground: Ground) -> None:
    """CVE-2021-30465: a directory whenever it is looked at, a link when something is mounted there."""
    link(ground.tree / "link", str(ground.outside))
    swap = [sys.executable, "-c", SWAP, str(ground.tree / "data"), str(ground.tree / "link")]
    swapper = subprocess.Popen(swap)
    try:
        assert wait_until((ground.tree / "data").is_symlink)
        target = ("/usr/share", "/data/inside")
        told = ground.attempts("find_mounts_elsewhere", target, weak=False, times=8)
        assert {succeeded for succeeded, _ in told} <= {False, "refused"}, told
        assert os.listdir(ground.outside) == []
        assert ground.wins("find_mounts_elsewhere", target, lambda _: os.listdir(ground.outside) == ["inside"])
    finally:
        swapper.kill()
        swapper.wait()


@pytest.fixture
def volume(ground: Ground) -> Path:
    """A directory that the attacker writes to, and one in it that is a volume, too."""
    (ground.outside / "secret").write_text("of the host")
    (ground.outside / "secret").chmod(0o644)
    path = ground.tree.parent / "volume"
    (path / "inner").mkdir(parents=True)
    (path / "aim").write_text(str(ground.outside))
    if ground.battle.public is not None:
        subprocess.run(["chown", "-Rh", f"{USER}:{USER}", path], check=True)
    return path


def test_a_source_that_a_container_has_made_a_link_is_not_followed(ground: Ground, volume: Path) -> None:
    owner = (volume / "inner").stat().st_uid
    ((planted, said),) = ground.attempts("plant_link", (volume, "/data"), weak=False)
    assert planted is True, said
    assert (volume / "inner").is_symlink()
    assert (volume / "inner").lstat().st_uid == owner  # which does not tell who has made it
    (without, said_without), (succeeded, said) = ground.both("read_volume", (volume / "inner", "/tmp/volume"))
    assert without is True, said_without
    assert succeeded == "refused", said
    assert f"{volume}/inner is or leads through a symbolic link" in said


def test_a_source_that_is_swapped_meanwhile_is_not_followed(ground: Ground, volume: Path) -> None:
    """CVE-2021-25741: a directory whenever it is looked at, a link when it is mounted."""
    (volume / "link").symlink_to(ground.outside)
    swapper = subprocess.Popen([sys.executable, "-c", SWAP, str(volume / "inner"), str(volume / "link")])
    try:
        assert wait_until((volume / "inner").is_symlink)
        mount = (volume / "inner", "/tmp/volume")
        told = ground.attempts("read_volume", mount, weak=False, times=8)
        assert {succeeded for succeeded, _ in told} <= {False, "refused"}, told
        assert ground.wins("read_volume", mount, lambda told: True in {succeeded for succeeded, _ in told})
    finally:
        swapper.kill()
        swapper.wait()
