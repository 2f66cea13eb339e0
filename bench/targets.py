"""What pysuper aims at, each as a ratio of two figures of one run: machines differ, and so do their hours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

from bench.measure import median
from bench.oneshot import API, POOL, WARM

__all__ = ["targets"]

Figures = Mapping[str, Any]

_FLOOR, _PLAIN, _OURS = "C floor, full", "plain process", API[True]
#: What is no peer.
_OWN = ("C floor", "plain process", "pysuper")


def targets(figures: Figures) -> Iterator[tuple[str, str, str]]:
    """What, how much is wanted, and what was found; those without figures are left out."""
    yield from _oneshot(figures["oneshot"])
    yield from _batch({(each["system"], each["jobs"]): median(each["rates"]) for each in figures["batch"]})
    yield from _many([row for row in figures["many"] if row["system"] == _OURS])
    if figures["stack"] and figures["stack"]["restart"]:
        yield from _restart({name: times["median"] for name, times in figures["stack"]["restart"].items()})


def _oneshot(samples: Figures) -> Iterator[tuple[str, str, str]]:
    def time(name: str, figure: str) -> float:
        return median(samples[name][figure])

    if {"pysuper run", "runc"} <= set(samples):
        ratio = time("pysuper run", "first") / time("runc", "first")
        yield _judged("`pysuper run` to the first instruction, to runc's", ratio, most=1)
    podmans = [time(name, "total") for name in samples if name.startswith("podman")]
    if "pysuper run" in samples and podmans:
        yield _judged("`pysuper run` in all, to podman's", time("pysuper run", "total") / min(podmans), most=0.6)
    if _PLAIN in samples:
        ratio = time(_OURS, "exit") / time(_PLAIN, "notice")
        yield _judged("exit until the API knows, to wait4(2) for a plain process", ratio, most=2)
    if _FLOOR in samples:
        ratio = time(_OURS, "exit") / time(_FLOOR, "exit")
        yield _judged("exit until the API knows, to wait4(2) for the C floor's", ratio, most=2)
    if {WARM, _FLOOR} <= set(samples):
        ratio = time(WARM, "first") / time(_FLOOR, "first")
        yield _judged("a warm spare to the first instruction, to the C floor's", ratio, most=0.25)


def _batch(rates: Mapping[tuple[str, int], float]) -> Iterator[tuple[str, str, str]]:
    for (name, jobs), rate in rates.items():
        if name not in (_OURS, POOL):
            continue
        batch = f"batch{' from a pool' if name == POOL else ''}, {jobs} at once"
        if (_FLOOR, jobs) in rates:
            title = f"{batch}, to the C floor's containers a second"
            yield _judged(title, rate / rates[_FLOOR, jobs], least=0.6)
        peers = {other: r for (other, j), r in rates.items() if j == jobs and not other.startswith(_OWN)}
        if peers:
            fastest = max(peers, key=lambda other: peers[other])
            title = f"{batch}, to the fastest peer's ({fastest})"
            yield _judged(title, rate / peers[fastest], least=1)


def _many(rows: list[Figures]) -> Iterator[tuple[str, str, str]]:
    if rows:
        first, last = (choose(rows, key=lambda row: row["size"]) for choose in (min, max))
        yield _judged(f"MB of each of {last['size']} that sleep", median(last["memory"]), most=0.25)
        if last["size"] > first["size"]:
            ratio = median(last["starts"]) / median(first["starts"])
            yield _judged(f"one more beside {last['size']}, to one beside {first['size']}", ratio, most=1.1)


def _restart(medians: Mapping[str, float]) -> Iterator[tuple[str, str, str]]:
    for ours, other in product(medians, medians):
        if ours.startswith("pysuper") and not other.startswith("pysuper"):
            title = f"death to restart, {ours}, to {other.partition(',')[0]}'s"
            yield _judged(title, medians[ours] / medians[other], most=1)


def _judged(what: str, value: float, *, least: float | None = None, most: float | None = None) -> tuple[str, str, str]:
    met = (least is None or value >= least) and (most is None or value <= most)
    wanted = f"at least {least:g}" if least is not None else f"at most {most:g}"
    return what, wanted, f"{value:.2f}" if met else f"**{value:.2f}**"
