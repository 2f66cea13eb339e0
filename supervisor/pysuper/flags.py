"""
The options of `run` and `plan`: what they are, and the spec that they make.

An option is stored under the name of the attribute of the spec that it sets. Options end where the
command begins, so that `pysuper run sh -e` runs `sh -e`. Nothing heavy is imported for `--help`.
"""

from __future__ import annotations

import argparse
import getopt
import importlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from pysuper.errors import ConfigError

if TYPE_CHECKING:
    from pysuper.spec import ContainerSpec, DriverChoice

__all__ = ["Parser", "add_plugin_dir", "container_parser", "make_spec", "say"]

#: Attributes of the spec whose option replaces what the file says.
_SINGLE = (
    "best_effort",
    "cgroup",
    "hostname",
    "init",
    "network",
    "read_only",
    "stop_signal",
    "stop_timeout",
    "terminal",
    "timeout",
    "user",
    "working_dir",
)
_LIMITS = ("cpu_max", "cpuset_cpus", "memory_max", "pids_max")


def say(lines: Iterable[str]) -> None:
    """Tell the user on standard error; a full disk there, or nobody who reads, is no reason to end anything."""
    try:
        for line in lines:
            print(f"pysuper: {line}", file=sys.stderr, flush=True)
    except OSError:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - or Python finds out again when it flushes at exit


class Parser(argparse.ArgumentParser):
    """Options first, then the rest as it is, in `rest`; errors are raised as ConfigError."""

    def __init__(self, prog: str, **settings: Any) -> None:
        super().__init__(prog, add_help=False, **settings)
        self.add_argument("--help", action="help", help="show this text")

    def parse(self, argv: Sequence[str], *, intermixed: bool = False) -> argparse.Namespace:
        """
        Parse options up to the first argument that is none, or up to `--`.

        getopt finds that place as POSIX has it; argparse would look for options in the command too.

        Args:
            intermixed: There is no command: what is no option may stand among options too.
        """
        split = getopt.gnu_getopt if intermixed else getopt.getopt
        names = {name: action for action in self._actions for name in action.option_strings}
        valued = {name for name, action in names.items() if action.nargs != 0}
        short = "".join(n[1:] + ":" * (n in valued) for n in names if not n.startswith("--"))
        long = [n[2:] + "=" * (n in valued) for n in names if n.startswith("--")]
        try:
            options, rest = split(list(argv), short, long)
        except getopt.GetoptError as error:
            import difflib

            known = {f"-{error.opt}", f"--{error.opt}"} & names.keys()
            near = [] if known else difflib.get_close_matches(f"--{error.opt}", names, n=1)
            if near:
                raise ConfigError(error.msg, remedy=f"did you mean {near[0]}?") from error
            self.error(error.msg)
        # Joined, and under the long name, since argparse takes `-e -x` for two options.
        joined = [f"{names[n].option_strings[-1]}={v}" if n in valued else n for n, v in options]
        return self.parse_args(joined, argparse.Namespace(rest=rest))

    def error(self, message: str) -> NoReturn:
        """Raise instead of exit."""
        raise ConfigError(message, remedy=f"see {self.prog} --help")


def _by(function: str, **settings: Any) -> Callable[[str], Any]:
    """The converter `module.function` of this package, imported when an option is given."""
    module, _, name = function.partition(".")

    def convert(text: str) -> Any:
        try:
            return getattr(importlib.import_module(f"pysuper.{module}"), name)(text, **settings)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return convert


def _driver(text: str) -> Any:
    from pysuper.spec import DriverChoice

    return DriverChoice.parse(text)


def _names(text: str) -> list[str]:
    return text.split(",")


def container_parser(prog: str, description: str) -> Parser:
    """The options that describe a container."""
    parser = Parser(
        prog,
        usage=f"{prog} [OPTION...] [--] [COMMAND [ARG...]]",
        description=f"{description} Without a command it is the user's login shell.",
    )
    switch = argparse.BooleanOptionalAction

    add = parser.add_argument_group("what runs").add_argument
    add("-f", "--file", metavar="FILE", help="take the container from a TOML file; options win")
    add("--name", help="name of the container; with --file, which one")
    add("-e", "--env", metavar="NAME[=VALUE]", action="append", help="set a variable")
    add("--env-file", metavar="FILE", action="append", help="set variables from lines of a file")
    add("-w", "--workdir", metavar="DIR", dest="working_dir", help="directory of the command")
    add("-u", "--user", metavar="USER[:GROUP]", help="names or ids that the container knows")
    add("--init", action=switch, help="reap orphans as PID 1 (default: yes)")

    add = parser.add_argument_group("isolation").add_argument
    add(
        "--rootfs",
        metavar="DRIVER[:ARG]",
        type=_driver,
        help="host, dir:PATH, chroot:PATH, tar:FILE",
    )
    add("--read-only", action="store_true", default=None, help="make the root read-only")
    add(
        "-v",
        "--volume",
        metavar="SRC:DST[:ro]",
        dest="mounts",
        action="append",
        type=_by("shorthand.parse_volume"),
        help="show a file or directory of the host at DST",
    )
    add(
        "--mount",
        metavar="type=TYPE,...",
        dest="mounts",
        action="append",
        type=_by("shorthand.parse_mount"),
        help="the same in docker's long form: source=SRC,target=DST,readonly",
    )
    add(
        "--tmpfs",
        metavar="DST[:size=SIZE]",
        dest="mounts",
        action="append",
        type=_by("shorthand.parse_tmpfs"),
        help="mount an empty memory file system at DST",
    )
    add("--network", metavar="DRIVER", type=_driver, help="none (default), host")
    add("--share", metavar="NS[,NS...]", action="extend", type=_names, help="namespaces of the host")
    add(
        "--namespace",
        metavar="NS=DRIVER[:ARG]",
        dest="namespaces",
        action="append",
        type=_by("shorthand.parse_namespace"),
        help="let this driver make a namespace",
    )
    add(
        "--userns",
        metavar="own|range|one|host",
        choices=("own", "range", "one", "host"),
        help="range: 65,536 ids or nothing; one: the caller's only; host: root inside is root of this machine",
    )
    add("-h", "--hostname", metavar="NAME", help="host name (default: the container's name)")

    add = parser.add_argument_group("privileges").add_argument
    add(
        "--cap-add", metavar="CAP", action="extend", type=_names, default=[], help="let its root have a capability; ALL"
    )
    add("--cap-drop", metavar="CAP", action="extend", type=_names, default=[], help="take a capability away; ALL")
    add(
        "--security-opt",
        metavar="OPT",
        action="append",
        type=_by("shorthand.parse_security_option"),
        help="seccomp=default|unconfined|FILE, landlock=off, unmask=PATH|ALL, no-new-privileges=false",
    )
    add(
        "--device",
        metavar="SRC[:DST]",
        dest="devices",
        action="append",
        type=_by("shorthand.parse_device"),
        help="let it use a device of the host, or those of a directory",
    )
    add(
        "--sysctl",
        metavar="NAME=VALUE",
        dest="sysctls",
        action="append",
        type=_by("shorthand.parse_sysctl"),
        help="set a kernel parameter of its own namespaces",
    )
    add("--privileged", action="store_true", help="no isolation from this machine but namespaces and limits")

    add = parser.add_argument_group("limits").add_argument
    add("--cgroup", metavar="DRIVER", type=_driver, help="v1, v2, none, auto (default)")
    add(
        "-m",
        "--memory",
        metavar="SIZE",
        dest="memory_max",
        type=_by("units.parse_size"),
        help="such as 256M",
    )
    add(
        "--cpus",
        metavar="N",
        dest="cpu_max",
        type=_by("units.parse_cpus"),
        help="cores' worth of time, such as 0.5",
    )
    add("--cpuset-cpus", metavar="LIST", type=_by("units.parse_cpuset"), help="cores, such as 0-2,4")
    add(
        "--pids-limit",
        metavar="N",
        dest="pids_max",
        type=_by("units.parse_count"),
        help="processes and threads, -1 is unlimited",
    )
    add(
        "--ulimit",
        metavar="NAME=SOFT[:HARD]",
        dest="rlimits",
        action="append",
        type=_by("shorthand.parse_ulimit"),
        help="limit of each process, such as nofile=1024",
    )
    add(
        "--best-effort",
        action="store_true",
        default=None,
        help="leave out a limit that cannot be had, with a warning",
    )

    add = parser.add_argument_group("plugins").add_argument
    add("--hook", metavar="HOOK[:ARG]", dest="hooks", action="append", type=_driver, help="whom to tell what happens")
    add_plugin_dir(add)

    add = parser.add_argument_group("terminal, and how it ends").add_argument
    add(
        "-t",
        "--tty",
        dest="terminal",
        action=switch,
        help="a terminal of its own (default: if run on one)",
    )
    add("-i", "--interactive", action="store_true", help="accepted; stdin is always connected")
    add(
        "--timeout",
        metavar="TIME",
        type=_by("units.parse_duration"),
        help="stop it after this time, such as 1m30s",
    )
    add(
        "--stop-signal",
        metavar="SIGNAL",
        type=_by("units.parse_signal"),
        help="what stops it (default: TERM)",
    )
    add(
        "--stop-timeout",
        metavar="TIME",
        type=_by("units.parse_duration", zero=True),
        help="kill it this long after the stop signal (default: 10s)",
    )
    add("--report", metavar="FILE", help="write what became of it to a JSON file")
    return parser


def add_plugin_dir(add: Callable[..., argparse.Action]) -> None:
    """The option `--plugin-dir`."""
    add(
        "--plugin-dir",
        metavar="DIR",
        type=_plugin_directory,
        action="append",
        help="try out the plugins in the files of this directory",
    )


def _plugin_directory(path: str) -> str:
    """Registers what is in it at once, since other options may name it."""
    from pysuper.discovery import add_directory

    add_directory(path)
    return os.path.abspath(path)


def make_spec(arguments: argparse.Namespace, *, interactive: bool) -> tuple[ContainerSpec, tuple[DriverChoice, ...]]:
    """
    The spec of the options, on top of that of `--file`, and the hooks.

    Args:
        arguments: As `container_parser` has parsed them.
        interactive: Whether the user is at a terminal, which the container then gets too.

    Raises:
        ConfigError: The file, or the spec, is wrong.
    """
    import attrs

    from pysuper import shorthand
    from pysuper.validation import validate

    base, hooks = _base(arguments)
    given = {key: value for key, value in vars(arguments).items() if value is not None}
    changes = {key: given[key] for key in _SINGLE if key in given}
    changes.setdefault("terminal", base.terminal or interactive)
    if "rootfs" in given:
        try:
            changes["rootfs"] = shorthand.absolute_rootfs(given["rootfs"], os.getcwd())
        except ValueError as error:
            raise ConfigError(f"--rootfs: {error}") from error
    try:
        files = [shorthand.read_env_file(path) for path in given.get("env_file", ())]
    except ValueError as error:
        raise ConfigError(f"--env-file: {error}") from error
    environment = dict(base.environment)
    for variables in (*files, shorthand.parse_environment(given.get("env", ()))):
        environment |= variables
    mounts = [shorthand.absolute_source(m, os.getcwd()) for m in given.get("mounts", ())]
    replaced = {mount.target for mount in mounts}
    try:
        base = _grant(base, given)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    spec = attrs.evolve(
        base,
        command=tuple(given["rest"]) or base.command,
        environment=environment,
        limits=attrs.evolve(base.limits, **{key: given[key] for key in _LIMITS if key in given}),
        mounts=(*(m for m in base.mounts if m.target not in replaced), *mounts),
        rlimits=shorthand.merge_rlimits(*base.rlimits, *given.get("rlimits", ())),
        share=base.share | set(given.get("share", ())),
        namespaces={**base.namespaces, **dict(given.get("namespaces", ()))},
        **changes,
    )
    validate(spec)
    return spec, (*hooks, *given.get("hooks", ()))


def _grant(spec: ContainerSpec, given: Mapping[str, Any]) -> ContainerSpec:
    """The spec with the privileges of the options. Raises ValueError."""
    from pysuper.privileges import grant
    from pysuper.shorthand import absolute_security_option

    return grant(
        spec,
        cap_add=given["cap_add"],
        cap_drop=given["cap_drop"],
        security_opt=[absolute_security_option(option, os.getcwd()) for option in given.get("security_opt", ())],
        devices=given.get("devices", ()),
        sysctls=dict(given.get("sysctls", ())),
        userns=given.get("userns"),
        privileged=given["privileged"],
    )


def _base(arguments: argparse.Namespace) -> tuple[ContainerSpec, tuple[DriverChoice, ...]]:
    """The container of `--file` and its hooks, or one with a name that no other is likely to have."""
    from pysuper.spec import ContainerSpec

    name: str | None = arguments.name
    if arguments.file is None:
        return ContainerSpec(name=_new_name(arguments.rest) if name is None else name), ()

    from pysuper.config import alone, load_stack
    from pysuper.shorthand import did_you_mean

    stack = load_stack(arguments.file)
    containers = stack.members
    if name is None and len(containers) > 1:
        names = ", ".join(containers)
        raise ConfigError(f"{arguments.file} has several containers", remedy=f"--name one of {names}")
    name = next(iter(containers)) if name is None else name
    if name not in containers:
        known = did_you_mean(name, containers)
        raise ConfigError(f"{arguments.file} has no container {name!r}", remedy=known)
    return alone(containers[name]), stack.hooks


def _new_name(command: Sequence[str]) -> str:
    """`bash-3f9a2c` for /bin/bash."""
    program = re.sub(r"[^A-Za-z0-9]+", "-", os.path.basename(command[0])) if command else ""
    return f"{program.strip('-')[:32] or 'shell'}-{os.urandom(3).hex()}"
