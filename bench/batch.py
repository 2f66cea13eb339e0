"""Many short containers, several at once: containers a second, and CPU for each."""

from __future__ import annotations

import itertools

import attrs

from bench.measure import Failed, rotated, run
from bench.oneshot import API, POOL, TRIO
from bench.ours import Ours
from bench.peers import System
from bench.rig import Rig

__all__ = ["Batch", "batch"]


@attrs.define
class Batch:
    """
    One system at one concurrency.

    Attributes:
        count: Containers in each batch.
        rates: Containers a second, of each batch.
        cpu: Seconds of CPU for each container, of each batch.
    """

    system: str
    jobs: int
    count: int
    rates: list[float] = attrs.field(factory=list)
    cpu: list[float] = attrs.field(factory=list)

    def add(self, wall: float, cpu: float) -> None:
        """One more batch, in seconds."""
        self.rates.append(self.count / wall)
        self.cpu.append(cpu / self.count)


def batch(
    rig: Rig, systems: list[System], medians: dict[str, float], count: int, rounds: int, patience: float
) -> tuple[list[Batch], dict[str, str]]:
    """
    Every system in turn at every concurrency, again and again.

    The floor starts its containers itself; all other programs are started by it, which is the cheapest caller there is.

    Args:
        medians: Seconds that one container takes by itself, by system.
        count: Containers in a batch.
        patience: Seconds that a batch may take; of slow systems it has less containers.

    Returns:
        The figures, and what was left out, with the reason.
    """
    found: dict[tuple[str, int], Batch] = {}
    left_out: dict[str, str] = {}

    peers = {system.name: system for system in systems}
    turns = itertools.product(range(rounds), (1, 4, 16))
    with Ours(rig.root) as ours:
        for turn, (_, jobs) in enumerate(turns):
            for name in rotated([*peers, TRIO, *API.values(), POOL], turn):
                title = f"{name}, {jobs} at once"
                if title in left_out:
                    continue
                alone = medians[API[True] if name in (POOL, TRIO) else name]
                fitting = max(min(jobs, count), min(count, int(patience / alone)))
                figures = found.setdefault((name, jobs), Batch(name, jobs, fitting))
                try:
                    if name in peers:
                        _one(rig, peers[name], figures)
                    elif name == TRIO:
                        figures.add(**ours.ask("plain", count=figures.count, jobs=jobs))
                    else:
                        options = {"init": name != API[False], "pool": name == POOL}
                        figures.add(**ours.ask("batch", count=figures.count, jobs=jobs, **options))
                except Failed as error:
                    left_out[title] = str(error)
                    del found[name, jobs]
    return list(found.values()), left_out


def _one(rig: Rig, system: System, figures: Batch) -> None:
    times = rig.scratch / "times"
    options = ["--count", str(figures.count), "--jobs", str(figures.jobs), "--times", str(times)]
    argv = system.template(rig, ["/bin/true"])
    if argv[0] != rig.floor:
        argv = [rig.floor, "--level", "plain", "--", *argv]
    run([argv[0], *options, *argv[1:]])
    taken = dict(line.split() for line in times.read_text().splitlines())
    figures.add(int(taken["wall"]) / 1e9, int(taken["cpu"]) / 1e9)
