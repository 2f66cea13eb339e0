"""
What client commands and a supervisor say to each other: lines of JSON, over a unix stream socket.

One request a connection, and one answer, which is an error or not:

    > {"do": "stop", "names": ["web"]}
    < {"ok": null}    or    {"error": "there is no container 'web'", "exit": 2}

A text of several lines is several errors. The requests, what they have besides `do`, and what `ok` is then:

    ps, stats, inspect        names                              a list, see `reports`
    start                     names, wait                        what `ps` says then: at once, or when it has settled
    stop, restart             names                              the same, when they are down (and being started again)
    pause, resume             names                              the same
    reload                                                       names by what became of them, see `Stack.reload`
    down                                                         null, at once; the project's lock says when it is down
    exec                      name, command, terminal, size,     see below
                              user, working_dir, environment

Only `exec` comes with descriptors: 0 to 2 for the command, or none if it gets a terminal. It goes on:

    < {"ok": null}                 it runs; with a terminal, the descriptor of its master comes along
    > {"signal": 15}               for the command, any number of times
    < {"ok": {"status": 143}}      it has ended; as a shell says it

The command is killed when the client closes the connection before that.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from pysuper.errors import ConfigError
from pysuper.units import shown

__all__ = ["MAX_REQUEST", "Lines", "Request", "TooLong", "address", "encode", "parse_request", "parse_signal"]

#: Bytes of a line that a client sends.
MAX_REQUEST = 65536
#: Characters of a name; no container has one that is longer.
_MAX_NAME = 128
#: The largest that a terminal can have, ioctl_tty(2).
_MAX_SIZE = 65535


@contextmanager
def address(path: Path) -> Iterator[str]:
    """
    The address of a socket at this path.

    By the descriptor of its directory, since a path in an address has at most 107 bytes, unix(7).

    Raises:
        OSError: There is no such directory, or we may not enter it.
    """
    descriptor = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{path.name}"
    finally:
        os.close(descriptor)


def encode(message: Mapping[str, Any]) -> bytes:
    """A message as a line."""
    return json.dumps(message).encode() + b"\n"


class TooLong(Exception):
    """A line is longer than was agreed."""


class Lines:
    """Cuts a stream into lines, which are returned without their ends."""

    def __init__(self, longest: int | None = None) -> None:
        self._longest = longest
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """
        The lines that these bytes complete.

        Raises:
            TooLong: A line has more than `longest` bytes, its end included.
        """
        self._rest += data
        # What was there before has no end of line in it: it need not be searched again.
        if b"\n" in data:
            *lines, rest = self._rest.split(b"\n")
            self._rest = rest
        else:
            lines = []
        if self._longest is not None and any(len(line) >= self._longest for line in (*lines, self._rest)):
            raise TooLong
        return [bytes(line) for line in lines]


class Request(NamedTuple):
    """`operation` is a key of the table above, and `arguments` has all that belong to it."""

    operation: str
    arguments: dict[str, Any]


def parse_request(line: bytes) -> Request:
    """
    Check a request, completely: what comes out of here can be acted upon.

    Raises:
        ConfigError: It is none.
    """
    given = _object(line)
    operation = given.pop("do", None)
    if not isinstance(operation, str) or operation not in _REQUESTS:
        raise ConfigError(f"there is no operation {shown(operation)}", remedy="is the client of the same version?")
    fields = _REQUESTS[operation]
    if unknown := sorted(given.keys() - fields.keys()):
        raise ConfigError(f"{operation} has no {shown(unknown[0])}")
    return Request(operation, {name: _checked(name, field, given) for name, field in fields.items()})


def parse_signal(line: bytes) -> int:
    """
    The number in what a client sends while its command runs.

    Raises:
        ConfigError: It is something else.
    """
    number = _object(line).get("signal")
    if not _is_number(number) or not 1 <= number <= 64:
        raise ConfigError(f"{shown(number)} is not the number of a signal")
    return number


def _object(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line.decode())
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ConfigError(f"a request is an object of JSON, not {shown(line)}")
    return found


class _Field(NamedTuple):
    """`fits` tells whether a value may be used as it is; one that is not given is `default`."""

    fits: Callable[[Any], bool]
    what: str
    default: Any = None


def _checked(name: str, field: _Field, given: Mapping[str, Any]) -> Any:
    value = given.get(name, field.default)
    if not field.fits(value):
        raise ConfigError(f"{name} is {field.what}, not {shown(value)}")
    return value


def _is_text(value: Any) -> bool:
    """Whether it can be given to the kernel: surrogates stand for bytes that are not UTF-8, os.fsencode."""
    try:
        return isinstance(value, str) and b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:
        return False


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= _MAX_NAME


def _is_number(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_switch(value: Any) -> bool:
    return isinstance(value, bool)


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_name, value))


def _is_command(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


def _is_text_or_none(value: Any) -> bool:
    return value is None or _is_text(value)


def _is_environment(value: Any) -> bool:
    return isinstance(value, dict) and all(
        _is_text(name) and name != "" and "=" not in name and _is_text(text) for name, text in value.items()
    )


def _is_size_or_none(value: Any) -> bool:
    return value is None or (
        isinstance(value, list) and len(value) == 2 and all(_is_number(n) and 0 <= n <= _MAX_SIZE for n in value)
    )


_NAMES = {"names": _Field(_are_names, "a list of names", [])}
_REQUESTS: Mapping[str, Mapping[str, _Field]] = {
    **dict.fromkeys(("ps", "stats", "inspect", "stop", "restart", "pause", "resume"), _NAMES),
    "start": {**_NAMES, "wait": _Field(_is_switch, "true or false", False)},
    "reload": {},
    "down": {},
    "exec": {
        "name": _Field(_is_name, "a name"),
        "command": _Field(_is_command, "a list of strings"),
        "terminal": _Field(_is_switch, "true or false", False),
        "size": _Field(_is_size_or_none, "rows and columns"),
        "user": _Field(_is_text_or_none, "a string"),
        "working_dir": _Field(_is_text_or_none, "a string"),
        "environment": _Field(_is_environment, "an object of strings", {}),
    },
}
