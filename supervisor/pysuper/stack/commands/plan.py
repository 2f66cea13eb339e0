"""`pysuper plan FILE`: how every container of a stack would be made."""

from __future__ import annotations

import json
from typing import Any

from pysuper.config import load_stack
from pysuper.explain import explained, listed, text_width
from pysuper.planning import make_plan
from pysuper.stack.graph import instance_names, order
from pysuper.stack.project import Project
from pysuper.stack.stack import instance_spec

__all__ = ["print_plans"]

#: What leads to the network of a stack that does not run.
_NETWORK = "/proc/SUPERVISOR/fd/NETWORK"
_INDENT = "  "


def print_plans(file: str, *, as_json: bool, explain: bool) -> None:
    """
    Print the plans of all instances, in the order in which they may be started.

    Args:
        as_json: As the launcher gets them.
        explain: With explanations.

    Raises:
        PysuperError: The file is wrong, or something that it asks for cannot be had here.
    """
    stack = load_stack(file)
    project = Project.of(file=file)
    plans: dict[str, Any] = {}
    for member in order(stack.members):
        for name in instance_names(stack.members[member]):
            plans[name] = make_plan(instance_spec(stack.members[member], name, _NETWORK, str(project.hosts)))
    if as_json:
        print(json.dumps({name: json.loads(plan.to_json()) for name, plan in plans.items()}, indent=2))
        return
    for name, plan in plans.items():
        after = stack.members[name if name in stack.members else name.rpartition("-")[0]].depends_on
        print(f"{name}:" + (f" after {', '.join(f'{n} is {c}' for n, c in after.items())}" if after else ""))
        lines = explained(plan, text_width() - len(_INDENT)) if explain else listed(plan)
        print(*(f"{_INDENT}{line}".rstrip() for line in lines), sep="\n")
