"""
Compiles the native launcher into the package, if there is a C compiler; what is installed works without it.

It needs the headers of Linux 5.14 and a C library; without a static one it is linked to the other.
"""

from __future__ import annotations

import os
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCES = Path("supervisor/pysuper/launcher/native")
PROGRAM = SOURCES / "pysuper-launcher"
FLAGS = ["-std=c11", "-O2", "-fstack-protector-strong", "-Wall", "-Wextra", "-Werror"]


class NativeLauncher(BuildHookInterface[Any]):
    """For wheels, of which an editable one leads to the sources, where the program is put, too."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """See the interface; `version` is "standard" or "editable"."""
        if self.target_name != "wheel":
            return
        root = Path(self.root)
        if why := build(root):
            self.app.display_warning(f"the native launcher is left out, the one in Python takes its place: {why}")
            return
        if version == "editable":
            return
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
        target = str(PROGRAM.relative_to("supervisor"))
        build_data["force_include"][str(root / PROGRAM)] = target


def build(root: Path) -> str | None:
    """Compile it; None, or why it is not there."""
    program = root / PROGRAM
    program.unlink(missing_ok=True)
    sources = [str(path) for path in sorted((root / SOURCES).glob("*.c"))]
    why = ""
    for linking in (["-static"], []):
        command = [os.environ.get("CC", "cc"), *FLAGS, *linking, "-o", str(program), *sources]
        try:
            done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        except OSError as error:
            return f"{command[0]}: {error.strerror}"
        if done.returncode == 0:
            return None
        why = (done.stderr.strip().splitlines() or [f"{command[0]} exited with {done.returncode}"])[0]
    return why
