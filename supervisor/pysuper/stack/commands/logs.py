"""
`pysuper logs` and `pysuper events`: show a journal, while its stack runs and afterwards.

Nobody is asked: the files are read. They import neither trio nor attrs, since they are often run.
"""

from __future__ import annotations

import json
import os
import re
import select
import sys
from collections.abc import Callable, Iterable, Sequence, Set as AbstractSet
from functools import partial

from pysuper.errors import ConfigError
from pysuper.flags import Parser
from pysuper.stack.commands.options import client_parser, find_project
from pysuper.stack.display import Display, is_output
from pysuper.stack.project import Project
from pysuper.stack.reading import Record, names, parse_since, records
from pysuper.units import parse_count

__all__ = ["events", "logs"]

#: Kinds that say that output is missing.
_GAPS = {"dropped", "journal-lost"}
#: What an instance's name has after that of its member.
_NUMBER = re.compile(r"-[0-9]+\Z")


def logs(argv: Sequence[str], prog: str, summary: str) -> int:
    """Show what containers have said."""
    parser = _parser(prog, summary)
    parser.add_argument("-t", "--timestamps", action="store_true", help="begin each line with its time")
    parser.add_argument("--no-prefix", dest="prefix", action="store_false", help="leave out whose line it is")
    return _show(parser, argv, lambda record: is_output(record) or record["kind"] in _GAPS)


def events(argv: Sequence[str], prog: str, summary: str) -> int:
    """Show what has happened to containers."""
    parser = _parser(prog, summary)
    parser.set_defaults(timestamps=True, prefix=True)
    return _show(parser, argv, lambda record: not is_output(record) and record["kind"] != "dropped")


def _parser(prog: str, summary: str) -> Parser:
    parser = client_parser(prog, f"{summary} With names, only of these containers.")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the stack ends")
    parser.add_argument("-n", "--tail", metavar="N", default="max", help="begin with the last N lines")
    parser.add_argument("--since", metavar="TIME", help="begin at this time, or so long ago, such as 10m")
    return parser


def _show(parser: Parser, argv: Sequence[str], wanted: Callable[[Record], bool]) -> int:
    arguments = parser.parse(argv, intermixed=True)
    try:
        count = parse_count(arguments.tail, zero=True)
        since = "" if arguments.since is None else parse_since(arguments.since)
    except ValueError as error:
        parser.error(str(error))
    project = find_project(arguments)
    known = names(project.state)
    choice = frozenset(arguments.rest)
    _check(choice, known)

    def is_shown(record: Record) -> bool:
        return record["time"] >= since and wanted(record) and _is_about(record, choice)

    terminal = sys.stdout.isatty()
    display = Display(
        [name for name in known if _is_chosen(name, choice)],
        terminal=terminal,
        colour=terminal and not os.environ.get("NO_COLOR"),
        prefix=arguments.prefix,
        timestamps=arguments.timestamps,
    )
    _print(
        records(
            project.state,
            wanted=is_shown,
            last=None if count < 0 else count,
            alive=partial(_goes_on, project) if arguments.follow else None,
        ),
        _as_json if arguments.json else display.text,
        at_once=arguments.follow,
    )
    return 0


def _check(choice: AbstractSet[str], known: Iterable[str]) -> None:
    """Refuse names that no record has; a stack that has just been started has a record of each of its containers."""
    allowed = {*known, *(_NUMBER.sub("", name) for name in known)}
    if unknown := sorted(choice - allowed):
        from pysuper.shorthand import did_you_mean

        raise ConfigError(f"nothing is known of a container {unknown[0]!r}", remedy=did_you_mean(unknown[0], allowed))


def _is_chosen(name: str, choice: AbstractSet[str]) -> bool:
    """Whether it is an instance that is chosen, or one of a member that is."""
    return not choice or name in choice or _NUMBER.sub("", name) in choice


def _is_about(record: Record, choice: AbstractSet[str]) -> bool:
    if "container" in record:
        return _is_chosen(record["container"], choice)
    return not choice or record["kind"] in _GAPS


def _goes_on(project: Project) -> bool:
    """Whether the stack runs, and somebody reads what is printed."""
    poll = select.poll()
    poll.register(1, 0)  # poll(2) says without being asked that the other end of a pipe is closed
    return not poll.poll(0) and project.is_running()


def _as_json(record: Record) -> str:
    return json.dumps(record) + "\n"


def _print(found: Iterable[Record], render: Callable[[Record], str], *, at_once: bool) -> None:
    for record in found:
        sys.stdout.buffer.write(render(record).encode(errors="surrogateescape"))
        if at_once:
            sys.stdout.flush()
