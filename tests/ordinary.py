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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import attrs
import pytest

from pysuper.testing.machine import PATIENCE, cgroup_trees, wait_until

__all__ = ["USER", "Public", "Run", "delegated", "home", "public", "python_as_user", "with_ids"]

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
        self,
        *arguments: str,
        user: bool,
        stdin: str = "",
        timeout: float = 60 * PATIENCE,
        through: Sequence[str] = (),
        **more: str,
    ) -> subprocess.CompletedProcess[str]:
        """
        Run the interpreter, with pysuper installed.

        Args:
            user: Whether the ordinary user runs it; otherwise it is root.
            stdin: What it reads.
            through: What root does before, as a command that executes the one after it.
            more: Variables of its environment.
        """
        with self.start(*arguments, user=user, through=through, **more) as process:
            try:
                out, errors = process.communicate(stdin, timeout=timeout)
            except BaseException:
                process.kill()
                raise
        return subprocess.CompletedProcess(process.args, process.returncode, out, errors)

    def start(
        self, *arguments: str, user: bool = True, through: Sequence[str] = (), **more: str
    ) -> subprocess.Popen[str]:
        """The same, without waiting for its end."""
        become = BECOME_USER if user else []
        return subprocess.Popen(
            [*through, *become, "env", self.python, *arguments],
            cwd=self.home,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.home),
                "PYTHONPATH": str(self.home / "site"),
                **more,
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
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


#: Mounts given files over others, where nobody else sees it, and goes on: SOURCE TARGET ... -- COMMAND.
_MOUNTED = """
while [ "$1" != -- ]; do mount --bind "$1" "$2"; shift 2; done
shift
exec "$@"
"""
#: Moves into cgroups, or into the leaf that an earlier supervisor has made, and goes on: DIRECTORY ... -- COMMAND.
_MOVED = """
while [ "$1" != -- ]; do
    leaf=$1/pysuper.supervisor
    [ -d "$leaf" ] || leaf=$1
    echo $$ > "$leaf/cgroup.procs"
    shift
done
shift
exec "$@"
"""


def with_ids(directory: Path, subuid: str, subgid: str, helper: Path | None = None) -> list[str]:
    """
    For `through`: the machine gives the user ids, in a mount namespace where nobody else sees it.

    Args:
        directory: For the files.
        subuid, subgid: What /etc/subuid and /etc/subgid say of the user, as FIRST:COUNT; empty is nothing.
        helper: Instead of newgidmap.
    """
    mounted = ["/etc/passwd", "/etc/subuid", "/etc/subgid"]
    if shutil.which("newuidmap") is None or not all(map(os.path.exists, mounted)):
        pytest.skip("needs newuidmap, of the package uidmap")
    account = f"pysuper-user:x:{USER}:{USER}::{directory}:/bin/sh\n"
    contents = [Path("/etc/passwd").read_text() + account]
    contents += [f"pysuper-user:{text}\n" if text else "" for text in (subuid, subgid)]
    arguments: list[str] = []
    for target, content in zip(mounted, contents, strict=True):
        source = directory / f"{Path(target).name}-{subuid}-{subgid}"
        source.write_text(content)
        source.chmod(0o644)
        arguments += [str(source), target]
    if helper is not None:
        arguments += [str(helper), os.path.realpath(str(shutil.which("newgidmap")))]
    return ["unshare", "--mount", "sh", "-ec", _MOUNTED, "sh", *arguments, "--"]


@contextmanager
def delegated() -> Iterator[list[str]]:
    """For `through`: cgroups that the user may arrange, below this process's in v1, at the top of v2."""
    made: list[Path] = []
    try:
        usable = [tree for tree in cgroup_trees() if tree.counts_processes and (tree.version == 2 or tree.own)]
        made.extend(_delegate(Path(tree.place), tree.version) for tree in usable)
        yield ["sh", "-ec", _MOVED, "sh", *map(str, made), "--"]
    finally:
        for directory in made:
            if (leaf := directory / "pysuper.supervisor").exists():  # which the v2 driver makes
                assert wait_until(lambda at=leaf: _removed(at))
            assert wait_until(lambda at=directory: _removed(at)), list(directory.iterdir())


def _delegate(parent: Path, version: int) -> Path:
    """A cgroup of the user's: in v1 it may join and make others, cgroups(7); in v2 see cgroup-v2.rst, "Delegation"."""
    if version == 2:
        names = (parent / "cgroup.controllers").read_text().split()
        (parent / "cgroup.subtree_control").write_text(" ".join(f"+{name}" for name in names))
    directory = parent / f"ordinary.{os.getpid()}"
    directory.mkdir()
    for name in ("cpuset.cpus", "cpuset.mems"):
        if version == 1 and (parent / name).exists():
            (directory / name).write_text((parent / name).read_text())
    for name in ("", "tasks", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"):
        if (directory / name).exists():
            os.chown(directory / name, USER, USER)
    return directory


def _removed(directory: Path) -> bool:
    with suppress(OSError):  # EBUSY for a moment
        directory.rmdir()
    return not directory.exists()


def _public_python() -> str | None:
    """An interpreter of this version that every user can run."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for candidate in (sys.executable, f"/usr/bin/{version}", f"/usr/local/bin/{version}"):
        # Not setpriv itself, which still has root's capabilities, but the program after it has to find it.
        as_user = [*BECOME_USER, "env", candidate, "-c", ""]
        if os.path.exists(candidate) and subprocess.run(as_user, capture_output=True, check=False).returncode == 0:
            return candidate
    return None
