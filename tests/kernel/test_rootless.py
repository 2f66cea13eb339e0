"""
The same program as an ordinary user: what works, works; what cannot, says why.

The interpreter of the test run may lie where other users cannot look, so the lane takes one that they can, of the same
version, and a copy of the code.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pysuper.spec import NAMESPACES

ROOT = Path(__file__).resolve().parents[2]
USER = 54321
BECOME_USER = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


def public_python() -> str | None:
    """An interpreter of this version that every user can run."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        # Not setpriv itself, which still has root's capabilities, but the program after it has to find it.
        as_user = [*BECOME_USER, "env", candidate, "-c", ""]
        if os.path.exists(candidate) and subprocess.run(as_user, capture_output=True, check=False).returncode == 0:
            return candidate
    return None


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A directory of the user's; pytest's own are root's alone."""
    with tempfile.TemporaryDirectory(prefix="pysuper-rootless-") as name:
        os.chown(name, USER, USER)
        yield Path(name)


@pytest.fixture(scope="module")
def as_user(home: Path) -> Run:
    if os.geteuid() != 0:
        pytest.skip("changes to another user, which needs root")
    python = public_python()
    if python is None:
        pytest.skip("no interpreter of this version can be run by other users")
    site = home / "site"
    packages = Path(pytest.__file__).parents[1]
    shutil.copytree(packages, site, ignore=shutil.ignore_patterns("__pycache__", "mypy*", "ruff*"))
    for source in ("supervisor/pysuper", "plugins/pysuper_plugins"):
        shutil.copytree(ROOT / source, site / Path(source).name, dirs_exist_ok=True)

    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = [*BECOME_USER, "env", python, "-m", "pysuper", *arguments]
        environment = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(site), **more}
        return subprocess.run(
            command,
            cwd=home,
            env=environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=60,
            check=False,
        )

    return run


def test_a_command_runs_and_its_exit_code_is_passed_on(as_user: Run) -> None:
    result = as_user("run", "--", "sh", "-c", "id -u; exit 3")
    assert (result.returncode, result.stdout) == (3, "0\n")


def test_root_inside_is_the_user_outside(as_user: Run) -> None:
    result = as_user("run", "cat", "/proc/self/uid_map")
    assert result.stdout.split() == ["0", str(USER), "1"]


def test_the_host_can_be_read_but_not_changed(as_user: Run) -> None:
    result = as_user("run", "--", "sh", "-c", "touch /usr/made && ls /usr/made; ls -A /home /root /tmp")
    assert result.stdout.split()[0] == "/usr/made"
    assert result.stdout.split()[1:] == ["/home:", "/root:", "/tmp:"]
    assert not os.path.exists("/usr/made")


def test_every_namespace_is_the_containers_own(as_user: Run) -> None:
    result = as_user("run", "--", "sh", "-c", f"for n in {' '.join(NAMESPACES)}; do readlink /proc/self/ns/$n; done")
    ours = {os.readlink(f"/proc/self/ns/{name}") for name in NAMESPACES}
    theirs = set(result.stdout.split())
    assert len(theirs) == 8
    assert not ours & theirs


def test_a_limit_that_cannot_be_had_is_an_error_with_a_remedy(as_user: Run) -> None:
    result = as_user("run", "--pids-limit", "20", "true")
    assert result.returncode == 125
    assert "pids" in result.stderr
    assert "delegat" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_best_effort_leaves_the_limit_out_and_says_so(as_user: Run) -> None:
    result = as_user("run", "--best-effort", "--pids-limit", "20", "--", "echo", "ran")
    assert (result.returncode, result.stdout) == (0, "ran\n")
    assert "pids_max" in result.stderr


def test_the_report_has_receipts(as_user: Run, home: Path) -> None:
    result = as_user("run", "--report", "report.json", "true")
    assert result.returncode == 0, result.stderr
    record = json.loads((home / "report.json").read_text())
    assert record["reason"] == "exited"
    assert all(receipt["expected"] == receipt["actual"] for receipt in record["receipts"])


def test_doctor_says_what_an_ordinary_user_lacks(as_user: Run) -> None:
    result = as_user("doctor")
    assert "user" in result.stdout
