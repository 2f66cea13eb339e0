"""How the program is started by whoever confines it."""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
_PROGRAM = (
    "import sys; sys.path += [sys.argv.pop(1), sys.argv.pop(1)]; "
    "from pysuper.unpack.program import main; sys.exit(main(sys.argv[1:]))"
)


def command(destination: str, *options: str) -> tuple[str, ...]:
    """The argument vector that unpacks its standard input into `destination`."""
    paths = (str(_PACKAGE.parent), sysconfig.get_path("purelib"))
    return (os.path.realpath(sys.executable), "-I", "-S", "-c", _PROGRAM, *paths, *options, destination)


def directories() -> tuple[str, ...]:
    """What the command reads, at the paths that these directories have here."""
    packages = sysconfig.get_path("purelib")  # of backports.zstd
    return tuple(sorted({sys.base_prefix, sys.base_exec_prefix, packages, str(_PACKAGE)}))
