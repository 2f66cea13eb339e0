"""What the benchmark judges: ratios of figures of one run."""

from __future__ import annotations

from typing import Any

from bench.targets import targets

_API = "pysuper, Python API"


def samples(total: float, first: float, notice: float, exit_known: float | None = None) -> dict[str, list[float]]:
    known = [] if exit_known is None else [exit_known]
    return {"total": [total], "first": [first], "notice": [notice], "exit": known}


def imports(total: float) -> dict[str, list[float]]:
    return {"total": [total], "first": [], "notice": [], "exit": []}


def figures(**fields: Any) -> dict[str, Any]:
    return {"oneshot": {}, "batch": [], "many": [], "stack": None, **fields}


def test_a_run_without_figures_is_not_judged() -> None:
    assert list(targets(figures())) == []


def test_one_command_is_compared_with_runc_podman_a_plain_process_and_the_floor() -> None:
    oneshot = {
        "plain process": samples(1, 1, 0.1),
        "pysuper run": samples(60, 30, 5),
        "runc": samples(40, 30, 5),
        "podman + crun": samples(80, 70, 5),
        "podman + runc": samples(120, 70, 5),
        _API: samples(3, 2, 5, 0.15),
        "C floor, full": samples(3, 2, 1, 0.05),
        "pysuper, warm spare": samples(1, 0.5, 5, 0.15),
        "python3, import attrs": imports(15),
        "python3, import attrs, trio, stevedore.driver": imports(40),
    }

    assert list(targets(figures(oneshot=oneshot))) == [
        ("`pysuper run` to the first instruction, to runc's", "at most 1", "1.00", "0.50"),
        ("`pysuper run` in all, to podman's", "at most 0.6", "**0.75**", "0.50"),
        ("exit until the API knows, to wait4(2) for a plain process", "at most 2", "1.50", "0.50"),
        ("exit until the API knows, to wait4(2) for the C floor's", "at most 2", "**3.00**", ""),
        ("a warm spare to the first instruction, to the C floor's", "at most 0.25", "0.25", ""),
    ]


def test_what_there_are_no_imports_of_has_nothing_at_best() -> None:
    oneshot = {"pysuper run": samples(60, 30, 5), "runc": samples(40, 30, 5)}

    assert list(targets(figures(oneshot=oneshot))) == [
        ("`pysuper run` to the first instruction, to runc's", "at most 1", "1.00", ""),
    ]


def test_batches_are_compared_with_the_floor_and_the_fastest_peer_at_the_same_concurrency() -> None:
    rates = {("C floor, full", 1): 100, ("C floor, basic", 1): 900, (_API, 1): 50, ("bwrap", 1): 20, ("runc", 1): 40}
    rates |= {("C floor, full", 4): 100, (_API, 4): 60, ("bwrap", 4): 80, ("plain process", 4): 900}
    rates |= {("pysuper, pool", 4): 90, ("plain process, by trio", 4): 450}
    batch = [{"system": name, "jobs": jobs, "rates": [rate]} for (name, jobs), rate in rates.items()]

    assert list(targets(figures(batch=batch))) == [
        ("batch, 1 at once, to the C floor's containers a second", "at least 0.6", "**0.50**", ""),
        ("batch, 1 at once, to the fastest peer's (runc)", "at least 1", "1.25", ""),
        ("batch, 1 at once, to the fastest peer's with a limit (runc)", "at least 1", "1.25", ""),
        ("batch, 4 at once, to the C floor's containers a second", "at least 0.6", "0.60", "0.90"),
        ("batch, 4 at once, to the fastest peer's (bwrap)", "at least 1", "**0.75**", "1.12"),
        ("batch from a pool, 4 at once, to the C floor's containers a second", "at least 0.6", "0.90", "0.90"),
        ("batch from a pool, 4 at once, to the fastest peer's (bwrap)", "at least 1", "1.12", "1.12"),
    ]


def test_memory_and_growth_are_judged_at_the_largest_size() -> None:
    rows = [
        {"system": _API, "size": 1000, "memory": [0.2], "starts": [1.2, 1.2, 9.0]},
        {"system": _API, "size": 10, "memory": [0.5], "starts": [1.0]},
        {"system": "C floor, full", "size": 10, "memory": [0.1], "starts": [1.0]},
        {"system": "C floor, full", "size": 1000, "memory": [0.1], "starts": [1.1]},
        {"system": "bwrap", "size": 5000, "memory": [9.0], "starts": [9.0]},
    ]

    assert list(targets(figures(many=rows))) == [
        ("MB of each of 1000 that sleep", "at most 0.25", "0.20", ""),
        ("one more beside 1000, to one beside 10", "at most 1.1", "**1.20**", "1.10"),
    ]
    assert len(list(targets(figures(many=rows[:1])))) == 1


def test_restarts_are_compared_with_every_other_supervisor() -> None:
    medians = {
        "pysuper, a container": 2.0,
        "pysuper, a warm spare": 0.5,
        "C floor, full, a spare": 0.25,
        "supervisord, a plain process": 1000.0,
        "runit, a plain process": 1.0,
    }
    stack = {"restart": {name: {"median": value, "p99": value} for name, value in medians.items()}}

    assert list(targets(figures(stack=stack))) == [
        ("death to restart, pysuper, a container, to supervisord's", "at most 1", "0.00", "0.00"),
        ("death to restart, pysuper, a container, to runit's", "at most 1", "**2.00**", "0.25"),
        ("death to restart, pysuper, a warm spare, to supervisord's", "at most 1", "0.00", "0.00"),
        ("death to restart, pysuper, a warm spare, to runit's", "at most 1", "0.50", "0.25"),
    ]
