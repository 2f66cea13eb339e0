"""
A plan as text: numbered lines, and on request their explanations, laid out for the width of a terminal.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from shutil import get_terminal_size
from textwrap import wrap

from pysuper.errors import one_line
from pysuper.explanations import explain, heading
from pysuper.plan import Plan

__all__ = ["explained", "listed", "text_width"]

#: Columns of a number, with its full stop and a space, and of the label of an explanation.
_NUMBER, _LABEL = 5, 12


def text_width() -> int:
    """Columns for running text: those of the terminal, within what is good to read."""
    return max(60, min(get_terminal_size().columns, 120))


def listed(plan: Plan) -> Iterator[str]:
    """A numbered line for each thing that is done."""
    for number, line in enumerate(plan.lines(), 1):
        yield f"{number:3}. {one_line(line.text)}"


def explained(plan: Plan, width: int) -> Iterator[str]:
    """
    The same lines under the headings of their phases, with what the kernel does, why here, and where to read on.

    What follows each other and has the same explanation is explained once.

    Args:
        width: In columns. Only a word that is longer by itself exceeds it.
    """
    numbered = enumerate(plan.lines(), 1)
    for place, (title, group) in enumerate(groupby(numbered, lambda pair: heading(pair[1]))):
        if place:
            yield ""
        yield from _wrapped("", title, width)
        for rows, alike in groupby(group, lambda pair: explain(plan, pair[1])):
            for number, line in alike:
                yield from _wrapped(f"{number:3}. ", one_line(line.text), width)
            for label, text in rows:
                yield from _wrapped(f"{'':{_NUMBER}}{label:{_LABEL}}", text, width)


def _wrapped(start: str, text: str, width: int) -> list[str]:
    """A paragraph whose lines begin where the text of the first one does."""
    hanging = " " * len(start)
    return wrap(
        text,
        width,
        initial_indent=start,
        subsequent_indent=hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )
