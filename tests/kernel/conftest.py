"""What tests share: a clean machine before and after, root file systems, and a way to run one container."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

import pysuper
from machine import cgroup_driver, nothing_is_left as nothing_is_left  # noqa: PLC0414 - fixtures
from ordinary import home as home, public as public, python_as_user as python_as_user  # noqa: PLC0414 - fixtures
from pysuper import registry
from pysuper.supervisor import Supervisor, open_supervisor
from roots import make_busybox
from stackfiles import stacks as stacks, up as up  # noqa: PLC0414 - fixtures

#: Their tests run under each launcher that works here; all others under the one that is chosen.
_OF_LAUNCHERS = {
    "test_api",
    "test_faults",
    "test_holder",
    "test_mounts",
    "test_namespaces",
    "test_pool",
    "test_process",
    "test_sweeps",
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test under each launcher."""
    if metafunc.module.__name__.rpartition(".")[2] in _OF_LAUNCHERS:
        metafunc.parametrize("launcher", [name for name in ("native", "python") if _works(name)], indirect=True)


def _works(launcher: str) -> bool:
    try:
        registry.load_launcher(launcher)
    except pysuper.PysuperError:
        return False
    return True


@pytest.fixture(autouse=True)
def launcher(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let supervisors of this process have no other launcher, where a test is run under each."""
    if name := getattr(request, "param", None):
        monkeypatch.setattr(registry, "_LAUNCHER_PREFERENCE", (name,))


is_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
async def supervisor() -> AsyncIterator[Supervisor]:
    """A running supervisor."""
    async with open_supervisor() as running:
        yield running


@pytest.fixture
def spec() -> Callable[..., pysuper.ContainerSpec]:
    """A spec of a shell script, on the cgroup driver of this machine."""

    def make(script: str = "true", **fields: Any) -> pysuper.ContainerSpec:
        fields.setdefault("name", "box")
        fields.setdefault("cgroup", pysuper.DriverChoice(cgroup_driver()))
        fields.setdefault("command", ("sh", "-c", script))
        fields.setdefault("stop_timeout", 2.0)
        return pysuper.ContainerSpec(**fields)

    return make


Output = Callable[..., Any]


@pytest.fixture
def output(spec: Callable[..., pysuper.ContainerSpec]) -> Output:
    """Run a shell script in a container of its own; its standard output."""

    async def run(script: str, **fields: Any) -> str:
        fields.setdefault("cgroup", pysuper.DriverChoice(cgroup_driver()))
        done = await pysuper.run(["sh", "-c", script], capture_stdout=True, **fields)
        assert done.stdout is not None
        return str(done.stdout.decode())

    return run


@pytest.fixture(scope="session")
def busybox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a small root file system, owned by root, that nobody writes to."""
    return make_busybox(tmp_path_factory.mktemp("busybox") / "root")


@pytest.fixture
def own_busybox(tmp_path: Path) -> Path:
    """A small root file system of the test's own."""
    return make_busybox(tmp_path / "root")
