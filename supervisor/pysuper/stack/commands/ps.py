"""`pysuper ps`: where each instance is in its life."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pysuper.show import columns, duration
from pysuper.stack.client import ask
from pysuper.stack.commands.options import client_parser, find_project, print_json

__all__ = ["ps", "state"]

_HEADER = ("NAME", "STATE", "HEALTH", "RUN", "RESTARTS", "PID", "SINCE", "DETAIL")
_HEALTH = {True: "healthy", False: "unhealthy", None: "-"}


def ps(argv: Sequence[str], prog: str, summary: str) -> int:
    """The command."""
    arguments = client_parser(prog, summary).parse(argv, intermixed=True)
    instances = ask(find_project(arguments), "ps", names=arguments.rest)
    if arguments.json:
        print_json(instances)
    else:
        print(*columns([_HEADER, *map(_row, instances)]), sep="\n")
    return 0


def _row(instance: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        instance["name"],
        state(instance),
        _HEALTH[instance["healthy"]],
        str(instance["run"] or "-"),
        str(instance["restarts"]),
        str(instance["pid"] or "-"),
        duration(instance["since"]),
        _detail(instance),
    )


def state(instance: Mapping[str, Any]) -> str:
    """Its state in a word."""
    return "paused" if instance["paused"] else str(instance["state"])


def _detail(instance: Mapping[str, Any]) -> str:
    """Why it is in this state; or what it says of itself, while there is something that could."""
    said = instance["status"] if instance["pid"] else instance["last_exit"]
    return str(instance["detail"] or said or "")
