"""What pysuper aims at, each as a ratio of two figures of one run: machines differ, and so do their hours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

from bench import stack
from bench.measure import median
from bench.oneshot import API, ATTRS, PACKAGES, POOL, TRIO, WARM

__all__ = ["targets"]

Figures = Mapping[str, Any]

_FLOOR, _PLAIN, _OURS = "C floor, full", "plain process", API[True]
#: What is no peer.
_OWN = ("C floor", "plain process", "pysuper")
#: Peers that have a cgroup with a limit, as every container of ours has.
_LIMITED = ("crun", "runc", "lxc-execute", "podman")


#: What, how much is wanted, what was found, and what would be if pysuper took no time of its own.
Target = tuple[str, str, str, str]


def targets(figures: Figures) -> Iterator[Target]:
    """All of which there are figures."""
    yield from _oneshot(figures["oneshot"])
    yield from _batch({(each["system"], each["jobs"]): median(each["rates"]) for each in figures["batch"]})
    yield from _many({(row["system"], row["size"]): row for row in figures["many"]})
    if figures["stack"] and figures["stack"]["restart"]:
        yield from _restart({name: times["median"] for name, times in figures["stack"]["restart"].items()})


def _oneshot(samples: Figures) -> Iterator[Target]:
    def ratio(name: str, figure: str, other: str, others: str) -> float | None:
        if not {name, other} <= set(samples):
            return None
        return median(samples[name][figure]) / median(samples[other][others])

    if found := ratio("pysuper run", "first", "runc", "first"):
        best = ratio(ATTRS, "total", "runc", "first")
        yield _judged("`pysuper run` to the first instruction, to runc's", found, best, most=1)
    podmans = [name for name in samples if name.startswith("podman")]
    if "pysuper run" in samples and podmans:
        podman = min(podmans, key=lambda name: median(samples[name]["total"]))
        found, best = (ratio(name, "total", podman, "total") for name in ("pysuper run", PACKAGES))
        yield _judged("`pysuper run` in all, to podman's", found, best, most=0.6)
    if found := ratio(_OURS, "exit", _PLAIN, "notice"):
        best = ratio(_FLOOR, "exit", _PLAIN, "notice")
        yield _judged("exit until the API knows, to wait4(2) for a plain process", found, best, most=2)
    if found := ratio(_OURS, "exit", _FLOOR, "exit"):
        yield _judged("exit until the API knows, to wait4(2) for the C floor's", found, most=2)
    if found := ratio(WARM, "first", _FLOOR, "first"):
        yield _judged("a warm spare to the first instruction, to the C floor's", found, most=0.25)


def _batch(rates: Mapping[tuple[str, int], float]) -> Iterator[Target]:
    for (name, jobs), rate in rates.items():
        if name not in (_OURS, POOL):
            continue
        batch = f"batch{' from a pool' if name == POOL else ''}, {jobs} at once"
        best = _best(rates, jobs)
        peers = {other: r for (other, j), r in rates.items() if j == jobs and not other.startswith(_OWN)}
        limited = {other: peers[other] for other in peers if other.startswith(_LIMITED)}
        compared = [("C floor's containers a second", rates.get((_FLOOR, jobs)), 0.6)]
        for kind, those in (("fastest peer's", peers), ("fastest peer's with a limit", limited)):
            if those:
                fastest = max(those, key=lambda other: peers[other])
                compared.append((f"{kind} ({fastest})", peers[fastest], 1))
        for other, its, least in compared:
            if its is not None:
                yield _judged(f"{batch}, to the {other}", rate / its, best and best / its, least=least)


def _best(rates: Mapping[tuple[str, int], float], jobs: int) -> float | None:
    """Containers a second of a program for which the floor makes them, and trio does what it does for a process."""
    try:
        floor, trio, plain = (rates[name, jobs] for name in (_FLOOR, TRIO, _PLAIN))
    except KeyError:
        return None
    return 1 / (1 / floor + 1 / trio - 1 / plain)


def _many(rows: Mapping[tuple[str, int], Figures]) -> Iterator[Target]:
    sizes = [size for name, size in rows if name == _OURS]
    if sizes:
        first, last = min(sizes), max(sizes)
        yield _judged(f"MB of each of {last} that sleep", median(rows[_OURS, last]["memory"]), most=0.25)
        if last > first:
            ours, floor = (
                median(rows[name, last]["starts"]) / median(rows[name, first]["starts"])
                if {(name, first), (name, last)} <= set(rows)
                else None
                for name in (_OURS, _FLOOR)
            )
            yield _judged(f"one more beside {last}, to one beside {first}", ours, floor, most=1.1)


def _restart(medians: Mapping[str, float]) -> Iterator[Target]:
    floor = medians.get(stack.FLOOR)
    for ours, other in product(medians, medians):
        if ours.startswith("pysuper") and not other.startswith(_OWN):
            title = f"death to restart, {ours}, to {other.partition(',')[0]}'s"
            yield _judged(title, medians[ours] / medians[other], floor and floor / medians[other], most=1)


def _judged(
    what: str, value: float | None, best: float | None = None, *, least: float | None = None, most: float | None = None
) -> Target:
    assert value is not None
    met = (least is None or value >= least) and (most is None or value <= most)
    wanted = f"at least {least:g}" if least is not None else f"at most {most:g}"
    return what, wanted, f"{value:.2f}" if met else f"**{value:.2f}**", "" if best is None else f"{best:.2f}"
