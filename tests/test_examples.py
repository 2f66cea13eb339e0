"""Each package in examples/: the commands of its README as they stand, its own tests among them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from environments import ROOT, Environment

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the examples are root's")

#: What a reader is told to expect: the exit status, and a part of the output.
EXPECTED = {
    "cgroup_v1_plugin": [
        (0, ""),
        (0, "cgroup     pids-v1"),
        (0, "pids.max holds '20'"),
        (0, ""),
        (0, ""),
        (0, " passed"),
    ],
    "git_rootfs_plugin": [
        (0, ""),
        (0, ""),
        (0, ""),
        (0, ""),
        (0, ""),
        (0, "/bin/sh"),
        (0, ""),
        (0, ""),
        (0, " passed"),
    ],
    "uptime_namespace_plugin": [
        (0, ""),
        (0, ""),
        (0, ""),
        (0, ":"),
        (0, ""),
        (0, " passed"),
    ],
    "webhook_hook_plugin": [
        (0, ""),
        (0, "web failed exited with 1"),
        (0, ""),
        (0, " passed"),
    ],
}


PACKAGES = sorted(path.parent.name for path in (ROOT / "examples").glob("*/pyproject.toml"))


@pytest.fixture(scope="module", params=PACKAGES)
def package(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def environment(package: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    """In which the package is not installed, until the README says so."""
    return Environment.make(tmp_path_factory.mktemp(package))


def commands(package: str) -> list[str]:
    readme = Path(ROOT, "examples", package, "README.md").read_text()
    return "".join(re.findall(r"^```sh\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)).splitlines()


def test_the_readme_does_what_it_says(package: str, environment: Environment) -> None:
    """In order, in one go, in an environment of its own."""
    for command, (status, part) in zip(commands(package), EXPECTED[package], strict=True):
        done = environment.run(command)
        assert (command, status, done.stdout) == (command, done.returncode, done.stdout)
        assert part in done.stdout


def test_a_readme_is_one_screen(package: str) -> None:
    assert len(Path(ROOT, "examples", package, "README.md").read_text().splitlines()) <= 50
