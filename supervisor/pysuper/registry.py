"""
Finds drivers: entry points of installed distributions, loaded through stevedore; its only import.

Strict where stevedore is lenient: a plugin that is missing, registered twice, fails to import, is no driver, or was
written for another version of the interface is an error that names the distribution.

stevedore's cache on disk is not used. Its key packs modification times as 32-bit floats, so that a plugin installed
within two minutes of the last scan is not seen; and it lies in the user's cache directory, from where root would be
told to import anything. The cache in memory is filled before stevedore looks.
"""

from __future__ import annotations

import functools
import importlib.metadata
from typing import Any, TypeVar, cast

import attrs
import cattrs
from cattrs.gen import make_dict_structure_fn
from stevedore.driver import DriverManager
from stevedore.extension import ExtensionManager

from pysuper.drivers import (
    API_VERSION,
    CgroupDriver,
    Detection,
    Driver,
    Launcher,
    NamespaceDriver,
    NetworkDriver,
    RootfsDriver,
)
from pysuper.errors import DriverError, PysuperError
from pysuper.shorthand import did_you_mean
from pysuper.spec import DriverChoice

__all__ = ["GROUPS", "Entry", "available", "create", "detect_cgroup", "load"]

#: The entry-point groups and the interface that each asks for.
GROUPS: dict[str, type[Any]] = {
    "pysuper.namespace": NamespaceDriver,
    "pysuper.rootfs": RootfsDriver,
    "pysuper.cgroup": CgroupDriver,
    "pysuper.network": NetworkDriver,
    "pysuper.launcher": Launcher,
}

#: What `auto` tries, best first; `none` is last, and holds no limit.
_CGROUP_PREFERENCE = ("v2", "v1", "none")

D = TypeVar("D", bound=Driver)


@attrs.frozen(kw_only=True)
class Entry:
    """One registered driver, as `pysuper plugins` lists it; `error` if it cannot be loaded."""

    group: str
    name: str
    distribution: str
    version: str
    detection: Detection | None
    error: str | None


@functools.cache
def _installed() -> importlib.metadata.EntryPoints:
    """The entry points of all distributions, scanned once a process: 10 ms in an ordinary environment."""
    return cast("importlib.metadata.EntryPoints", importlib.metadata.entry_points())


def _entry_points(group: str) -> tuple[importlib.metadata.EntryPoint, ...]:
    return tuple(_installed().select(group=group))


def _distribution(point: importlib.metadata.EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown distribution"


@functools.cache
def load(group: str, name: str) -> type[Any]:
    """
    The class registered as `name` in `group`.

    Raises:
        DriverError: See the module's docstring.
    """
    points = _entry_points(group)
    matching = [point for point in points if point.name == name]
    kind = group.removeprefix("pysuper.")
    if len(matching) > 1:
        owners = " and ".join(sorted(_distribution(point) for point in matching))
        raise DriverError(f"the {kind} driver {name!r} is registered by {owners}", remedy="uninstall one of them")
    if not matching:
        remedy = did_you_mean(name, [point.name for point in points])
        raise DriverError(f"there is no {kind} driver {name!r}", remedy=remedy)
    ExtensionManager.ENTRY_POINT_CACHE[group] = list(points)
    owner = _distribution(matching[0])
    try:
        # Without a callback stevedore logs what went wrong while it loads, and goes on.
        manager = DriverManager(group, name, on_load_failure_callback=_raise)
    except (Exception, SystemExit) as error:
        raise DriverError(
            f"the {kind} driver {name!r} of {owner} cannot be loaded: {type(error).__name__}: {error}",
            remedy=f"update or uninstall {owner.partition(' ')[0]}",
        ) from error
    found: Any = manager.extensions[0].plugin
    interface = GROUPS[group]
    if not (isinstance(found, type) and issubclass(found, interface)):
        raise DriverError(f"the {kind} driver {name!r} of {owner} is no {interface.__name__}")
    version = getattr(found, "api_version", None)
    if version != API_VERSION:
        raise DriverError(
            f"the {kind} driver {name!r} of {owner} was written for version {version} of the driver interface, "
            f"this is version {API_VERSION}",
            remedy="install a version of it that fits",
        )
    return found


def _raise(_manager: Any, _point: Any, error: BaseException) -> None:
    raise error


def create(group: str, choice: DriverChoice, interface: type[D]) -> D:
    """
    A driver with its options.

    Raises:
        DriverError: It cannot be loaded, has no such options, or does not work here.
    """
    cls: type[D] = load(group, choice.name)
    kind = group.removeprefix("pysuper.")
    given = dict(choice.options)
    if choice.argument is not None:
        if cls.argument is None:
            raise DriverError(f"the {kind} driver {choice.name!r} takes no argument", remedy=f"write {choice.name}")
        given[cls.argument] = choice.argument
    missing = [a.name for a in attrs.fields(cls.Options) if a.default is attrs.NOTHING and a.name not in given]
    if missing:
        form = f"{choice.name}:{missing[0].upper()}" if missing == [cls.argument] else f"set {', '.join(missing)}"
        raise DriverError(f"the {kind} driver {choice.name!r} needs {', '.join(missing)}", remedy=f"write {form}")
    try:
        # Most drivers have no options, and a converter takes longer to make than a container.
        options = _converter(cls.Options).structure(given, cls.Options) if given else cls.Options()
    except Exception as error:
        problems = "; ".join(cattrs.transform_error(error, path="options"))
        raise DriverError(f"the {kind} driver {choice.name!r}: {problems}") from error
    try:
        detection = cls.detect()
        driver = cls(options)
    except PysuperError:
        raise
    except (Exception, SystemExit) as error:
        raise DriverError(f"the {kind} driver {choice.name!r} failed: {type(error).__name__}: {error}") from error
    if not detection.works:
        raise DriverError(f"the {kind} driver {choice.name!r} cannot work here: {detection.reason}")
    return driver


def _converter(options: type[Any]) -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
    converter.register_structure_hook(
        options, make_dict_structure_fn(options, converter, _cattrs_forbid_extra_keys=True)
    )
    return converter


def detect_cgroup() -> tuple[str, str]:
    """The name of the cgroup driver that `auto` stands for here, and why not a better one."""
    reasons: list[str] = []
    for name in _CGROUP_PREFERENCE:
        detection: Detection = load("pysuper.cgroup", name).detect()
        if detection.works:
            return name, "; ".join(reasons)
        reasons.append(f"{name}: {detection.reason}")
    raise DriverError(f"no cgroup driver works here: {'; '.join(reasons)}")


def available() -> list[Entry]:
    """Every registered driver, loaded and asked whether it works here."""
    entries = []
    for group in GROUPS:
        for point in sorted(_entry_points(group), key=lambda p: p.name):
            detection, error = None, None
            try:
                found = load(group, point.name)
                detection = found.detect() if issubclass(found, Driver) else Detection(True)
            except PysuperError as problem:
                error = str(problem)
            except (Exception, SystemExit) as problem:
                error = f"{type(problem).__name__}: {problem}"
            entries.append(
                Entry(
                    group=group,
                    name=point.name,
                    distribution=point.dist.name if point.dist else "unknown",
                    version=point.dist.version if point.dist else "unknown",
                    detection=detection,
                    error=error,
                )
            )
    return entries
