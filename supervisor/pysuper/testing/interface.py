"""
Rules for what a plugin says of itself, and of what its users may choose.
"""

from __future__ import annotations

import inspect
import re
import time
from collections.abc import Iterator
from typing import Any

import attrs

from pysuper.drivers import GROUPS, Detection
from pysuper.errors import DriverError, PysuperError
from pysuper.spec import DriverChoice
from pysuper.testing.machine import PATIENCE
from pysuper.testing.plugin import PluginTests, as_written, create, nothing_changed
from pysuper.testing.rules import Broken, NotHere, require, rule

__all__ = ["InterfaceTests"]

#: Seconds that `detect` may take: it is asked in every start with `auto`, and in `pysuper plugins` one after the other.
_QUICK = 1.0
_ATTEMPTS = 3
_UNKNOWN = "no-such-option"
_OPTIONS = "let `Options` be an attrs class with a field for each option"


class InterfaceTests(PluginTests):
    """What a plugin says of itself, and how it takes what users choose."""

    @rule(
        "It is found by its name, as a class of its kind.",
        because="a user has nothing but the name: --cgroup NAME, or a key in a file. What is no class of its kind, or "
        "was written for another version of the interface, is refused instead of being tried.",
    )
    def test_is_found_by_its_name(self) -> None:
        name, group = self.choice.name, f"pysuper.{self.kind}"
        interface = GROUPS[group]
        do = f'register it in pyproject.toml: [project.entry-points."{group}"] {name} = "module:Class"; install it'
        try:
            cls = self.load()
        except PysuperError as error:
            raise Broken(str(error), do=do) from error
        missing = sorted(getattr(cls, "__abstractmethods__", ()))
        require(not missing, f"{cls.__qualname__} is abstract", do=f"define {', '.join(missing)}: {interface.__name__}")

    @rule(
        "It says what it does, in a docstring of its own.",
        because="`pysuper plugins` shows the first line of it to those who choose between drivers.",
    )
    def test_says_what_it_does(self) -> None:
        cls = self.load()
        first = (vars(cls).get("__doc__") or "").strip().partition("\n")[0]
        require(first, f"{cls.__qualname__} has no docstring", do="say in one line what its containers get")

    @rule(
        "Each of its options is documented, in `Attributes:` of its Options.",
        because="the docstring is the only place where a user learns what may stand in the driver's table.",
    )
    def test_documents_every_option(self) -> None:
        options = self._options()
        documented = set(_documented(options.__doc__ or ""))
        missing = [field.name for field in attrs.fields(options) if field.name not in documented]
        do = "give it a docstring with a section `Attributes:`, and a line `name: What it is, and its unit.` for each"
        require(not missing, f"{options.__qualname__} says nothing of {', '.join(missing)}", do=do)

    @rule(
        "An option that it has not got is refused.",
        because="of a misspelt key a user believes that it is in force.",
    )
    def test_refuses_an_unknown_option(self) -> None:
        self._options()
        self.require_working()
        choice = attrs.evolve(self.choice, options={**self.choice.options, _UNKNOWN: 1})
        do = _OPTIONS
        try:
            create(self.kind, choice)
        except DriverError as error:
            require(_UNKNOWN in str(error), f"the error does not name it: {error}", do=do)
        else:
            raise Broken(f"it was made with {_UNKNOWN} = 1", do=do)

    def _options(self) -> type[Any]:
        options = self.load().Options
        require(attrs.has(options), f"{options.__qualname__} is no attrs class", do=_OPTIONS)
        return options

    @rule(
        "detect() says whether it works here, and if it does not, why.",
        because="the reason is all that a user gets to see; `auto` goes on to the next driver, and the tests of what "
        "needs the driver skip with it.",
    )
    def test_detect_says_whether_it_works(self) -> None:
        with as_written("detect()"):
            found: object = self.load().detect()
        do = 'return Detection(True), or Detection(False, "what is missing; what would help")'
        if not isinstance(found, Detection):
            raise Broken(f"it returned {found!r}", do=do)
        require(found.works or found.reason.strip(), "it does not work here, and gives no reason", do=do)
        require("\n" not in found.reason, f"the reason has more than one line: {found.reason!r}", do=do)

    @rule(
        "detect() is quick.",
        because="it is called in the supervisor when containers start, where everything else waits meanwhile.",
    )
    def test_detect_is_quick(self) -> None:
        passed = []
        for _ in range(_ATTEMPTS):  # since machines are busy with other things at times
            begin = time.monotonic()
            self.load().detect()
            passed.append(time.monotonic() - begin)
        bound = _QUICK * PATIENCE
        require(min(passed) < bound, f"it took {min(passed):.1f} s", do=f"decide in less than {bound:g} s, from /proc")

    @rule(
        "detect() changes nothing.",
        because="`pysuper plugins` and `pysuper doctor` ask every driver that is installed, also those nobody uses.",
    )
    def test_detect_changes_nothing(self) -> None:
        cls = self.load()
        with nothing_changed("detect()"):
            cls.detect()

    @rule(
        "What a user gets wrong is refused before anything is made, by an error that names it.",
        because="that is the last moment at which nothing has to be undone; and an error that only says ENOENT leaves "
        "the user to guess which file.",
    )
    def test_refuses_what_is_wrong(self) -> None:
        self.require_working()
        if not self.wrong_choices:
            raise NotHere("nothing can be wrong in how it is chosen, or `wrong` in the test's class would say so")
        for choice in self.wrong_choices:
            self._require_refused(choice)

    def _require_refused(self, choice: DriverChoice) -> None:
        given = [str(value) for value in (choice.argument, *choice.options.values()) if value is not None]
        do = "raise a DriverError that names the value, and says what would be right"
        try:
            with nothing_changed("it"):
                self.try_out(choice)
        except PysuperError as error:
            named = not given or any(value in str(error) for value in given)
            require(named, f"of {', '.join(given)} it says only: {error}", do=do)
        else:
            raise Broken(f"it takes {', '.join(given)}", do=do)

    def try_out(self, choice: DriverChoice) -> None:
        """Do with another choice what is done before anything is made."""
        with as_written("__init__"):
            create(self.kind, choice)


def _documented(docstring: str) -> Iterator[str]:
    """The names in the section `Attributes:` of a docstring, several before one colon among them."""
    section = re.search(r"^Attributes:\n((?:[ \t]+.*\n?|\n)*)", inspect.cleandoc(docstring), re.MULTILINE)
    for names in re.findall(r"^    (\w[\w, ]*):", section[1] if section else "", re.MULTILINE):
        yield from re.split(r",\s*", names)
