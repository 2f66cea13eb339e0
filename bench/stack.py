"""
The figures of `pysuper up`: many containers up and down, memory, answers under load, and death to restart.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from bench.measure import descendants, median, p99, pss
from bench.rig import PYSUPER, Rig

__all__ = ["FLOOR", "measure", "table"]

#: How the floor is called among the supervisors: it knows of one container and one spare.
FLOOR = "C floor, full, a spare"


def measure(rig: Rig, sizes: list[int], rounds: int, flooding: int, seconds: float) -> dict[str, Any]:
    """
    All figures.

    Args:
        sizes: How many containers, one run each.
        rounds: Kills of each supervisor; 0 is none.
        flooding: Containers that write as fast as they can, for so many `seconds`; 0 is none.
    """
    return {
        "many": [many(rig.scratch, size) for size in sizes],
        "flood": flood(rig.scratch, flooding, seconds) if flooding else None,
        "restart": restarts(rig, rounds) if rounds else None,
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
        whole = pss(descendants(pid))
        began = time.monotonic()
        subprocess.run([PYSUPER, "down", "--file", str(path)], check=True, stdout=subprocess.DEVNULL)
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
        [PYSUPER, "up", "--wait", str(path)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        listed = subprocess.run(
            [PYSUPER, "events", "--file", str(path), "--json"], check=True, capture_output=True, text=True
        )
        records = map(json.loads, listed.stdout.splitlines())
        yield [record["pid"] for record in records if record["kind"] == "up"][-1]
    finally:
        subprocess.run([PYSUPER, "down", "--file", str(path)], check=False, capture_output=True)


def memory(pid: int) -> float:
    """Private and shared memory of one process, resident, in MB."""
    found = re.search(r"^Rss: +(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) / 1024


# --- answers under load ---


def flood(scratch: Path, size: int, seconds: float) -> dict[str, float]:
    """Ask `ps` while containers write as fast as they can."""
    path = scratch / "flood.toml"
    path.write_text(f'[container.yes]\ncommand = ["yes", "a line of a log, of a usual length"]\nreplicas = {size}\n')
    with up(path) as pid:
        before = memory(pid)
        answers = []
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            began = time.monotonic()
            subprocess.run([PYSUPER, "ps", "--file", str(path)], check=True, capture_output=True)
            answers.append(time.monotonic() - began)
            time.sleep(0.2)
        after = memory(pid)
    return {
        "containers": size,
        "asked": len(answers),
        "ps_median": median(answers),
        "ps_max": max(answers),
        "seconds": seconds,
        "memory_before": before,
        "memory_after": after,
    }


# --- death to restart ---


def restarts(rig: Rig, rounds: int) -> dict[str, dict[str, float]]:
    """Kill one process under each supervisor in turn; seconds until its successor runs, which is the same shell."""
    with ExitStack() as stack:
        kills = {
            "pysuper, a container": stack.enter_context(pysuper_service(rig, warm=0)),
            "pysuper, a warm spare": stack.enter_context(pysuper_service(rig, warm=1)),
            FLOOR: stack.enter_context(floor_service(rig, rounds)),
            "supervisord, a plain process": stack.enter_context(supervisord_service(rig)),
        }
        if runsv := shutil.which("runsv"):
            kills["runit, a plain process"] = stack.enter_context(runit_service(runsv, rig))
        times: dict[str, list[float]] = {name: [] for name in kills}
        for _ in range(rounds):
            time.sleep(1.1)  # runit waits before it restarts what has not lived for a second
            for name, kill in kills.items():
                times[name].append(kill())
                time.sleep(0.2)
    return {name: {"median": median(taken), "p99": p99(taken)} for name, taken in times.items()}


def announcing(fifo: Path) -> str:
    """For a shell: say in a fifo that it runs, and sleep."""
    return f"echo up > {fifo}; exec sleep 100000"


@contextmanager
def fifo_at(path: Path) -> Iterator[int]:
    """A fifo that all may write to, and its descriptor."""
    os.mkfifo(path)
    path.chmod(0o666)
    fifo = os.open(path, os.O_RDWR)
    try:
        yield fifo
    finally:
        os.close(fifo)


def timed_kill(pid: int, fifo: int) -> float:
    began = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    os.read(fifo, 64)
    return time.monotonic() - began


def first_child(pid: int) -> int:
    """The oldest child of a process."""
    return descendants(pid)[1]


@contextmanager
def pysuper_service(rig: Rig, warm: int) -> Iterator[Callable[[], float]]:
    shared = rig.scratch / f"shared{warm}"
    shared.mkdir()
    path = rig.scratch / f"restart{warm}.toml"
    path.write_text(
        "[container.box]\n"
        f'rootfs = "dir:{rig.root}"\ncommand = ["sh", "-c", "{announcing(Path("/mnt/fifo"))}"]\n'
        f'volumes = ["{shared}:/mnt"]\ninit = false\nwarm = {warm}\n'
        'restart = { policy = "always", delay = 0, max_restarts = "unlimited" }\n'
    )
    with fifo_at(shared / "fifo") as fifo, up(path):
        os.read(fifo, 64)

        def kill() -> float:
            listed = subprocess.run([PYSUPER, "ps", "--file", str(path), "--json"], check=True, capture_output=True)
            return timed_kill(json.loads(listed.stdout)[0]["pid"], fifo)

        yield kill


@contextmanager
def floor_service(rig: Rig, rounds: int) -> Iterator[Callable[[], float]]:
    """What the kernel takes, so many times: between a death and the next run nothing is counted, decided or removed."""
    options = ["--spare", "--count", str(rounds + 1)]
    with fifo_at(rig.root / "tmp/floor") as fifo:
        announce = ["/bin/sh", "-c", announcing(Path("/tmp/floor"))]
        process = subprocess.Popen([*rig.floor_options["full"], *options, "--", *announce])
        try:
            os.read(fifo, 64)
            yield lambda: timed_kill(first_child(process.pid), fifo)
        finally:
            while process.poll() is None:  # which ends with the last one, cleaned up
                for pid in descendants(process.pid)[1:]:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                time.sleep(0.02)


@contextmanager
def supervisord_service(rig: Rig) -> Iterator[Callable[[], float]]:
    program = shutil.which("supervisord") or installed_supervisord(rig.scratch / "supervisord")
    settings = rig.scratch / "supervisord.conf"
    path = rig.scratch / "supervisord.fifo"
    settings.write_text(
        f"[supervisord]\nnodaemon=true\nlogfile={rig.scratch}/supervisord.log\npidfile={rig.scratch}/supervisord.pid\n"
        f'[program:box]\ncommand={rig.root}/bin/sh -c "{announcing(path)}"\nautorestart=true\nstartsecs=0\n'
    )
    with fifo_at(path) as fifo:
        process = subprocess.Popen([program, "-c", settings], stdout=subprocess.DEVNULL)
        try:
            os.read(fifo, 64)
            yield lambda: timed_kill(first_child(process.pid), fifo)
        finally:
            process.terminate()
            process.wait()


def installed_supervisord(venv: Path) -> str:
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    subprocess.run([venv / "bin/pip", "install", "-qqq", "supervisor", "setuptools<81"], check=True)
    return str(venv / "bin/supervisord")


@contextmanager
def runit_service(runsv: str, rig: Rig) -> Iterator[Callable[[], float]]:
    service = rig.scratch / "runit"
    service.mkdir()
    path = rig.scratch / "runit.fifo"
    (service / "run").write_text(f"#!{rig.root}/bin/sh\n{announcing(path)}\n")
    (service / "run").chmod(0o755)
    with fifo_at(path) as fifo:
        process = subprocess.Popen([runsv, service])
        try:
            os.read(fifo, 64)
            yield lambda: timed_kill(first_child(process.pid), fifo)
        finally:
            process.terminate()  # which it passes on
            process.wait()
