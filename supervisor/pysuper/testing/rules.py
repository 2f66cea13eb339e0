"""
What a rule is: a test that says which promise it checks, why the promise exists, what was found and what to do.

    @rule("contribute makes the same plan twice.", because="`pysuper plan` shows what a start would do.")
    async def test_contribute_makes_the_same_plan_twice(self) -> None:
        require(one == two, "the second plan differs: ...", do="derive names from context.id")

The test that pytest sees is a plain function, whatever the check is and however pytest-trio is set up.
"""

from __future__ import annotations

import functools
import inspect
import textwrap
import traceback
from collections.abc import Awaitable, Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar, cast

import attrs
import trio

from pysuper.errors import PysuperError, alone

__all__ = ["Broken", "NotHere", "Rule", "require", "rule"]

_WIDTH = 110


class Broken(Exception):
    """A rule does not hold: what was found, and what its author can do."""

    def __init__(self, found: str, *, do: str) -> None:
        super().__init__(found)
        self.do = do


class NotHere(Exception):
    """A rule cannot be checked on this machine, by this user, or of this driver: why."""


def require(holds: object, found: str, *, do: str) -> None:
    """Raise Broken if it does not hold."""
    if not holds:
        raise Broken(found, do=do)


@attrs.frozen(kw_only=True)
class Rule:
    """
    Attributes:
        sentence: The promise.
        because: Why it exists.
    """

    sentence: str
    because: str


class _Titled(Protocol):
    """A class of tests."""

    @property
    def title(self) -> str:
        """The driver under test, in words."""

    @property
    def source(self) -> str | None:
        """The file or directory that its code is in, if that is known."""


T = TypeVar("T", bound=_Titled)
P = ParamSpec("P")


def rule(
    sentence: str, *, because: str
) -> Callable[[Callable[Concatenate[T, P], Awaitable[None] | None]], Callable[Concatenate[T, P], None]]:
    """Make a test of a check, which raises Broken or NotHere, and may be asynchronous."""

    def decorate(check: Callable[Concatenate[T, P], Awaitable[None] | None]) -> Callable[Concatenate[T, P], None]:
        @functools.wraps(check)
        def test(self: T, /, *args: P.args, **kwargs: P.kwargs) -> None:
            try:
                _run(functools.partial(check, self, *args, **kwargs))
            except (Exception, SystemExit) as error:
                problem = alone(error)
            else:
                return
            # Not above: what runs in a process of its own needs no pytest, and starts sooner without.
            import pytest

            if isinstance(problem, NotHere):
                pytest.skip(str(problem))
            if (broken := _as_broken(problem, self.source)) is None:
                raise problem
            pytest.fail(_explain(self.title, made, broken), pytrace=False)

        made = Rule(sentence=sentence, because=because)
        # pytest looks through `__wrapped__`, and would find a coroutine function there.
        test.__dict__ = {"__signature__": inspect.signature(check), "rule": made}
        return test

    return decorate


def _run(check: Callable[[], Awaitable[None] | None]) -> None:
    if inspect.iscoroutinefunction(getattr(check, "func", check)):
        trio.run(cast("Callable[[], Awaitable[None]]", check))
    else:
        check()


def _as_broken(problem: BaseException, source: str | None) -> Broken | None:
    """What goes wrong is the driver's, unless it is no error of pysuper's, and none of the driver's code took part."""
    where = _where(problem, source)
    if isinstance(problem, Broken):
        return problem
    if isinstance(problem, trio.TooSlowError):
        return Broken("it did not come to an end in time", do="bound what the driver waits for")
    if not where and not isinstance(problem, PysuperError):
        return None
    return Broken(
        f"{type(problem).__name__}: {problem}{where}",
        do="correct what raised it; what a driver cannot do is a DriverError that says why, and what would help",
    )


def _where(problem: BaseException, source: str | None) -> str:
    """The innermost place of an error, and of what it was raised from, that is in the driver."""
    found = ""
    error: BaseException | None = problem
    while error is not None and source is not None:
        for frame in traceback.extract_tb(error.__traceback__):
            if frame.filename.startswith(source):
                found = f" ({frame.filename}:{frame.lineno}, in {frame.name})"
        error = error.__cause__
    return found


def _explain(title: str, made: Rule, broken: Broken) -> str:
    parts = {"why": made.because, "found": str(broken), "do": broken.do}
    lines = [
        textwrap.fill(
            text,
            _WIDTH,
            initial_indent=f"  {label + ':':7}",
            subsequent_indent=" " * 9,
            break_long_words=False,
            break_on_hyphens=False,
        )
        for label, text in parts.items()
    ]
    return "\n".join([f"{title} breaks a rule: {made.sentence}", *lines])
