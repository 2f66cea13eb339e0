"""
The kernel tests once more, in a virtual machine with Debian's own kernel and a pure cgroup v2 tree.

The processor is emulated, so this is a choice of them: what depends on the cgroup version, and what makes a container.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures_build.rootfs import Unavailable, cache_directory
from vm.machine import Machine

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    try:
        yield Machine(cache_directory(), ROOT, Path(sysconfig.get_path("purelib")))
    except Unavailable as reason:
        pytest.skip(str(reason))


@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    "selection",
    [
        "tests/kernel/test_limits.py tests/kernel/test_namespaces.py "
        # Its Landlock is of version 2, the first that serves.
        "tests/kernel/test_landlock.py::test_nothing_is_mounted_in_a_user_namespace_made_inside "
        "tests/kernel/test_landlock.py::test_what_joins_a_container_has_them_too",
        "tests/kernel/test_mounts.py tests/kernel/test_rootless.py "
        "tests/kernel/test_ordinary_user.py::test_limits_hold_in_cgroups_that_were_delegated[range]",
        "tests/kernel/test_faults.py tests/attacks "
        "-k 'kill_9 or killing or frozen or orphans or root and (limit or release_agent or sysrq or kcore)'",
        "tests/drivers --ignore-glob '*conformance*'",
        "tests/drivers/test_conformance.py "
        "-k 'TestV2 and (enforced or promised or joins or statistics or kill_reaches or from_inside)'",
        "tests/kernel/test_exec.py -k 'not sweep and not every'",
        "tests/kernel/test_stack.py -k 'ready or healthy or hanging or frozen or pid_1 or reach or reload or memory'",
    ],
)
def test_the_same_tests_pass_on_pure_cgroup_v2(machine: Machine, selection: str) -> None:
    # A test that hangs is reported by its own bound, before that of a machine that stands still.
    command = f"PYSUPER_TEST_PATIENCE=20 pytest -q -p no:cacheprovider --timeout 300 {selection}"
    result = machine.run(command, timeout=1200, silence=400)
    assert result.exit_code == 0, result.output


@pytest.mark.timeout(600)
def test_a_fork_bomb_stops_at_20_processes_on_a_debian_tarball_with_cgroup_v2(machine: Machine) -> None:
    command = """
        set -e
        cat /sys/fs/cgroup/cgroup.controllers
        bomb='for i in $(seq 60); do sleep 100 & done'
        pysuper run --cgroup v2 --rootfs tar:"$(ls $PYSUPER_TEST_CACHE/*/debian.tar.gz)" --pids-limit 20 \
            --report /tmp/report.json -- /bin/bash -c "$bomb" || true
        python3 -c 'import json; print("hits", json.load(open("/tmp/report.json"))["pids_max_hits"])'
    """
    result = machine.run(command, timeout=400)
    assert result.exit_code == 0, result.output
    assert "pids" in result.output.splitlines()[0]
    assert int(result.output.rsplit("hits ", 1)[1]) > 0
