"""
Finds what is registered as a plugin: entry points of installed distributions, and the files of a `--plugin-dir`.

Nothing is imported for the former, and nothing is remembered on disk: what was just installed is found.
Root takes none from where its environment or its current directory point (`trust`).
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import inspect
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import attrs

from pysuper.drivers import GROUPS
from pysuper.errors import DriverError
from pysuper.guard import guarded
from pysuper.trust import distrust, trusted_path

__all__ = ["Registration", "add_directory", "by_name", "forget", "noun", "registrations"]

#: What was added by `add_directory`.
_added: list[Registration] = []


@attrs.frozen(kw_only=True, cache_hash=True)
class Registration:
    """
    A plugin that is registered, and perhaps cannot be loaded.

    Attributes:
        group: Such as `pysuper.cgroup`.
        name: Of the entry point, or made from the name of the file.
        owner: The distribution, or the path of the file.
        version: Of the distribution; empty for a file.
        entry_point: What stevedore loads.
        title: For messages: `the cgroup driver 'pids-v1' of my-plugin 1.0`.
    """

    group: str
    name: str
    owner: str
    version: str
    entry_point: importlib.metadata.EntryPoint
    title: str = attrs.field(init=False, eq=False)

    @title.default
    def _title(self) -> str:
        return f"the {noun(self.kind)} {self.name!r} of {self.origin}"

    @property
    def kind(self) -> str:
        """The group without its prefix."""
        return self.group.removeprefix("pysuper.")

    @property
    def origin(self) -> str:
        """`my-plugin 1.0`, or the path of the file."""
        return f"{self.owner} {self.version}".rstrip()


def noun(kind: str) -> str:
    """What a plugin of a kind is called."""
    return kind if kind in {"hook", "launcher"} else f"{kind} driver"


@functools.cache
def registrations(group: str) -> tuple[Registration, ...]:
    """All plugins of a group, by name; the same name may be there several times."""
    found = (*_installed().get(group, ()), *(plugin for plugin in _added if plugin.group == group))
    return tuple(sorted(found, key=lambda plugin: (plugin.name, plugin.owner)))


@functools.cache
def by_name(group: str) -> Mapping[str, tuple[Registration, ...]]:
    """The same, to look one up."""
    found: dict[str, tuple[Registration, ...]] = {}
    for plugin in registrations(group):
        found[plugin.name] = (*found.get(plugin.name, ()), plugin)
    return found


def forget() -> None:
    """Look again at the next question, and without what was added."""
    _installed.cache_clear()
    _changed()
    while _added:
        sys.modules.pop(_added.pop().entry_point.module, None)


@functools.cache
def _installed() -> Mapping[str, tuple[Registration, ...]]:
    """By group; scanned once a process. Only the metadata of those that have plugins are read, which takes longest."""
    path = trusted_path()
    found: dict[str, list[Registration]] = {}
    for distribution in importlib.metadata.distributions(path=path):
        if "pysuper." not in (distribution.read_text("entry_points.txt") or ""):
            continue
        metadata = distribution.metadata  # which is parsed whenever it is asked for
        name = metadata["Name"] or "unknown"
        if _is_hidden(distribution, name, path):
            continue
        for point in distribution.entry_points:
            if point.group.startswith("pysuper."):
                plugin = Registration(
                    group=point.group, name=point.name, owner=name, version=metadata["Version"], entry_point=point
                )
                found.setdefault(point.group, []).append(plugin)
    return {group: tuple(plugins) for group, plugins in found.items()}


def _is_hidden(distribution: importlib.metadata.Distribution, name: str, path: list[str]) -> bool:
    """Whether another of that name comes before it on the path, as it does for imports."""
    first = next(iter(importlib.metadata.distributions(name=name, path=path)), distribution)
    return first.locate_file("") != distribution.locate_file("")


# --- files, for trying out ---


def add_directory(directory: str) -> None:
    """
    Register the plugin in each `*.py` file of a directory, for this process.

    A file has one class that is a driver or a hook; its name is the file's, with `-` for `_`. Files whose names begin
    with an underscore are left out.

    Raises:
        DriverError: There is no such directory, or something is wrong with one of its files; or this is root, and
            somebody else could write there.
    """
    place = os.path.realpath(directory)
    if not os.path.isdir(place):
        raise DriverError(f"--plugin-dir {directory}: there is no such directory")
    _require_safe(place)
    for path in sorted(Path(place).glob("[!_.]*.py")):
        _add(_register_file(path))


def _add(registration: Registration) -> None:
    _added.append(registration)
    _changed()


def _changed() -> None:
    registrations.cache_clear()
    by_name.cache_clear()


def _register_file(path: Path) -> Registration:
    _require_safe(str(path.resolve()))
    name = path.stem.replace("_", "-")
    module = f"pysuper_plugin_dir_{path.stem}"
    if not re.fullmatch(r"[A-Za-z0-9_]+", path.stem) or module in sys.modules:
        raise DriverError(f"{path}: not a name for a plugin", remedy="use letters, digits and _, each name once")
    with guarded(f"the plugin {path}", "import"):
        loaded = _load(path, module)
    classes = [
        (group, found)
        for _, found in inspect.getmembers(loaded, inspect.isclass)
        for group, interface in GROUPS.items()
        if found.__module__ == module and issubclass(found, interface) and not found.__name__.startswith("_")
    ]
    if len(classes) != 1:
        del sys.modules[module]
        names = ", ".join(found.__name__ for _, found in classes) or "none"
        raise DriverError(f"{path}: has to have one class that is a driver or a hook, and has {names}")
    group, found = classes[0]
    point = importlib.metadata.EntryPoint(name, f"{module}:{found.__name__}", group)
    return Registration(group=group, name=name, owner=str(path), version="", entry_point=point)


def _load(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _require_safe(path: str) -> None:
    """Refuse, as root, what somebody else could replace."""
    if os.geteuid() == 0 and (why := distrust(path)):
        remedy = "let it and all above it belong to root, and be written to by nobody else"
        raise DriverError(f"--plugin-dir: root does not load {path}: {why}", remedy=remedy)
