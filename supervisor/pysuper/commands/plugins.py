"""
`pysuper plugins`: lists them, shows how one is used, checks one, or begins a new one.

Heavy imports are made inside of functions, as in `cli`.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pysuper.errors import ConfigError, DriverError, one_line
from pysuper.flags import Parser, add_plugin_dir

if TYPE_CHECKING:
    from pysuper.discovery import Registration
    from pysuper.registry import Entry
    from pysuper.usage import Option

__all__ = ["plugins"]

_USAGE = """%(prog)s [OPTION...] [list]
       %(prog)s [OPTION...] show [KIND/]NAME
       %(prog)s [OPTION...] check [KIND/]NAME[:ARGUMENT]
       %(prog)s new KIND NAME"""
#: Characters of a line of prose.
_WIDTH = 100


def plugins(argv: Sequence[str], prog: str, summary: str) -> int:
    """The command."""
    parser = Parser(prog, usage=_USAGE, description=summary)
    add_plugin_dir(parser.add_argument)
    name, *words = parser.parse(argv, intermixed=True).rest or ["list"]
    if name not in _COMMANDS:
        from pysuper.shorthand import did_you_mean

        raise ConfigError(f"there is no command {name!r} for plugins", remedy=did_you_mean(name, _COMMANDS))
    command, needed = _COMMANDS[name]
    if len(words) < len(needed):
        parser.error(f"{name} needs {' and '.join(needed[len(words) :])}")
    if len(words) > len(needed):
        parser.error(f"unexpected argument {words[len(needed)]!r}")
    return command(*words)


# --- list ---


def _list() -> int:
    from pysuper.registry import available
    from pysuper.show import columns

    rows: list[tuple[str, ...]] = [("GROUP", "NAME", "DISTRIBUTION", "VERSION", "WORKS HERE")]
    for entry in available():
        plugin = entry.registration
        rows.append((plugin.kind, plugin.name, plugin.owner, plugin.version, _works(entry)))
    print(*columns(rows), sep="\n")
    return 0


def _works(entry: Entry) -> str:
    if entry.detection is None:
        return f"no: {entry.error}"
    return "yes" if entry.detection.works else f"no: {entry.detection.reason}"


# --- show ---


def _show(name: str) -> int:
    print(*map(one_line, _page(_find(name))), sep="\n")
    return 0


def _page(plugin: Registration) -> Iterator[str]:
    """What there is to say of a plugin."""
    from pysuper import registry
    from pysuper.usage import options_of, summary_of, usage_of

    found = registry.load(plugin.group, plugin.name)
    yield plugin.title.removeprefix("the ")
    yield from textwrap.wrap(summary_of(found), _WIDTH)
    yield ""
    yield f"  works here  {_works(registry.examine(plugin))}"
    yield f"  interface   version {found.api_version}"
    yield f"  class       {found.__module__}:{found.__qualname__}"
    yield f"  file        {getattr(sys.modules.get(found.__module__), '__file__', 'unknown')}"
    if options := options_of(found):
        yield from ("", "Options:")
        for option in options:
            yield from _option(option)
    usage = usage_of(plugin.kind, plugin.name, found)
    if usage.note:
        yield from ("", usage.note)
    if usage.command:
        yield from ("", "On the command line:", f"  {usage.command}")
    if usage.file:
        yield from ("", "In a file:", *(f"  {line}" for line in usage.file))


def _option(option: Option) -> Iterator[str]:
    default = "needed" if option.default is None else f"default: {option.default}"
    yield f"  {option.name} ({option.type}; {default})"
    yield from textwrap.wrap(option.doc, _WIDTH, initial_indent="    ", subsequent_indent="    ")


# --- check ---


def _check(text: str) -> int:
    from pysuper.spec import DriverChoice
    from pysuper.testing.run import check

    name, colon, argument = text.partition(":")
    plugin = _find(name)
    return check(plugin.kind, DriverChoice(plugin.name, argument=argument if colon else None))


def _find(name: str) -> Registration:
    """
    The plugin that is meant by `NAME` or `KIND/NAME`.

    Raises:
        ConfigError: There is no such kind, or it could be one of several kinds.
        DriverError: There is no such plugin, or there are several of that kind and name.
    """
    from pysuper.discovery import registrations
    from pysuper.drivers import GROUPS
    from pysuper.registry import find
    from pysuper.shorthand import did_you_mean

    kinds = [group.removeprefix("pysuper.") for group in GROUPS]
    kind, slash, rest = name.partition("/")
    if slash:
        if kind not in kinds:
            raise ConfigError(f"there is no kind of plugin {kind!r}", remedy=did_you_mean(kind, kinds))
        return find(f"pysuper.{kind}", rest)
    everything = [plugin for group in GROUPS for plugin in registrations(group)]
    matching = {plugin.kind: plugin for plugin in everything if plugin.name == name}
    if not matching:
        raise DriverError(f"there is no plugin {name!r}", remedy=did_you_mean(name, {p.name for p in everything}))
    if len(matching) > 1:
        titles = " and ".join(plugin.title for plugin in matching.values())
        forms = " or ".join(f"{kind}/{name}" for kind in matching)
        raise ConfigError(f"{name!r} is the name of {titles}", remedy=f"write {forms}")
    return find(f"pysuper.{next(iter(matching))}", name)


# --- new ---


def _new(kind: str, name: str) -> int:
    from pysuper.scaffold import begin

    package = begin(kind, name, Path.cwd())
    about = {
        f"{package.module}.py": "what it does: change it where a comment says CHANGE",
        f"tests/test_{package.module}.py": "its tests: what all of its kind have to keep, and what it is for",
        "pyproject.toml": f"how it is found: as {name!r}, in the group pysuper.{kind}",
        "README.md": "how it is used",
    }
    files = [str(file) for file in package.files]
    width = max(map(len, files))
    print(f"{name}/ is a package that works:")
    print(*(f"  {file:{width}}  {about[file]}" for file in files), sep="\n")
    print("\nNext:")
    print(f"  cd {name}\n  pip install --editable '.[test]'\n  pysuper plugins show {kind}/{name}\n  pytest")
    return 0


#: What each takes.
_COMMANDS: Mapping[str, tuple[Callable[..., int], tuple[str, ...]]] = {
    "list": (_list, ()),
    "show": (_show, ("NAME",)),
    "check": (_check, ("NAME",)),
    "new": (_new, ("KIND", "NAME")),
}
