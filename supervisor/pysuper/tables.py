"""
Reads TOML by parsers, one for each key, and finds all that is wrong in a file, with the lines.

A parser takes what TOML made of a value. It raises ValueError if that is wrong, or `Invalid` if
something inside of it is. Big parsers are made of small ones:

    read = table({"size": parse_size, "names": strings})
    read_file("demo.toml", read)

This module knows nothing of containers.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from pysuper.errors import ConfigError, one_line
from pysuper.shorthand import did_you_mean
from pysuper.units import shown

__all__ = [
    "Error",
    "FileErrors",
    "Invalid",
    "Keys",
    "Parser",
    "boolean",
    "collect",
    "collect_list",
    "mapping",
    "read_file",
    "string",
    "strings",
    "table",
    "typed",
]

#: A place in a file: the keys and indexes that lead to it.
Keys = tuple[str | int, ...]
Error = tuple[Keys, str]
Parser = Callable[[Any], Any]


class FileErrors(ConfigError):
    """All that is wrong in a file; its text has a line for each."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines = tuple(map(one_line, lines))
        super().__init__("; ".join(self.lines))

    def __str__(self) -> str:
        return "\n".join(self.lines)


class Invalid(Exception):
    """
    Something inside of a value is wrong.

    Attributes:
        errors: Where, and what.
        parsed: What is not wrong, by its key.
    """

    def __init__(self, errors: Sequence[Error], parsed: Mapping[Any, Any] | None = None) -> None:
        super().__init__(errors)
        self.errors = errors
        self.parsed = parsed or {}


def read_file(path: str, parse: Parser) -> Any:
    """
    What a parser makes of a TOML file.

    Raises:
        ConfigError: The file cannot be read.
        FileErrors: It is wrong.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            text = file.read()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8: {error.reason} at byte {error.start}") from error
    try:
        document = tomllib.loads(text)
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply") from None
    except tomllib.TOMLDecodeError as error:
        message, _, place = str(error).partition(" (at ")
        found = re.match(r"line ([0-9]+)", place)
        line = found[1] if found else text.removesuffix("\n").count("\n") + 1  # "at end of document"
        raise FileErrors([f"{path}:{line}: {message}"]) from error
    except ValueError as error:  # a number of thousands of digits
        raise ConfigError(f"{path}: {error}") from error
    try:
        return parse(document)
    except Invalid as invalid:
        lines = _Lines(text)
        errors = sorted((lines.of(keys), _dotted(keys), what) for keys, what in invalid.errors)
        raise FileErrors(f"{path}:{line}: {key}: {what}" for line, key, what in errors) from None


def collect(attempts: Iterable[tuple[Any, Parser, Any]]) -> dict[Any, Any]:
    """Parse `(key, parser, value)` each; raise `Invalid` for all that are wrong."""
    parsed: dict[Any, Any] = {}
    errors: list[Error] = []
    for key, parse, value in attempts:
        try:
            parsed[key] = parse(value)
        except ValueError as error:
            errors.append(((key,), str(error)))
        except Invalid as inner:
            errors += [((key, *keys), what) for keys, what in inner.errors]
    if errors:
        raise Invalid(errors, parsed)
    return parsed


def collect_list(parse: Parser, values: Iterable[Any]) -> list[Any]:
    """Parse each value; raise `Invalid` for all that are wrong."""
    return list(collect((index, parse, value) for index, value in enumerate(values)).values())


def table(keys: Mapping[str, Parser]) -> Callable[[Any], dict[str, Any]]:
    """A table that may have these keys, and no others."""

    def parse(value: Any) -> dict[str, Any]:
        items = typed(dict, "a table")(value).items()
        return collect((k, keys.get(k, partial(_unknown, k, keys)), inner) for k, inner in items)

    return parse


def _unknown(key: str, known: Iterable[str], _value: Any) -> Any:
    raise ValueError(f"there is no such key; {did_you_mean(key, known)}")


def mapping(parse: Parser) -> Callable[[Any], dict[str, Any]]:
    """A table with any keys, whose values are all alike."""

    def parse_mapping(value: Any) -> dict[str, Any]:
        items = typed(dict, "a table")(value).items()
        return collect((key, parse, inner) for key, inner in items)

    return parse_mapping


def typed(wanted: type[Any], description: str) -> Parser:
    """A value of this type, as it is."""

    def parse(value: Any) -> Any:
        if not isinstance(value, wanted):
            raise ValueError(f"{shown(value)} is not {description}")
        return value

    return parse


boolean = typed(bool, "true or false")
string = typed(str, "a string")


def strings(value: Any) -> list[str]:
    """A list of strings, or one string alone."""
    if isinstance(value, str):
        return [value]
    return collect_list(string, typed(list, "a list of strings")(value))


def _dotted(keys: Keys) -> str:
    """`container.web.volumes[1]`."""
    text = ""
    for key in keys:
        if isinstance(key, int):
            text += f"[{key}]"
        else:
            bare = re.fullmatch(r"[A-Za-z0-9_-]+", key)
            text += f".{key if bare else shown(key)}"
    return text.removeprefix(".")


class _Lines:
    """
    Finds the line in which the statement begins that defines a value.

    tomllib keeps no positions, but it can be asked: the first lines of a file are a file too if they end where a
    statement ends, and not inside of a value; and then the value is in them, or not.
    """

    def __init__(self, text: str) -> None:
        self._lines = text.split("\n")
        self._prefixes: dict[int, Any] = {}

    def of(self, keys: Keys) -> int:
        """The line of the value at `keys`, or if it is not in the file (a default, say), of the table it belongs to."""
        low, high = 0, len(self._lines)
        if not self._has(high, keys):
            return self.of(keys[:-1])
        # Both are ends of statements, and the one that is looked for lies between them.
        while True:
            middle = (low + high) // 2
            first = next(n for n in range(middle, low - 1, -1) if self._prefix(n) is not None)
            last = next(n for n in range(middle + 1, high + 1) if self._prefix(n) is not None)
            # Between these two is one statement.
            if self._has(first, keys):
                high = first
            elif not self._has(last, keys):
                low = last
            else:
                return first + 1

    def _prefix(self, count: int) -> Any:
        """The document of the first lines, or None if they are not one."""
        if count not in self._prefixes:
            try:
                self._prefixes[count] = tomllib.loads("\n".join(self._lines[:count]) + "\n")
            except ValueError:
                self._prefixes[count] = None
        return self._prefixes[count]

    def _has(self, count: int, keys: Keys) -> bool:
        document = self._prefix(count)
        try:
            for key in keys:
                document = document[key]
        except (KeyError, IndexError, TypeError):
            return False
        return True
