"""Files for tests of what is read from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from pysuper.config import load_stack
from pysuper.errors import ConfigError
from pysuper.schema import schema

EXAMPLES = Path(__file__).parents[2] / "examples"


def write(directory: Path, text: str) -> str:
    """The path of a file with this text."""
    path = directory / "demo.toml"
    path.write_text(text)
    return str(path)


def errors(directory: Path, text: str, **environment: str) -> list[str]:
    """The lines of the error about a file, without its path."""
    path = write(directory, text)
    with pytest.raises(ConfigError) as caught:
        load_stack(path, environment)
    return [line.removeprefix(f"{path}:") for line in str(caught.value).split("\n")]


SCHEMA = schema()
#: What the schema says of strings that have a variable in them.
VARIABLE = r"\$\{"
NAMES = st.sampled_from(["a", "b", "a-1", "A", "c_d.e"])
WORDS = st.sampled_from(["a", "b", "a=b", "/a", "/b", "1", "5", "tar:x", "sh -c 'x'", "$x", "$$", "${A:-5}", "${NO:-}"])
ODD_NAMES = st.sampled_from(["../x", "", "x" * 64, "a\nb", "\0", "é", "${A}", "container", "8:0"])
ODD_WORDS = st.sampled_from(
    [
        *("", "true", "-1", "max", "5s", "1M", "0.5", "notify", "healthy", "always", "task", "nofile=1", "/a:/b:ro"),
        *("http://h/p", "h:1", "* * * * *", "CMD", "${A}", "${NO}", "${", "\0", "\n", "..", "../x", "x" * 5000),
        *("(" * 500, "a{99999999999}", "[[", "é", "\x7f", "~\0", "'", "\u2028"),
    ]
)
NUMBERS = st.sampled_from([-1, 0, 1, 2, 3, 80, 2**63, 10**400, -0.0, 0.5, 1.0, 60.0, float("inf"), float("nan")])
ANYTHING = st.recursive(
    WORDS | ODD_WORDS | NUMBERS | st.booleans() | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | ODD_NAMES, inner, max_size=3),
    max_leaves=4,
)


def documents() -> st.SearchStrategy[dict[str, Any]]:
    """Documents that the schema mostly takes, and that are often enough wrong in a place or two."""
    return st.fixed_dictionaries(
        {"container": _values(SCHEMA["properties"]["container"])},
        optional={
            name: _values(SCHEMA["properties"][name]) for name in ("defaults", "hook", "journal", "plugins", "stack")
        },
    )


def _values(part: dict[str, Any]) -> st.SearchStrategy[Any]:
    """What a part of the schema takes, and now and then anything."""
    return st.integers(0, 39).flatmap(lambda chance: _right_values(part) if chance else ANYTHING)


def _right_values(part: dict[str, Any]) -> st.SearchStrategy[Any]:
    if "$ref" in part:
        return _tables(SCHEMA["$defs"]["container"])
    if "anyOf" in part:
        return st.one_of(*(_right_values(one) for one in part["anyOf"] if one.get("pattern") != VARIABLE))
    if "enum" in part or "const" in part:
        return st.sampled_from(part.get("enum") or [part["const"]])
    made = {
        "object": lambda: _tables(part),
        "array": lambda: st.lists(_values(part["items"]), max_size=3),
        "string": lambda: _strings(part),
        "boolean": st.booleans,
        "integer": lambda: st.integers(part.get("minimum", 0), part.get("maximum", 10**6)),
        "number": lambda: st.floats(part.get("minimum", 0), part.get("maximum", 1e6)),
    }
    kinds = part["type"] if isinstance(part["type"], list) else [part["type"]]
    return st.one_of(*(made[kind]() for kind in kinds))


def _strings(part: dict[str, Any]) -> st.SearchStrategy[str]:
    if "pattern" not in part:
        return WORDS
    return st.from_regex(
        part["pattern"].removesuffix(f"|{VARIABLE}"), fullmatch=True, alphabet=st.characters(max_codepoint=126)
    )


def _tables(part: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    known = part.get("properties", {})
    more = part.get("additionalProperties", True)
    if not known:
        return st.dictionaries(NAMES, _values(more) if isinstance(more, dict) else ANYTHING, max_size=3)
    one_of = [choice["required"][0] for choice in part.get("oneOf", ())]
    others = st.lists(st.sampled_from(sorted(known.keys() - set(one_of))), max_size=3)
    names = st.tuples(others, st.sampled_from(one_of or [None])).map(
        lambda chosen: sorted({*part.get("required", ()), *chosen[0], chosen[1]} - {None})
    )
    return names.flatmap(lambda chosen: st.fixed_dictionaries({name: _values(known[name]) for name in chosen}))
