"""What a limit is made of: a file of the cgroup, what is written to it, what it then shows."""

from __future__ import annotations

import itertools
import operator
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping

import attrs

from pysuper.drivers import PlanBuilder
from pysuper.errors import DriverError
from pysuper.receipts import FileHolds
from pysuper.spec import ContainerSpec, Limits
from pysuper_plugins.cgroup import files

__all__ = ["Choice", "Controller", "Setting", "apply", "checks", "choose", "promise", "unwritten"]


@attrs.frozen(kw_only=True)
class Setting:
    """
    One write to a file of the new cgroup.

    Attributes:
        path: The file.
        value: What to write; None if the file only has to be looked at.
        shows: What the kernel shows afterwards, with single spaces; None if nothing is promised.
        remedy: What the user can do if the kernel refuses the value.
    """

    path: str
    value: str | None
    shows: str | None = None
    remedy: str | None = None


@attrs.frozen
class Choice:
    """The settings of a container, and why a limit was left out that was only wanted with best effort."""

    settings: tuple[Setting, ...]
    left_out: tuple[str, ...]


@attrs.frozen
class Controller:
    """
    A controller of the kernel.

    Attributes:
        limits: The names of the `Limits` that it holds.
        settings: Makes settings of them, for a cgroup directory that need not exist yet; the
            supervisor's is the one above. Raises DriverError if this machine cannot hold one,
            ConfigError if the value has no sense.
    """

    limits: tuple[str, ...]
    settings: Callable[[Limits, str], Iterator[Setting]]


def choose(
    spec: ContainerSpec,
    controllers: Mapping[str, Controller],
    directories: Mapping[str, str],
    missing: Callable[[str, str], DriverError],
) -> Choice:
    """
    The settings that hold the limits of a container.

    Args:
        spec: What is wanted.
        controllers: Those that the driver knows, by name.
        directories: The container's directory for each controller that is here.
        missing: Makes the error for a wanted limit (the second argument) whose controller (the
            first) is not.

    Raises:
        DriverError: A limit cannot be had, and `best_effort` was not asked for.
        ConfigError: A value has no sense.
    """
    chosen: list[Setting] = []
    left_out: list[str] = []
    all_wanted = spec.limits.wanted
    for name, controller in controllers.items():
        wanted = [limit for limit in controller.limits if limit in all_wanted]
        try:
            if name in directories:
                # What comes before a limit that cannot be had is kept.
                for setting in controller.settings(spec.limits, directories[name]):
                    chosen.append(setting)  # noqa: PERF402
            elif wanted:
                raise missing(name, ", ".join(wanted))
        except DriverError as error:
            if not spec.best_effort:
                raise
            left_out.append(f"left out: {error}")
    return Choice(tuple(chosen), tuple(left_out))


def promise(plan: PlanBuilder, choice: Choice) -> None:
    """Let the plan check what was chosen, and say what was left out."""
    plan.check(*checks(choice.settings))
    for text in choice.left_out:
        plan.warn(text)


def checks(settings: Iterable[Setting]) -> Iterator[FileHolds]:
    """The promises that settings make."""
    for setting in settings:
        if setting.shows is not None:
            yield FileHolds(path=setting.path, content=setting.shows)


def apply(driver: str, settings: Iterable[Setting]) -> None:
    """
    Write the settings, in order.

    Raises:
        DriverError: The kernel refused one.
    """
    wanted = ((setting.path, setting.value, setting.remedy) for setting in settings if setting.value is not None)
    for path, group in itertools.groupby(wanted, key=operator.itemgetter(0)):
        left = deque(group)
        try:
            with files.writing(path) as write:
                while left:
                    write(left[0][1])
                    left.popleft()
        except OSError as error:
            raise unwritten(driver, *left[0][:2], error, left[0][2]) from error


def unwritten(driver: str, path: str, value: str, error: OSError, remedy: str | None = None) -> DriverError:
    """The error for a write that the kernel refused."""
    if isinstance(error, FileNotFoundError):
        remedy = "this kernel has no such file, or the directory is no cgroup: see cgroups(7)"
    return files.refused(driver, f"write {value!r} to {path}", error, remedy)
