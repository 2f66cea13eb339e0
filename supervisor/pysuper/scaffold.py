"""
Begins a plugin: writes a package that works, as a start.

The templates are packages of a plugin called `skeleton`, one for each kind; what is written has another name instead.
"""

from __future__ import annotations

import importlib.util
import keyword
import os
import re
import shutil
from pathlib import Path

import attrs

from pysuper.discovery import registrations
from pysuper.errors import ConfigError, PysuperError, describe_errno
from pysuper.shorthand import did_you_mean

__all__ = ["KINDS", "Package", "begin"]

_TEMPLATES = Path(__file__).with_name("templates")
#: What is written for every kind.
_COMMON = "common"
#: Those that there are templates of.
KINDS = tuple(sorted(path.name for path in _TEMPLATES.iterdir() if path.name != _COMMON))

_NAME = r"[a-z][a-z0-9]*(-[a-z0-9]+)*"
_MAX_NAME = 40


@attrs.frozen
class Package:
    """
    A package for one plugin.

    Attributes:
        kind: Of the plugin.
        name: Of the plugin, the distribution, and the directory.
    """

    kind: str
    name: str

    @property
    def module(self) -> str:
        """What is imported."""
        return self.name.replace("-", "_")

    @property
    def files(self) -> dict[Path, Path]:
        """What is written, below the directory, and the template that it is made of."""
        return {
            Path(self._fill(str(source.relative_to(template)))): source
            for template in (_TEMPLATES / self.kind, _TEMPLATES / _COMMON)
            for source in sorted(template.rglob("*"))
            if source.is_file() and source.suffix != ".pyc"
        }

    def write(self, directory: Path) -> None:
        """Write all of it; raises OSError."""
        for file, source in self.files.items():
            target = directory / file
            target.parent.mkdir(exist_ok=True)
            target.write_text(self._fill(source.read_text()))

    def _fill(self, text: str) -> str:
        """A text of the templates, with the names of this package."""
        words = {
            "KIND": self.kind,
            "Skeleton": self._class,
            "skeleton.py": f"{self.module}.py",
            "skeleton:Skeleton": f"{self.module}:{self._class}",
            "skeleton": self.name,
        }
        return re.sub("|".join(sorted(words, key=len, reverse=True)), lambda found: words[found[0]], text)

    @property
    def _class(self) -> str:
        """In the words of its name; with one more where that is the name of something else."""
        name = "".join(part.capitalize() for part in self.name.split("-"))
        taken = re.search(rf"\b{name}\b", Path(_TEMPLATES, self.kind, "skeleton.py").read_text())
        return f"{name}Plugin" if taken else name


def begin(kind: str, name: str, directory: Path) -> Package:
    """
    Write a package into a new directory, which is called as the plugin is.

    Args:
        kind: One of `KINDS`.
        name: For the plugin.
        directory: In which the new one is made.

    Raises:
        ConfigError: There is no template, the name will not do, or there is such a directory already.
        PysuperError: It could not be written; then nothing of it is left.
    """
    if kind not in KINDS:
        raise ConfigError(f"there is no template for a plugin of the kind {kind!r}", remedy=did_you_mean(kind, KINDS))
    package, target = Package(kind, name), directory / name
    _require_free(package, target)
    try:
        target.mkdir()
    except OSError as error:
        raise _unwritten(target, error) from error
    try:
        package.write(target)
    except OSError as error:
        shutil.rmtree(target, ignore_errors=True)
        raise _unwritten(target, error) from error
    return package


def _require_free(package: Package, target: Path) -> None:
    """Refuse a name that will not do, or that somebody else has."""
    kind, name = package.kind, package.name
    if not re.fullmatch(_NAME, name) or len(name) > _MAX_NAME:
        rule = f"use lower-case letters, digits and single dashes, first a letter, at most {_MAX_NAME}"
        raise ConfigError(f"{name!r} is no name for a plugin", remedy=rule)
    if os.path.lexists(target):
        raise ConfigError(f"{target} exists already", remedy="choose another name, or another directory")
    if taken := next((plugin for plugin in registrations(f"pysuper.{kind}") if plugin.name == name), None):
        raise ConfigError(f"{taken.origin} has a {kind} plugin {name!r} already", remedy="choose another name")
    if _means_something(package.module):
        raise ConfigError(f"{package.module!r} means something else in Python", remedy="choose a name of two words")


def _means_something(module: str) -> bool:
    """Whether a name is a word of Python, or would hide another module; a directory that is none does not count."""
    spec = importlib.util.find_spec(module)
    return keyword.iskeyword(module) or (spec is not None and spec.origin is not None)


def _unwritten(target: Path, error: OSError) -> PysuperError:
    return PysuperError(f"could not write {target}: {describe_errno(error.errno or 0)}")
