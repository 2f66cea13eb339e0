"""
Variables in the strings of a file, as shells and Compose have them.

    ${VAR}            its value; unset is an error
    ${VAR:-text}      text if it is unset or empty; ${VAR-text} if it is unset
    ${VAR:?message}   an error with the message if it is unset or empty; ${VAR?message} if it is unset
    $$                one $

`text` and `message` may have variables in them, which are only looked at where they are needed. Every other `$` stays
as it is, so that `$VAR` and `$(command)` are left to the shell in the container.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pysuper.tables import Error, Keys
from pysuper.units import shown

__all__ = ["escape", "interpolate", "interpolate_all"]

_SPECIAL = re.compile(r"\$[${]")
_BRACE = re.compile(r"\$[${]|\}")
_EXPRESSION = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?:(:?[-?])(.*))?", re.DOTALL)
#: Variables in the text of variables.
_MOST_LEVELS = 16


def escape(text: str) -> str:
    """The text of which `interpolate` makes this one."""
    return text.replace("$", "$$")


def interpolate_all(value: Any, environment: Mapping[str, str], keys: Keys = ()) -> tuple[Any, list[Error]]:
    """A value with the strings inside of it interpolated, and what is wrong with those that stay as they are."""
    if isinstance(value, str):
        try:
            return interpolate(value, environment), []
        except ValueError as error:
            return value, [(keys, str(error))]
    if not isinstance(value, dict | list):
        return value, []
    items = value.items() if isinstance(value, dict) else enumerate(value)
    results = {key: interpolate_all(inner, environment, (*keys, key)) for key, inner in items}
    made = {key: inner for key, (inner, _) in results.items()}
    errors = [error for _, found in results.values() for error in found]
    return (made if isinstance(value, dict) else list(made.values())), errors


def interpolate(text: str, environment: Mapping[str, str], level: int = 0) -> str:
    """
    The text with the values of its variables.

    Raises:
        ValueError: A variable is missing, or is not written as it should be.
    """
    if level > _MOST_LEVELS:
        raise ValueError(f"has variables in more than {_MOST_LEVELS} others")
    parts: list[str] = []
    position = 0
    while found := _SPECIAL.search(text, position):
        parts.append(text[position : found.start()])
        position = found.end()
        if found[0] == "$$":
            parts.append("$")
            continue
        end = _closing(text, position)
        parts.append(_value(text[position:end], environment, level))
        position = end + 1
    return "".join(parts) + text[position:]


def _closing(text: str, start: int) -> int:
    """Where the brace is that closes the one before `start`."""
    open_braces = 1
    for found in _BRACE.finditer(text, start):
        open_braces += {"${": 1, "}": -1}.get(found[0], 0)
        if open_braces == 0:
            return found.start()
    raise ValueError(f"{shown(text[start - 2 :])} has no closing brace; write $${{ for ${{ itself")


def _value(expression: str, environment: Mapping[str, str], level: int) -> str:
    """What is put in the place of `${expression}`."""
    parsed = _EXPRESSION.fullmatch(expression)
    if parsed is None:
        example = "${NAME}, ${NAME:-default} or ${NAME:?message}"
        raise ValueError(f"{shown(f'${{{expression}}}')} is not {example}; write $${{ for ${{ itself")
    name, operator, text = parsed.groups("")
    value = environment.get(name)
    if value or (value is not None and not operator.startswith(":")):
        return value
    if operator.endswith("-"):
        return interpolate(text, environment, level + 1)
    missing = f"the variable {shown(name)} is {'not set' if value is None else 'empty'}"
    if not operator:
        raise ValueError(f"{missing}; write {shown(f'${{{name}:-}}')} if it may be missing")
    message = interpolate(text, environment, level + 1)
    raise ValueError(f"{missing}: {message}" if message else missing)
