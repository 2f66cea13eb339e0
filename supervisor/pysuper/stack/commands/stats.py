"""`pysuper stats`: what the containers use, of what they may."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn

from pysuper.show import columns, size
from pysuper.stack.client import ask
from pysuper.stack.commands.options import client_parser, find_project
from pysuper.stack.project import Project

__all__ = ["stats"]

#: Seconds between two samples. On a terminal the first two are closer, since somebody waits.
_INTERVAL = 1.0
_FIRST_INTERVAL = 0.2
_HEADER = ("NAME", "CPU", "MEMORY", "LIMIT", "PIDS", "LIMIT", "CPU/MEM/IO WAIT", "RESTARTS")
_PRESSURES = ("cpu", "memory", "io")
#: console_codes(4).
_HIDE_CURSOR, _SHOW_CURSOR, _CLEAR_BELOW, _CLEAR_RIGHT = "\x1b[?25l", "\x1b[?25h", "\x1b[J", "\x1b[K"

Sample = dict[str, Any]


def stats(argv: Sequence[str], prog: str, summary: str) -> int:
    """The command."""
    parser = client_parser(
        prog,
        f"{summary} 100 % of CPU is one core. WAIT is how many percent of the last ten seconds some process waited "
        "for it, where the kernel counts that.",
    )
    parser.add_argument("--no-stream", action="store_true", help="print it once, and not again each second")
    arguments = parser.parse(argv, intermixed=True)
    live = sys.stdout.isatty() and not arguments.no_stream and not arguments.json
    samples = _samples(find_project(arguments), arguments.rest, _FIRST_INTERVAL if live else _INTERVAL)
    if live:
        with _cursor_hidden():
            _redraw(samples)
    for sample in samples:
        lines = [json.dumps({"containers": sample})] if arguments.json else _table(sample)
        print(*lines, sep="\n", flush=True)
        if arguments.no_stream:
            break
    return 0


def _samples(project: Project, names: Sequence[str], first_interval: float) -> Iterator[list[Sample]]:
    """What is used, each second, without end."""
    take = partial(ask, project, "stats", names=names)
    before, interval = take(), first_interval
    while True:
        time.sleep(interval)
        now = take()
        known = {sample["name"]: sample for sample in before}
        yield [{**sample, "cpu_percent": _cpu_percent(known.get(sample["name"]), sample)} for sample in now]
        before, interval = now, _INTERVAL


def _cpu_percent(before: Sample | None, now: Sample) -> float | None:
    """Of one core; None without two samples of the same run."""
    if before is None or before["run"] != now["run"] or not before["statistics"] or not now["statistics"]:
        return None
    seconds, used, before_that = float(now["at"] - before["at"]), _cpu_seconds(now), _cpu_seconds(before)
    if used is None or before_that is None or seconds <= 0:
        return None
    return 100 * (used - before_that) / seconds


def _cpu_seconds(sample: Sample) -> float | None:
    user, system = sample["statistics"]["cpu_user"], sample["statistics"]["cpu_system"]
    return None if user is None or system is None else float(user + system)


def _table(samples: Sequence[Sample]) -> list[str]:
    return columns([_HEADER, *map(_row, samples)])


def _row(sample: Sample) -> tuple[str, ...]:
    used: Mapping[str, Any] = sample["statistics"] or {}
    limits = sample["limits"]
    cpu, memory, pids = sample["cpu_percent"], used.get("memory_current"), used.get("pids_current")
    pressure = used.get("pressure") or {}
    shares = [f"{pressure[what]:.1f}" if what in pressure else "-" for what in _PRESSURES]
    return (
        sample["name"],
        "-" if cpu is None else f"{cpu:.1f}%",
        "-" if memory is None else size(memory),
        "-" if limits["memory_max"] is None else size(limits["memory_max"]),
        "-" if pids is None else str(pids),
        _count(limits["pids_max"]),
        "/".join(shares) if pressure else "-",
        str(sample["restarts"]),
    )


def _count(limit: int | None) -> str:
    return "-" if limit in (None, -1) else str(limit)


def _redraw(samples: Iterable[list[Sample]]) -> None:
    """Show each table in place of the one before."""
    drawn = 0
    for sample in samples:
        lines = _fitting(_table(sample))
        up = f"\x1b[{drawn}A" if drawn else ""
        sys.stdout.write("\r" + up + "".join(f"{line}{_CLEAR_RIGHT}\n" for line in lines) + _CLEAR_BELOW)
        sys.stdout.flush()
        drawn = len(lines)


def _fitting(lines: list[str]) -> list[str]:
    """What fits on the terminal: a line that is broken, or scrolled away, could not be drawn over."""
    width, height = os.get_terminal_size(sys.stdout.fileno())
    room = max((height or 24) - 1, 2)  # 0 is unknown, ioctl_tty(2)
    if len(lines) > room:
        lines = [*lines[: room - 1], f"and {len(lines) - room + 1} more; name some, or see --no-stream"]
    return [line[: (width or 80) - 1] for line in lines]


@contextmanager
def _cursor_hidden() -> Iterator[None]:
    """Hide the cursor; it is shown again whatever ends this, except for SIGKILL."""

    def end(number: int, _frame: object) -> NoReturn:
        raise SystemExit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    sys.stdout.write(_HIDE_CURSOR)
    try:
        yield
    finally:
        sys.stdout.write(_SHOW_CURSOR)
        sys.stdout.flush()
