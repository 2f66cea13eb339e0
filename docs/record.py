#!/usr/bin/env python3
"""
Records the terminal session of the documentation, and draws it as an animated SVG.

    make examples/debian.tar.gz
    .venv/bin/python docs/record.py docs/stack.svg

Nothing in the picture is drawn by hand: a shell on a pseudo-terminal runs the commands below, a terminal emulator
(pyte) keeps the screen, and each change of the screen is a frame.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from html import escape
from pathlib import Path

import attrs
import pexpect
import pyte

ROOT = Path(__file__).resolve().parents[1]
ROWS, COLUMNS = 34, 110

#: What is typed, and the seconds until the next; "^C" is Ctrl-C.
SESSION = [
    ("pysuper up examples/multi.toml", 11.0),
    ("^C", 3.5),
    ("clear; pysuper up --detach --wait examples/multi.toml", 10.0),
    ("pysuper ps", 2.5),
    ("clear; pysuper stats", 5.0),
    ("^C", 0.5),
    ("clear; pysuper why flaky | tail -n 30", 4.0),
    ("clear; pysuper down", 4.0),
]
#: Frames are no closer than this, in seconds.
_RESOLUTION = 0.25
_CELL_WIDTH, _CELL_HEIGHT = 8.4, 18
_COLOURS = {
    "default": "#d8d8d8",
    "black": "#444444",
    "red": "#f2777a",
    "green": "#99cc99",
    "brown": "#ffcc66",
    "yellow": "#ffcc66",
    "blue": "#6699cc",
    "magenta": "#cc99cc",
    "cyan": "#66cccc",
    "white": "#ffffff",
}


@attrs.frozen
class Frame:
    """The screen from `at` seconds on: rows of `(text, colour, bold)` runs."""

    at: float
    rows: tuple[tuple[tuple[str, str, bool], ...], ...]


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    Path(sys.argv[1]).write_text("\n".join(draw(list(record()))) + "\n")


def record() -> Iterator[Frame]:
    """Run the session, and yield the screen whenever it has changed."""
    screen = pyte.Screen(COLUMNS, ROWS)
    stream = pyte.ByteStream(screen)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PS1": "# ", "TERM": "xterm-256color", "LANG": "C.UTF-8"}
    # At /mnt in a mount namespace of its own, so that no path of whoever records it is in the picture.
    script = "mount --bind . /mnt && cd /mnt && exec bash --norc --noprofile"
    shell = pexpect.spawn(
        "unshare",
        ["--mount", "bash", "-c", script],
        cwd=str(ROOT),
        env=environment,
        dimensions=(ROWS, COLUMNS),
        timeout=None,
    )
    began = time.monotonic()
    shown: tuple = ()

    def watch(seconds: float) -> Iterator[Frame]:
        nonlocal shown
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            pause = time.monotonic() + min(left, _RESOLUTION)
            while (rest := pause - time.monotonic()) > 0:
                try:
                    stream.feed(shell.read_nonblocking(65536, timeout=rest))
                except pexpect.TIMEOUT:
                    break
            if (rows := _rows(screen)) != shown:
                shown = rows
                yield Frame(time.monotonic() - began, rows)

    yield from watch(0.5)
    for typed, seconds in SESSION:
        if typed == "^C":
            shell.sendintr()
        else:
            shell.sendline(typed)
        yield from watch(seconds)
    shell.sendline("exit")
    shell.wait()


def _rows(screen: pyte.Screen) -> tuple[tuple[tuple[str, str, bool], ...], ...]:
    """The cells of every row, joined where they look the same."""
    rows = []
    for y in range(screen.lines):
        runs: list[tuple[str, str, bool]] = []
        for x in range(screen.columns):
            cell = screen.buffer[y][x]
            if runs and runs[-1][1:] == (cell.fg, cell.bold):
                runs[-1] = (runs[-1][0] + cell.data, cell.fg, cell.bold)
            else:
                runs.append((cell.data, cell.fg, cell.bold))
        text, colour, bold = runs[-1]
        runs[-1] = (text.rstrip(), colour, bold)
        rows.append(tuple(run for run in runs if run[0]))
    return tuple(rows)


def draw(frames: list[Frame]) -> Iterator[str]:
    """One SVG, in which every frame is visible for its time, over and over."""
    length = frames[-1].at + 4.0
    width, height = COLUMNS * _CELL_WIDTH + 24, ROWS * _CELL_HEIGHT + 24
    yield f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" font-size="14"'
    yield ' font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, monospace" xml:space="preserve">'
    yield '<rect width="100%" height="100%" rx="8" fill="#1d1f21"/>'
    ends = [frame.at for frame in frames[1:]] + [length]
    for frame, end in zip(frames, ends, strict=True):
        times = f"0;{frame.at / length:.4f};{min(end / length, 1):.4f}"
        yield '<g visibility="hidden">'
        yield (
            f'<animate attributeName="visibility" calcMode="discrete" dur="{length:.1f}s" repeatCount="indefinite"'
            f' keyTimes="{times}" values="hidden;visible;hidden"/>'
        )
        for number, runs in enumerate(frame.rows):
            if runs:
                yield f'<text x="12" y="{12 + (number + 1) * _CELL_HEIGHT - 4}">{"".join(map(_span, runs))}</text>'
        yield "</g>"
    yield "</svg>"


def _span(run: tuple[str, str, bool]) -> str:
    text, colour, bold = run
    fill = _COLOURS.get(colour, f"#{colour}" if len(colour) == 6 else _COLOURS["default"])
    return f'<tspan fill="{fill}"{" font-weight=" + chr(34) + "bold" + chr(34) if bold else ""}>{escape(text)}</tspan>'


if __name__ == "__main__":
    main()
