"""
`pysuper exec`: one more command in a running container, connected with the user.

The command gets descriptors 0 to 2 as they are, except for terminals: a container never holds the user's own. On a
terminal it has a pseudo-terminal of its own, whose master is relayed here; otherwise a pipe in place of each terminal.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from pysuper.attach import Signals, attach_pipes, attach_terminal
from pysuper.errors import ConfigError
from pysuper.flags import Parser
from pysuper.screen import is_interactive, make_pipes, user_size
from pysuper.stack.client import Connection, connect
from pysuper.stack.commands.options import client_parser, find_project

__all__ = ["execute"]

_STDIO = (0, 1, 2)


def execute(argv: Sequence[str], prog: str, summary: str) -> int:
    """The command."""
    parser = _parser(prog, summary)
    arguments = parser.parse(argv)
    if not arguments.rest:
        parser.error("the NAME of a container is missing")
    name, *command = arguments.rest
    terminal = is_interactive() if arguments.terminal is None else arguments.terminal
    request = {
        "do": "exec",
        "name": name,
        "command": command[1:] if command[:1] == ["--"] else command,
        "terminal": terminal,
        "size": user_size() if terminal else None,
        "user": arguments.user,
        "working_dir": arguments.workdir,
        "environment": dict(_variable(text) for text in arguments.env),
    }
    with connect(find_project(arguments)) as connection, Signals() as signals:
        connected = _on_terminal if terminal else _on_descriptors
        return connected(connection, request, signals)


def _parser(prog: str, summary: str) -> Parser:
    parser = client_parser(
        prog, f"{summary} Without a command it is the user's login shell.", "NAME [--] [COMMAND [ARG...]]", json=False
    )
    add = parser.add_argument
    add("-e", "--env", metavar="NAME=VALUE", action="append", default=[], help="set a variable")
    add("-w", "--workdir", metavar="DIR", help="directory of the command (default: that of the container's)")
    add("-u", "--user", metavar="USER[:GROUP]", help="names or ids that the container knows")
    add(
        "-t",
        "--tty",
        dest="terminal",
        action=argparse.BooleanOptionalAction,
        help="a terminal of its own (default: if run on one)",
    )
    add("-i", "--interactive", action="store_true", help="accepted; stdin is always connected")
    return parser


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ConfigError(f"--env {text}: not NAME=VALUE")
    return name, value


class _Remote:
    """The command at the other end of a connection, see `attach.Command`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def fileno(self) -> int:
        return self._connection.fileno()

    def wait(self) -> int:
        return int(self._connection.answer()["status"])

    def send_signal(self, number: int) -> None:
        self._connection.send({"signal": number})


def _on_terminal(connection: Connection, request: dict[str, object], signals: Signals) -> int:
    connection.send(request)
    connection.answer()
    (master,) = connection.descriptors
    try:
        return attach_terminal(_Remote(connection), signals, master)
    finally:
        os.close(master)


def _on_descriptors(connection: Connection, request: dict[str, object], signals: Signals) -> int:
    given, ours, theirs = make_pipes(_STDIO)
    connection.send(request, given)
    for end in theirs:
        end.close()
    connection.answer()
    return attach_pipes(_Remote(connection), signals, ours)
