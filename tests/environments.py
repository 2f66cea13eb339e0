"""Virtual environments on top of the test run's own: what is installed in one is found there, and nowhere else."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Mapping
from pathlib import Path

import attrs

__all__ = ["Environment"]

#: What a user types, and what it does here. No network: whatever a package needs, the test run's environment has.
_PROGRAMS = {
    "pip": '{outer} -m pip --quiet --python {python} "$@" --no-index --no-build-isolation --no-warn-script-location',
    "pysuper": '{python} -m pysuper "$@"',
    "pytest": '{python} -m pytest -p no:cacheprovider "$@"',
}


@attrs.frozen
class Environment:
    """
    A virtual environment.

    Attributes:
        path: Its directory.
    """

    path: Path

    @classmethod
    def make(cls, path: Path) -> Environment:
        """A new one."""
        venv.create(path, symlinks=True)
        made = cls(path)
        # Unlike a path in a .pth file, this also reads the .pth files there, such as that of an editable install.
        outer = sysconfig.get_path("purelib")
        (made.packages / "outer.pth").write_text(f"import site; site.addsitedir({outer!r})\n")
        for name, command in _PROGRAMS.items():
            program = path / "bin" / name
            program.write_text(f"#!/bin/sh\nexec {command.format(outer=sys.executable, python=made.python)}\n")
            program.chmod(0o755)
        return made

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.path / "bin/python"

    @property
    def packages(self) -> Path:
        """Where packages are installed."""
        return self.path / f"lib/python{sysconfig.get_python_version()}/site-packages"

    def run(self, command: str, directory: Path, variables: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """Run a command of the shell, as a user who has activated it; standard error is part of the output."""
        return subprocess.run(
            ["bash", "-c", command],
            cwd=directory,
            env={**os.environ, **variables, "PATH": f"{self.path}/bin:{os.environ['PATH']}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=900,
            check=False,
        )
