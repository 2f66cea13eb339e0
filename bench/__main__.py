"""
Measures pysuper beside its peers, and writes what it found to a directory: bench.json, report.md, and plots.

Needs root and gcc. `make bench` also installs the peers, see README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import attrs

from bench import report, stack
from bench.batch import Batch, batch
from bench.many import Many, fits, many
from bench.measure import median
from bench.oneshot import API, oneshot
from bench.peers import usable
from bench.rig import Rig, set_up

_T = TypeVar("_T")

#: Fewer runs of each than this are no measurement.
_ENOUGH = 20
_FIGURES = ("batch", "many", "stack")


def main() -> None:
    arguments = _arguments()
    if os.geteuid() != 0:
        raise SystemExit("the benchmark needs root: its peers do")
    machine = _machine()
    # Where it is set, every start would compile pysuper and all that it imports, which no installed program does.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pysuper-bench-") as scratch, set_up(Path(scratch)) as rig:
        os.environ |= {"PYSUPER_RUNTIME_DIR": f"{scratch}/run", "PYSUPER_STATE_DIR": f"{scratch}/state"}
        figures = _measured(rig, arguments)
    figures |= {
        "smoke": arguments.rounds < _ENOUGH,
        "settings": {name: value for name, value in vars(arguments).items() if name != "out"},
        "machine": machine | {"load_after": os.getloadavg()[0]},
    }
    (arguments.out / "bench.json").write_text(json.dumps(figures, indent=1) + "\n")
    print(f"wrote {arguments.out}/bench.json")
    print("\n".join(report.write(figures, arguments.out)))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="the directory to write to")
    parser.add_argument("--rounds", type=int, default=40, help="how often each system runs one command, and the like")
    parser.add_argument("--seconds", type=float, default=10, help="for one system and figure; slow ones get fewer runs")
    parser.add_argument("--batch", type=int, default=200, help="containers in a batch")
    parser.add_argument("--sizes", type=_numbers, default=[10, 100, 1000], help="how many containers sleep")
    parser.add_argument("--only", nargs="*", default=[], help="of the systems, those with these words in their names")
    parser.add_argument("--without", nargs="*", default=[], choices=_FIGURES, help="figures that are not wanted")
    return parser.parse_args()


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _measured(rig: Rig, arguments: argparse.Namespace) -> dict[str, Any]:
    date = datetime.now(UTC).date().isoformat()
    rounds, seconds = arguments.rounds, arguments.seconds
    systems, left_out = _told("which systems work here", lambda: usable(rig, arguments.only))
    described = {system.name: system.describe(rig) for system in systems}
    samples, failed = _told("one command, once", lambda: oneshot(rig, systems, rounds, seconds))
    left_out |= failed
    systems = [system for system in systems if system.name in samples]
    # What the others take tells how many of them there is time for.
    medians = {name: median(sample.total) for name, sample in samples.items()}
    repeats, batch_repeats = (3, 5) if rounds >= _ENOUGH else (1, 1)
    batches: list[Batch] = []
    if "batch" not in arguments.without:
        batches, failed = _told(
            "batches", lambda: batch(rig, systems, medians, arguments.batch, batch_repeats, seconds)
        )
        left_out |= failed
    rows: list[Many] = []
    if "many" not in arguments.without:
        starts = max(2, rounds // 4)
        rows, failed = _told(
            "containers that sleep",
            lambda: many(rig, systems, medians, arguments.sizes, starts, repeats, seconds),
        )
        left_out |= failed
    stacks = None
    if "stack" not in arguments.without:
        sizes = [size for size in arguments.sizes if fits(API[True], medians, size, seconds)]
        stacks = _told("stacks", lambda: stack.measure(rig, sizes, min(rounds, 20), min(100, max(sizes)), 2 * seconds))
    return {
        "date": date,
        "commit": _commit(),
        "systems": described,
        "left_out": left_out,
        "oneshot": {name: attrs.asdict(sample) for name, sample in samples.items()},
        "batch": [attrs.asdict(each) for each in batches],
        "many": [attrs.asdict(each) for each in rows],
        "stack": stacks,
    }


def _told(what: str, measure: Callable[[], _T]) -> _T:
    print(f"measuring: {what}", file=sys.stderr, flush=True)
    return measure()


def _machine() -> dict[str, Any]:
    cpus = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in cpus if line.startswith("model name")), "unknown model")
    return {
        "kernel": platform.release(),
        "cpus": os.cpu_count(),
        "model": model,
        "distribution": platform.freedesktop_os_release()["PRETTY_NAME"],
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
    }


def _commit() -> str:
    """Of what is measured; with a plus if files differ from it."""
    return _git("rev-parse", "--short", "HEAD") + ("+" if _git("status", "--porcelain") else "")


def _git(*arguments: str) -> str:
    here = Path(__file__).parent
    done = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=False)
    return done.stdout.strip()


if __name__ == "__main__":
    main()
