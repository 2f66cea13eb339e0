"""`pysuper inspect`: everything that is known of an instance."""

from __future__ import annotations

from collections.abc import Sequence

from pysuper.stack.client import ask
from pysuper.stack.commands.options import client_parser, find_project, print_json

__all__ = ["inspect"]


def inspect(argv: Sequence[str], prog: str, summary: str) -> int:
    """The command."""
    parser = client_parser(prog, summary, "NAME...")
    arguments = parser.parse(argv, intermixed=True)
    if not arguments.rest:
        parser.error("a NAME is missing")
    print_json(ask(find_project(arguments), "inspect", names=arguments.rest))
    return 0
