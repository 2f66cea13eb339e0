"""Each package that `pysuper plugins new` writes: what it says to do next works, and the package's own tests pass."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from environments import Environment
from pysuper.scaffold import KINDS

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="the tests of the packages are root's"),
    pytest.mark.timeout(1200),  # conformance tests are thorough
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_package_works_at_once(kind: str, tmp_path: Path) -> None:
    environment = Environment.make(tmp_path / "environment")
    (here := tmp_path / "here").mkdir()
    begun = environment.run(f"pysuper plugins new {kind} my-own", here, {})
    assert begun.returncode == 0, begun.stdout
    _, _, steps = begun.stdout.partition("Next:\n")
    done = environment.run(f"set -e; {steps}", here, {})
    assert done.returncode == 0, done.stdout
    assert f"{here}/my-own/my_own.py" in done.stdout
    assert " passed" in done.stdout
