#!/usr/bin/env python3
"""
The figures of `pysuper up`: many containers up and down, memory, answers under load, and death to restart.

    .venv/bin/python bench/stack.py [--sizes 10,100,1000] [--rounds 20] [--json FILE]

Needs root. What is compared runs interleaved, and only ratios mean something: machines differ, and this one is noisy.
Without Debian's supervisord one is installed into a directory that is removed afterwards; without runit it is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

PYSUPER = [str(Path(sys.executable).parent / "pysuper")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="10,100,1000", help="how many containers, one run each")
    parser.add_argument("--rounds", type=int, default=20, help="kills of each supervisor")
    parser.add_argument("--flood", type=int, default=100, help="containers that write as fast as they can; 0 is none")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pysuper-bench-") as scratch:
        os.environ |= {"PYSUPER_RUNTIME_DIR": f"{scratch}/run", "PYSUPER_STATE_DIR": f"{scratch}/state"}
        sizes = [int(size) for size in arguments.sizes.split(",")]
        figures = measure(Path(scratch), sizes, arguments.rounds, arguments.flood)
    print("\n".join(table(figures)))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


def measure(scratch: Path, sizes: list[int], rounds: int, flooding: int, seconds: float = 20.0) -> dict[str, Any]:
    """
    All figures.

    Args:
        sizes: How many containers, one run each.
        rounds: Kills of each supervisor; 0 is none.
        flooding: Containers that write as fast as they can, for so many `seconds`; 0 is none.
    """
    return {
        "many": [many(scratch, size) for size in sizes],
        "flood": flood(scratch, flooding, seconds) if flooding else None,
        "restart": restarts(scratch, rounds) if rounds else None,
    }


def table(figures: dict[str, Any]) -> Iterator[str]:
    """What was measured, as Markdown."""
    yield "| containers | up, s | ms each | down, s | supervisor, MB | MB each | with inits, PSS MB each |"
    yield "|---|---|---|---|---|---|---|"
    for row in figures["many"]:
        n = row["containers"]
        yield (
            f"| {n} | {row['up']:.2f} | {1000 * row['up'] / n:.1f} | {row['down']:.2f} | {row['memory']:.1f} "
            f"| {row['memory_each']:.3f} | {row['pss_each']:.3f} |"
        )
    if figures["flood"]:
        row = figures["flood"]
        yield (
            f"\n{row['containers']} containers flooding their logs: `pysuper ps` answers in {row['ps_median']:.2f} s "
            f"(median), {row['ps_max']:.2f} s at most of {row['asked']}; the supervisor has "
            f"{row['memory_before']:.0f} MB before and {row['memory_after']:.0f} MB after {row['seconds']:.0f} s."
        )
    if figures["restart"]:
        yield "\n| from kill -9 to the restarted command, ms | median | p99 |\n|---|---|---|"
        for name, row in figures["restart"].items():
            yield f"| {name} | {1000 * row['median']:.1f} | {1000 * row['p99']:.1f} |"


# --- many containers ---


def many(scratch: Path, size: int) -> dict[str, float]:
    """Bring `size` sleeping containers up, weigh them, and take them down."""
    path = scratch / f"many{size}.toml"
    path.write_text(f'[container.box]\ncommand = "sleep 100000"\nreplicas = {size}\nstop_signal = "KILL"\n')
    empty = scratch / "one.toml"
    empty.write_text('[container.box]\ncommand = "sleep 100000"\nstop_signal = "KILL"\n')
    with up(empty) as alone:
        baseline = memory(alone)
    began = time.monotonic()
    with up(path) as pid:
        taken = time.monotonic() - began
        used = memory(pid)
        whole = sum(pss(process) for process in descendants(pid))
        began = time.monotonic()
        subprocess.run([*PYSUPER, "down", "--file", str(path)], check=True, stdout=subprocess.DEVNULL)
        down = time.monotonic() - began
    return {
        "containers": size,
        "up": taken,
        "down": down,
        "memory": used,
        "memory_each": (used - baseline) / size,
        "pss_each": whole / size,
    }


@contextmanager
def up(path: Path) -> Iterator[int]:
    """A stack that runs in the background, everything started; the supervisor's pid."""
    subprocess.run(
        [*PYSUPER, "up", "--wait", str(path)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        listed = subprocess.run(
            [*PYSUPER, "events", "--file", str(path), "--json"], check=True, capture_output=True, text=True
        )
        records = map(json.loads, listed.stdout.splitlines())
        yield [record["pid"] for record in records if record["kind"] == "up"][-1]
    finally:
        subprocess.run([*PYSUPER, "down", "--file", str(path)], check=False, capture_output=True)


def memory(pid: int) -> float:
    """Private and shared memory of one process, resident, in MB."""
    return _field(f"/proc/{pid}/smaps_rollup", "Rss:") / 1024


def pss(pid: int) -> float:
    """The share of one process in what is resident, in MB."""
    try:
        return _field(f"/proc/{pid}/smaps_rollup", "Pss:") / 1024
    except OSError:
        return 0.0


def _field(path: str, name: str) -> int:
    for line in Path(path).read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    raise ValueError(f"{path} has no {name}")


def descendants(pid: int) -> list[int]:
    """A process and its children, and theirs."""
    found = [pid]
    for parent in found:
        try:
            found += [int(child) for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
        except OSError:
            continue
    return found


# --- answers under load ---


def flood(scratch: Path, size: int, seconds: float = 20.0) -> dict[str, float]:
    """Ask `ps` while containers write as fast as they can."""
    path = scratch / "flood.toml"
    path.write_text(f'[container.yes]\ncommand = ["yes", "a line of a log, of a usual length"]\nreplicas = {size}\n')
    with up(path) as pid:
        before = memory(pid)
        answers = []
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            began = time.monotonic()
            subprocess.run([*PYSUPER, "ps", "--file", str(path)], check=True, capture_output=True)
            answers.append(time.monotonic() - began)
            time.sleep(0.2)
        after = memory(pid)
    return {
        "containers": size,
        "asked": len(answers),
        "ps_median": statistics.median(answers),
        "ps_max": max(answers),
        "seconds": seconds,
        "memory_before": before,
        "memory_after": after,
    }


# --- death to restart ---


def restarts(scratch: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Kill one process under each supervisor in turn; seconds until its successor runs."""
    with ExitStack() as stack:
        kills = {
            "pysuper, a container": stack.enter_context(pysuper_service(scratch, warm=0)),
            "pysuper, a warm spare": stack.enter_context(pysuper_service(scratch, warm=1)),
            "supervisord, a plain process": stack.enter_context(supervisord_service(scratch)),
        }
        if runsv := shutil.which("runsv"):
            kills["runit, a plain process"] = stack.enter_context(runit_service(runsv, scratch))
        times: dict[str, list[float]] = {name: [] for name in kills}
        for _ in range(rounds):
            time.sleep(1.1)  # runit waits before it restarts what has not lived for a second
            for name, kill in kills.items():
                times[name].append(kill())
                time.sleep(0.2)
    return {name: {"median": statistics.median(taken), "p99": p99(taken)} for name, taken in times.items()}


def p99(values: list[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * 0.99))]


def announcing(fifo: Path) -> str:
    """A command that says in a fifo that it runs, and sleeps."""
    return f"echo up > {fifo}; exec sleep 100000"


def timed_kill(pid: int, fifo: int) -> float:
    began = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    os.read(fifo, 64)
    return time.monotonic() - began


@contextmanager
def pysuper_service(scratch: Path, warm: int) -> Iterator[Callable[[], float]]:
    shared = scratch / f"shared{warm}"
    shared.mkdir()
    os.mkfifo(shared / "fifo")
    os.chmod(shared / "fifo", 0o666)
    fifo = os.open(shared / "fifo", os.O_RDWR)
    path = scratch / f"restart{warm}.toml"
    path.write_text(
        "[container.box]\n"
        f'command = ["sh", "-c", "{announcing(Path("/mnt/fifo"))}"]\n'
        f'volumes = ["{shared}:/mnt"]\ninit = false\nwarm = {warm}\n'
        'restart = { policy = "always", delay = 0, max_restarts = "unlimited" }\n'
    )
    with up(path):
        os.read(fifo, 64)

        def kill() -> float:
            listed = subprocess.run([*PYSUPER, "ps", "--file", str(path), "--json"], check=True, capture_output=True)
            return timed_kill(json.loads(listed.stdout)[0]["pid"], fifo)

        yield kill
    os.close(fifo)


@contextmanager
def supervisord_service(scratch: Path) -> Iterator[Callable[[], float]]:
    program = shutil.which("supervisord") or installed_supervisord(scratch / "supervisord")
    os.mkfifo(scratch / "fifo")
    fifo = os.open(scratch / "fifo", os.O_RDWR)
    settings = scratch / "supervisord.conf"
    settings.write_text(
        f"[supervisord]\nnodaemon=true\nlogfile={scratch}/supervisord.log\npidfile={scratch}/supervisord.pid\n"
        f'[program:box]\ncommand=sh -c "{announcing(scratch / "fifo")}"\nautorestart=true\nstartsecs=0\n'
    )
    process = subprocess.Popen([program, "-c", settings], stdout=subprocess.DEVNULL)
    try:
        os.read(fifo, 64)
        yield lambda: timed_kill(descendants(process.pid)[1], fifo)
    finally:
        process.terminate()
        process.wait()
        os.close(fifo)


def installed_supervisord(venv: Path) -> str:
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    subprocess.run([venv / "bin/pip", "install", "-qqq", "supervisor", "setuptools<81"], check=True)
    return str(venv / "bin/supervisord")


@contextmanager
def runit_service(runsv: str, scratch: Path) -> Iterator[Callable[[], float]]:
    service = scratch / "runit"
    service.mkdir()
    os.mkfifo(scratch / "runit.fifo")
    fifo = os.open(scratch / "runit.fifo", os.O_RDWR)
    (service / "run").write_text(f"#!/bin/sh\n{announcing(scratch / 'runit.fifo')}\n")
    (service / "run").chmod(0o755)
    process = subprocess.Popen([runsv, service])
    try:
        os.read(fifo, 64)
        yield lambda: timed_kill(descendants(process.pid)[1], fifo)
    finally:
        process.terminate()  # which it passes on
        process.wait()
        os.close(fifo)


if __name__ == "__main__":
    main()
