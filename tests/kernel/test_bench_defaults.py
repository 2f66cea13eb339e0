"""The benchmarks run, and yield their figures; what these are is not for a test, on a machine that others use, too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists("/bin/busybox"), reason="needs root and busybox")
def test_the_cost_of_the_defaults_is_measured_and_no_file_of_an_image_is_changed(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    command = [sys.executable, ROOT / "bench/defaults.py", "--rounds", "2", "--files", "50", "--json", figures]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=200)
    found = json.loads(figures.read_text())
    medians = found["defaults"]["median"]
    assert all(row["start_ms"] > 0 and row["cpu_ms"] > 0 for row in medians.values())
    full, bare = medians["all defaults"], medians["without all of it"]
    assert found["defaults"]["ratio"] == full["start_ms"] / bare["start_ms"]
    assert (found["image"]["files"], found["image"]["changed"]) == (50, 0)
    assert all(f"| {name} | {row['start_ms']:.2f} |" in done.stdout for name, row in medians.items())
