"""
Programs run by an ordinary user, in a test run of root's.

The interpreter of the test run may lie where other users cannot look, so this takes one that they can, of the same
version, and a copy of the code.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import attrs
import pytest

__all__ = ["USER", "Public", "Run", "home", "public", "python_as_user"]

ROOT = Path(__file__).resolve().parents[1]
USER = 54321
BECOME_USER = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
#: Packages that lint and document, and are large; `*mypyc*` are compiled ones of theirs.
_TOOLS = ("*mypyc*", "babel", "docutils", "grimp", "mypy*", "pip", "ruff*", "setuptools", "sphinx*", "wcwidth")
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@attrs.frozen
class Public:
    """
    What every user can run.

    Attributes:
        python: An interpreter of the version that runs the tests.
        home: A directory of the user's.
    """

    python: str
    home: Path

    def run(
        self, *arguments: str, user: bool, stdin: str = "", timeout: float = 60, **more: str
    ) -> subprocess.CompletedProcess[str]:
        """
        Run the interpreter, with pysuper installed.

        Args:
            user: Whether the ordinary user runs it; otherwise it is root.
            stdin: What it reads.
            more: Variables of its environment.
        """
        become = BECOME_USER if user else []
        return subprocess.run(
            [*become, "env", self.python, *arguments],
            cwd=self.home,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.home),
                "PYTHONPATH": str(self.home / "site"),
                **more,
            },
            capture_output=True,
            text=True,
            input=stdin,
            timeout=timeout,
            check=False,
        )


@pytest.fixture(scope="session")
def home() -> Iterator[Path]:
    """A directory of the user's; pytest's own are root's alone."""
    with tempfile.TemporaryDirectory(prefix="pysuper-rootless-") as name:
        os.chown(name, USER, USER)
        yield Path(name)


@pytest.fixture(scope="session")
def public(home: Path) -> Public:
    """An interpreter that every user can run, and a copy of the code."""
    if os.geteuid() != 0:
        pytest.skip("changes to another user, which needs root")
    python = _public_python()
    if python is None:
        pytest.skip("no interpreter of this version can be run by other users")
    site = home / "site"
    packages = Path(pytest.__file__).parents[1]
    shutil.copytree(packages, site, ignore=shutil.ignore_patterns("__pycache__", *_TOOLS))
    for source in ("supervisor/pysuper", "plugins/pysuper_plugins"):
        shutil.copytree(ROOT / source, site / Path(source).name, dirs_exist_ok=True)
    return Public(python, home)


@pytest.fixture(scope="session")
def python_as_user(public: Public) -> Run:
    """Run the interpreter with these arguments, with pysuper installed."""
    return partial(public.run, user=True)


def _public_python() -> str | None:
    """An interpreter of this version that every user can run."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        # Not setpriv itself, which still has root's capabilities, but the program after it has to find it.
        as_user = [*BECOME_USER, "env", candidate, "-c", ""]
        if os.path.exists(candidate) and subprocess.run(as_user, capture_output=True, check=False).returncode == 0:
            return candidate
    return None
