"""
TOML files to specs.

    [container.web]
    command = "httpd -f -p 8080"
    rootfs = "tar:alpine.tar.gz"
    volumes = ["./site:/srv:ro"]

    [container.web.cgroup]
    pids_max = 20
    memory_max = "256M"

This and `tables` are the only modules with untyped dicts.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from functools import partial
from typing import Any

from pysuper.errors import ConfigError
from pysuper.shorthand import (
    Mount,
    absolute_rootfs,
    absolute_source,
    host_path,
    make_mount,
    merge_rlimits,
    parse_environment,
    parse_tmpfs,
    parse_ulimit,
    parse_volume,
    read_env_file,
)
from pysuper.spec import ContainerSpec, DriverChoice, Limits, Rlimit
from pysuper.tables import (
    Error,
    Invalid,
    Keys,
    Parser,
    boolean,
    collect,
    collect_list,
    mapping,
    read_file,
    string,
    strings,
    table,
    typed,
)
from pysuper.units import (
    parse_count,
    parse_cpus,
    parse_cpuset,
    parse_duration,
    parse_signal,
    parse_size,
    shown,
)
from pysuper.validation import problems, validate

__all__ = ["load", "validate"]

#: Keys that are not called as the attribute of the spec that they set: Compose users know them.
_ATTRIBUTES = {"stop_grace_period": "stop_timeout", "tty": "terminal"}
#: The keys that a problem with an attribute of the spec can come from.
_ORIGINS = {
    "environment": ("environment", "env_file"),
    "mounts": ("volumes", "tmpfs"),
    "rlimits": ("ulimits",),
    "stop_timeout": ("stop_grace_period",),
}


def load(path: str) -> dict[str, ContainerSpec]:
    """
    The containers of a file, by name. Paths in it are relative to its directory.

    Raises:
        ConfigError: The file cannot be read, or is wrong.
    """
    keys = _container_keys(os.path.dirname(os.path.abspath(path)))

    def parse(tables: Any) -> dict[str, ContainerSpec]:
        named = typed(dict, "a table")(tables).items()
        return collect((name, partial(_container, name, keys), inner) for name, inner in named)

    containers: dict[str, ContainerSpec]
    containers = read_file(path, table({"container": parse})).get("container", {})
    if not containers:
        raise ConfigError(f"{path}: there is no container in it", remedy="add a [container.NAME]")
    return containers


def _container_keys(directory: str) -> dict[str, Parser]:
    """The keys of a `[container.NAME]` table."""
    return {
        "best_effort": boolean,
        "cgroup": table(
            {
                "cpu_max": parse_cpus,
                "cpuset_cpus": parse_cpuset,
                "driver": _driver,
                "io_max": mapping(mapping(parse_size)),
                "memory_max": parse_size,
                "memory_swap_max": partial(parse_size, zero=True),
                "pids_max": parse_count,
            }
        ),
        "command": _command,
        "env_file": partial(_env_files, directory=directory),
        "environment": _environment,
        "hostname": string,
        "init": boolean,
        "network": _driver,
        "read_only": boolean,
        "rootfs": lambda value: absolute_rootfs(_driver(value), directory),
        "share": lambda value: frozenset(strings(value)),
        "stop_grace_period": partial(parse_duration, zero=True),
        "stop_signal": parse_signal,
        "timeout": parse_duration,
        "tmpfs": lambda value: collect_list(parse_tmpfs, strings(value)),
        "tty": boolean,
        "ulimits": _ulimits,
        "user": lambda value: str(value) if type(value) is int else string(value),
        "volumes": partial(_volumes, directory=directory),
        "working_dir": string,
    }


def _container(name: str, keys: Mapping[str, Parser], value: Any) -> ContainerSpec:
    """The spec of one table."""
    errors: list[Error] = []
    try:
        given = table(keys)(value)
    except Invalid as invalid:
        # Go on with the rest, to find out what else is wrong.
        given, errors = dict(invalid.parsed), list(invalid.errors)
    cgroup = given.pop("cgroup", {})
    spec = ContainerSpec(
        name=name,
        cgroup=cgroup.pop("driver", DriverChoice("auto")),
        limits=Limits(**cgroup),
        environment=given.pop("env_file", {}) | given.pop("environment", {}),
        mounts=(*given.pop("volumes", ()), *given.pop("tmpfs", ())),
        rlimits=merge_rlimits(*ContainerSpec(name="").rlimits, *given.pop("ulimits", ())),
        **{_ATTRIBUTES.get(key, key): parsed for key, parsed in given.items()},
    )
    errors += [(_origin(attribute, value), what) for attribute, what in problems(spec)]
    if errors:
        raise Invalid(errors)
    return spec


def _origin(attribute: str, given: Mapping[str, Any]) -> Keys:
    """The key of a container's table, `given`, that an attribute of its spec came from."""
    if attribute == "name":
        return ()
    if attribute.startswith("limits."):
        return ("cgroup", attribute.removeprefix("limits."))
    candidates = _ORIGINS.get(attribute, (attribute,))
    return (next((key for key in candidates if key in given), candidates[0]),)


def _command(value: Any) -> tuple[str, ...]:
    """A list, or a string that is split as a shell would, without expanding anything."""
    return tuple(shlex.split(value) if isinstance(value, str) else strings(value))


def _environment(value: Any) -> dict[str, str]:
    """A table of strings and numbers, or a list of `NAME=VALUE`."""
    if not isinstance(value, dict):
        return parse_environment(strings(value))
    return {name: str(text) for name, text in mapping(_environment_value)(value).items()}


def _environment_value(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{shown(value)} is not a string or a number")
    return str(value)


def _env_files(value: Any, directory: str) -> dict[str, str]:
    paths = [host_path(path, directory) for path in strings(value)]
    return {k: v for variables in collect_list(read_env_file, paths) for k, v in variables.items()}


def _ulimits(value: Any) -> tuple[Rlimit, ...]:
    """A list of `nofile=1024:2048`, or a table of `1024`, `"1024:2048"`, `{soft = 1, hard = 2}`."""
    if not isinstance(value, dict):
        return tuple(collect_list(parse_ulimit, strings(value)))
    attempts = ((name, partial(_ulimit, name), limit) for name, limit in value.items())
    return tuple(collect(attempts).values())


def _ulimit(name: str, value: Any) -> Rlimit:
    if not isinstance(value, dict):
        return parse_ulimit(f"{name}={value}")
    count = partial(parse_count, zero=True)
    limits = table({"soft": count, "hard": count})(value)
    if len(limits) != 2:
        raise ValueError("needs both soft and hard")
    return Rlimit(name, limits["soft"], limits["hard"])


def _volumes(value: Any, directory: str) -> list[Mount]:
    """A list of `SOURCE:TARGET[:ro]` and of tables, see `make_mount`."""

    def parse(volume: Any) -> Mount:
        mount = make_mount(volume) if isinstance(volume, dict) else parse_volume(string(volume))
        return absolute_source(mount, directory)

    return collect_list(parse, typed(list, "a list of volumes")(value))


def _driver(value: Any) -> DriverChoice:
    """`NAME[:ARGUMENT]`, or a table of `driver` and the driver's own options."""
    if not isinstance(value, dict):
        return DriverChoice.parse(typed(str, "a driver, such as v2, or a table")(value))
    options = dict(value)
    if "driver" not in options:
        raise ValueError("needs driver, its name")
    return DriverChoice(string(options.pop("driver")), options)
