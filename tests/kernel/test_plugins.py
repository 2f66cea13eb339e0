"""Third-party drivers in a real container: those that keep the interface, lie, raise, exit and hang."""

from __future__ import annotations

import textwrap
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

import pysuper
from machine import PATIENCE
from pysuper import registry
from pysuper.drivers import Cgroup, CgroupDriver, Context, NamespaceDriver, Phase, PlanBuilder, Statistics
from pysuper.errors import DriverError, LimitError
from pysuper.steps import SetHostname
from registered import register as register  # noqa: PLC0414 - a fixture

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


async def test_a_driver_may_keep_a_nursery_open(supervisor, spec, plugin, tmp_path) -> None:
    network = plugin(
        f"""
        def contribute(self, plan): ...

        @asynccontextmanager
        async def host(self, context):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                yield
                Path({str(tmp_path / "left")!r}).touch()
                nursery.cancel_scope.cancel()
        """
    )
    assert (await (await supervisor.start(spec("exit 6", network=network))).wait()).exit_code == 6
    assert (tmp_path / "left").exists()
    (tmp_path / "left").unlink()
    with trio.CancelScope() as scope:
        async with pysuper.open_supervisor() as cancelled:
            container = await cancelled.start(spec("sleep 60", network=network))
            scope.cancel()
            await container.wait()
    assert (tmp_path / "left").exists()


def with_a_task(now: Path, ending: str, *, at_once: bool = False) -> str:
    """A driver whose `host` has a task that does something once a file is there, or does it itself at once."""
    return f"""
        def contribute(self, plan): ...

        @asynccontextmanager
        async def host(self, context):
            async def end():
                while not Path({str(now)!r}).exists():
                    await trio.sleep(0.01)
                {ending}

            async with trio.open_nursery() as nursery:
                {ending if at_once else "nursery.start_soon(end)"}
                yield
        """


async def test_a_driver_whose_background_task_fails_stops_its_container_alone(
    supervisor, spec, plugin, tmp_path
) -> None:
    bystander = await supervisor.start(spec("sleep 0.5; exit 7"))
    network = plugin(with_a_task(tmp_path / "now", 'raise ValueError("background")'))
    container = await supervisor.start(spec("exec sleep 60", network=network))
    (tmp_path / "now").touch()
    with pytest.raises(DriverError, match="'plugin' of third-party 1.0 failed in host: ValueError: background"):
        await container.wait()
    assert (await bystander.wait()).exit_code == 7


@pytest.mark.parametrize("when", ["start", "run"])
async def test_a_driver_that_cancels_its_nursery_ends_its_container_alone(
    supervisor, spec, plugin, register, tmp_path, when
) -> None:
    class Cleans(NamespaceDriver):
        namespace = "uts"

        def contribute(self, plan: PlanBuilder) -> None:
            plan.namespace("uts")

        @asynccontextmanager
        async def host(self, context: Context) -> AsyncIterator[None]:
            yield
            await trio.lowlevel.checkpoint()
            (tmp_path / "clean").touch()

    bystander = await supervisor.start(spec("sleep 0.5; exit 7"))
    network = plugin(with_a_task(tmp_path / "now", "nursery.cancel_scope.cancel()", at_once=when == "start"))
    wanted = spec("exec sleep 60", network=network, namespaces={"uts": register("cleans", Cleans)})
    with pytest.raises(DriverError, match="'plugin' of third-party 1.0 has cancelled itself"):
        container = await supervisor.start(wanted)
        (tmp_path / "now").touch()
        await container.wait()
    assert (tmp_path / "clean").exists()
    assert (await bystander.wait()).exit_code == 7


async def test_a_driver_that_does_not_let_its_barrier_pass_is_an_error(supervisor, spec, plugin) -> None:
    network = plugin(
        """
        patience = 0.3

        def contribute(self, plan):
            plan.add(Phase.NAMESPACES, Barrier(name="plugin"))

        async def at_barrier(self, name, pid):
            await trio.sleep_forever()
        """
    )
    with (
        trio.fail_after(10 * PATIENCE),
        pytest.raises(DriverError, match=r"'plugin' of .* took more than 0\.3 s in at_barrier"),
    ):
        await supervisor.start(spec(network=network))


@pytest.mark.parametrize("when", ["enter", "leave"])
async def test_a_driver_that_does_not_come_back_is_an_error(supervisor, spec, plugin, when) -> None:
    network = plugin(
        f"""
        patience = 0.3

        def contribute(self, plan): ...

        @asynccontextmanager
        async def host(self, context):
            {"await trio.sleep_forever()" if when == "enter" else "pass"}
            yield
            {"await trio.sleep_forever()" if when == "leave" else "pass"}
        """
    )
    doing = {"enter": "set up", "leave": "clean up"}[when]
    with trio.fail_after(10), pytest.raises(DriverError, match=rf"'plugin' of .* took more than 0\.3 s to {doing}"):
        await (await supervisor.start(spec(network=network))).wait()
    assert (await (await supervisor.start(spec("exit 4"))).wait()).exit_code == 4


@pytest.mark.parametrize(
    ("method", "what"),
    [
        ("kill", "kill: OSError: broken"),
        ("statistics", "statistics: TypeError: it returned NoneType, not Statistics"),
    ],
)
async def test_a_cgroup_that_fails_is_its_drivers_fault(supervisor, spec, register, method: str, what: str) -> None:
    class Breaks(Cgroup):
        def processes(self) -> list[int]:
            return []

        def kill(self) -> None:
            if method == "kill":
                raise OSError("broken")

        def freeze(self) -> None: ...

        def thaw(self) -> None: ...

        def statistics(self) -> Statistics:
            return None if method == "statistics" else Statistics()  # type: ignore[return-value]

    class Driver(CgroupDriver):
        def contribute(self, plan: PlanBuilder) -> None: ...

        @asynccontextmanager
        async def host(self, context: Context) -> AsyncIterator[Cgroup]:
            yield Breaks()

    bystander = await supervisor.start(spec("sleep 0.3; exit 7"))
    # With a pid namespace of its own the kernel kills what is left.
    shares = spec("exit 0", share=frozenset({"pid"}), cgroup=register("breaks", Driver))
    container = await supervisor.start(shares)
    with pytest.raises(DriverError, match=f"cgroup driver 'breaks' of third-party 1.0 failed in {what}"):
        await container.wait()
    assert (await bystander.wait()).exit_code == 7


async def test_a_namespace_can_be_made_by_another_driver(spec, register, output) -> None:
    class Alias(NamespaceDriver):
        namespace = "uts"

        def contribute(self, plan: PlanBuilder) -> None:
            plan.namespace("uts")
            plan.add(Phase.NAMESPACES, SetHostname(hostname="other"))

    choice = register("alias", Alias)
    assert await output("hostname", namespaces={"uts": choice}) == "other\n"
    with pytest.raises(DriverError, match="'alias' of third-party 1.0 makes a uts namespace, not a time namespace"):
        await output("hostname", namespaces={"time": choice})
    with pytest.raises(pysuper.ConfigError, match="uts namespace is shared"):
        await output("hostname", namespaces={"uts": choice}, share=frozenset({"uts"}))
