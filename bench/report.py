#!/usr/bin/env python3
"""What a run has measured, as Markdown tables and SVG plots; also from its JSON file: `python -m bench.report FILE`."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import stack
from bench.measure import median, p99
from bench.targets import targets

__all__ = ["plots", "tables", "write"]

#: What the others are compared with; the last is for the time from exit to knowledge.
_FLOOR, _PLAIN = "C floor, full", "plain process"

Figures = Mapping[str, Any]


def write(figures: Figures, directory: Path) -> Iterator[str]:
    """Write report.md, and plots if matplotlib is there; a line for each thing that was done or not."""
    drawn = list(plots(figures, directory))
    if not drawn:
        yield "no plots, since matplotlib is not installed: pip install '.[bench]'"
    text = "\n".join([*tables(figures), *(f"\n![{name}]({name}.svg)" for name in drawn)]) + "\n"
    (directory / "report.md").write_text(text)
    yield f"wrote {', '.join(f'{directory}/{name}' for name in ('report.md', *(f'{name}.svg' for name in drawn)))}"


# --- tables ---


def tables(figures: Figures) -> Iterator[str]:
    """The lines of the report."""
    yield f"# Benchmark of {figures['date']}\n"
    yield from _preface(figures)
    yield "\n## What is compared\n"
    yield from _isolation(figures)
    yield "\n## One command, once\n"
    yield from _oneshot(figures["oneshot"])
    if figures["batch"]:
        yield "\n## Batches\n"
        yield from _batch(figures["batch"])
    if figures["many"]:
        yield "\n## Containers that sleep\n"
        yield from _many(figures["many"])
        yield "\n## One more, beside them\n"
        yield from _growth(figures["many"])
    if figures["stack"]:
        yield "\n## Stacks\n"
        yield from stack.table(figures["stack"])
    yield "\n## What is aimed at\n"
    yield (
        "At best is what would be found if pysuper took no time of its own: what the floor takes, for a batch with "
        "what trio takes for a plain process, or a program that imports attrs, or trio and stevedore, too, and ends.\n"
    )
    yield from _table(["", "wanted", "found", "at best"], targets(figures))
    if figures["left_out"]:
        yield "\n## Left out\n"
        for reason in dict.fromkeys(figures["left_out"].values()):
            names = [name for name, why in figures["left_out"].items() if why == reason]
            yield f"- {reason}: {'; '.join(names)}"


def _preface(figures: Figures) -> Iterator[str]:
    machine, settings = figures["machine"], figures["settings"]
    if figures["smoke"]:
        yield "**A smoke run: it shows that the benchmark works. There are too few samples to believe its figures.**\n"
    if machine["load_before"] > 0.3 * machine["cpus"]:
        yield (
            f"**The machine was busy: its load was {machine['load_before']:.1f} before anything was started. "
            "Do not believe the figures.**\n"
        )
    yield (
        f"pysuper {figures['commit']}, Linux {machine['kernel']}, {machine['cpus']} CPUs ({machine['model']}), "
        f"{machine['distribution']}, Python {machine['python']}. Up to {settings['rounds']} runs of each, interleaved; "
        "only ratios mean something."
    )


def _isolation(figures: Figures) -> Iterator[str]:
    yield from _table(
        ["", "version", "a command finds", "and"],
        (
            [name, system["version"] or "", system["found"], system["isolation"]]
            for name, system in figures["systems"].items()
        ),
    )
    yield "\nThe Python API starts what `pysuper run` starts, from a supervisor that runs already."


def _oneshot(samples: Figures) -> Iterator[str]:
    yield (
        "Milliseconds: the whole time of /bin/true from the start of the program; from there to the first instruction "
        "of a command; and from the command's last instruction until the caller knows that all is over. For the API, "
        f"and the floor, also until the exit is known, before the clean-up. Ratios are to {_FLOOR}, and to {_PLAIN}. "
        "Two programs run no command: they import something, and end.\n"
    )
    header = ["", "runs", "total", "p99", "ratio", "first", "p99", "ratio", "notice", "p99", "ratio", "exit known"]
    yield from _table(header, (_oneshot_row(name, sample, samples) for name, sample in samples.items()))


def _oneshot_row(name: str, sample: Figures, samples: Figures) -> list[str]:
    row = [name, str(len(sample["total"]))]
    for figure, base in (("total", _FLOOR), ("first", _FLOOR), ("notice", _PLAIN)):
        values = sample[figure]
        if not values:
            row += ["", "", ""]
            continue
        ratio = median(values) / median(samples[base][figure]) if base in samples else None
        row += [_ms(median(values)), _ms(p99(values)), _ratio(ratio)]
    return [*row, _ms(median(sample["exit"])) if sample["exit"] else ""]


def _batch(batches: Sequence[Figures]) -> Iterator[str]:
    concurrencies = sorted({batch["jobs"] for batch in batches})
    yield (
        "Containers a second that run /bin/true, by how many run at once, median of the batches; ratios are to "
        f"{_FLOOR} at the same concurrency. CPU is that of all processes of a container and its share in who "
        "started it, in milliseconds, but not what the kernel does in threads of its own. The pool is made for each "
        "batch, and closed, in its time. Plain processes are started by the floor, and by trio as it does by itself.\n"
    )
    header = [""]
    for jobs in concurrencies:
        header += [f"{jobs} at once", "ratio", "CPU"]
    found = {(batch["system"], batch["jobs"]): batch for batch in batches}
    rows = []
    for name in dict.fromkeys(batch["system"] for batch in batches):
        row = [name]
        for jobs in concurrencies:
            batch, floor = found.get((name, jobs)), found.get((_FLOOR, jobs))
            if batch is None:
                row += ["", "", ""]
                continue
            ratio = median(batch["rates"]) / median(floor["rates"]) if floor else None
            row += [f"{median(batch['rates']):.1f}", _ratio(ratio), _ms(median(batch["cpu"]))]
        rows.append(row)
    yield from _table(header, rows)


def _many(rows: Sequence[Figures]) -> Iterator[str]:
    yield (
        "Seconds until all commands run, and from the end of the commands until all is cleaned up. MB of each "
        "container: the share (PSS) of everything but the commands, less what a supervisor has without containers.\n"
    )
    yield from _table(
        ["", "containers", "up", "down", "MB each", "MB in all"],
        (
            [
                row["system"],
                str(row["size"]),
                f"{median(row['up']):.3f}",
                f"{median(row['down']):.3f}",
                f"{median(row['memory']):.3f}",
                f"{median(row['whole']):.1f}",
            ]
            for row in sorted(rows, key=lambda row: row["size"])
        ),
    )


def _growth(rows: Sequence[Figures]) -> Iterator[str]:
    sizes = sorted({row["size"] for row in rows})
    yield (
        "Milliseconds that one more container takes which runs /bin/true, median, by how many of the same kind sleep; "
        "the ratio is that of the most to the fewest.\n"
    )
    found = {(row["system"], row["size"]): median(row["starts"]) for row in rows if row["starts"]}
    table = []
    for name in dict.fromkeys(row["system"] for row in rows):
        values = [found.get((name, size)) for size in sizes]
        grown = values[-1] / values[0] if values[0] and values[-1] and len(sizes) > 1 else None
        table.append([name, *(_ms(value) for value in values), _ratio(grown)])
    yield from _table(["", *(str(size) for size in sizes), "ratio"], table)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    for row in (header, ["---"] * len(header), *rows):
        yield f"| {' | '.join(row)} |"


def _ms(seconds: float | None) -> str:
    return "" if seconds is None else f"{1000 * seconds:.2f}"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


# --- plots ---


def plots(figures: Figures, directory: Path) -> Iterator[str]:
    """Draw them; their names, none without matplotlib."""
    try:
        import matplotlib as mpl
    except ImportError:
        return
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "pysuper"  # the same figures make the same file
    title = f"{'smoke run, ' if figures['smoke'] else ''}{figures['date']}"
    for name, (draw, figure) in _PLOTS.items():
        if not figures[figure]:
            continue
        _plot(draw, figures, f"{name} ({title})", directory / f"{name}.svg")
        yield name


def _plot(draw: Callable[[Any, Figures], None], figures: Figures, title: str, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    draw(axes, figures)
    axes.set_title(title)
    figure.savefig(path, metadata={"Date": None})


def _plot_oneshot(axes: Any, figures: Figures) -> None:
    samples = {name: sample for name, sample in figures["oneshot"].items() if sample["first"]}
    names = sorted(samples, key=lambda name: -median(samples[name]["total"]))
    for offset, figure, label in ((0.2, "total", "in all"), (-0.2, "first", "to the first instruction")):
        values = [1000 * median(samples[name][figure]) for name in names]
        axes.barh([place + offset for place in range(len(names))], values, 0.4, label=label)
    axes.set_yticks(range(len(names)), names)
    _logarithmic(axes)
    axes.set_xlabel("one command, median, milliseconds (logarithmic)")
    axes.legend()


def _plot_batch(axes: Any, figures: Figures) -> None:
    batches = figures["batch"]
    concurrencies = sorted({batch["jobs"] for batch in batches})
    rates = {(batch["system"], batch["jobs"]): median(batch["rates"]) for batch in batches}
    names = sorted({name for name, _ in rates}, key=lambda name: max(rates.get((name, j), 0) for j in concurrencies))
    height = 0.8 / len(concurrencies)
    for index, jobs in enumerate(concurrencies):
        values = [rates.get((name, jobs), 0) for name in names]
        places = [place + (1 - index) * height for place in range(len(names))]
        axes.barh(places, values, height, label=f"{jobs} at once")
    axes.set_yticks(range(len(names)), names)
    _logarithmic(axes)
    axes.set_xlabel("containers a second, median (logarithmic)")
    axes.legend()


def _plot_memory(axes: Any, figures: Figures) -> None:
    rows = figures["many"]
    largest = {row["system"]: row for row in sorted(rows, key=lambda row: row["size"])}
    names = sorted(largest, key=lambda name: -median(largest[name]["memory"]))
    axes.barh(names, [median(largest[name]["memory"]) for name in names])
    axes.set_yticks(range(len(names)), [f"{name}, {largest[name]['size']} sleeping" for name in names])
    _logarithmic(axes)
    axes.set_xlabel("memory of each container without its command, MB (logarithmic)")


def _plot_growth(axes: Any, figures: Figures) -> None:
    rows = [row for row in figures["many"] if row["starts"]]
    for name in dict.fromkeys(row["system"] for row in rows):
        points = sorted((row["size"], 1000 * median(row["starts"])) for row in rows if row["system"] == name)
        axes.plot(*zip(*points, strict=True), marker="o", label=name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("containers that sleep (logarithmic)")
    axes.set_ylabel("one more, median, milliseconds (logarithmic)")
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))


def _logarithmic(axes: Any) -> None:
    """Bars that begin at a power of ten."""
    from matplotlib.ticker import NullFormatter

    axes.set_xscale("log")
    axes.set_xlim(left=10 ** math.floor(math.log10(axes.dataLim.minposx)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


#: By the name of the file: how it is drawn, and of which figures.
_PLOTS: Mapping[str, tuple[Callable[[Any, Figures], None], str]] = {
    "oneshot": (_plot_oneshot, "oneshot"),
    "batch": (_plot_batch, "batch"),
    "memory": (_plot_memory, "many"),
    "growth": (_plot_growth, "many"),
}

if __name__ == "__main__":
    source = Path(sys.argv[1])
    print("\n".join(write(json.loads(source.read_text()), source.parent)))
