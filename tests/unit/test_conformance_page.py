"""The documentation of the conformance tests has all of their rules."""

from __future__ import annotations

import runpy
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs/conformance.md"


def test_the_page_has_the_rules_as_they_are() -> None:
    written = runpy.run_path(str(PAGE.with_name("rules.py")))["page"]()
    assert PAGE.read_text() == written, "run python docs/rules.py"
    assert written.count("\n- **") > 40
