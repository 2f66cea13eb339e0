"""
The command line: argv to trio.run. The only module that prints and exits.

Heavy imports are made inside of functions: `--help` imports neither trio, stevedore nor attrs.

Exit status: the command's own, 128 and the signal that ended it, 125 for an error of pysuper, 126 and 127 for a
command that cannot be executed or does not exist, 2 for wrong usage.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import pysuper
from pysuper.errors import ConfigError, PysuperError, describe_errno, one_line
from pysuper.flags import Parser, container_parser, make_spec, say

if TYPE_CHECKING:
    from pysuper.record import ExitRecord
    from pysuper.tracing import Traced

__all__ = ["main"]

_Command = Callable[[Sequence[str], str, str], int]


def main(argv: Sequence[str] | None = None) -> int:
    """
    Run the command line.

    Args:
        argv: Without the program's name; None is this process's.

    Returns:
        The exit status.
    """
    _open_missing_descriptors()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # where the parent ignores it, nobody would hear of an end: wait(2)
    try:
        try:
            _leave_out_untrusted()
            status = _dispatch(sys.argv[1:] if argv is None else argv)
        except SystemExit as exit_:  # argparse, after --help and --version
            status = int(exit_.code or 0)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # The reader has seen enough. Python must not find out again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 128 + signal.SIGPIPE
    except BaseException as error:
        if os.environ.get("PYSUPER_DEBUG"):
            import traceback

            traceback.print_exc()
        return _complain(error)


def _open_missing_descriptors() -> None:
    """
    Open /dev/null for each of the descriptors 0 to 2 that the caller has closed.

    The next file to be opened would get its number, and be written to as if it were the output.
    """
    null = os.open(os.devnull, os.O_RDWR)
    while null <= 2:
        os.set_inheritable(null, True)
        null = os.open(os.devnull, os.O_RDWR)
    os.close(null)
    sys.stdout = sys.stdout or os.fdopen(1, "w")
    sys.stderr = sys.stderr or os.fdopen(2, "w")


def _leave_out_untrusted() -> None:
    """As root, import nothing from where the environment or the current directory point."""
    if os.geteuid() == 0:
        from pysuper.trust import trusted_path

        sys.path[:] = trusted_path()


def _complain(error: BaseException) -> int:
    """Say what went wrong, a line each; the exit status of the first of them."""
    leaves = list(_leaves(error))
    # What was stopped because of something else that went wrong needs no mention.
    wrong = [leaf for leaf in leaves if isinstance(leaf, PysuperError)] or leaves
    if any(isinstance(leaf, KeyboardInterrupt) for leaf in leaves):
        return 128 + signal.SIGINT
    for leaf in wrong:
        if isinstance(leaf, PysuperError):
            say(str(leaf).splitlines())
            continue
        what = f"unexpected {type(leaf).__name__}: {leaf}"
        if isinstance(leaf, OSError) and leaf.errno is not None:
            what = describe_errno(leaf.errno) + (f": {leaf.filename}" if leaf.filename else "")
        say([one_line(f"{what} (PYSUPER_DEBUG=1 shows where)")])
    return wrong[0].exit_code if isinstance(wrong[0], PysuperError) else PysuperError.exit_code


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """The exceptions in an exception group, or the one that is none."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _dispatch(argv: Sequence[str]) -> int:
    parser = Parser(
        "pysuper",
        usage="pysuper [--help] [--version] COMMAND ...",
        description="Structured concurrency for Linux containers.",
        epilog="\n\n".join(["Each command has --help:", *_listed()]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"pysuper {pysuper.__version__}")
    name, *rest = parser.parse(argv).rest or [None]
    if name is None:
        parser.error("a command is missing")
    if name not in _COMMANDS:
        from pysuper.shorthand import did_you_mean

        raise ConfigError(f"there is no command {name!r}", remedy=did_you_mean(name, _COMMANDS))
    command, summary = _COMMANDS[name]
    return command(rest, f"pysuper {name}", f"{summary[0].upper()}{summary[1:]}.")


def _listed() -> Iterator[str]:
    """The commands of each group, and what they do."""
    for title, group in _GROUPS.items():
        yield "\n".join([f"{title}:", *(f"  {name:8} {summary}" for name, (_, summary) in group.items())])


def _run(argv: Sequence[str], prog: str, summary: str) -> int:
    parser = container_parser(prog, summary)
    parser.add_argument("--trace", action="store_true", help="show on stderr what is done, and how long it takes")
    arguments = parser.parse(argv)
    report = _Report(arguments.report) if arguments.report is not None else None

    from pysuper.screen import is_interactive

    spec, hooks = make_spec(arguments, interactive=is_interactive())

    import trio

    from pysuper import foreground
    from pysuper.tracing import TraceLines

    def warn(line: str) -> None:
        say([one_line(line)])

    def write(record: ExitRecord) -> None:
        if report is not None:
            report.write(record)

    lines = TraceLines()

    def trace(traced: Traced) -> None:
        say(map(one_line, lines.of(traced)))

    told = trace if arguments.trace else None
    return trio.run(partial(foreground.run, spec, hooks, warn=warn, report=write, trace=told))


class _Report:
    """The file of `--report`; refused before anything runs if it cannot be written."""

    def __init__(self, path: str) -> None:
        if not path:
            raise ConfigError("--report is empty; give the path of a file")
        self._path = os.path.abspath(path)
        directory = os.path.dirname(self._path)
        # The file is replaced: not what a link such as /dev/stderr leads to, nor the link.
        if os.path.lexists(path) and (os.path.islink(path) or not os.path.isfile(path)):
            raise ConfigError(f"--report {path}: not a regular file")
        if not os.path.isdir(directory):
            raise ConfigError(f"--report {path}: there is no directory {directory}")
        if not os.access(directory, os.W_OK):
            raise ConfigError(f"--report {path}: no permission to write in {directory}")

    def write(self, record: ExitRecord) -> None:
        """Write all of it or nothing: a reader never finds half a report."""
        import json

        temporary = f"{self._path}.{os.getpid()}.tmp"
        try:
            with open(temporary, "x") as file:
                json.dump(record.to_dict(), file, indent=2)
                file.write("\n")
            os.replace(temporary, self._path)
        except OSError as error:
            with suppress(OSError):
                os.unlink(temporary)
            raise PysuperError(f"could not write the report {self._path}: {error.strerror}") from error


def _plan(argv: Sequence[str], prog: str, summary: str) -> int:
    parser = container_parser(prog, summary)
    parser.add_argument("--explain", action="store_true", help="say what the kernel does in each step, and why there")
    parser.add_argument("--json", action="store_true", help="as the launcher gets it")
    parser.add_argument("--as", dest="form", metavar="FORM", help="for sh, bwrap, systemd-run, oci, nsjail")
    arguments = parser.parse(argv)
    stack = arguments.file is None and bool(arguments.rest) and _is_stack(arguments.rest[0])
    if stack and len(arguments.rest) > 1:  # options may follow a FILE, as they must not follow a command
        arguments = parser.parse(argv, intermixed=True)
        if len(arguments.rest) > 1:
            parser.error(f"unexpected argument {arguments.rest[1]!r}")
    forms = {"--explain": arguments.explain, "--json": arguments.json, "--as": arguments.form is not None}
    if len(given := [option for option, is_given in forms.items() if is_given]) > 1:
        parser.error(f"{' and '.join(given)} exclude each other")
    if stack:
        if arguments.form is not None:
            one = f"choose one: -f {arguments.rest[0]} --name NAME"
            raise ConfigError("--as is of one container, not of a stack", remedy=one)
        from pysuper.stack.commands.plan import print_plans

        print_plans(arguments.rest[0], as_json=arguments.json, explain=arguments.explain)
        return 0

    from pysuper.explain import explained, listed, text_width
    from pysuper.planning import make_plan
    from pysuper.screen import is_interactive

    spec, _ = make_spec(arguments, interactive=is_interactive())
    plan = make_plan(spec)
    if arguments.form is not None:
        from pysuper.translate import translate

        translation = translate(arguments.form, spec, plan)
        print(translation.text, end="")
        if not translation.told:
            say(f"not in the text above: {line}" for line in translation.missing)
    elif arguments.json:
        import json

        print(json.dumps(json.loads(plan.to_json()), indent=2))
    else:
        print(*(explained(plan, text_width()) if arguments.explain else listed(plan)), sep="\n")
    return 0


def _is_stack(path: str) -> bool:
    """Whether an argument is a stack's file, and not a command."""
    return path.endswith(".toml") and os.path.isfile(path)


def _plugins(argv: Sequence[str], prog: str, summary: str) -> int:
    from pysuper.commands.plugins import plugins

    return plugins(argv, prog, summary)


def _doctor(argv: Sequence[str], prog: str, summary: str) -> int:
    parser = Parser(prog, description=summary)
    parser.add_argument("--security", action="store_true", help="run a container, and say what protects this machine")
    arguments = parser.parse(argv)
    if arguments.rest:
        parser.error(f"unexpected argument {arguments.rest[0]!r}")

    from pysuper.doctor import examine, examine_security

    for finding in examine_security() if arguments.security else examine():
        print(one_line(f"{'yes' if finding.works else 'NO':4} {finding.subject}: {finding.detail}"))
        if finding.remedy and not finding.works:
            print(one_line(f"     -> {finding.remedy}"))
    return 0


def _config(argv: Sequence[str], prog: str, summary: str) -> int:
    parser = Parser(prog, usage=f"{prog} FILE [--json] | --schema", description=summary)
    parser.add_argument("--json", action="store_true", help="print JSON instead of TOML")
    parser.add_argument("--schema", action="store_true", help="print a JSON Schema of files instead, for editors")
    arguments = parser.parse(argv, intermixed=True)
    files = arguments.rest
    if len(files) != (0 if arguments.schema else 1):
        parser.error("give one FILE" if not arguments.schema else f"unexpected argument {files[0]!r}")
    if arguments.schema:
        from pysuper.schema import text

        print(text(), end="")
        return 0

    from pysuper.config import load_stack
    from pysuper.document import to_json, to_toml

    print((to_json if arguments.json else to_toml)(load_stack(files[0])), end="")
    return 0


def _no_arguments(parser: Parser, argv: Sequence[str]) -> None:
    if rest := parser.parse(argv).rest:
        parser.error(f"unexpected argument {rest[0]!r}")


def _of_stacks(function: str) -> _Command:
    """The command `module.function` of `stack.commands`, imported when it is given."""
    module, _, name = function.partition(".")

    def command(argv: Sequence[str], prog: str, summary: str) -> int:
        found: _Command = getattr(importlib.import_module(f"pysuper.stack.commands.{module}"), name)
        return found(argv, prog, summary)

    return command


_GROUPS: dict[str, dict[str, tuple[_Command, str]]] = {
    "one container": {
        "run": (_run, "run a command in a container"),
        "plan": (_plan, "show how a container, or each of a stack FILE, would be made; run nothing"),
    },
    "a stack of containers": {
        "config": (_config, "check a file, and print what it means: variables replaced, defaults merged"),
        "up": (_of_stacks("up.up"), "start the containers of a file, and keep them alive"),
        "down": (_of_stacks("change.down"), "stop all of them, and end"),
        "reload": (_of_stacks("change.reload"), "read the file again, and change what has changed in it"),
    },
    "a stack that runs": {
        "ps": (_of_stacks("ps.ps"), "list its containers"),
        "stats": (_of_stacks("stats.stats"), "show what its containers use, of what they may"),
        "inspect": (_of_stacks("inspect.inspect"), "print all that is known of containers, as JSON"),
        "exec": (_of_stacks("execute.execute"), "run one more command in a container"),
        "start": (_of_stacks("change.start"), "start containers that are down"),
        "stop": (_of_stacks("change.change"), "stop containers, those that depend on others first"),
        "restart": (_of_stacks("change.change"), "stop containers, and start them again"),
        "pause": (_of_stacks("change.change"), "keep containers from running"),
        "resume": (_of_stacks("change.change"), "let paused containers run again"),
    },
    "a stack, also when it is down": {
        "logs": (_of_stacks("logs.logs"), "show what its containers have said"),
        "events": (_of_stacks("logs.events"), "show what has happened to them"),
        "why": (_of_stacks("why.why"), "tell why containers have ended, and what made them"),
    },
    "this machine": {
        "plugins": (_plugins, "list the drivers and hooks, show or check one, or begin a new one"),
        "doctor": (_doctor, "say what this kernel and this user can do, and how to get the rest"),
    },
}
_COMMANDS = {name: command for group in _GROUPS.values() for name, command in group.items()}
