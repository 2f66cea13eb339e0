"""
Loads what `discovery` has found, through stevedore; its only import.

Strict where stevedore is lenient: a plugin that is missing, registered twice, fails to import, is no driver, or was
written for another version of the interface is an error that names the distribution.

stevedore's cache on disk is not used. Its key packs modification times as 32-bit floats, so that a driver which is
added to an installed distribution within two minutes is not seen; and it lies in the user's cache directory, from
where root would be told to import anything. The cache in memory is filled before stevedore looks.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
from stevedore.driver import DriverManager
from stevedore.extension import ExtensionManager

from pysuper import discovery
from pysuper.discovery import Registration, by_name, noun, registrations
from pysuper.drivers import API_VERSION, GROUPS, Detection, Launcher, NoOptions
from pysuper.errors import DriverError, PysuperError
from pysuper.guard import guarded
from pysuper.shorthand import did_you_mean
from pysuper.spec import DriverChoice
from pysuper.units import shown

if TYPE_CHECKING:  # it takes long to import, and is needed only for options
    from cattrs import Converter

__all__ = [
    "Entry",
    "available",
    "create",
    "detect_cgroup",
    "examine",
    "find",
    "forget",
    "load",
    "load_launcher",
    "title",
]

#: What `auto` tries, best first; `none` is last, and holds no limit.
_CGROUP_PREFERENCE = ("v2", "v1", "none")
#: What is tried if no launcher is asked for, best first; `python` needs nothing that is not here.
_LAUNCHER_PREFERENCE = ("native", "python")

#: The options of all drivers that have none.
_NONE = NoOptions()

D = TypeVar("D")

#: Where the classes that have been loaded come from.
_origins: dict[type[Any], Registration] = {}
#: Those that have said that they work here.
_working: set[Registration] = set()


@attrs.frozen(kw_only=True)
class Entry:
    """One registered plugin, as `pysuper plugins` lists it; `error` if it cannot be loaded."""

    registration: Registration
    detection: Detection | None
    error: str | None


def find(group: str, name: str, distribution: str | None = None) -> Registration:
    """
    The one that is registered under a name.

    Args:
        distribution: Whose it has to be; None is anybody's, if there is only one.

    Raises:
        DriverError: There is none, or there are several.
    """
    names = by_name(group)
    matching = names.get(name, ())
    if len(matching) == 1 and distribution is None:
        return matching[0]
    kind = group.removeprefix("pysuper.")
    if not matching:
        raise DriverError(f"there is no {noun(kind)} {shown(name)}", remedy=did_you_mean(name, names))
    if distribution is not None:
        chosen = tuple(plugin for plugin in matching if plugin.owner == distribution)
        if not chosen:
            owners = did_you_mean(distribution, {plugin.owner for plugin in matching})
            raise DriverError(f"{distribution} has no {noun(kind)} {shown(name)}", remedy=owners)
        matching = chosen
    if len(matching) > 1:
        owners = " and ".join(sorted(plugin.origin for plugin in matching))
        remedy = f'uninstall one of them, or choose in a file: [plugins.{kind}] {name} = "{matching[0].owner}"'
        raise DriverError(f"the {noun(kind)} {name!r} is registered by {owners}", remedy=remedy)
    return matching[0]


def load(group: str, name: str, distribution: str | None = None) -> type[Any]:
    """
    The class registered as `name` in `group`.

    Raises:
        DriverError: See the module's docstring, and `find`.
    """
    return _load(find(group, name, distribution))


@functools.cache
def _load(plugin: Registration) -> type[Any]:
    ExtensionManager.ENTRY_POINT_CACHE[plugin.group] = [plugin.entry_point]
    try:
        with guarded(plugin.title, "import"):
            # Without a callback stevedore logs what went wrong while it loads, and goes on.
            manager = DriverManager(plugin.group, plugin.name, on_load_failure_callback=_raise)
    except DriverError as error:
        cause = error.__cause__
        if cause is None:
            raise
        raise DriverError(
            f"{plugin.title} cannot be loaded: {type(cause).__name__}: {cause}",
            remedy=f"update or uninstall {plugin.owner}" if plugin.version else f"mend {plugin.owner}",
        ) from error
    found: Any = manager.extensions[0].plugin
    interface = GROUPS[plugin.group]
    if not (isinstance(found, type) and issubclass(found, interface)):
        raise DriverError(
            f"{plugin.title} is no {interface.__name__}", remedy=f"report it to the authors of {plugin.owner}"
        )
    version = getattr(found, "api_version", None)
    if version != API_VERSION:
        raise DriverError(
            f"{plugin.title} was written for version {version} of the driver interface, this is version {API_VERSION}",
            remedy="install a version of it that fits",
        )
    _origins.setdefault(found, plugin)
    return found


def _raise(_manager: Any, _point: Any, error: BaseException) -> None:
    raise error


def forget() -> None:
    """Look for plugins again, and load them again: something was installed, or removed."""
    discovery.forget()
    _load.cache_clear()
    _working.clear()
    detect_cgroup.cache_clear()


def title(plugin: object) -> str:
    """Of a driver, for messages."""
    origin = _origins.get(type(plugin))
    return origin.title if origin else f"the driver {type(plugin).__module__}.{type(plugin).__qualname__}"


def create(group: str, choice: DriverChoice, interface: type[D]) -> D:
    """
    A driver with its options.

    Raises:
        DriverError: It cannot be loaded, has no such options, or does not work here.
    """
    plugin = find(group, choice.name, choice.distribution)
    cls: Any = _load(plugin)
    driver: D
    if plugin in _working and cls.Options is NoOptions and not choice.options and choice.argument is None:
        with guarded(plugin.title, "__init__"):  # a dozen of them for a container
            driver = cls(_NONE)
        return driver
    given = dict(choice.options)
    if choice.argument is not None:
        if cls.argument is None:
            raise DriverError(f"{plugin.title} takes no argument", remedy=f"write {choice.name}")
        given[cls.argument] = choice.argument
    missing = [a.name for a in attrs.fields(cls.Options) if a.default is attrs.NOTHING and a.name not in given]
    if missing:
        form = f"{choice.name}:{missing[0].upper()}" if missing == [cls.argument] else f"set {', '.join(missing)}"
        raise DriverError(f"{plugin.title} needs {', '.join(missing)}", remedy=f"write {form}")
    try:
        # Most drivers have no options, and a converter takes longer to make than a container.
        options = _converter(cls.Options).structure(given, cls.Options) if given else cls.Options()
    except Exception as error:
        from cattrs import transform_error

        problems = "; ".join(transform_error(error, path="options", format_exception=_worded))
        raise DriverError(
            f"{plugin.title}: {problems}", remedy=f"see pysuper plugins show {plugin.kind}/{plugin.name}"
        ) from error
    if not (detection := _detect(plugin)).works:
        raise DriverError(f"{plugin.title} cannot work here: {detection.reason}")
    with guarded(plugin.title, "__init__"):
        driver = cls(options)
    return driver


def _detect(plugin: Registration) -> Detection:
    """What a driver says of this machine; one that works is not asked again, as a container needs a dozen of them."""
    if plugin not in _working:
        with guarded(plugin.title, "detect"):
            detection: Detection = _load(plugin).detect()
        if not detection.works:
            return detection
        _working.add(plugin)
    return Detection(True)


def _worded(error: BaseException, type: type | None) -> str:  # noqa: A002 - cattrs calls it so
    """What is wrong with an option; its own converter says so itself."""
    from cattrs.v import format_exception

    return str(error) if type is None and isinstance(error, ValueError) else format_exception(error, type)


@functools.cache
def _converter(options: type[Any]) -> Converter:
    from cattrs import Converter
    from cattrs.gen import make_dict_structure_fn

    converter = Converter(forbid_extra_keys=True)
    converter.register_structure_hook(
        options, make_dict_structure_fn(options, converter, _cattrs_forbid_extra_keys=True)
    )
    return converter


@functools.cache
def detect_cgroup() -> tuple[str, str]:
    """The name of the cgroup driver that `auto` stands for here, and why not a better one; asked once a process."""
    reasons: list[str] = []
    for name in _CGROUP_PREFERENCE:
        if (detection := _detect(find("pysuper.cgroup", name))).works:
            return name, "; ".join(reasons)
        reasons.append(f"{name}: {detection.reason}")
    raise DriverError(f"no cgroup driver works here: {'; '.join(reasons)}")


def load_launcher(name: str | None = None) -> tuple[type[Launcher], str]:
    """
    The launcher of that name, or the best one that works here, and why not a better one.

    Raises:
        DriverError: It does not work here.
    """
    reasons: list[str] = []
    for tried in _LAUNCHER_PREFERENCE if name is None else (name,):
        plugin = find("pysuper.launcher", tried)
        if (detection := _detect(plugin)).works:
            return _load(plugin), "; ".join(reasons)
        reasons.append(f"{plugin.title} cannot work here: {detection.reason}")
    raise DriverError("; ".join(reasons))


def available() -> list[Entry]:
    """Every registered plugin, loaded and asked whether it works here."""
    return [examine(plugin) for group in GROUPS for plugin in registrations(group)]


def examine(plugin: Registration) -> Entry:
    """Load a plugin, and ask it whether it works here."""
    try:
        found = load(plugin.group, plugin.name)  # which says if there is another one of that name
        with guarded(plugin.title, "detect"):
            detection = found.detect()
        return Entry(registration=plugin, detection=detection, error=None)
    except PysuperError as problem:
        return Entry(registration=plugin, detection=None, error=str(problem))
