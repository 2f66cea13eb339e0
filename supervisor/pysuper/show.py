"""
Shows values as people read them: quantities in the units that `units` reads, and rows in columns.
"""

from __future__ import annotations

from collections.abc import Sequence

from pysuper.errors import one_line

__all__ = ["columns", "duration", "size"]


def size(number: float) -> str:
    """Bytes, as `64M` or `3.1M`: to three digits, 1024-based."""
    power = 0
    # What would be rounded to 1000 has its place among those of the next unit.
    while number >= 999.5:
        number /= 1024
        power += 1
    digits = 0 if number == int(number) or number >= 99.95 else 1
    return f"{number:.{digits}f}{('', *'KMGTPE')[power]}"


def duration(seconds: float) -> str:
    """Seconds, as `3ms`, `0.2s`, `42s`, `5m12s`, `2h03m` or `4d07h`."""
    if seconds < 0.0995:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """A line for each row, with columns as wide as they have to be; control characters are escaped."""
    escaped = [[one_line(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*escaped, strict=True)]
    return ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in escaped]
