"""What of the README is no command: its promises about the repository. test_docs.py executes the rest."""

from __future__ import annotations

import re
from pathlib import Path

from documents import blocks

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_tour_has_ten_lines() -> None:
    _, tour, *_ = (block for block in blocks(README, "README.md") if block.language == "sh")
    assert len(tour.commands) == 10


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text()
    commands = [line.split()[1] for line in next(blocks(README, "README.md")).commands]
    assert commands == ["shell", "test"]
    for target in commands:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_ci_runs_the_readmes_test_command() -> None:
    assert "make test" in (ROOT / ".ci/run").read_text()


def test_links_of_the_readme_lead_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", README):
        assert (ROOT / target).exists(), target
