"""The conformance tests of the built-in plugins, run by an ordinary user; and what root's say of ordinary users."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest

from machine import PATIENCE
from ordinary import Public, home as home, public as public, with_ids  # noqa: PLC0414 - fixtures

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


#: Rules that start a container for each moment at which something could happen to it.
SWEEPS = "(cancellation or kill_9 or descriptors or every_step)"
#: Of those whose host side is the same whoever runs it, root's sweeps are enough. And what is left of a container with
#: each namespace's own driver is always what is left of one with all defaults.
SAME = (
    f"({SWEEPS} and (Hook or NoCgroup)) or (Tar and (descriptors or every_step or cancellation))"
    " or (Namespace and not MountNamespace and (nothing_is_left or event_loop or at_once))"
)


@pytest.mark.timeout(600 * PATIENCE)
def test_what_works_for_ordinary_users_keeps_the_rules(public: Public, conformance: list[str]) -> None:
    selection = f"not ({SAME} or ({SWEEPS} and UserNamespace))"
    result = public.run(*conformance, "-k", selection, user=True, timeout=500 * PATIENCE)
    assert result.returncode == 0, result.stdout + result.stderr
    assert int(result.stdout.split(" passed")[0].split()[-1]) > 200


@pytest.mark.timeout(300 * PATIENCE)
def test_a_range_of_ids_keeps_the_rules(public: Public, conformance: list[str]) -> None:
    through = with_ids(public.home, "700000:65536", "700000:65536")
    result = public.run(*conformance, "-k", "UserNamespace", user=True, through=through, timeout=200 * PATIENCE)
    assert result.returncode == 0, result.stdout + result.stderr
    assert int(result.stdout.split(" passed")[0].split()[-1]) > 20


@pytest.mark.timeout(300 * PATIENCE)
def test_what_does_not_work_for_ordinary_users_says_why(public: Public, conformance: list[str]) -> None:
    selection = "ordinary and (V1 or V2 or StackNetwork)"  # of the others more is tested above
    result = public.run(*conformance, "-k", selection, "-rs", user=False, timeout=200 * PATIENCE)
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
