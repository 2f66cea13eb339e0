"""`pysuper start`, `stop`, `restart`, `pause`, `resume`, `reload`, `down`: what changes a running stack."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from pysuper.errors import one_line
from pysuper.stack.client import ask
from pysuper.stack.commands.options import client_parser, find_project, print_json
from pysuper.stack.commands.ps import state

__all__ = ["change", "down", "reload", "start"]

#: Seconds between two looks whether a project is down.
_PAUSE = 0.05


def change(argv: Sequence[str], prog: str, summary: str) -> int:
    """`stop`, `restart`, `pause` and `resume`, whichever `prog` ends with."""
    arguments = client_parser(prog, f"{summary} Without names it is all of them.").parse(argv, intermixed=True)
    operation = prog.rpartition(" ")[2]
    _show(ask(find_project(arguments), operation, names=arguments.rest), as_json=arguments.json)
    return 0


def start(argv: Sequence[str], prog: str, summary: str) -> int:
    """Those that were stopped or have failed, and what they depend on."""
    parser = client_parser(prog, f"{summary} Without names it is all of them. What they depend on is started too.")
    parser.add_argument("--wait", action="store_true", help="return when they are ready, healthy or completed")
    arguments = parser.parse(argv, intermixed=True)
    instances = ask(find_project(arguments), "start", names=arguments.rest, wait=arguments.wait)
    _show(instances, as_json=arguments.json)
    return 0


def _show(instances: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """What has become of instances."""
    if as_json:
        print_json(instances)
        return
    for instance in instances:
        detail = f": {instance['detail']}" if instance["detail"] else ""
        print(one_line(f"{instance['name']} {state(instance)}{detail}"))


def reload(argv: Sequence[str], prog: str, summary: str) -> int:
    """What has changed in the file is stopped and started, and nothing else."""
    parser = client_parser(prog, summary, "")
    arguments = parser.parse(argv)
    if arguments.rest:
        parser.error(f"unexpected argument {arguments.rest[0]!r}")
    outcome: dict[str, list[str]] = ask(find_project(arguments), "reload")
    if arguments.json:
        print_json(outcome)
    else:
        for what, names in outcome.items():
            if names:
                print(f"{what}: {', '.join(names)}")
    return 0


def down(argv: Sequence[str], prog: str, summary: str) -> int:
    """Ends the supervisor too; returns when it has."""
    parser = client_parser(prog, summary, "", json=False)
    arguments = parser.parse(argv)
    if arguments.rest:
        parser.error(f"unexpected argument {arguments.rest[0]!r}")
    project = find_project(arguments)
    ask(project, "down")
    while project.is_running():
        time.sleep(_PAUSE)
    return 0
