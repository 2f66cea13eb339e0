"""Every command of the README and every example, typed as it stands."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="the tour is root's")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def shell(command: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", command],
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=300,
        check=False,
    )


#: What a reader is told to expect: the exit status, and a part of the output.
EXPECTED = [
    (3, ""),
    (2, "Cannot fork"),
    (137, ""),
    (0, "doc"),
    (143, ""),
    (0, "HELLO"),
    (0, "shell"),
    (0, "pivot into the new root"),
    (0, "pysuper-containers"),
    (0, "kernel"),
]


def tour() -> list[str]:
    return blocks("sh")[1].splitlines()


def test_the_tour_has_ten_lines() -> None:
    assert len(tour()) == len(EXPECTED) == 10


@needs_root
@pytest.mark.parametrize("number", range(len(EXPECTED)))
def test_the_tour_does_what_it_says(number: int) -> None:
    status, part = EXPECTED[number]
    result = shell(tour()[number])
    assert (status, result.stdout + result.stderr) == (result.returncode, result.stdout + result.stderr)
    assert part in result.stdout + result.stderr


@needs_root
def test_the_fork_bomb_of_the_tour_is_in_the_report() -> None:
    shell(tour()[1])
    record = json.loads(Path("/tmp/bomb.json").read_text())
    Path("/tmp/bomb.json").unlink()
    assert record["pids_max_hits"] > 0


#: The same for the stack.
EXPECTED_OF_STACK = [
    (0, ""),
    (0, ""),
    (0, "healthy"),
    (0, "made by a task"),
    (0, "12."),
    (0, "MEMORY"),
    (0, "something is wrong"),
    (0, ""),
]


@needs_root
def test_the_stack_does_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, in one go; somebody else's stack, if one runs, is not asked."""
    monkeypatch.setenv("PYSUPER_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("PYSUPER_STATE_DIR", str(tmp_path / "state"))
    commands = blocks("sh")[2].splitlines()
    assert len(commands) == len(EXPECTED_OF_STACK)
    try:
        for command, (status, part) in zip(commands, EXPECTED_OF_STACK, strict=True):
            result = shell(command)
            said = result.stdout + result.stderr
            assert (command, status, said) == (command, result.returncode, said)
            assert part in said
            if "--wait" in command:
                time.sleep(4)  # in which the service crashes
    finally:
        shell("pysuper down --file examples/multi.toml")


@needs_root
def test_the_library_example_runs(tmp_path: Path) -> None:
    (code,) = blocks("python")
    (tmp_path / "example.py").write_text(code)
    result = subprocess.run([sys.executable, tmp_path / "example.py"], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("b'hello\\n' exited ")


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text()
    commands = [line.split()[1] for line in blocks("sh")[0].splitlines()]
    assert commands == ["shell", "test"]
    for target in commands:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_ci_runs_the_readmes_test_command() -> None:
    assert "make test" in (ROOT / ".ci/run").read_text()


def test_links_of_the_readme_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", README):
        assert (ROOT / target).exists(), target
