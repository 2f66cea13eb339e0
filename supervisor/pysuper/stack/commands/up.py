"""
`pysuper up`: a stack in the foreground, or, with `--detach`, in a process of its own.

That process is a fresh interpreter, which tells what becomes of the start through a pipe, a JSON object a line:

    {"begun": pid}             it answers at the control socket, and is starting containers
    {"progress": text}         what is waited for
    {"settled": text | null}   everything is as it should be; or why it will not be
    {"error": [line, ...], "exit": code}
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from pysuper.errors import ConfigError, PysuperError
from pysuper.flags import Parser, add_plugin_dir, say
from pysuper.stack.project import Project

if TYPE_CHECKING:
    from pysuper.stack.spec import StackSpec

__all__ = ["up"]

#: Descriptor of the pipe in a detached process.
_PIPE = 3


def up(argv: Sequence[str], prog: str, summary: str) -> int:
    """The command."""
    parser = _parser(prog, summary)
    arguments = parser.parse(argv)
    if not arguments.rest:
        parser.error("the FILE is missing")
    file, *only = arguments.rest
    scale = _scale(arguments.scale)
    project = Project.of(file=file, name=arguments.project)
    load = partial(_load, os.path.abspath(file), tuple(arguments.profile), scale, tuple(only), arguments.exit_code_from)
    if arguments.detach or arguments.wait:
        load()  # what is wrong with it is said here, before anything is started
        return _detach(_repeated(arguments), wait=arguments.wait)
    return _supervise(arguments, project, load)


def _parser(prog: str, summary: str) -> Parser:
    parser = Parser(
        prog,
        usage=f"{prog} [OPTION...] FILE [NAME...]",
        description=f"{summary} With names, only these containers and what they depend on.",
    )
    add = parser.add_argument
    add("-d", "--detach", action="store_true", help="in the background; `pysuper down` ends it")
    add("--wait", action="store_true", help="the same, and return when everything is ready and healthy")
    add("--project", metavar="NAME", help="what other commands find it by (default: made from FILE's path)")
    add("--profile", metavar="NAME", action="append", default=[], help="start the containers of this profile too")
    add("--scale", metavar="NAME=N", action="append", default=[], help="this many instances of a container")
    add(
        "--abort-on-container-exit",
        action="store_true",
        help="end when any container does; the status is its own. A task that is done does not count",
    )
    add("--exit-code-from", metavar="NAME", help="end when this container does; the status is its own")
    add_plugin_dir(add)
    add("--quiet", action="store_true", help="show nothing of the containers; `pysuper logs` does")
    add("--told", action="store_true", help=_hidden())
    return parser


def _hidden() -> str:
    import argparse

    return argparse.SUPPRESS


def _scale(given: Sequence[str]) -> dict[str, int]:
    scale = {}
    for text in given:
        name, equals, number = text.partition("=")
        if not equals or not number.isdecimal() or len(number) > 9:
            raise ConfigError(f"--scale {text}: not NAME=N, such as web=3")
        scale[name] = int(number)
    return scale


def _load(
    path: str, profiles: Sequence[str], scale: dict[str, int], only: Sequence[str], status_of: str | None
) -> StackSpec:
    from pysuper.config import load_stack
    from pysuper.stack.graph import require, select

    stack = select(load_stack(path), profiles, scale, only)
    if status_of is not None:
        require(stack, status_of)
    return stack


def _supervise(arguments: Any, project: Project, load: Callable[[], StackSpec]) -> int:
    """Be the supervisor."""
    import trio

    from pysuper.stack.console import Console
    from pysuper.stack.up import Ending, Report, supervise

    def tell(message: dict[str, Any]) -> None:
        if arguments.told:
            try:
                os.write(_PIPE, json.dumps(message).encode() + b"\n")
            except OSError:  # nobody listens any more
                arguments.told = False

    def progress(text: str) -> None:
        tell({"progress": text})
        if not arguments.told and not arguments.quiet:
            say([text])

    report = Report(
        begun=lambda: tell({"begun": os.getpid()}),
        settled=lambda failure: tell({"settled": failure}),
        progress=progress,
    )
    ending = Ending(on_exit=arguments.abort_on_container_exit, status_of=arguments.exit_code_from)
    console = None if arguments.quiet or arguments.told else Console()
    try:
        return trio.run(partial(supervise, load, project, ending=ending, report=report, console=console))
    except PysuperError as error:
        tell({"error": str(error).splitlines(), "exit": error.exit_code})
        raise


def _repeated(arguments: Any) -> list[str]:
    """The command line of the process in the background."""
    given = [f"--{name}={value}" for name in ("profile", "scale") for value in getattr(arguments, name)]
    single = {"project": arguments.project, "exit-code-from": arguments.exit_code_from}
    given += [f"--{name}={value}" for name, value in single.items() if value is not None]
    given += [f"--plugin-dir={path}" for path in arguments.plugin_dir or ()]
    if arguments.abort_on_container_exit:
        given.append("--abort-on-container-exit")
    return [*given, "--told", "--", *arguments.rest]


def _detach(arguments: Sequence[str], *, wait: bool) -> int:
    """Start the supervisor as a process of its own, and hear from it until it has begun, or is settled."""
    read, write = os.pipe()
    null = os.open(os.devnull, os.O_RDWR)
    actions: list[tuple[int, int, int]] = [(os.POSIX_SPAWN_DUP2, null, number) for number in (0, 1, 2)]
    actions.append((os.POSIX_SPAWN_DUP2, write, _PIPE))
    # -P: nothing is imported from the current directory.
    command = [sys.executable, "-P", "-m", "pysuper", "up", *arguments]
    pid = os.posix_spawn(sys.executable, command, os.environ, file_actions=actions, setsid=True)
    os.close(write)
    os.close(null)
    with os.fdopen(read) as messages:
        for line in messages:
            message = json.loads(line)
            if "error" in message:
                say(message["error"])
                return int(message["exit"])
            if "progress" in message:
                say([f"waiting: {message['progress']}"])
            elif "settled" in message:
                if message["settled"] is not None:
                    raise PysuperError(message["settled"], remedy="see pysuper why; pysuper down ends the rest")
                return 0
            elif not wait:
                return 0
    # It has ended without a word: because it had nothing more to do, or for a reason that its status tells.
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)
