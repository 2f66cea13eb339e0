"""Words of sh(1), and commands made of them, a line for each option."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Sequence
from itertools import groupby

from pysuper.errors import one_line

__all__ = ["NEWLINE", "command", "comments", "quote"]

#: Defines what `quote` calls a newline.
NEWLINE = "nl='\n'\n"


def quote(text: str) -> str:
    """
    One word, of printable characters only, so that no value can forge a line, end a here-document or drive a terminal.

    A newline is the variable `nl`, which `NEWLINE` defines; what else cannot be printed comes from printf(1).
    """
    return '"$nl"'.join(_quote_line(line) for line in text.split("\n")) or "''"


def _quote_line(text: str) -> str:
    runs = ("".join(run) for _, run in groupby(text, str.isprintable))
    return "".join(shlex.quote(run) if run.isprintable() else _octal(run) for run in runs)


def _octal(run: str) -> str:
    return "\"$(printf '" + "".join(f"\\{byte:03o}" for byte in os.fsencode(run)) + "')\""


def command(lines: Iterable[Sequence[str]]) -> str:
    """A command: the program and then its options, a line each; a line's words are quoted."""
    return " \\\n    ".join(" ".join(map(quote, words)) for words in lines) + "\n"


def comments(lines: Iterable[str]) -> str:
    """Lines of comment."""
    return "".join(f"# {one_line(line)}".rstrip() + "\n" for line in lines)
