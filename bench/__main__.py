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
from bench.batch import batch
from bench.many import many
from bench.measure import median
from bench.oneshot import oneshot
from bench.peers import usable
from bench.rig import Rig, set_up

_T = TypeVar("_T")

#: Fewer runs of each than this are no measurement.
_ENOUGH = 20


def main() -> None:
    arguments = _arguments()
    if os.geteuid() != 0:
        raise SystemExit("the benchmark needs root: its peers do")
    machine = _machine()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pysuper-bench-") as scratch, set_up(Path(scratch)) as rig:
        os.environ |= {"PYSUPER_RUNTIME_DIR": f"{scratch}/run", "PYSUPER_STATE_DIR": f"{scratch}/state"}
        figures = _measured(rig, arguments)
    settings = {name: value for name, value in vars(arguments).items() if name != "out"}
    figures |= {
        "smoke": arguments.rounds < _ENOUGH,
        "settings": settings,
        "machine": machine | {"load_after": os.getloadavg()[0]},
    }
    (arguments.out / "bench.json").write_text(json.dumps(figures, indent=1) + "\n")
    print(f"wrote {arguments.out}/bench.json")
    print("\n".join(report.write(figures, arguments.out)))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="the directory to write to")
    parser.add_argument("--rounds", type=int, default=40, help="how often each system runs one command")
    parser.add_argument("--seconds", type=float, default=10, help="for one system and figure; slow ones get fewer runs")
    parser.add_argument("--batch", type=int, default=200, help="containers in a batch")
    parser.add_argument("--batches", type=int, default=3, help="batches of each system at each concurrency")
    parser.add_argument("--sizes", type=_numbers, default=[10, 100, 1000], help="how many containers sleep")
    parser.add_argument("--repeats", type=int, default=2, help="how often they are brought up")
    parser.add_argument("--only", nargs="*", default=[], help="of the peers, those with these words in their names")
    parser.add_argument("--stack-sizes", type=_numbers, default=[10, 100], help="how many containers a stack has")
    parser.add_argument("--restarts", type=int, default=20, help="kills under each supervisor; 0 leaves stacks out")
    return parser.parse_args()


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def _measured(rig: Rig, arguments: argparse.Namespace) -> dict[str, Any]:
    date = datetime.now(UTC).date().isoformat()
    systems, left_out = _told("which peers work here", lambda: usable(rig, arguments.only))
    described = {system.name: system.describe(rig) for system in systems}
    samples = _told("one command, once", lambda: oneshot(rig, systems, arguments.rounds, arguments.seconds))
    medians = {name: median(sample.total) for name, sample in samples.items()}
    batches, failed = _told(
        "batches",
        lambda: batch(rig, systems, medians, arguments.batch, arguments.batches, arguments.seconds),
    )
    left_out |= failed
    starts = max(2, arguments.rounds // 4)
    rows, failed = _told(
        "containers that sleep",
        lambda: many(rig, systems, medians, arguments.sizes, starts, arguments.repeats, arguments.seconds),
    )
    left_out |= failed
    stacks = None
    if arguments.restarts:
        flood = min(arguments.stack_sizes[-1], arguments.batch)
        stacks = _told(
            "stacks",
            lambda: stack.measure(rig.scratch, arguments.stack_sizes, arguments.restarts, flood, arguments.seconds),
        )
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
