"""Writes the rules of the conformance tests into conformance.md: python docs/rules.py"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path

from pysuper.testing import CgroupDriverTests, HookTests, NamespaceDriverTests, NetworkDriverTests, RootfsDriverTests
from pysuper.testing.driver import DriverTests
from pysuper.testing.interface import InterfaceTests
from pysuper.testing.lives import LifeTests
from pysuper.testing.plans import PlanTests

PAGE = Path(__file__).with_name("conformance.md")
_MARK = "<!-- Made by docs/rules.py. -->\n"
_CLASSES = {
    InterfaceTests: "Drivers and hooks: what they say of themselves",
    LifeTests: "Drivers and hooks: whatever happens",
    PlanTests: "Drivers: what they decide",
    DriverTests: "Drivers: their containers",
    CgroupDriverTests: "Cgroup drivers",
    RootfsDriverTests: "Rootfs drivers",
    NamespaceDriverTests: "Namespace drivers",
    NetworkDriverTests: "Network drivers",
    HookTests: "Hooks",
}


def page() -> str:
    """The page as it should be."""
    return PAGE.read_text().partition(_MARK)[0] + _MARK + "".join(f"\n{line}\n" for line in _rules())


def _rules() -> Iterator[str]:
    for tests, title in _CLASSES.items():
        yield f"### {title}"
        for made in (value.rule for value in vars(tests).values() if hasattr(value, "rule")):
            because = made.because[0].upper() + made.because[1:]
            yield textwrap.fill(
                f"- **{made.sentence}** {because}",
                width=120,
                subsequent_indent="  ",
                break_long_words=False,
                break_on_hyphens=False,
            )


if __name__ == "__main__":
    PAGE.write_text(page())
