"""Where root's pysuper looks for plugins, and where not."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from documents import own_venv

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root is that careful")


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A directory with a driver `mine`, and what says so, as an installer would write it."""
    directory = tmp_path / "package"
    (directory / "mine-1.0.dist-info").mkdir(parents=True)
    (directory / "mine-1.0.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: mine\nVersion: 1.0\n")
    (directory / "mine-1.0.dist-info/entry_points.txt").write_text("[pysuper.rootfs]\nmine = mine:Mine\n")
    (directory / "mine.py").write_text(
        "from pysuper.drivers import RootfsDriver\n\n\nclass Mine(RootfsDriver):\n    def contribute(self, plan): ...\n"
    )
    return directory


def listed(programs: Path, package: Path, **environment: str) -> str:
    """What is said of the driver, by a command that is given in the package's own directory."""
    command = [programs / "python", "-m", "pysuper", "plugins"]
    done = subprocess.run(
        command, cwd=package, env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    return next((line for line in done.stdout.splitlines() if " mine " in line), "")


def test_an_editable_install_is_found_also_in_its_own_directory(package: Path, tmp_path: Path) -> None:
    programs = own_venv(tmp_path)
    (packages,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (packages / "mine.pth").write_text(f"{package}\n")
    assert listed(programs, package).split() == ["rootfs", "mine", "mine", "1.0", "yes"]


def test_the_current_directory_is_not_looked_into(package: Path, tmp_path: Path) -> None:
    assert listed(own_venv(tmp_path), package) == ""


def test_pythonpath_is_not_looked_into(package: Path, tmp_path: Path) -> None:
    assert listed(own_venv(tmp_path), package, PYTHONPATH=str(package)) == ""
