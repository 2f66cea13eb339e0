"""Variables in the strings of a file."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from pysuper.interpolation import escape, interpolate, interpolate_all

ENVIRONMENT = {"A": "a", "EMPTY": "", "LOOKS_LIKE_MORE": "${A}$$", "_x9": "x"}


def complaint_about(text: str) -> str:
    """The message of the error, empty if there is none."""
    try:
        interpolate(text, ENVIRONMENT)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("plain {} }", "plain {} }"),
        ("${A}", "a"),
        ("${_x9}", "x"),
        ("<${A}${EMPTY}${A}>", "<aa>"),
        ("${A:-x}${A-x}${A:?x}${A?x}", "aaaa"),
        ("${NO:-x}${NO-x}", "xx"),
        ("<${EMPTY:-x}${EMPTY-x}${EMPTY?x}>", "<x>"),
        ("<${NO:-}${NO-}>", "<>"),
        ("${NO:-a-b:?c d\n}", "a-b:?c d\n"),
        ("${NO:-${A}}", "a"),
        ("${NO:-${NEITHER:-<${A}>}}!", "<a>!"),
        ("${NO:-$$}", "$"),
        ("${NO:-$${A}}", "${A}"),
    ],
)
def test_variables_are_replaced(text: str, expected: str) -> None:
    assert interpolate(text, ENVIRONMENT) == expected


@pytest.mark.parametrize("text", ["$A", "$(A)", "$((1 + 2))", "$1 $? $", "a$", "$`A`", "$ {A}", "$'x'"])
def test_every_other_dollar_is_left_to_the_shell(text: str) -> None:
    assert interpolate(text, ENVIRONMENT) == text


@pytest.mark.parametrize(("text", "expected"), [("$$", "$"), ("$${A}", "${A}"), ("$$$$", "$$"), ("$$$", "$$")])
def test_two_dollars_are_one(text: str, expected: str) -> None:
    assert interpolate(text, ENVIRONMENT) == expected


def test_what_comes_from_a_variable_is_taken_as_it_is() -> None:
    assert interpolate("${LOOKS_LIKE_MORE}", ENVIRONMENT) == "${A}$$"


def test_a_default_that_is_not_needed_is_not_looked_at() -> None:
    assert interpolate("${A:-${NO}}${A:-${not a name}}${A:?${NO}}", ENVIRONMENT) == "aaa"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${NO}", "the variable 'NO' is not set; write '${NO:-}' if it may be missing"),
        ("${NO:-${NEITHER}}", "the variable 'NEITHER' is not set; write '${NEITHER:-}' if it may be missing"),
        ("${NO:?give a port}", "the variable 'NO' is not set: give a port"),
        ("${NO?${A} b}", "the variable 'NO' is not set: a b"),
        ("${NO?}", "the variable 'NO' is not set"),
        ("${EMPTY:?give a port}", "the variable 'EMPTY' is empty: give a port"),
        ("x${A", "'${A' has no closing brace; write $${ for ${ itself"),
        ("${A:-${A}", "'${A:-${A}' has no closing brace; write $${ for ${ itself"),
        ("${}", "'${}' is not ${NAME}, ${NAME:-default} or ${NAME:?message}; write $${ for ${ itself"),
    ],
)
def test_what_is_wrong_is_said_with_the_remedy(text: str, expected: str) -> None:
    assert complaint_about(text) == expected


@pytest.mark.parametrize("text", ["${1}", "${A B}", "${ A}", "${A%.*}", "${#A}", "${A:+x}", "${A:x}", "${é}", "${A\n}"])
def test_other_expansions_of_shells_are_refused(text: str) -> None:
    assert "is not ${NAME}, ${NAME:-default}" in complaint_about(text)


def test_defaults_are_nested_to_a_bound() -> None:
    def nested(levels: int) -> str:
        return "${NO:-" * levels + "x" + "}" * levels

    assert interpolate(nested(16), {}) == "x"
    assert complaint_about(nested(17)) == "has variables in more than 16 others"
    assert complaint_about(nested(20000)) == "has variables in more than 16 others"


@pytest.mark.parametrize("text", ["$" * 65536, "${" * 32768, "${A}" * 16384, "${" + "A" * 65536 + "}"])
def test_large_strings_take_no_time_and_a_line(text: str) -> None:
    try:
        assert interpolate(text, ENVIRONMENT) in ("$" * 32768, "a" * 16384)
    except ValueError as error:
        assert len(str(error)) < 200


@given(st.text(st.sampled_from("${}:-?A \n")))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        assert isinstance(interpolate(text, ENVIRONMENT), str)
    except ValueError as error:
        assert str(error)


@given(st.text(st.sampled_from("${}A")))
def test_what_is_escaped_comes_back(text: str) -> None:
    assert interpolate(escape(text), ENVIRONMENT) == text


def test_values_of_a_document_are_interpolated_and_keys_are_not() -> None:
    document = {"${A}": ["${A}", 1, True, {"x": "$$"}], "b": {"c": "${A:-x}"}}
    assert interpolate_all(document, ENVIRONMENT) == ({"${A}": ["a", 1, True, {"x": "$"}], "b": {"c": "a"}}, [])


def test_all_strings_that_are_wrong_are_found_and_stay() -> None:
    made, errors = interpolate_all({"a": ["x", "${NO}"], "b": {"c": "${A}", "d": "${"}}, ENVIRONMENT)
    assert made == {"a": ["x", "${NO}"], "b": {"c": "a", "d": "${"}}
    assert [keys for keys, _ in errors] == [("a", 1), ("b", "d")]
