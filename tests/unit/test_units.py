"""Quantities as people write them."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, strategies as st

from pysuper.units import (
    MAX_INT,
    parse_count,
    parse_cpus,
    parse_cpuset,
    parse_duration,
    parse_signal,
    parse_size,
)

PARSERS: tuple[Callable[[Any], object], ...] = (
    parse_count,
    parse_cpus,
    parse_cpuset,
    parse_duration,
    parse_signal,
    parse_size,
)


def complaint_about(parse: Callable[[Any], object], value: object) -> str:
    """The message of the error, empty if there is none."""
    try:
        parse(value)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1024", 1024),
        ("1b", 1),
        ("256M", 256 * 2**20),
        ("256m", 256 * 2**20),
        ("256MB", 256 * 2**20),
        ("1GiB", 2**30),
        ("1.5g", 3 * 2**29),
        ("0.5 k", 512),
        ("1.125k", 1152),
        ("1.9b", 1),
        ("2T", 2**41),
        ("7E", 7 * 2**60),
        (4096, 4096),
    ],
)
def test_a_size_is_in_bytes_and_1024_based(text: str | int, expected: int) -> None:
    assert expected == parse_size(text)


@given(st.integers(1, MAX_INT))
@example(2**53 + 1)
def test_a_size_in_bytes_is_exact(size: int) -> None:
    assert size == parse_size(str(size)) == parse_size(size)


@given(st.integers(1, 2**20), st.sampled_from("kmgtpe"), st.sampled_from(["", "b", "B", "iB"]))
def test_a_unit_multiplies(number: int, unit: str, suffix: str) -> None:
    expected = number * 1024 ** ("kmgtpe".index(unit) + 1)
    if expected <= MAX_INT:
        assert expected == parse_size(f"{number}{unit}{suffix}") == parse_size(f"{number}{unit.upper()}{suffix}")
    else:
        with pytest.raises(ValueError, match="too large"):
            parse_size(f"{number}{unit}{suffix}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10", 10.0),
        ("10s", 10.0),
        ("1m30s", 90.0),
        ("500ms", 0.5),
        ("1s500ms", 1.5),
        ("2h", 7200.0),
        ("1h1m1s1ms", 3661.001),
        ("0.5m", 30.0),
        ("5m", 300.0),
        (10, 10.0),
        (0.25, 0.25),
    ],
)
def test_a_duration_is_in_seconds(text: str | float, expected: float) -> None:
    assert expected == pytest.approx(parse_duration(text))


@given(st.integers(0, 99), st.integers(0, 59), st.integers(0, 59), st.integers(0, 999))
def test_a_duration_is_the_sum_of_its_parts(h: int, m: int, s: int, ms: int) -> None:
    expected = h * 3600 + m * 60 + s + ms / 1000
    assert expected == pytest.approx(parse_duration(f"{h}h{m}m{s}s{ms}ms", zero=True))


def test_parts_of_a_duration_come_in_order() -> None:
    with pytest.raises(ValueError, match="such as 10s"):
        parse_duration("30s1m")


@pytest.mark.parametrize(("text", "expected"), [("0.5", 0.5), ("2", 2.0), (1.5, 1.5), (3, 3.0)])
def test_cpus_are_cores(text: str | float, expected: float) -> None:
    assert expected == parse_cpus(text)


@pytest.mark.parametrize(
    ("text", "expected"), [("20", 20), (20, 20), ("max", -1), ("unlimited", -1), ("-1", -1), (-1, -1)]
)
def test_a_count_may_be_unlimited(text: str | int, expected: int) -> None:
    assert expected == parse_count(text)


@pytest.mark.parametrize("text", ["TERM", "SIGTERM", "term", "sigterm", "15", 15, " TERM "])
def test_a_signal_has_a_name_and_a_number(text: str | int) -> None:
    assert parse_signal(text) == signal.SIGTERM


@given(st.sampled_from(signal.Signals))
def test_every_signal_is_known(number: signal.Signals) -> None:
    assert number == parse_signal(number.name) == parse_signal(number.name[3:]) == parse_signal(number.value)


@pytest.mark.parametrize("text", ["0", "0-2,4", "7-7", "0-8191"])
def test_a_cpuset_is_a_list_of_ranges(text: str) -> None:
    assert text == parse_cpuset(text)


def test_a_cpuset_loses_its_spaces() -> None:
    assert parse_cpuset("0-2, 4") == "0-2,4"


@pytest.mark.parametrize("text", ["2-1", "0-8192", "1,,2", "-1", "1-2-3", "1-", "0x1", "all"])
def test_a_cpuset_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="such as 0-2,4"):
        parse_cpuset(text)


@pytest.mark.parametrize("parse", [parse_size, parse_duration, parse_count])
def test_zero_is_refused_where_it_makes_no_sense(parse: Callable[..., float]) -> None:
    for value in ("0", 0):
        with pytest.raises(ValueError, match="too small"):
            parse(value)
        assert parse(value, zero=True) == 0


@pytest.mark.parametrize("parse", [parse_size, parse_duration, parse_count, parse_cpus])
def test_what_is_absurd_is_refused(parse: Callable[[Any], float]) -> None:
    for value in (2**63, 10**5000, str(2**63), "9" * 30):
        with pytest.raises(ValueError, match="too large"):
            parse(value)
    for value in (-2, -(10**5000)):
        with pytest.raises(ValueError, match="too small"):
            parse(value)


@pytest.mark.parametrize(
    "value", [math.nan, "nan", "inf", "1e3", "-5", "", " ", "9" * 5000, "ten", "1_000", "٣", "5x", True, None]
)
@pytest.mark.parametrize("parse", PARSERS)
def test_what_is_no_number_is_refused_with_an_example(parse: Callable[[Any], object], value: object) -> None:
    with pytest.raises(ValueError, match="such as"):
        parse(value)


@pytest.mark.parametrize("parse", [parse_duration, parse_cpus])
def test_infinity_is_too_large(parse: Callable[[Any], object]) -> None:
    with pytest.raises(ValueError, match="too large"):
        parse(math.inf)


@given(
    st.sampled_from(PARSERS),
    st.one_of(st.text(), st.integers(), st.floats(), st.booleans(), st.none(), st.lists(st.integers())),
)
@example(parse_size, "1" * 5000)
@example(parse_count, "1" * 65536)
@example(parse_cpuset, "1\n2")
def test_anything_else_is_one_short_printable_line(parse: Callable[[Any], object], value: object) -> None:
    complaint = complaint_about(parse, value)
    assert complaint.isprintable()
    assert len(complaint) < 400
