#!/usr/bin/env python3
"""
What the default protections cost at the start of a container, and that mapping the ids of an image costs nothing.

    .venv/bin/python bench/defaults.py [--rounds 200] [--files 20000] [--json FILE]

Needs root, and /bin/busybox (static) for the image. All containers are started in one process, one of each kind in
every round, in an order that changes with each; compared are medians, and only ratios mean something. The time is that
until the command is being executed. The CPU time is that of the supervisor, the launcher and the container from its
start to its end; it says what a start costs even while something else keeps the machine busy.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import trio

import pysuper
from pysuper.privileges import grant
from pysuper.supervisor import Supervisor

#: Starts that are not counted: caches fill, drivers are loaded.
_WARM_UP = 5
#: What the defaults may cost, as a factor.
LIMIT = 1.5

DEFAULT = pysuper.ContainerSpec(name="bench", command=("true",))
#: Each protection that can be left out, alone. What is left has the same namespaces, root, mounts, cgroup and init.
WITHOUT: Mapping[str, Mapping[str, Any]] = {
    "user namespace, id-mapped root": {"userns": "host"},
    "bounded capabilities": {"cap_add": ["ALL"]},
    "seccomp": {"security_opt": [("seccomp", "unconfined")]},
    "landlock": {"security_opt": [("landlock", False)]},
    "no_new_privs": {"security_opt": [("no_new_privileges", False)]},
    "masked and read-only paths": {"security_opt": [("unmask", "ALL")]},
}


def unprotected(spec: pysuper.ContainerSpec) -> pysuper.ContainerSpec:
    """The same container, without all of it."""
    options = [option for fields in WITHOUT.values() for option in fields.get("security_opt", ())]
    return attrs.evolve(grant(spec, cap_add=["ALL"], userns="host", security_opt=options), rlimits=())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200, help="starts of each kind")
    parser.add_argument("--files", type=int, default=20000, help="of the image")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    figures = {
        "machine": {"kernel": os.uname().release, "processors": os.cpu_count(), "date": time.strftime("%Y-%m-%d")},
        "defaults": trio.run(defaults, arguments.rounds),
        "image": image(arguments.files, arguments.rounds),
    }
    print("\n".join(table(figures)))
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


def table(figures: Mapping[str, Any]) -> Iterator[str]:
    """What was measured, as Markdown."""
    cost = figures["defaults"]
    bare = cost["median"]["without all of it"]
    yield f"| medians of {cost['rounds']} rounds | start, ms | of the bare one | CPU, ms | of the bare one |"
    yield "|---|---|---|---|---|"
    for name, row in cost["median"].items():
        columns = (f"{row[unit]:.2f} | {row[unit] / bare[unit]:.2f}" for unit in ("start_ms", "cpu_ms"))
        yield f"| {name} | {' | '.join(columns)} |"
    yield (
        f"\nThe defaults cost {cost['ratio']:.2f} times the start, and {cost['cpu_ratio']:.2f} times the CPU time "
        f"(less than {LIMIT} is promised).\n"
    )
    found = figures["image"]
    yield f"| an image of {found['files']} files | start, ms |"
    yield "|---|---|"
    yield f"| first container | {found['first_ms']:.2f} |"
    yield f"| second container | {found['second_ms']:.2f} |"
    yield f"| later ones, median | {found['later_ms']:.2f} |"
    yield f"| without a user namespace, median | {found['unmapped_ms']:.2f} |"
    yield f"\nFiles whose owner or time of change is another one afterwards: {found['changed']}."


# --- the defaults ---


async def defaults(rounds: int) -> dict[str, Any]:
    """Start each kind once a round."""
    kinds = {
        "all defaults": DEFAULT,
        **{f"without {name}": grant(DEFAULT, **fields) for name, fields in WITHOUT.items()},
        "without all of it": unprotected(DEFAULT),
    }
    taken = await _interleaved(kinds, rounds)
    medians = {
        name: {
            "start_ms": statistics.median(start for start, _ in each),
            "cpu_ms": statistics.median(cpu for _, cpu in each),
        }
        for name, each in taken.items()
    }
    full, bare = medians["all defaults"], medians["without all of it"]
    return {
        "rounds": rounds,
        "median": medians,
        "ratio": full["start_ms"] / bare["start_ms"],
        "cpu_ratio": full["cpu_ms"] / bare["cpu_ms"],
    }


async def _interleaved(kinds: Mapping[str, pysuper.ContainerSpec], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """For each kind, of each round, what `_start` takes, and the CPU time from start to end."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in kinds}
    async with pysuper.open_supervisor() as supervisor:
        launcher = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()[0]
        for number in range(-_WARM_UP, rounds):
            for name in random.sample(sorted(kinds), len(kinds)):
                before = _cpu(launcher)
                start = await _start(supervisor, kinds[name])
                if number >= 0:
                    taken[name].append((start, _cpu(launcher) - before))
    return taken


def _cpu(launcher: str) -> float:
    """Milliseconds that have been used so far: here, in containers that have ended, and in the launcher; proc(5)."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    nanoseconds = int(Path(f"/proc/{launcher}/schedstat").read_text().split()[0])
    return 1000 * (time.process_time() + ended.ru_utime + ended.ru_stime) + nanoseconds / 1e6


async def _start(supervisor: Supervisor, spec: pysuper.ContainerSpec) -> float:
    """Milliseconds until the command is being executed; returns when all of the container is gone."""
    began = time.perf_counter()
    container = await supervisor.start(spec)
    taken = 1000 * (time.perf_counter() - began)
    await container.wait()
    return taken


# --- an image ---


def image(files: int, rounds: int) -> dict[str, Any]:
    """Start containers on a directory that nobody has started one on before."""
    with tempfile.TemporaryDirectory(prefix="pysuper-bench-") as scratch:
        root = Path(scratch) / "root"
        _make_tree(root, files)
        before = _owners(root)
        wanted = attrs.evolve(DEFAULT, rootfs=pysuper.DriverChoice("dir", argument=str(root)))
        mapped, unmapped = trio.run(_on_image, wanted, rounds)
        after = _owners(root)
    return {
        "files": files,
        "first_ms": mapped[0],
        "second_ms": mapped[1],
        "later_ms": statistics.median(mapped[1:]),
        "unmapped_ms": statistics.median(unmapped),
        "changed": sum(before[path] != after.get(path) for path in before),
    }


async def _on_image(spec: pysuper.ContainerSpec, rounds: int) -> tuple[list[float], list[float]]:
    async with pysuper.open_supervisor() as supervisor:
        for _ in range(_WARM_UP):
            await _start(supervisor, DEFAULT)
        mapped = [await _start(supervisor, spec)]
        unmapped = []
        for _ in range(max(rounds, 1)):
            mapped.append(await _start(supervisor, spec))
            unmapped.append(await _start(supervisor, grant(spec, userns="host")))
    return mapped, unmapped


def _make_tree(root: Path, files: int) -> None:
    """A root file system with busybox, and files of several owners."""
    for name in ("bin", "etc", "proc", "sys", "dev", "data"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    (root / "bin/true").symlink_to("busybox")
    for number in range(files):
        directory = root / "data" / str(number % 100)
        directory.mkdir(exist_ok=True)
        path = directory / f"{number}"
        path.touch()
        os.chown(path, number % 10, number % 10)
    subprocess.run(["sync", "-f", root], check=True)


def _owners(root: Path) -> dict[str, tuple[int, int, int]]:
    """Owner, group, and when the inode was changed last, of each file that is no mount point; stat(2)."""
    found = {}
    for directory, _, names in os.walk(root / "data"):
        for name in names:
            status = os.lstat(path := f"{directory}/{name}")
            found[path] = (status.st_uid, status.st_gid, status.st_ctime_ns)
    return found


if __name__ == "__main__":
    main()
