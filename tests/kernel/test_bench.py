"""The benchmark: that it runs and what it writes, and that its floor is as isolated as pysuper. No figure is judged."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench import stack
from bench.measure import descendants
from bench.peers import System, systems
from bench.rig import Rig, set_up

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc"),
    pytest.mark.skipif(not os.path.exists("/bin/busybox"), reason="needs busybox"),
]

_ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def rig() -> Iterator[Rig]:
    # Below /tmp, where also the ids of containers may search.
    scratch = Path(subprocess.run(["mktemp", "-d"], check=True, capture_output=True, text=True).stdout.strip())
    try:
        with set_up(scratch) as made:
            yield made
    finally:
        shutil.rmtree(scratch)


def system(name: str) -> System:
    return next(found for found in systems() if found.name == name)


def said(rig: Rig, name: str, script: str) -> str:
    argv = system(name).command(rig, ["/bin/sh", "-c", script])
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout


def comparable(text: str) -> str:
    """Without the numbers of mounts and devices, the container's own ids, and times."""
    text = re.sub(r"^\d+ \d+ \d+:\d+ ", "", text, flags=re.MULTILINE)
    text = re.sub(r" [A-Z][a-z]{2} [ \d]\d \d\d:\d\d ", " ", text)
    return re.sub(r"\b(uid|gid)=\d+", r"\1=N", text)


@pytest.mark.parametrize(
    "script",
    [
        pytest.param("cat /proc/self/mountinfo", id="mounts"),
        pytest.param("ls -l /dev", id="dev"),
        pytest.param(
            "while read k v; do case $k in Cap*|NoNew*|Secc*|Groups:) echo $k $v;; esac; done </proc/self/status",
            id="privileges",
        ),
        pytest.param("ulimit -n; umask; cat /proc/self/limits", id="limits"),
        pytest.param("cat /proc/net/if_inet6 /proc/self/setgroups", id="network"),
        pytest.param("ls /proc/self/fd", id="descriptors"),
    ],
)
def test_the_floor_is_isolated_as_a_container_is(rig: Rig, script: str) -> None:
    floor, ours = (comparable(said(rig, name, script)) for name in ("C floor, full", "pysuper run"))

    assert floor == ours


def test_the_floor_has_namespaces_and_ids_as_a_container_has(rig: Rig) -> None:
    floor, ours = (system(name).describe(rig)["found"] for name in ("C floor, full", "pysuper run"))

    assert floor == ours
    assert rig.beyond_floor == ()


def test_the_floor_is_in_the_cgroups_that_a_container_is_in(rig: Rig) -> None:
    floor, ours = (cgroups(rig, name) for name in ("C floor, full", "pysuper run"))

    assert floor == ours
    assert floor
    assert cgroups(rig, "C floor, basic") <= floor


def cgroups(rig: Rig, name: str) -> set[str]:
    """The hierarchies in which a sleeping command has a cgroup of its own."""
    argv = system(name).command(rig, ["/bin/stamp", "sleep"])
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        process.stdout.readline()
        command = next(pid for pid in descendants(process.pid) if Path(f"/proc/{pid}/comm").read_text() == "stamp\n")
        lines = [line.split(":", 2) for line in Path(f"/proc/{command}/cgroup").read_text().splitlines()]
        process.stdin.close()
    assert process.returncode == 0
    return {controllers for _, controllers, path in lines if re.search(r"/pysuper(-floor)?\.[^/]*$", path)}


def test_a_floor_that_fails_says_what_did(rig: Rig) -> None:
    argv = [*rig.floor_options["full"], "--mask", "/no/such", "--", "/bin/nothing"]

    done = subprocess.run(argv, capture_output=True, text=True, check=False)

    assert "/bin/nothing: No such file or directory" in done.stderr
    assert done.returncode == 125


def test_a_spare_of_the_floor_runs_when_a_container_has_ended_and_nothing_is_left_of_it(rig: Rig) -> None:
    with stack.floor_service(rig, 3) as kill:
        assert all(0 < kill() < 30 for _ in range(3))
    assert not descendants(os.getpid())[1:]
    assert not list(Path("/sys/fs/cgroup").rglob("pysuper-floor.*"))


def test_a_tiny_run_writes_figures_tables_and_plots(tmp_path: Path) -> None:
    before = sorted(os.listdir("/sys/fs/cgroup"))
    mounts = Path("/proc/mounts").read_text()
    tiny = "--rounds 1 --seconds 2 --batch 3 --sizes 2 --without stack --only plain floor unshare"

    done = subprocess.run(
        [sys.executable, "-m", "bench", "--out", tmp_path, *tiny.split()],
        cwd=_ROOT,
        check=True,
        capture_output=True,
        text=True,
    )

    figures = json.loads((tmp_path / "bench.json").read_text())
    names = {"plain process", "C floor, basic", "C floor, full", "unshare"}
    ours = {"pysuper, Python API", "pysuper, Python API, no init"}
    assert set(figures["systems"]) == names
    assert figures["smoke"]
    for name in {*names, *ours, "pysuper, warm spare"}:
        assert all(
            seconds > 0 for figure in ("total", "first", "notice") for seconds in figures["oneshot"][name][figure]
        )
    for name in ("C floor, full", *ours):
        (known,), (notice,) = (figures["oneshot"][name][figure] for figure in ("exit", "notice"))
        assert 0 < known < notice
    assert {(row["system"], row["jobs"]) for row in figures["batch"]} == {
        (name, jobs) for name in {*names, *ours, "pysuper, pool", "plain process, by trio"} for jobs in (1, 4, 16)
    }
    assert {(row["system"], row["size"]) for row in figures["many"]} == {
        (name, size) for name in (names | ours) - {"plain process"} for size in (2,)
    }
    for name in ("python3, import attrs", "python3, import attrs, trio, stevedore.driver"):
        assert all(seconds > 0 for seconds in figures["oneshot"][name]["total"])
    report = (tmp_path / "report.md").read_text()
    assert "A smoke run" in report
    judged = r"\| batch from a pool, 4 at once, to the fastest peer's \(unshare\) \|( [^|]*\d[*]* [|]){3}"
    assert re.search(judged, report)
    assert all(f"| {name} |" in report for name in names | ours)
    assert sorted(os.listdir("/sys/fs/cgroup")) == before
    assert Path("/proc/mounts").read_text() == mounts
    pytest.importorskip("matplotlib")
    plots = {path.stem: path.read_text() for path in tmp_path.glob("*.svg")}
    assert set(plots) == {"oneshot", "batch", "memory", "growth"}
    assert all("</svg>" in plot for plot in plots.values())
    assert all(f"{tmp_path}/{name}.svg" in done.stdout for name in plots)


def test_what_does_not_work_is_left_out_with_the_reason(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    from bench import peers

    monkeypatch.setattr(
        peers,
        "systems",
        lambda: [
            System(name="missing", program="no-such-program", isolation="", argv=lambda rig, command: []),
            System(
                name="broken", program="sh", isolation="", argv=lambda rig, command: ["sh", "-c", "echo no >&2; false"]
            ),
            System(name="silent", program="true", isolation="", argv=lambda rig, command: ["true"]),
        ],
    )

    working, left_out = peers.usable(rig, [])

    assert working == []
    assert left_out == {
        "missing": "no-such-program is not installed",
        "broken": "no",
        "silent": "does not pass on what its command writes",
    }
