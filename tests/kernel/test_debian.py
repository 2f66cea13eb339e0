"""A real distribution's root file system: Debian's minbase as a tarball."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from fixtures_build.rootfs import Unavailable, cache_directory, debian_tarball
from machine import cgroup_driver

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(cgroup_driver() == "none", reason="no cgroup can be had here"),
    pytest.mark.timeout(600),  # the first test of a session may have to unpack it
]


@pytest.fixture(scope="module")
def debian() -> Path:
    try:
        return debian_tarball(cache_directory())
    except Unavailable as reason:
        pytest.skip(str(reason))


def run(debian: Path, script: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable,
        "-m",
        "pysuper",
        "run",
        "--rootfs",
        f"tar:{debian}",
        *options,
        "--",
        "/bin/bash",
        "-c",
        script,
    ]
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300, check=False)


def test_the_distribution_is_what_it_is(debian: Path) -> None:
    result = run(
        debian, "cat /etc/debian_version; dpkg -l | grep -c ^ii; stat -c '%a %U' /usr/bin/passwd /tmp /etc/shadow"
    )
    version, packages, *modes = result.stdout.splitlines()
    assert version.startswith("12")
    assert int(packages) > 60
    assert modes == ["4755 root", "1777 root", "640 root"]


def test_all_of_it_is_unpacked_as_tar_would(debian: Path) -> None:
    """Its content, modes, owners, symlinks (absolute ones too) and hard links; it has no device nodes."""
    assert run(debian, "true").returncode == 0
    with debian.open("rb") as file:
        image = f"/var/cache/pysuper/images/{hashlib.file_digest(file, 'sha256').hexdigest()}"
    with tarfile.open(debian) as archive:
        links = [member.linkname for member in archive if member.issym() or member.islnk()]
    assert any(link.startswith("/") for link in links)
    compare = ["tar", "--compare", "--numeric-owner", "--file", debian, "--directory", image]
    done = subprocess.run(compare, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_packages_can_be_changed_and_the_next_run_does_not_see_it(debian: Path) -> None:
    script = "dpkg --force-all --purge grep >/dev/null 2>&1; command -v grep || echo gone"
    assert run(debian, script).stdout == "gone\n"
    assert run(debian, "command -v grep").stdout == "/usr/bin/grep\n"


def test_a_fork_bomb_stops_at_20_processes(debian: Path, tmp_path: Path) -> None:
    bomb = "for i in $(seq 200); do sleep 1000 & done; wait"
    report = tmp_path / "report.json"
    result = run(debian, bomb, "--pids-limit", "20", "--timeout", "20s", "--report", str(report))
    assert "Resource temporarily unavailable" in result.stderr
    record = json.loads(report.read_text())
    assert record["pids_max_hits"] > 0
    assert [
        [receipt["expected"], receipt["actual"]] for receipt in record["receipts"] if "pids.max" in receipt["source"]
    ] == [["20", "20"]]
