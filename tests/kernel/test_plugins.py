"""Third-party drivers in a real container: those that keep the interface, lie, raise, exit and hang."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

import pysuper
from pysuper import registry
from pysuper.errors import DriverError, LimitError

HEADER = """
    from contextlib import asynccontextmanager
    from pathlib import Path
    import trio
    from pysuper.drivers import NetworkDriver, Phase
    from pysuper.receipts import FileHolds
    from pysuper.steps import Barrier, Syscall, WriteFile

    class Plugin(NetworkDriver):
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], pysuper.DriverChoice]]:
    """Install a distribution with a network driver `plugin` of this body."""

    def forget() -> None:
        registry.forget()

    def install(body: str) -> pysuper.DriverChoice:
        module = f"third_party_{abs(hash(tmp_path))}"
        info = tmp_path / "third_party-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[pysuper.network]\nplugin = {module}:Plugin\n")
        code = textwrap.dedent(HEADER) + textwrap.indent(textwrap.dedent(body), "    ")
        (tmp_path / f"{module}.py").write_text(code)
        monkeypatch.syspath_prepend(str(tmp_path))
        forget()
        return pysuper.DriverChoice("plugin")

    yield install
    forget()


async def test_a_promise_that_does_not_hold_stops_the_start(supervisor, spec, plugin, tmp_path) -> None:
    network = plugin(
        """
        def contribute(self, plan):
            plan.check(FileHolds(path="/proc/{pid}/comm", content="something else"))
        """
    )
    (shared := tmp_path / "shared").mkdir()
    mounts = (pysuper.BindMount(source=str(shared), target="/shared"),)
    with pytest.raises(LimitError, match="not in force.*comm.*something else") as caught:
        await supervisor.start(spec("touch /shared/ran", network=network, mounts=mounts))
    assert caught.value.exit_code == 125
    assert list(shared.iterdir()) == []


async def test_a_driver_is_asked_at_its_barrier(supervisor, spec, plugin, tmp_path) -> None:
    network = plugin(
        f"""
        def contribute(self, plan):
            plan.add(Phase.NAMESPACES, Barrier(name="plugin"))

        async def at_barrier(self, name, pid):
            Path({str(tmp_path / "told")!r}).write_text(f"{{name}} {{pid}}")
        """
    )
    container = await supervisor.start(spec(network=network))
    assert (tmp_path / "told").read_text() == f"plugin {container.pid}"
    assert (await container.wait()).exit_code == 0


async def test_a_step_of_a_plugin_that_the_kernel_refuses_is_named(supervisor, spec, plugin) -> None:
    network = plugin(
        """
        def contribute(self, plan):
            plan.add(Phase.LIMITS, WriteFile(path="/proc/no/such/file", content="1"))
        """
    )
    with pytest.raises(pysuper.LaunchError, match="write 1 to /proc/no/such/file: ENOENT"):
        await supervisor.start(spec(network=network))


@pytest.mark.parametrize("statement", ["raise ValueError('boom')", "raise SystemExit(0)", "1 / 0"])
@pytest.mark.parametrize("place", ["contribute", "host", "exit"])
async def test_a_driver_that_raises_hurts_only_its_container(supervisor, spec, plugin, place, statement) -> None:
    bystander = await supervisor.start(spec("sleep 0.5; exit 7"))
    network = plugin(
        f"""
        def contribute(self, plan):
            {statement if place == "contribute" else "pass"}

        @asynccontextmanager
        async def host(self, context):
            {statement if place == "host" else "pass"}
            yield
            {statement if place == "exit" else "pass"}
        """
    )
    with pytest.raises(DriverError, match="'plugin' of third-party 1.0 failed in"):
        await (await supervisor.start(spec(network=network))).wait()
    assert (await bystander.wait()).exit_code == 7


async def test_a_driver_that_hangs_can_be_cancelled_and_hurts_nobody_else(supervisor, spec, plugin) -> None:
    network = plugin(
        """
        def contribute(self, plan): ...

        @asynccontextmanager
        async def host(self, context):
            await trio.sleep_forever()
            yield
        """
    )
    with trio.move_on_after(0.3) as scope:
        await supervisor.start(spec(network=network))
    assert scope.cancelled_caught
    assert (await (await supervisor.start(spec("exit 4"))).wait()).exit_code == 4
