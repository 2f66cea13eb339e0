"""
Reads the quantities that people write on the command line and in files: `256M`, `1m30s`, `TERM`.

Every function raises ValueError with one line that says what is wrong and shows an example. Numbers
that TOML has read already are taken as they are, in bytes and seconds.
"""

from __future__ import annotations

import math
import re
import reprlib
import signal
from collections.abc import Iterable
from typing import TypeVar

__all__ = [
    "COUNT",
    "DURATION",
    "MAX_CPU",
    "MAX_INT",
    "NUMBER",
    "SIZE",
    "WHOLE",
    "parse_count",
    "parse_cpus",
    "parse_cpuset",
    "parse_duration",
    "parse_fraction",
    "parse_signal",
    "parse_size",
    "parse_whole",
    "shown",
    "shown_path",
]

#: The largest number that the kernel reads from a limit file (a signed 64-bit integer).
MAX_INT = 2**63 - 1
#: No kernel is built for more cores: CONFIG_NR_CPUS of x86_64 with MAXSMP.
MAX_CPU = 8192

# How quantities are written, with nothing that ECMA-262's expressions do not have: JSON Schema shows them too.
# Bounded: `int` refuses more than 4,300 digits in words of its own; a float of 400 is infinite.
WHOLE = r"[0-9]{1,30}"
NUMBER = rf"{WHOLE}(?:\.{WHOLE})?"
COUNT = rf"{WHOLE}|-1|max|unlimited"
SIZE = rf"({WHOLE})(?:\.({WHOLE}))?\s*([kmgtpeKMGTPE]?)(?:[iI]?[bB])?"
_UNITS = rf"(?=.)(?:({NUMBER})h)?(?:({NUMBER})m(?!s))?(?:({NUMBER})s)?(?:({NUMBER})ms)?"
DURATION = rf"{NUMBER}|{_UNITS}"
_DURATION_UNITS = (3600.0, 60.0, 1.0, 0.001)
_CPUS = r"[0-9]{1,4}(?:-[0-9]{1,4})?"
_CPUSET = rf"{_CPUS}(?:,{_CPUS})*"

_N = TypeVar("_N", int, float)


def parse_size(value: str | int, *, zero: bool = False) -> int:
    """
    Bytes, as `256M`, `1.5g`, `1GiB` or `1024`; 1024-based. A fraction of a byte is cut off.

    Args:
        zero: Whether 0 is allowed.
    """
    example = "a size in bytes, such as 256M, 1.5G or 1024"
    size = value
    if isinstance(value, str) and (found := re.fullmatch(SIZE, value.strip())):
        # Whole and fraction apart, since a float holds only 53 bits.
        whole, fraction, unit = found[1], found[2] or "0", found[3].lower()
        factor = 1024 ** " kmgtpe".index(unit or " ")
        size = int(whole) * factor + int(fraction) * factor // 10 ** len(fraction)
    if not isinstance(size, int) or isinstance(value, bool):
        raise ValueError(f"{shown(value)} is not {example}")
    return _in_range(size, value, example, zero=zero)


def parse_duration(value: str | float, *, zero: bool = False) -> float:
    """
    Seconds, as `10s`, `1m30s`, `500ms`, `2h`, or a plain number.

    Args:
        zero: Whether 0 is allowed.
    """
    example = "a duration, such as 10s, 1m30s or 500ms (a plain number is in seconds)"
    if isinstance(value, str) and (found := re.fullmatch(_UNITS, value.strip())):
        parts = zip(found.groups(default="0"), _DURATION_UNITS, strict=True)
        seconds = sum(float(number) * unit for number, unit in parts)
    else:
        seconds = _number(value, example)
    return float(_in_range(seconds, value, example, zero=zero))


def parse_cpus(value: str | float) -> float:
    """A number of cores, as `2` or `0.5`."""
    example = "a number of cores, such as 0.5 or 2"
    return float(_in_range(_number(value, example), value, example, most=MAX_CPU))


def parse_count(value: str | int, *, zero: bool = False) -> int:
    """
    A number of things, as `20`; `max`, `unlimited` and -1 are -1.

    Args:
        zero: Whether 0 is allowed.
    """
    example = "a whole number, such as 20, or max"
    if value in ("max", "unlimited", "-1", -1):
        return -1
    return _in_range(_whole(value, example), value, example, zero=zero)


def parse_whole(value: str | int, least: int, most: int) -> int:
    """A whole number between two others, these included."""
    example = f"a whole number from {least} to {most}"
    number = _whole(value, example)
    if not least <= number <= most:
        raise ValueError(f"{shown(value)} is not {example}")
    return number


def parse_fraction(value: str | float) -> float:
    """A number from 0 to 1."""
    example = "a number from 0 to 1"
    number = _number(value, example)
    if not 0 <= number <= 1:
        raise ValueError(f"{shown(value)} is not {example}")
    return float(number)


def parse_signal(value: str | int) -> int:
    """The number of a signal, given as `TERM`, `SIGTERM` or `15`."""
    text = str(value).strip().upper()
    try:
        if re.fullmatch(WHOLE, text):
            return signal.Signals(int(text)).value
        return signal.Signals[f"SIG{text.removeprefix('SIG')}"].value
    except (KeyError, ValueError):
        example = "a signal, such as TERM, SIGINT or 15"
        raise ValueError(f"{shown(value)} is not {example}") from None


def parse_cpuset(value: str | int) -> str:
    """A list of cores, `0-2,4`, returned without spaces; cpuset(7), "List format"."""
    text = "" if isinstance(value, bool) else re.sub(r"\s", "", str(value))
    ranges = [part.split("-") for part in text.split(",")] if re.fullmatch(_CPUSET, text) else []
    if not ranges or any(not int(r[0]) <= int(r[-1]) < MAX_CPU for r in ranges):
        raise ValueError(f"{shown(value)} is not a list of cores, such as 0-2,4")
    return text


def shown(value: object) -> str:
    """A value as a message shows it: on one line, and short."""
    try:
        return reprlib.repr(value)
    except ValueError:  # an integer, `int_max_str_digits` of sys
        return "a number of thousands of digits"


def shown_path(keys: Iterable[str | int]) -> str:
    """Keys and indexes as a message shows them: `container.web.volumes[1]`."""
    text = ""
    for key in keys:
        if isinstance(key, int):
            text += f"[{key}]"
        else:
            bare = re.fullmatch(r"[A-Za-z0-9_-]{1,63}", key)
            text += f".{key if bare else shown(key)}"
    return text.removeprefix(".")


def _whole(value: object, example: str) -> int:
    """The whole number in a string or from TOML."""
    number = int(value) if isinstance(value, str) and re.fullmatch(WHOLE, value.strip()) else value
    if not isinstance(number, int) or isinstance(number, bool):
        raise ValueError(f"{shown(value)} is not {example}")
    return number


def _number(value: object, example: str) -> float:
    """The number in a string or from TOML; signs, exponents, inf and nan are none in a string."""
    if isinstance(value, str) and re.fullmatch(NUMBER, value.strip()):
        return float(value)
    is_nan = isinstance(value, float) and math.isnan(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and not is_nan:
        return value
    raise ValueError(f"{shown(value)} is not {example}")


def _in_range(number: _N, value: object, example: str, *, zero: bool = False, most: int = MAX_INT) -> _N:
    if number < 0 or (number == 0 and not zero):
        raise ValueError(f"{shown(value)} is too small; give {example}")
    if number > most:
        raise ValueError(f"{shown(value)} is too large, {most} is the most; give {example}")
    return number
