"""What fuzzing has found, and what it starts from: none of it makes a reader fail (again)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fuzz.targets import TARGETS

CORPUS = Path(__file__).parents[1] / "fuzz" / "corpus"
INPUTS = sorted(CORPUS.glob("*/*"))


@pytest.mark.parametrize("path", INPUTS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_input(path: Path) -> None:
    TARGETS[path.parent.name](path.read_bytes())


def test_each_target_has_inputs_and_they_are_few_and_small() -> None:
    assert {path.parent.name for path in INPUTS} == set(TARGETS)
    assert sum(path.stat().st_size for path in INPUTS) < 100_000


SEALED = """
import sys
sys.path.insert(0, sys.argv[1])
from pysuper.launcher import wire
sys.meta_path.clear(), sys.path.clear(), sys.path_hooks.clear()
assert wire.decode(bytes(9)) == {}
"""


def test_no_packet_makes_the_launcher_import_anything() -> None:
    """It has nothing left to import with; what looks like UTF-32 had json look for a codec."""
    source = Path(__file__).parents[2] / "supervisor"
    subprocess.run([sys.executable, "-I", "-S", "-c", SEALED, source], check=True)
