"""
How a plugin is used: its options, and what is written on the command line and in a file to have it.

Made of the plugin's class: the docs of its options are those of the class that holds them.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Sequence
from typing import Any

import attrs

from pysuper.drivers import Plugin

__all__ = ["Option", "Usage", "options_of", "summary_of", "usage_of"]

#: By kind: an option of `run`, and a table and a key of a file.
_PLACES = {
    "cgroup": ("--cgroup ", "[container.NAME.cgroup]", "driver"),
    "namespace": ("--namespace NAMESPACE=", "[container.NAME.namespaces]", "NAMESPACE"),
    "network": ("--network ", "[container.NAME]", "network"),
    "rootfs": ("--rootfs ", "[container.NAME]", "rootfs"),
}
_NOT_SET = "not set"
_ELLIPSIS = "..."


@attrs.frozen(kw_only=True)
class Option:
    """
    An option of a plugin.

    Attributes:
        name: The key of its table.
        type: As it is annotated.
        default: As it is written in TOML; None has none, and has to be given.
        doc: What it means; empty if nobody has said so.
    """

    name: str
    type: str
    default: str | None
    doc: str


@attrs.frozen(kw_only=True)
class Usage:
    """
    What is written to have a plugin; empty where there is nothing to write.

    Attributes:
        command: On the command line.
        file: In a file, lines of TOML.
        note: Why there is nothing.
    """

    command: str = ""
    file: tuple[str, ...] = ()
    note: str = ""


def summary_of(plugin: type[Any]) -> str:
    """The first paragraph of its docstring, on a line; empty if it has none of its own."""
    text = inspect.cleandoc(plugin.__doc__ or "")
    return " ".join(text.partition("\n\n")[0].split())


def options_of(plugin: type[Any]) -> tuple[Option, ...]:
    """Its options, in order; none of what is no plugin but a launcher."""
    if not issubclass(plugin, Plugin):
        return ()
    docs = _attribute_docs(plugin.Options)
    return tuple(
        Option(
            name=field.name,
            type=field.type if isinstance(field.type, str) else inspect.formatannotation(field.type),
            default=_default(field),
            doc=docs.get(field.name, ""),
        )
        for field in attrs.fields(plugin.Options)
    )


def _attribute_docs(cls: type[Any]) -> dict[str, str]:
    """What the section `Attributes:` of its docstring says of each, `NAME: TEXT` or `NAME, NAME: TEXT`."""
    _, _, section = inspect.cleandoc(cls.__doc__ or "").partition("Attributes:\n")
    docs: dict[str, str] = {}
    names: list[str] = []
    for line in section.splitlines():
        if line and not line.startswith(" "):
            break  # the next section
        if found := re.match(r"    ([A-Za-z_]\w*(?:, [A-Za-z_]\w*)*): (.*)", line):
            names = found[1].split(", ")
            docs |= dict.fromkeys(names, found[2].strip())
        else:
            docs |= {name: f"{docs[name]} {line.strip()}".strip() for name in names}
    return docs


def _default(field: attrs.Attribute[Any]) -> str | None:
    value: Any = field.default
    if value is attrs.NOTHING:
        return None
    if isinstance(value, attrs.Factory):  # type: ignore[arg-type]
        value = None if value.takes_self else value.factory()
    if value is None:
        return _NOT_SET
    return json.dumps(value, default=repr, ensure_ascii=False)


def usage_of(kind: str, name: str, plugin: type[Any]) -> Usage:
    """
    What is written to have it.

    Args:
        kind: Such as `cgroup`.
        name: As it is registered.
    """
    options = options_of(plugin)
    values = [f"{option.name} = {option.default or _ELLIPSIS}" for option in options if option.default != _NOT_SET]
    short = _short_form(name, plugin, options)
    if kind == "hook":
        return Usage(command=_command(f"--hook {short}") if short else "", file=(f"[hook.{name}]", *values))
    namespace = getattr(plugin, "namespace", None) or name
    if kind == "namespace" and namespace == name:
        return Usage(note=f"Every container has it, unless another driver makes its {name} namespace, or none does.")
    if kind not in _PLACES:
        return Usage(note="Every supervisor has it.")
    option, table, key = (text.replace("NAMESPACE", namespace) for text in _PLACES[kind])
    forms = [f'"{short}"'] if short else []
    if len(values) > len(forms):
        table_of = ", ".join([f'driver = "{name}"', *values])
        forms.append(f"{{ {table_of} }}")
    lines = [f"{key} = {form}" for form in forms or [f'"{name}"']]
    return Usage(
        command=_command(f"{option}{short}") if short else "",
        file=(table, lines[0], *(f"# or: {line}" for line in lines[1:])),
    )


def _short_form(name: str, plugin: type[Any], options: Sequence[Option]) -> str:
    """`NAME`, or `NAME:ARGUMENT` if it takes one; empty if it needs more than that."""
    argument = getattr(plugin, "argument", None)
    if any(option.default is None and option.name != argument for option in options):
        return ""
    return name if argument is None else f"{name}:{argument.upper()}"


def _command(options: str) -> str:
    return f"pysuper run {options} -- COMMAND"
