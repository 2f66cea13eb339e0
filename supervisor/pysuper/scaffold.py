"""
Begins a plugin: writes a package that works, as a start.

The templates are packages of a plugin called `skeleton`, one for each kind; what is written has another name instead.
"""

from __future__ import annotations

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
        name: Under which it is registered.
    """

    kind: str
    name: str

    @property
    def distribution(self) -> str:
        """What is installed; its directory is called so, too."""
        return f"pysuper-{self.name}"

    @property
    def module(self) -> str:
        """What is imported."""
        return self.distribution.replace("-", "_")

    @property
    def test(self) -> str:
        """The file of its tests, below its directory."""
        return self.fill("tests/test_skeleton.py")

    def fill(self, text: str) -> str:
        """A text of the templates, with the names of this package."""
        words = {
            "KIND": self.kind,
            "SUFFIX": self.kind.capitalize(),
            "Skeleton": "".join(part.capitalize() for part in self.name.split("-")),
            "pysuper_skeleton": self.module,
            "test_skeleton": f"test_{self.name.replace('-', '_')}",
            "skeleton": self.name,
        }
        return re.sub("|".join(sorted(words, key=len, reverse=True)), lambda found: words[found[0]], text)


def begin(kind: str, name: str, directory: Path) -> Package:
    """
    Write a package into a new directory, which is called as the package is.

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
    if not re.fullmatch(_NAME, name) or len(name) > _MAX_NAME:
        rule = f"use lower-case letters, digits and single dashes, first a letter, at most {_MAX_NAME}"
        raise ConfigError(f"{name!r} is no name for a plugin", remedy=rule)
    if taken := next((plugin for plugin in registrations(f"pysuper.{kind}") if plugin.name == name), None):
        raise ConfigError(f"{taken.origin} has a {kind} plugin {name!r} already", remedy="choose another name")
    package = Package(kind, name)
    target = directory / package.distribution
    try:
        target.mkdir()
    except FileExistsError:
        remedy = "choose another name, or another directory"
        raise ConfigError(f"{target} exists already", remedy=remedy) from None
    except OSError as error:
        raise _unwritten(target, error) from error
    try:
        for template in (_COMMON, kind):
            _write(_TEMPLATES / template, target, package)
    except OSError as error:
        shutil.rmtree(target, ignore_errors=True)
        raise _unwritten(target, error) from error
    return package


def _write(template: Path, target: Path, package: Package) -> None:
    """Copy a directory of files, filled."""
    for source in sorted(template.rglob("*")):
        if source.is_file() and source.suffix != ".pyc":
            file = target / package.fill(str(source.relative_to(template)))
            file.parent.mkdir(exist_ok=True)
            file.write_text(package.fill(source.read_text()))


def _unwritten(target: Path, error: OSError) -> PysuperError:
    return PysuperError(f"could not write {target}: {describe_errno(error.errno or 0)}")
