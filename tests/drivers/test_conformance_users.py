"""The conformance tests of the built-in plugins, run by an ordinary user; and what root's say of ordinary users."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest

from machine import PATIENCE
from ordinary import Public, home as home, public as public  # noqa: PLC0414 - fixtures

TESTS = Path(__file__).resolve().parents[1]
#: A driver that does not know what it lacks.
BROKEN = """
import os
from pysuper.drivers import NetworkDriver

class Broken(NetworkDriver):
    def contribute(self, plan):
        os.listdir("/proc/1/fd")
"""
BROKEN_TEST = """
from pysuper.discovery import add_directory
from pysuper.testing import NetworkDriverTests

add_directory("{directory}/plugins")

class TestBroken(NetworkDriverTests):
    driver = "broken"
"""


@pytest.fixture
def conformance(public: Public) -> list[str]:
    """The arguments by which an interpreter runs the conformance tests, with a time limit for none."""
    directory = public.home / "conformance"
    directory.mkdir(exist_ok=True)
    for name in ("drivers/test_conformance.py", "roots.py"):
        shutil.copy(TESTS / name, directory)
    (directory / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    return ["-m", "pytest", "-q", "-p", "no:cacheprovider", str(directory / "test_conformance.py")]


@pytest.mark.timeout(600 * PATIENCE)
def test_what_works_for_ordinary_users_keeps_the_rules(public: Public, conformance: list[str]) -> None:
    result = public.run(*conformance, user=True, timeout=500 * PATIENCE)
    assert result.returncode == 0, result.stdout + result.stderr
    assert int(result.stdout.split(" passed")[0].split()[-1]) > 200


@pytest.mark.timeout(600 * PATIENCE)
def test_every_driver_serves_ordinary_users_or_says_why_not(public: Public, conformance: list[str]) -> None:
    result = public.run(*conformance, "-k", "ordinary", "-rs", user=False, timeout=500 * PATIENCE)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "other users cannot run" not in result.stdout


def test_a_driver_that_does_not_know_what_it_lacks_is_told_so(public: Public) -> None:
    with tempfile.TemporaryDirectory() as name:  # of root's, or root would load nothing from there
        directory = Path(name)
        (directory / "plugins").mkdir()
        (directory / "plugins/broken.py").write_text(BROKEN)
        (directory / "test_broken.py").write_text(BROKEN_TEST.format(directory=directory))
        directory.chmod(0o755)
        command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", f"{directory}/test_broken.py", "-k", "ordinary"]
        result = public.run(*command, user=False)
    assert "An ordinary user can have it, or is told why not." in result.stdout
    assert "an ordinary user gets: Traceback" in result.stdout
    assert "PermissionError" in result.stdout
