"""
Reads TOML by parsers, one for each key, and finds all that is wrong in a file, with the lines.

A parser takes what TOML made of a value. It raises ValueError if that is wrong, or `Invalid` if something inside of it
is. It also has a JSON Schema of what it takes. Big parsers are made of small ones:

    read = table({"size": Key(size, "How large it may become."), "names": Key(strings, "What it is called.")})
    read_file("demo.toml", read)
    read.schema["properties"]["size"]

What comes from a variable (`interpolation`) is a string, so everything may be one: `"20"` is 20, and `"true"` is true.
The schema is of the file as it is written, and takes every string with a variable in it.

This module knows nothing of containers.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from functools import partial
from typing import Any

import attrs

from pysuper.errors import ConfigError, one_line
from pysuper.shorthand import did_you_mean
from pysuper.units import shown, shown_path

__all__ = [
    "Error",
    "FileErrors",
    "Invalid",
    "Key",
    "Keys",
    "Parser",
    "Schema",
    "any_of",
    "attempt",
    "boolean",
    "choice",
    "collect",
    "enum",
    "list_of",
    "mapping",
    "pattern",
    "read_file",
    "string",
    "strings",
    "strings_of",
    "table",
    "table_or",
    "typed",
]

#: Characters of a file, and tables or lists inside of each other. Those who need more have made a mistake.
_MOST_TEXT = 2**20
_MOST_LEVELS = 64
#: Characters of what is said about a value, which may have a long one in it.
_MOST_WORDS = 300

#: A place in a file: the keys and indexes that lead to it.
Keys = tuple[str | int, ...]
Error = tuple[Keys, str]
#: JSON Schema, draft 2020-12.
Schema = dict[str, Any]


@attrs.frozen
class Parser:
    """
    Reads a value, and says what it takes.

    Attributes:
        read: From what TOML made of a value to what is meant by it.
        schema: Takes what `read` takes; where JSON Schema has no words for it, more.
    """

    read: Callable[[Any], Any]
    schema: Schema

    def __call__(self, value: Any) -> Any:
        return self.read(value)

    def then(self, function: Callable[[Any], Any]) -> Parser:
        """The parser of the same values that goes on with what they mean."""
        return Parser(lambda value: function(self.read(value)), self.schema)


@attrs.frozen
class Key:
    """
    A key of a table.

    Attributes:
        parse: Reads its value.
        doc: What it means, in a line.
        attribute: What it sets, if that is not called as the key is.
        default: What it is where the file does not say, for the schema; None is nothing, or more than a value.
    """

    parse: Parser
    doc: str
    attribute: str | None = None
    default: Any = None

    @property
    def schema(self) -> Schema:
        """The parser's, with what else there is to say."""
        default = {} if self.default is None else {"default": self.default}
        return {"description": self.doc, **default, **self.parse.schema}


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


def read_file(path: str, read: Callable[[dict[str, Any]], Any]) -> Any:
    """
    What a parser makes of a TOML file.

    Raises:
        ConfigError: The file cannot be read.
        FileErrors: It is wrong.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            text = file.read(_MOST_TEXT + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8: {error.reason} at byte {error.start}") from error
    except ValueError as error:  # a NUL in the path
        raise ConfigError(f"{path}: {error}") from error
    if len(text) > _MOST_TEXT:
        raise ConfigError(f"{path}: has more than {_MOST_TEXT} characters")
    document = _parse(path, text)
    try:
        return read(document)
    except Invalid as invalid:
        lines = _Lines(text)
        errors = sorted((lines.of(keys), shown_path(keys), _cut(what)) for keys, what in invalid.errors)
        raise FileErrors(f"{path}:{line}: {key}: {what}" for line, key, what in errors) from None


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_WORDS else f"{text[:_MOST_WORDS]}..."


def _parse(path: str, text: str) -> dict[str, Any]:
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
    # tomllib itself knows no bound for `a.a.a.a = 1`; functions that call themselves do.
    level: list[Any] = [document]
    for _ in range(_MOST_LEVELS):
        level = [inner for value in level for inner in _inside(value)]
    if level:
        raise ConfigError(f"{path}: nested too deeply")
    return document


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def collect(attempts: Iterable[tuple[Any, Callable[[Any], Any], Any]]) -> dict[Any, Any]:
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


def attempt(parse: Callable[[Any], Any], value: Any) -> tuple[dict[str, Any], list[Error]]:
    """What a parser of tables can make of a value, and what is wrong with the rest."""
    try:
        return parse(value), []
    except ValueError as error:
        return {}, [((), str(error))]
    except Invalid as invalid:
        return dict(invalid.parsed), list(invalid.errors)


def typed(wanted: type[Any], description: str, schema: Schema) -> Parser:
    """A value of this type, as it is."""

    def read(value: Any) -> Any:
        if not isinstance(value, wanted):
            raise ValueError(f"{shown(value)} is not {description}")
        return value

    return Parser(read, schema)


def any_of(*schemas: Schema) -> Schema:
    """What one of these takes."""
    return {"anyOf": list(schemas)}


def pattern(expression: str) -> Schema:
    """Strings that the expression matches as a whole, spaces around it aside, or that have a variable in them."""
    return {"type": "string", "pattern": rf"^\s*(?:{expression})\s*$|\$\{{"}


def enum(*words: Any) -> Schema:
    """One of these words, or a string that has a variable in it."""
    return any_of({"enum": list(words)}, {"type": "string", "pattern": r"\$\{"})


_dict = typed(dict, "a table", {"type": "object"})
string = typed(str, "a string", {"type": "string"})


def _boolean(value: Any) -> bool:
    words = {"true": True, "false": False}
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip() in words:
        return words[value.strip()]
    raise ValueError(f"{shown(value)} is not true or false")


boolean = Parser(_boolean, any_of({"type": "boolean"}, pattern("true|false")))


def choice(words: type[StrEnum], description: str) -> Parser:
    """One of a few words."""

    values = [word.value for word in words]

    def read(value: Any) -> StrEnum:
        if value not in values:
            raise ValueError(f"{shown(value)} is not {description}; {did_you_mean(str(value), values)}")
        return words(value)

    return Parser(read, enum(*values))


def table(keys: Mapping[str, Key], *, required: Iterable[str] = (), one_of: Iterable[str] = ()) -> Parser:
    """A table that may have these keys, and no others; must have `required`, and exactly one of `one_of`."""
    required, one_of = tuple(required), tuple(one_of)

    def read(value: Any) -> dict[str, Any]:
        items = _dict(value).items()
        parsed, errors = attempt(
            collect, ((k, keys[k].parse if k in keys else partial(_unknown, k, keys), inner) for k, inner in items)
        )
        given = [key for key in one_of if key in value]
        if len(given) > 1:
            errors.append(((), f"has {' and '.join(given)}, of which there can be only one"))
        missing = [key for key in required if key not in value]
        missing += [f"one of {', '.join(one_of)}"] if one_of and not given else []
        if missing and value.keys() <= keys.keys():  # otherwise it may be one that is misspelt
            errors.append(((), f"needs {' and '.join(missing)}"))
        if errors:
            raise Invalid(errors, parsed)
        return parsed

    schema: Schema = {
        "type": "object",
        "properties": {name: key.schema for name, key in keys.items()},
        "additionalProperties": False,
    }
    if required:
        schema["required"] = list(required)
    if one_of:
        schema["oneOf"] = [{"required": [key]} for key in one_of]
    return Parser(read, schema)


def _unknown(key: str, known: Iterable[str], _value: Any) -> Any:
    raise ValueError(f"there is no such key; {did_you_mean(key, known)}")


def mapping(parse: Parser) -> Parser:
    """A table with any keys, whose values are all alike."""

    def read(value: Any) -> dict[str, Any]:
        return collect((key, parse, inner) for key, inner in _dict(value).items())

    return Parser(read, {"type": "object", "additionalProperties": parse.schema})


def table_or(short: Parser, long: Parser) -> Parser:
    """A table, or a shorter form of what is in it."""
    return Parser(
        lambda value: long(value) if isinstance(value, dict) else short(value), any_of(short.schema, long.schema)
    )


def list_of(parse: Parser, description: str) -> Parser:
    """A list of values that are all alike."""
    schema = {"type": "array", "items": parse.schema}
    values = typed(list, description, schema)
    return Parser(lambda value: list(collect((i, parse, v) for i, v in enumerate(values(value))).values()), schema)


def strings_of(parse: Parser) -> Parser:
    """A list of strings that are all alike, or one alone."""
    several = list_of(parse, "a list of strings")
    return Parser(
        lambda value: several([value] if isinstance(value, str) else value), any_of(parse.schema, several.schema)
    )


strings = strings_of(string)


#: What may go on after the end of a line, comments (which may have quotes in them), and the end of a line.
_TOKEN = re.compile(
    r'"""[^"\\]*(?:(?:\\.|"(?!""))[^"\\]*)*"{3,5}'
    r"|'''.*?'{3,5}"
    r'|"[^"\\\n]*(?:\\.[^"\\\n]*)*"'
    r"|'[^'\n]*'"
    r"|#[^\n]*"
    r"|[\[\]{}\n]",
    re.DOTALL,
)


class _Lines:
    """
    Finds the line in which the statement begins that defines a value.

    tomllib keeps no positions. But where a statement ends can be seen in text that is known to be right, and each
    statement is a file too, of which tomllib says what it defines.
    """

    def __init__(self, text: str) -> None:
        self._lines: dict[Keys, int] = {}
        lengths: Counter[Keys] = Counter()  # of arrays of tables, so far
        header: Keys = ()
        for line, statement in _statements(text):
            defined = tomllib.loads(statement)
            if not statement.lstrip(" \t").startswith("["):
                self._add(header, defined, line)
                continue
            header = ()
            while defined:
                ((key, inner),) = defined.items()
                header += (key,)
                self._lines.setdefault(header, line)
                if isinstance(inner, list):
                    lengths[header] += 1
                    inner = inner[0]
                if lengths[header]:
                    header += (lengths[header] - 1,)
                    self._lines.setdefault(header, line)
                defined = inner

    def _add(self, keys: Keys, value: Any, line: int) -> None:
        self._lines.setdefault(keys, line)
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, inner in items:
            self._add((*keys, key), inner, line)

    def of(self, keys: Keys) -> int:
        """The line of the value at `keys`, or if it is not in the file (a default, say), of the table it belongs to."""
        found = (self._lines.get(keys[:length]) for length in range(len(keys), 0, -1))
        return next((line for line in found if line is not None), 1)


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """The statements of a file that is right, each with the number of its first line."""
    text = text.replace("\r\n", "\n") + "\n"
    line, start, depth = 1, 0, 0
    for token in _TOKEN.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(token[0], 0)
        if token[0] == "\n" and depth == 0:
            statement = text[start : token.start()]
            if statement.strip() and not statement.lstrip().startswith("#"):  # to be fast: others define nothing
                yield line, statement
            line += statement.count("\n") + 1
            start = token.end()
