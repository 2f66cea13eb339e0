"""
Checks a plugin by its name, without a test file: writes one, and runs pytest on it. For `pysuper plugins check`.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import dedent

from pysuper import registry
from pysuper.discovery import Registration
from pysuper.errors import PysuperError
from pysuper.spec import DriverChoice

__all__ = ["check"]

_CLASSES: Mapping[str, str] = {
    "cgroup": "CgroupDriverTests",
    "hook": "HookTests",
    "namespace": "NamespaceDriverTests",
    "network": "NetworkDriverTests",
    "rootfs": "RootfsDriverTests",
}


def check(kind: str, choice: DriverChoice, *, arguments: Sequence[str] = ()) -> int:
    """
    Run the conformance tests on a plugin; what pytest says goes to standard output.

    Args:
        kind: `cgroup`, `hook`, `namespace`, `network` or `rootfs`.
        choice: The plugin, as a user would choose it.
        arguments: More of them for pytest, such as `-k limit`.

    Returns:
        The exit status of pytest: 0 if no rule is broken.

    Raises:
        DriverError: There is no such plugin.
        PysuperError: There are no tests for its kind, or no pytest.
    """
    if kind not in _CLASSES:
        raise PysuperError(f"there are no tests for the kind {kind}", remedy=f"there are for {', '.join(_CLASSES)}")
    registration = registry.find(f"pysuper.{kind}", choice.name, choice.distribution)
    if importlib.util.find_spec("pytest") is None:
        raise PysuperError("to check a plugin takes pytest", remedy="pip install pysuper-containers[testing]")
    with tempfile.TemporaryDirectory(prefix="pysuper-check-") as directory:
        file, settings = Path(directory, "test_plugin.py"), Path(directory, "pytest.ini")
        file.write_text(_tests(kind, choice, registration))
        settings.write_text("[pytest]\n")  # so that it looks for no others
        command: list[str | Path] = [*_interpreter(), "-m", "pytest", "-c", settings, "--rootdir", directory]
        command += ["-p", "no:cacheprovider", "-v", "-ra", *arguments, file]
        # There, so that the paths in what it says are short; the tests go back to where this is.
        return subprocess.run(command, env=_environment(), cwd=directory, check=False).returncode


def _tests(kind: str, choice: DriverChoice, registration: Registration) -> str:
    """The text of a test file."""
    name = "".join(part.capitalize() for part in re.split(r"[^A-Za-z0-9]+", choice.name))
    # That of a --plugin-dir is not known to another process.
    directories = [] if registration.version else [os.path.dirname(registration.owner)]
    return dedent(f"""\
        import os

        from pysuper.discovery import add_directory
        from pysuper.testing import {_CLASSES[kind]}

        os.chdir({os.getcwd()!r})
        for directory in {directories!r}:
            add_directory(directory)


        class Test{name}({_CLASSES[kind]}):
            driver = {str(choice)!r}
            options = {dict(choice.options)!r}
            distribution = {choice.distribution!r}
    """)


def _interpreter() -> list[str]:
    """For root one that imports nothing from where its environment or its current directory point (see `trust`)."""
    return [sys.executable, "-I" if os.geteuid() == 0 else "-P"]


def _environment() -> dict[str, str]:
    """For root without what steers an interpreter, since this one has children."""
    return {name: value for name, value in os.environ.items() if os.geteuid() or not name.startswith("PYTHON")}
