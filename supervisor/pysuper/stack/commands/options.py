"""
What the commands that ask a supervisor have in common: options, the project that is meant, JSON.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from pysuper.flags import Parser
from pysuper.stack import project as projects
from pysuper.stack.project import Project

__all__ = ["client_parser", "find_project", "print_json"]


def client_parser(prog: str, summary: str, arguments: str = "[NAME...]", *, json: bool = True) -> Parser:
    """
    A parser with the options that choose a project.

    Args:
        arguments: What follows the options, for the usage.
        json: Whether there is an answer that can be printed as such.
    """
    parser = Parser(prog, usage=f"{prog} [OPTION...] {arguments}".rstrip(), description=summary)
    parser.add_argument("--project", metavar="NAME", help="the stack with this name (default: the only one that runs)")
    parser.add_argument("--file", metavar="FILE", help="the stack of this file")
    if json:
        parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def find_project(arguments: argparse.Namespace) -> Project:
    """
    The project that is meant, whether it runs or not; `ask` will say if it does not.

    Raises:
        ConfigError: There is none, or several.
    """
    return projects.find(file=arguments.file, name=arguments.project, past=True)


def print_json(value: Any) -> None:
    """Print a value, with a line for each part of it."""
    print(json.dumps(value, indent=2))
