"""Many containers that sleep: time up and down, memory, and what one more costs beside them."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import attrs

from bench.measure import Announced, Failed, descendants, pss, reap_orphans, rotated, run, spawn
from bench.oneshot import API
from bench.ours import Ours
from bench.peers import System
from bench.rig import Rig
from pysuper import syscalls

__all__ = ["Many", "fits", "many"]

#: How many start at once; more would measure how a machine with few cores shares them.
_JOBS = 4
#: The systems that this is about.
_LONGER = ("C floor", *API.values())
_SLEEP = ["/bin/stamp", "sleep"]


@attrs.define(kw_only=True)
class Many:
    """
    One system with so many containers that sleep. A list has a value for each time that they were brought up.

    Attributes:
        up: Seconds until all commands run.
        memory: MB of each container: the share in what is resident of everything but the commands, less what there was
            without containers.
        whole: MB of everything but the commands, for all containers.
        down: Seconds from the end of the commands until everything is cleaned up.
        starts: Seconds that one more container takes, which runs /bin/true.
    """

    system: str
    size: int
    up: list[float] = attrs.field(factory=list)
    memory: list[float] = attrs.field(factory=list)
    whole: list[float] = attrs.field(factory=list)
    down: list[float] = attrs.field(factory=list)
    starts: list[float] = attrs.field(factory=list)


def many(
    rig: Rig,
    systems: list[System],
    medians: dict[str, float],
    sizes: list[int],
    starts: int,
    rounds: int,
    patience: float,
) -> tuple[list[Many], dict[str, str]]:
    """
    Every system in turn with every number of containers, again and again.

    Args:
        medians: Seconds that one container takes by itself, by system.
        sizes: How many containers.
        starts: How many more are started beside them.
        patience: Seconds; a system that would take longer to have as many containers is left out, see `fits`.

    Returns:
        The figures, and what was left out, with the reason.
    """
    # Some programs leave processes behind, which are to be found, and waited for.
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    found: dict[tuple[str, int], Many] = {}
    left_out: dict[str, str] = {}
    peers = {system.name: system for system in systems if system.name != "plain process"}
    for turn in range(rounds):
        for size, name in itertools.product(sizes, rotated([*peers, *API.values()], turn)):
            title = f"{name}, {size} sleeping"
            if title in left_out:
                continue
            if not fits(name, medians, size, patience):
                left_out[title] = "would take too long"
                continue
            figures = found.setdefault((name, size), Many(system=name, size=size))
            try:
                if name in peers:
                    _peer(rig, peers[name], figures, starts)
                else:
                    _ours(rig, name == API[True], figures, starts)
            except Failed as error:
                left_out[title] = str(error)
                del found[name, size]
    return list(found.values()), left_out


def fits(name: str, medians: dict[str, float], size: int, patience: float) -> bool:
    """Whether there is time for so many containers; for ours, and the floor, there is ten times as much."""
    return medians[name] * size <= patience * (10 if name.startswith(_LONGER) else 1)


def _peer(rig: Rig, system: System, figures: Many, starts: int) -> None:
    with open(os.devnull, "wb") as null, _commands() as (sleeps, says, announced, wake):
        pids: list[int] = []
        try:
            began = time.monotonic()
            argv = system.command(rig, _SLEEP)
            if argv[0] == rig.floor:
                count = ["--count", str(figures.size), "--jobs", str(figures.size)]
                pids.append(spawn([argv[0], *count, *argv[1:]], stdin=sleeps, stdout=says, stderr=null.fileno()))
            else:
                for number in range(figures.size):
                    announced.wait(number + 1 - _JOBS)
                    pids.append(spawn(system.command(rig, _SLEEP), stdin=sleeps, stdout=says, stderr=null.fileno()))
            announced.wait(figures.size)
            figures.up.append(time.monotonic() - began)
            _weigh(figures, pss(set(descendants(os.getpid())) - {os.getpid()}), 0.0)
            for _ in range(starts):
                one = run(system.command(rig, ["/bin/true"]))
                figures.starts.append((one.known - one.began) / 1e9)
            began = time.monotonic()
            wake()
            while pids:
                os.waitpid(pids.pop(), 0)
            figures.down.append(time.monotonic() - began)
        finally:
            wake()
            reap_orphans()


@contextmanager
def _commands() -> Iterator[tuple[int, int, Announced, Callable[[], None]]]:
    """Standard input and output of commands that sleep, those of them that do, and what ends them."""
    (sleeps, keeps_sleeping), (out, says) = os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC)
    with open(keeps_sleeping, "wb") as end:
        try:
            yield sleeps, says, Announced(out), end.close
        finally:
            for descriptor in (sleeps, out, says):
                os.close(descriptor)


def _ours(rig: Rig, init: bool, figures: Many, starts: int) -> None:
    with Ours(rig.root) as ours:
        ours.ask("ready")
        before = pss(descendants(ours.pid))
        figures.up.append(ours.ask("up", size=figures.size, jobs=_JOBS, init=init))
        _weigh(figures, pss(descendants(ours.pid)), before)
        figures.starts += ours.ask("starts", count=starts, init=init)
        figures.down.append(ours.ask("down"))


def _weigh(figures: Many, whole: float, before: float) -> None:
    figures.whole.append(whole)
    figures.memory.append((whole - before) / figures.size)
