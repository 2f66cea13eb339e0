"""
The Python launcher: the one to read, and to have where no C compiler was when pysuper was installed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pysuper.errors import LaunchError
from pysuper.launcher import wire
from pysuper.launcher.client import CONTROL, ProcessLauncher, spawn
from pysuper.launcher.program import safe_program
from pysuper.plan import Plan

_SOURCE_ROOT = str(Path(__file__).resolve().parents[2])
_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[1]); from pysuper.launcher.server import main; main(int(sys.argv[2]))"
)
_REMEDY = "use an interpreter that belongs to root, such as /usr/bin/python3"


class PythonLauncher(ProcessLauncher):
    """A fresh, isolated interpreter (`python -I -S`) as the launcher process."""

    def _spawn(self, control: int) -> int:
        if not sys.executable:
            raise LaunchError("the launcher needs a Python interpreter, and sys.executable names none")
        # It finds its library by the name that it was started with, whatever is executed.
        arguments = [sys.executable, "-I", "-S", "-X", "utf8", "-c", _PROGRAM, _SOURCE_ROOT, str(CONTROL)]
        with safe_program(sys.executable, _REMEDY) as (program, environment):
            return spawn(program, arguments, environment, control)

    def _encode(self, message: dict[str, Any]) -> bytes:
        return wire.encode(message)

    def _encode_plan(self, plan: Plan, files: Sequence[int], namespaces: Sequence[str]) -> tuple[bytes, bytes | None]:
        return wire.encode({"launch": {"files": files, "namespaces": namespaces}}), plan.to_json().encode()
