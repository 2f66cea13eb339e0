"""
The keys of a file: how each is read, what an editor may know about it, and what it means in a line.

`config` reads files by these tables, and `schema` makes a JSON Schema of them.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import attrs

from pysuper.privileges import USERNS, changed_capabilities
from pysuper.shorthand import (
    SECURITY_OPTION,
    absolute_rootfs,
    absolute_security_option,
    absolute_source,
    host_path,
    make_mount,
    parse_device,
    parse_environment,
    parse_mode,
    parse_security_option,
    parse_soft_hard,
    parse_sysctl,
    parse_tmpfs,
    parse_ulimit,
    parse_volume,
    read_env_file,
)
from pysuper.spec import DEFAULT_PIDS_MAX, NAMESPACES, ContainerSpec, DriverChoice, Rlimit
from pysuper.stack.graph import MAX_REPLICAS
from pysuper.stack.shorthand import HTTP, MAX_PORT, TCP, parse_cron, parse_http, parse_log, parse_tcp, parse_test
from pysuper.stack.spec import (
    CommandProbe,
    Condition,
    DescriptorProbe,
    HealthCheck,
    JournalSpec,
    Kind,
    LogMode,
    MemberSpec,
    NotifyProbe,
    Readiness,
    Restart,
    RestartPolicy,
    StackSpec,
    Strategy,
    Unhealthy,
)
from pysuper.stack.validation import DESCRIPTORS, LABEL, MAX_RETRIES, MAX_WARM, profile_problem
from pysuper.tables import (
    Key,
    Parser,
    Schema,
    any_of,
    boolean,
    choice,
    enum,
    list_of,
    mapping,
    pattern,
    string,
    strings,
    strings_of,
    table,
    table_or,
    typed,
)
from pysuper.units import (
    COUNT,
    DURATION,
    NUMBER,
    SIZE,
    WHOLE,
    parse_count,
    parse_cpus,
    parse_cpuset,
    parse_duration,
    parse_fraction,
    parse_signal,
    parse_size,
    parse_whole,
    shown,
)
from pysuper.validation import MAX_NAME, NAME, share_problem, user_problem

__all__ = ["CONTAINER", "DOCUMENT", "MERGED", "attributes", "container_keys"]

#: Where the schema of a `[container.NAME]` is in that of a file, which has it twice.
CONTAINER = {"$ref": "#/$defs/container"}
#: Keys of a container that are put together with those of the defaults, name by name. The others replace them.
MERGED = frozenset({"cgroup", "depends_on", "environment", "labels", "namespaces", "sysctls", "ulimits"})

_MAX_FILES = 1000


# --- values ---


def _quantity(parse: Callable[[Any], Any], expression: str, number: str = "number", **words: Any) -> Parser:
    """A number, or a string that the expression matches; `words` say to JSON Schema which numbers."""
    return Parser(parse, {**pattern(expression), "type": [number, "string"], **words})


def _whole(least: int, most: int) -> Parser:
    parse = partial(parse_whole, least=least, most=most)
    return _quantity(parse, WHOLE, "integer", minimum=least, maximum=most)


_duration = _quantity(parse_duration, DURATION, exclusiveMinimum=0)
_duration_or_zero = _quantity(partial(parse_duration, zero=True), DURATION, minimum=0)
_size = _quantity(parse_size, SIZE, "integer", minimum=1)
_size_or_zero = _quantity(partial(parse_size, zero=True), SIZE, "integer", minimum=0)
_count = _quantity(parse_count, COUNT, "integer", minimum=-1, **{"not": {"const": 0}})
_count_or_zero = _quantity(partial(parse_count, zero=True), COUNT, "integer", minimum=-1)
_signal = Parser(parse_signal, {"type": ["integer", "string"], "examples": ["TERM", "INT", "HUP", "QUIT"]})


def _right(problem: Callable[[str], str | None]) -> Callable[[str], str]:
    """Let a text pass with which there is no problem: what all containers override must be right too."""

    def check(text: str) -> str:
        if message := problem(text):
            raise ValueError(message)
        return text

    return check


_user = Parser(
    lambda value: str(value) if type(value) is int else string(value), {"type": ["integer", "string"], "minimum": 0}
).then(_right(user_problem))


def _text(parse: Callable[[str], Any], schema: Schema = string.schema) -> Parser:
    """A string that has to be read."""
    return Parser(lambda value: parse(string(value)), schema)


def _split(value: Any) -> tuple[str, ...]:
    """A list, or a string that is split as a shell would, without expanding anything."""
    return tuple(shlex.split(value) if isinstance(value, str) else strings(value))


_command = Parser(_split, strings.schema)


def _variable(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{shown(value)} is not a string or a number")
    return str(value)


def _name_driver(options: dict[str, Any]) -> DriverChoice:
    if "driver" not in options:
        raise ValueError("needs driver, its name")
    return DriverChoice(string(options["driver"]), {key: value for key, value in options.items() if key != "driver"})


def _name_hooks(tables: dict[str, dict[str, Any]]) -> tuple[DriverChoice, ...]:
    return tuple(_name_driver({"driver": name, **options}) for name, options in tables.items())


#: `NAME[:ARGUMENT]`, or a table of `driver` and the driver's own options, which only the driver knows.
_driver = table_or(
    typed(str, "a driver, such as v2, or a table", {"type": "string"}).then(DriverChoice.parse),
    Parser(_name_driver, {"type": "object", "properties": {"driver": string.schema}, "required": ["driver"]}),
)

_soft_hard = table_or(
    _quantity(parse_soft_hard, rf"(?:{COUNT})(?::(?:{COUNT}))?", "integer", minimum=-1),
    table(
        {
            "soft": Key(_count_or_zero, "What is in force."),
            "hard": Key(_count_or_zero, "What the process may raise it to."),
        },
        required=("soft", "hard"),
    ).then(lambda limits: (limits["soft"], limits["hard"])),
)
_namespaces = table({name: Key(_driver, f"The driver of the {name} namespace.") for name in NAMESPACES})
#: Of the hooks of a file; a table may name a driver that is not called as the table is.
_hooks = mapping(Parser(typed(dict, "a table", {}), {"type": "object", "properties": {"driver": string.schema}})).then(
    _name_hooks
)
#: Which distribution is meant, by kind and name.
_plugins = table(
    {
        kind: Key(mapping(string), "By the name of the driver: the distribution.")
        for kind in ("cgroup", "hook", "namespace", "network", "rootfs")
    }
)
_rlimits = table_or(
    strings_of(_text(parse_ulimit, pattern(r"[^=]+=[^:]+(?::.+)?"))).then(
        lambda limits: {limit.name: limit for limit in limits}
    ),
    mapping(_soft_hard).then(lambda limits: {name: Rlimit(name, *both) for name, both in limits.items()}),
)


def _capability(text: str) -> str:
    changed_capabilities([text])
    return text


_capabilities = strings_of(_text(_capability))


def _userns(value: Any) -> str:
    if value not in USERNS:
        raise ValueError(f"{shown(value)} is not host, own, range or one")
    return str(value)


def _label(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{shown(text)} is not NAME=VALUE")
    return name, value


_labels = table_or(strings_of(_text(_label, pattern(rf"{LABEL}=[\s\S]*"))).then(dict), mapping(string))

_mount = table(
    {
        "type": Key(Parser(string, enum("bind", "tmpfs")), "What is mounted.", default="bind"),
        "source": Key(string, "The file or directory of the host, relative to this file."),
        "target": Key(string, "Where it is in the container."),
        "read_only": Key(boolean, "Whether the container cannot write to it.", default=False),
        "size": Key(_size, "The most bytes in a tmpfs."),
        "mode": Key(_quantity(parse_mode, r"(?:0[oO])?[0-7]{1,4}", "integer", minimum=0), "Permissions of a tmpfs."),
    },
    required=("target",),
).then(make_mount)


# --- tables ---


def attributes(keys: Mapping[str, Key], given: Mapping[str, Any]) -> dict[str, Any]:
    """What keys say, by the attributes that they set."""
    return {keys[name].attribute or name: value for name, value in given.items()}


def _with_defaults(keys: Mapping[str, Key], *classes: type[Any]) -> dict[str, Key]:
    """The keys, each with the default of the attribute that it sets."""
    defaults = {field.name: field.default for cls in classes for field in attrs.fields(cls)}

    def default(name: str, key: Key) -> Any:
        value = defaults.get(key.attribute or name)
        if isinstance(value, DriverChoice):
            return str(value)
        return value if isinstance(value, bool | int | float | str) else None

    return {
        name: key if key.default is not None else attrs.evolve(key, default=default(name, key))
        for name, key in keys.items()
    }


def _table_of(cls: type[Any], keys: Mapping[str, Key], **rules: Iterable[str]) -> Parser:
    """A table that says how to make an object."""
    return table(_with_defaults(keys, cls), **rules).then(lambda given: cls(**attributes(keys, given)))


def _check_of(cls: type[Any], keys: Mapping[str, Key]) -> Parser:
    """A table that says how to make an object with a probe."""
    return _table_of(cls, keys, one_of=[name for name, key in keys.items() if key.attribute == "probe"])


def _notify(value: Any) -> NotifyProbe:
    if not boolean(value):
        raise ValueError("is true, or left out")
    return NotifyProbe()


_PROBES = {
    "tcp": Key(
        _quantity(parse_tcp, TCP, "integer", minimum=1, maximum=MAX_PORT),
        "PORT or HOST:PORT that can be connected to from inside the container.",
        "probe",
    ),
    "http": Key(
        _text(parse_http, pattern(HTTP)),
        "A URL that answers with a status from 200 to 399, asked from inside the container.",
        "probe",
    ),
    "command": Key(
        _command.then(lambda command: CommandProbe(command=command)),
        "A command that exits with 0 in the container.",
        "probe",
    ),
}
_READY = {
    **_PROBES,
    "notify": Key(
        Parser(_notify, any_of({"const": True}, pattern("true"))),
        "The container sends READY=1 to $NOTIFY_SOCKET.",
        "probe",
    ),
    "fd": Key(
        _whole(*DESCRIPTORS).then(lambda number: DescriptorProbe(number=number)),
        "A descriptor that the container writes a newline to.",
        "probe",
    ),
    "log": Key(_text(parse_log), "A regular expression that a line of the output matches.", "probe"),
    "interval": Key(_duration, "Time between two attempts."),
    "timeout": Key(
        _duration,
        "How long after its start it has to be ready, or is stopped as a failure. One attempt has half of that.",
    ),
}
_HEALTHCHECK = {
    **_PROBES,
    "test": Key(
        Parser(lambda value: parse_test(value if isinstance(value, str) else strings(value)), strings.schema),
        "Compose's form of command.",
        "probe",
    ),
    "interval": Key(_duration, "Time between two checks, once it is healthy."),
    "start_interval": Key(_duration, "Time between two checks before that."),
    "timeout": Key(_duration, "How long a check may take."),
    "retries": Key(_whole(1, MAX_RETRIES), "Failures in a row that make it unhealthy."),
    "start_period": Key(_duration_or_zero, "How long after the start failures do not count."),
    "on_unhealthy": Key(choice(Unhealthy, "what to do with an unhealthy container"), "What is done then."),
}
_RESTART = {
    "policy": Key(choice(Restart, "a restart policy"), "When it is started again after it has ended.", "when"),
    "delay": Key(_duration_or_zero, "Time before the first restart in a row; it doubles with each."),
    "max_delay": Key(_duration_or_zero, "The longest time before a restart."),
    "jitter": Key(
        _quantity(parse_fraction, NUMBER, minimum=0, maximum=1), "How much less it may be, by chance: a fraction."
    ),
    "stable": Key(_duration_or_zero, "How long it has to run to end the row."),
    "max_restarts": Key(_count_or_zero, "After more restarts than this within `within` it has failed for good."),
    "within": Key(_duration_or_zero, "The time in which restarts are counted."),
}
_CGROUP = {
    "cpu_max": Key(_quantity(parse_cpus, NUMBER, exclusiveMinimum=0), "Cores' worth of time, such as 0.5."),
    "cpuset_cpus": Key(_quantity(parse_cpuset, r"[0-9,\s-]+", "integer", minimum=0), "Cores by number, such as 0-2,4."),
    "driver": Key(_driver, "Who holds the limits: v1, v2, none, or auto.", default="auto"),
    "io_max": Key(mapping(mapping(_size)), "By device, such as 8:0: rbps, wbps, riops and wiops, a second."),
    "memory_max": Key(_size, "Bytes, such as 256M; above that the kernel kills."),
    "memory_swap_max": Key(_size_or_zero, "Bytes of swap on top of memory_max."),
    "pids_max": Key(_count, f"Processes and threads, or -1 for any number; {DEFAULT_PIDS_MAX} without it."),
}
_STACK = {"strategy": Key(choice(Strategy, "a strategy"), "Who else is restarted when a container is.")}
_JOURNAL = {
    "max_size": Key(_size, "Bytes of a file, before the next one is begun."),
    "max_files": Key(_whole(1, _MAX_FILES), "Files, the one being written included."),
}

_restart = table_or(
    _RESTART["policy"].parse.then(lambda when: RestartPolicy(when=when)),
    _table_of(RestartPolicy, _RESTART, required=("policy",)),
)


def _ready_in_short(value: Any) -> Readiness:
    if value != "notify":
        raise ValueError(f'{shown(value)} is not "notify", or a table with a probe')
    return Readiness(probe=NotifyProbe())


_readiness = table_or(Parser(_ready_in_short, enum("notify")), _check_of(Readiness, _READY))
_healthcheck = _check_of(HealthCheck, _HEALTHCHECK)
_dependencies = table_or(
    strings.then(lambda names: dict.fromkeys(names, Condition.STARTED)),
    mapping(choice(Condition, "what a dependency can have reached")),
)


def container_keys(directory: str, environment: Mapping[str, str]) -> dict[str, Key]:
    """
    The keys of a `[container.NAME]`.

    Args:
        directory: Paths are relative to it.
        environment: Of the host, from which variables without a value are copied.
    """
    env_file = _text(lambda path: read_env_file(host_path(path, directory), environment))
    volume = table_or(_text(parse_volume, pattern(r"[^:]+:[^:]+(?::(?:ro|rw)?)?")), _mount)
    keys = {
        "best_effort": Key(boolean, "Leave out a limit that cannot be had, with a warning."),
        "cgroup": Key(table(_CGROUP), "Limits of all its processes together.", "limits"),
        "cap_add": Key(_capabilities, "What its root may do beyond the default; ALL.", "capabilities"),
        "cap_drop": Key(_capabilities, "What its root may not do; with ALL only cap_add is left.", "capabilities"),
        "command": Key(_command, "What runs: a list, or a string that is split as a shell would."),
        "cron": Key(
            _text(parse_cron, pattern(r"\S+(?:\s+\S+){4}")),
            "When it runs again: a cron expression of five fields, in local time.",
            "schedule",
        ),
        "depends_on": Key(_dependencies, "Containers, and what they have to reach before this one is started."),
        "devices": Key(
            strings_of(_text(parse_device, pattern(r"/[^:]*(?::/[^:]+)?(?::[rwm]+)?"))),
            "Devices of the host that it may use: SOURCE or SOURCE:TARGET.",
        ),
        "env_file": Key(
            strings_of(env_file).then(lambda files: {name: text for file in files for name, text in file.items()}),
            "Files of variables, a NAME=VALUE a line; environment wins.",
            "environment",
        ),
        "environment": Key(
            table_or(
                strings.then(lambda entries: parse_environment(entries, environment)),
                mapping(Parser(_variable, {"type": ["string", "number"]})),
            ),
            "Variables: a table, or a list of NAME=VALUE, and of NAME to copy the host's.",
        ),
        "every": Key(_duration, "When it runs again: this long after its last start.", "schedule"),
        "healthcheck": Key(_healthcheck, "Whether it works, asked again and again."),
        "hostname": Key(string, "Its host name, if not its name."),
        "init": Key(boolean, "Whether PID 1 is a small process that reaps orphans, and not the command itself."),
        "kind": Key(choice(Kind, "a kind"), "A service is to go on; a task ends when its work is done."),
        "labels": Key(_labels, "For you: a table, or a list of NAME=VALUE."),
        "logging": Key(
            choice(LogMode, "a mode"),
            "Whether it waits when it writes too fast, or what it writes is dropped.",
            "log_mode",
        ),
        "namespaces": Key(_namespaces, "Which driver makes a namespace, where it is not the one of that name."),
        "network": Key(
            _driver, "stack is shared by the containers of a file; own, host, none, or a driver.", default="stack"
        ),
        "privileged": Key(boolean, "No isolation from this machine but namespaces and limits.", default=False),
        "profiles": Key(
            strings_of(Parser(string, pattern(NAME)).then(_right(profile_problem))).then(tuple),
            "It is only started with one of these.",
        ),
        "read_only": Key(boolean, "Make the root read-only."),
        "ready": Key(_readiness, "When it is ready, after its start.", "readiness"),
        "replicas": Key(_whole(1, MAX_REPLICAS), "How many of it there are: NAME-1, NAME-2 and so on."),
        "restart": Key(_restart, "Whether it is started again after it has ended."),
        "rootfs": Key(
            _driver.then(lambda driver: absolute_rootfs(driver, directory)),
            "Where its root comes from: host, dir:PATH, chroot:PATH, tar:FILE, or a driver.",
        ),
        "security_opt": Key(
            strings_of(
                _text(parse_security_option, pattern(SECURITY_OPTION)).then(
                    lambda option: absolute_security_option(option, directory)
                )
            ),
            "seccomp=default, seccomp=unconfined, seccomp=FILE, landlock=off, unmask=PATH, unmask=ALL, or "
            "no-new-privileges=false.",
        ),
        "share": Key(
            strings_of(
                Parser(string, enum(*(name for name in NAMESPACES if name != "mnt"))).then(_right(share_problem))
            ).then(frozenset),
            "Namespaces of the host.",
        ),
        "stop_grace_period": Key(_duration_or_zero, "How long after the stop signal it is killed.", "stop_timeout"),
        "stop_signal": Key(_signal, "What stops it."),
        "sysctls": Key(
            table_or(
                strings_of(_text(parse_sysctl, pattern(r"[^=]+=[\s\S]+"))).then(dict),
                mapping(Parser(_variable, {"type": ["string", "number"]})),
            ),
            "Kernel parameters of its own namespaces: a table, or a list of NAME=VALUE.",
        ),
        "timeout": Key(_duration, "How long it may run, before it is stopped."),
        "tmpfs": Key(
            strings_of(_text(parse_tmpfs)),
            "Empty memory file systems: TARGET, or TARGET:size=64M.",
            "mounts",
        ),
        "tty": Key(boolean, "A terminal of its own.", "terminal"),
        "ulimits": Key(_rlimits, "Limits of each process: a table, or a list of NAME=SOFT[:HARD].", "rlimits"),
        "user": Key(_user, "USER[:GROUP], names or ids that the container knows."),
        "userns": Key(
            Parser(_userns, enum(*USERNS)),
            "range: 65,536 ids or nothing; one: the caller's only; host: root inside is root of this machine.",
            "share",
            default="own",
        ),
        "volumes": Key(
            list_of(volume.then(lambda mount: absolute_source(mount, directory)), "a list of volumes"),
            "Files and directories of the host: SOURCE:TARGET[:ro], or tables.",
            "mounts",
        ),
        "warm": Key(_whole(0, MAX_WARM), "How many spares are kept ready for its next runs, from its first start on."),
        "working_dir": Key(string, "The directory of the command."),
    }
    return _with_defaults(keys, ContainerSpec, MemberSpec)


#: The keys of a file. Containers and defaults are read by `config`, since those go under these.
DOCUMENT = {
    "container": Key(
        Parser(
            typed(dict, "a table", {}),
            {
                "type": "object",
                "propertyNames": {"pattern": f"^{NAME}$", "maxLength": MAX_NAME},
                "additionalProperties": CONTAINER,
            },
        ),
        "The containers, by name.",
    ),
    "defaults": Key(
        Parser(lambda value: value, CONTAINER),
        f"What containers have that do not say otherwise; {', '.join(sorted(MERGED))} are put together.",
    ),
    "hook": Key(_hooks, "Who is told what happens to the containers, by the name of the hook.", "hooks"),
    "journal": Key(_table_of(JournalSpec, _JOURNAL), "How much is kept of what happened."),
    "plugins": Key(_plugins, "Whose driver is meant, where several distributions have one of a name."),
    "stack": Key(table(_with_defaults(_STACK, StackSpec)), "How the containers are supervised together."),
}
