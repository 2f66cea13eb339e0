"""
Rules for what a driver says of itself, and for the part of it that only decides: nothing here starts a container.
"""

from __future__ import annotations

import inspect
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import unified_diff

import attrs

from pysuper.drivers import Detection
from pysuper.errors import DriverError, PysuperError
from pysuper.plan import Plan
from pysuper.planning import build_plan, choose_drivers
from pysuper.registry import GROUPS
from pysuper.spec import DriverChoice
from pysuper.testing.changes import watched
from pysuper.testing.machine import PATIENCE, Snapshot
from pysuper.testing.rules import Broken, NotHere, require, rule
from pysuper.testing.stage import MARK
from pysuper.testing.subject import Subject, contribution

__all__ = ["InterfaceTests"]

#: Seconds that `detect` may take: it is asked in every start with `auto`, and in `pysuper plugins` one after the other.
_QUICK = 1.0
_ATTEMPTS = 3
_UNKNOWN = "no-such-option"


class InterfaceTests(Subject):
    """What a driver says of itself, and what it decides."""

    @rule(
        "It is found by its name, as a class of its kind.",
        because="a user has nothing but the name: --cgroup NAME, or a key in a file. What is no class of its kind, or "
        "was written for another version of the interface, is refused instead of being tried.",
    )
    def test_is_found_by_its_name(self) -> None:
        name, interface = self.choice.name, GROUPS[self.group]
        do = f'register it in pyproject.toml: [project.entry-points."{self.group}"] {name} = "module:Class"; install it'
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
        options = self.load().Options
        documented = set(_documented(options.__doc__ or ""))
        missing = [field.name for field in attrs.fields(options) if field.name not in documented]
        do = "give it a docstring with a section `Attributes:`, and a line `name: What it is, and its unit.` for each"
        require(not missing, f"{options.__qualname__} says nothing of {', '.join(missing)}", do=do)

    @rule(
        "An option that it has not got is refused.",
        because="of a misspelt key a user believes that it is in force.",
    )
    def test_refuses_an_unknown_option(self) -> None:
        self.require_working()
        choice = attrs.evolve(self.choice, options={**self.choice.options, _UNKNOWN: 1})
        do = "let `Options` be an attrs class with a field for each option"
        try:
            self.create(choice)
        except DriverError as error:
            require(_UNKNOWN in str(error), f"the error does not name it: {error}", do=do)
        else:
            raise Broken(f"it was made with {_UNKNOWN} = 1", do=do)

    @rule(
        "detect() says whether it works here, and if it does not, why.",
        because="the reason is all that a user gets to see; `auto` goes on to the next driver, and the tests of what "
        "needs the driver skip with it.",
    )
    def test_detect_says_whether_it_works(self) -> None:
        with _as_written("detect"):
            found: object = self.load().detect()
        do = 'return Detection(True), or Detection(False, "what is missing; what would help")'
        if not isinstance(found, Detection):
            raise Broken(f"it returned {found!r}", do=do)
        require(found.works or found.reason.strip(), "it does not work here, and gives no reason", do=do)
        require("\n" not in found.reason, f"the reason has more than one line: {found.reason!r}", do=do)

    @rule(
        "detect() is quick.",
        because="it is called whenever a container starts, in the supervisor, where everything else waits meanwhile.",
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
        with _nothing_changed("detect"):
            cls.detect()

    @rule(
        "contribute() changes nothing on the machine.",
        because="`pysuper plan` calls it to show what a start would do, without any of it being done; and what is made "
        "before `host` is entered is removed by nobody.",
    )
    def test_contribute_changes_nothing(self) -> None:
        self.require_working()
        context, driver = self.context(), self.create()
        with _nothing_changed("contribute"):
            contribution(driver, context)

    @rule(
        "contribute() makes the same plan twice.",
        because="the plan that `pysuper plan` prints has to be the one that is carried out, and the paths in it have "
        "to be those that `host` makes.",
    )
    def test_contribute_makes_the_same_plan_twice(self) -> None:
        self.require_working()
        context = self.context()
        one, two = contribution(self.create(), context), contribution(self.create(), context)
        do = "take what has to be unique from context.id, which no other container of this machine has"
        require(one == two, f"the second plan has other lines: {_difference(one, two)}", do=do)

    @rule(
        "The plan survives its way to the launcher.",
        because="the launcher is another process: a plan goes there as JSON, and what is no tuple, number, string or "
        "mapping of these arrives as something else, or not at all.",
    )
    def test_the_plan_survives_the_wire(self) -> None:
        self.require_working()
        context = self.context()
        plan = build_plan(context, choose_drivers(context.spec))
        do = "give steps and checks the types that their fields have: a tuple for a list, str(path) for a Path"
        try:
            arrived = Plan.from_json(plan.to_json())
        except (TypeError, ValueError) as error:
            raise Broken(f"it cannot be sent: {error}", do=do) from error
        require(arrived == plan, f"it arrives with other lines: {_difference(plan, arrived)}", do=do)

    @rule(
        "What a user gets wrong is refused before anything is made, by an error that names it.",
        because="contribute() is the last moment at which nothing has to be undone; and an error that only says ENOENT "
        "leaves the user to guess which file.",
    )
    def test_refuses_what_is_wrong(self) -> None:
        self.require_working()
        if not self.wrong_choices:
            raise NotHere("nothing can be wrong in how it is chosen, or `wrong` in the test's class would say so")
        for choice in self.wrong_choices:
            self._require_refused(choice)

    def _require_refused(self, choice: DriverChoice) -> None:
        values = [str(value) for value in (choice.argument, *choice.options.values()) if value is not None]
        do = "raise a DriverError in contribute() that names the value, and says what would be right"
        try:
            driver = self.create(choice)
            with _as_written("contribute"), _nothing_changed("contribute"):
                contribution(driver, self.context())
        except PysuperError as error:
            named = not values or any(value in str(error) for value in values)
            require(named, f"of {choice}, {dict(choice.options)} it says only: {error}", do=do)
        else:
            raise Broken(f"it takes {choice}, {dict(choice.options)}", do=do)


@contextmanager
def _nothing_changed(method: str) -> Iterator[None]:
    before = Snapshot.take(MARK)
    do = f"let {method}() only read; what is to be made is made in `host`, and in the plan's steps"
    with watched() as changes:
        yield
    require(not changes.calls, f"{method}() called {', '.join(changes.calls)}", do=do)
    left = before.left()
    require(not left, f"after {method}(): {'; '.join(left)}", do=do)


@contextmanager
def _as_written(method: str) -> Iterator[None]:
    """What is called here raises nothing but PysuperError."""
    try:
        yield
    except (PysuperError, Broken):
        raise
    except (Exception, SystemExit) as error:
        raise Broken(
            f"{method}() raised {type(error).__name__}: {error}",
            do="catch it, and raise a DriverError `from` it that names the object, the reason and a remedy",
        ) from error


def _documented(docstring: str) -> Iterator[str]:
    """The names in the section `Attributes:` of a docstring, several before one colon among them."""
    section = re.search(r"^Attributes:\n((?:[ \t]+.*\n?|\n)*)", inspect.cleandoc(docstring), re.MULTILINE)
    for names in re.findall(r"^    (\w[\w, ]*):", section[1] if section else "", re.MULTILINE):
        yield from re.split(r",\s*", names)


def _difference(one: Plan, two: Plan) -> str:
    lines = list(unified_diff(list(one.describe()), list(two.describe()), n=0, lineterm=""))[2:]
    return "; ".join(line for line in lines if not line.startswith("@@")) or "none in words, but in types"
