"""Hooks: what they are told, in which order, and what a slow or failing one does to containers."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.lowlevel

import pysuper
from machine import Snapshot
from pysuper.drivers import Hook, LifecycleEvent
from pysuper.errors import DriverError
from pysuper.testing.faults import cancelled_at
from registered import register as register  # noqa: PLC0414 - a fixture
from stackfiles import Stacks

KINDS = ("before_create", "created", "started", "ready", "exited", "stopped", "restarted", "failed")


def recorder(told: list[LifecycleEvent], kinds: tuple[str, ...] = KINDS, **attributes: Any) -> type[Hook]:
    """A hook that writes down what it is told."""

    async def note(self: Hook, event: LifecycleEvent) -> None:
        told.append(event)

    return type("Recorder", (Hook,), {**dict.fromkeys(kinds, note), **attributes})


def kinds(told: list[LifecycleEvent], container: str = "box") -> list[str]:
    return [event.kind for event in told if event.container == container]


async def test_a_hook_is_told_of_every_step_in_order(register, spec) -> None:
    told: list[LifecycleEvent] = []
    async with pysuper.open_supervisor(hooks=[register("recorder", recorder(told))]) as supervisor:
        container = await supervisor.start(spec("exit 0"))
        pid = container.pid
        record = await container.wait()
    assert kinds(told) == ["before_create", "created", "started", "ready", "exited", "stopped"]
    assert [event.pid for event in told] == [None, pid, pid, pid, None, None]
    assert [event.record for event in told] == [None] * 4 + [record] * 2
    assert {event.run for event in told} == {1}
    assert len({event.id for event in told}) == 1


@pytest.mark.parametrize(
    ("script", "fields", "last"),
    [
        ("exit 3", {}, "failed"),
        ("kill -9 $$", {}, "failed"),
        ("sleep 60", {"timeout": 0.1}, "failed"),
        ("exit 0", {}, "stopped"),
    ],
)
async def test_what_follows_an_end_depends_on_how_it_ended(register, spec, script, fields, last) -> None:
    told: list[LifecycleEvent] = []
    async with pysuper.open_supervisor(hooks=[register("recorder", recorder(told))]) as supervisor:
        await (await supervisor.start(spec(script, **fields))).wait()
    assert kinds(told)[-2:] == ["exited", last]


async def test_a_container_that_is_stopped_has_stopped(register, spec) -> None:
    told: list[LifecycleEvent] = []
    async with pysuper.open_supervisor(hooks=[register("recorder", recorder(told))]) as supervisor:
        await (await supervisor.start(spec("exec sleep 60"))).stop()
    assert kinds(told)[-2:] == ["exited", "stopped"]


async def test_a_start_that_fails_is_told_to_its_end(register, spec) -> None:
    told: list[LifecycleEvent] = []
    async with pysuper.open_supervisor(hooks=[register("recorder", recorder(told))]) as supervisor:
        with pytest.raises(pysuper.CommandNotFound):
            await supervisor.start(spec(command=("/no/such",), init=False))
    assert kinds(told) == ["before_create", "created", "exited", "failed"]
    assert told[-1].record is not None
    assert told[-1].record.reason == "start-failed"
    assert "/no/such" in (told[-1].detail or "")


async def test_created_is_told_before_the_command_runs(register, spec, tmp_path) -> None:
    seen: list[list[Path]] = []

    class Looks(Hook):
        async def created(self, event: LifecycleEvent) -> None:
            await trio.sleep(0.1)
            seen.append(list(tmp_path.iterdir()))
            seen.append(list(Path(f"/proc/{event.pid}").glob("uid_map")))

    mounts = (pysuper.BindMount(source=str(tmp_path), target="/shared"),)
    async with pysuper.open_supervisor(hooks=[register("looks", Looks)]) as supervisor:
        await (await supervisor.start(spec("touch /shared/ran", mounts=mounts))).wait()
    assert seen[0] == []
    assert len(seen[1]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["ran"]


@pytest.mark.parametrize("kind", ["before_create", "created"])
@pytest.mark.parametrize("fault", ["raises", "hangs", "exits"])
async def test_a_hook_that_may_fail_the_start_does(register, spec, tmp_path, kind, fault) -> None:
    async def method(self: Hook, event: LifecycleEvent) -> None:
        if fault == "raises":
            raise ValueError("no licence")
        if fault == "exits":
            sys.exit(0)
        await trio.sleep_forever()

    hook = type("Vetoes", (Hook,), {kind: method, "on_failure": "fail", "timeout": 0.2})
    told: list[LifecycleEvent] = []
    hooks = [register("vetoes", hook), register("recorder", recorder(told))]
    mounts = (pysuper.BindMount(source=str(tmp_path), target="/shared"),)
    async with pysuper.open_supervisor(hooks=hooks) as supervisor:
        expected = {"raises": "ValueError: no licence", "hangs": r"more than 0\.2 s", "exits": "SystemExit"}[fault]
        with pytest.raises(
            DriverError, match=rf"the hook 'vetoes' of third-party 1\.0 .*{kind} of box.*{expected}|{expected}"
        ):
            await supervisor.start(spec("touch /shared/ran", mounts=mounts))
    assert list(tmp_path.iterdir()) == []
    assert kinds(told)[-2:] == ["exited", "failed"]


@pytest.mark.parametrize("kind", KINDS[:6])
@pytest.mark.parametrize("fault", ["raises", "hangs"])
async def test_a_hook_that_only_logs_hurts_nobody(register, spec, kind, fault) -> None:
    async def method(self: Hook, event: LifecycleEvent) -> None:
        if fault == "raises":
            raise ValueError("boom")
        await trio.sleep_forever()

    hook = type("Breaks", (Hook,), {kind: method, "timeout": 0.1})
    warned: list[str] = []
    async with pysuper.open_supervisor(hooks=[register("breaks", hook)], warn=warned.append) as supervisor:
        assert (await (await supervisor.start(spec("exit 0"))).wait()).exit_code == 0
    (line,) = warned
    assert "the hook 'breaks' of third-party 1.0" in line
    assert f"{kind} of box" in line


async def test_a_slow_hook_blocks_neither_another_container_nor_what_follows(register, spec) -> None:
    class Slow(Hook):
        timeout = 60.0

        async def before_create(self, event: LifecycleEvent) -> None:
            if event.container == "slow":
                await trio.sleep_forever()

        async def started(self, event: LifecycleEvent) -> None:
            if event.container == "late":
                await trio.sleep(0.3)

    told: list[LifecycleEvent] = []
    async with pysuper.open_supervisor(hooks=[register("slow", Slow), register("rec", recorder(told))]) as supervisor:
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(supervisor.start, spec(name="slow"))
                await trio.testing.wait_all_tasks_blocked(0.05)
                late = await supervisor.start(spec("exit 0", name="late"))
                assert (await late.wait()).exit_code == 0
                nursery.cancel_scope.cancel()
    assert kinds(told, "late")[-1] == "stopped"
    assert kinds(told, "slow") == ["before_create", "exited", "stopped"]


async def test_hooks_are_told_side_by_side_unless_one_comes_after_another(register, spec) -> None:
    order: list[str] = []
    both_there = trio.Event()

    def hook(name: str, after: tuple[str, ...] = ()) -> type[Hook]:
        async def created(self: Hook, event: LifecycleEvent) -> None:
            if name == "first":
                await both_there.wait()  # which `beside` sets: they run at the same time
            elif name == "beside":
                both_there.set()
            order.append(name)

        return type(name, (Hook,), {"created": created, "after": after})

    names = [("last", ("first", "missing")), ("first", ()), ("beside", ())]
    hooks = [register(name, hook(name, after)) for name, after in names]
    async with pysuper.open_supervisor(hooks=hooks) as supervisor:
        await (await supervisor.start(spec())).wait()
    assert order == ["beside", "first", "last"]


async def test_hooks_that_wait_for_each_other_are_refused(register) -> None:
    one = recorder([], after=("two",))
    two = recorder([], after=("one",))
    with pytest.raises(DriverError, match="wait for each other: (one after two after one|two after one after two)"):
        async with pysuper.open_supervisor(hooks=[register("one", one), register("two", two)]):
            pass


class Counts(Hook):
    """Keeps a nursery open as long as the supervisor runs."""

    log: list[str]

    @asynccontextmanager
    async def host(self, containers: Mapping[str, LifecycleEvent | None]) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            self.log.append("entered")
            yield
            self.log.append("left")
            nursery.cancel_scope.cancel()

    async def failed(self, event: LifecycleEvent) -> None:
        self.log.append("told")

    async def stopped(self, event: LifecycleEvent) -> None:
        self.log.append("told")


async def test_a_hook_is_left_when_everything_has_been_told_also_if_the_supervisor_is_cancelled(register, spec) -> None:
    log: list[str] = []
    hook = register("counts", type("Counts", (Counts,), {"log": log}))
    with trio.CancelScope() as scope:
        async with pysuper.open_supervisor(hooks=[hook]) as supervisor:
            container = await supervisor.start(spec("exec sleep 60"))
            scope.cancel()
            await container.wait()
    assert log == ["entered", "told", "left"]


@pytest.mark.parametrize("fails", [True, False])
async def test_a_hook_whose_background_task_fails_is_given_up_and_nothing_else(register, spec, fails: bool) -> None:
    class Dies(Hook):
        @asynccontextmanager
        async def host(self, containers: Mapping[str, LifecycleEvent | None]) -> AsyncIterator[None]:
            async def die() -> None:
                await trio.sleep(0.1)
                if fails:
                    raise ValueError("background")
                nursery.cancel_scope.cancel()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(die)
                yield

        async def created(self, event: LifecycleEvent) -> None:
            await trio.lowlevel.checkpoint()

    warned: list[str] = []
    told: list[LifecycleEvent] = []
    hooks = [register("dies", Dies), register("recorder", recorder(told))]
    async with pysuper.open_supervisor(hooks=hooks, warn=warned.append) as supervisor:
        container = await supervisor.start(spec("sleep 0.4; exit 7"))
        assert (await container.wait()).exit_code == 7
        assert (await (await supervisor.start(spec("exit 8"))).wait()).exit_code == 8
    (line,) = warned
    what = "failed in host: ValueError: background" if fails else "has cancelled itself"
    assert f"'dies' of third-party 1.0 {what}" in line
    assert kinds(told).count("stopped") + kinds(told).count("failed") == 2


@pytest.mark.parametrize("when", ["enter", "leave"])
async def test_a_hook_that_hangs_in_its_host_is_bounded(register, spec, when) -> None:
    class Hangs(Hook):
        timeout = 0.2

        @asynccontextmanager
        async def host(self, containers: Mapping[str, LifecycleEvent | None]) -> AsyncIterator[None]:
            if when == "enter":
                await trio.sleep_forever()
            yield
            if when == "leave":
                await trio.sleep_forever()

    hook = register("hangs", Hangs)
    warned: list[str] = []
    with trio.fail_after(10):
        if when == "enter":
            with pytest.raises(DriverError, match=r"'hangs' of third-party 1\.0 took more than 0\.2 s to set up"):
                async with pysuper.open_supervisor(hooks=[hook]):
                    pass
            return
        async with pysuper.open_supervisor(hooks=[hook], warn=warned.append) as supervisor:
            await (await supervisor.start(spec())).wait()
    assert "took more than 0.2 s to clean up" in warned[0]


async def test_cancellation_at_every_checkpoint_tells_every_hook_the_end(register, spec) -> None:
    before = Snapshot.take()
    step = 0
    while True:
        step += 1
        told: list[LifecycleEvent] = []
        name = f"recorder-{step}"
        hook = register(name, recorder(told))

        async def live(hook: pysuper.DriverChoice = hook) -> None:
            async with pysuper.open_supervisor(hooks=[hook]) as supervisor:
                await (await supervisor.start(spec("sleep 0.01", stop_timeout=0.05))).wait()

        cancelled = await cancelled_at(step, live)
        before.require_nothing_left()
        if told:
            assert kinds(told)[0] == "before_create"
            assert kinds(told)[-2] == "exited"
            assert kinds(told)[-1] in {"stopped", "failed"}
            assert kinds(told).count("exited") == 1
        if not cancelled:
            break
    assert step > 20


async def test_the_runs_of_a_stack_are_told_one_after_the_other(register, stacks: Stacks) -> None:
    told: list[LifecycleEvent] = []
    register("recorder", recorder(told))
    text = """
        [hook.recorder]

        [container.flaky]
        command = "sh -c 'exit 4'"
        restart = { policy = "on-failure", delay = "10ms", max_restarts = 2, within = "1m" }

        [container.task]
        command = "true"
        kind = "task"

        [container.late]
        command = "sleep 1000"
        depends_on = { task = "completed" }

        [container.never]
        command = "true"
        depends_on = { flaky = "completed" }
    """
    async with stacks.run(text) as stack:
        await stack.until(
            lambda: stack.instances["never"].state == "failed" and stack.settled([stack.instances["late"]])
        )
    assert kinds(told, "flaky") == 2 * ["before_create", "created", "started", "ready", "exited", "restarted"] + [
        "before_create",
        "created",
        "started",
        "ready",
        "exited",
        "failed",
    ]
    assert [event.run for event in told if event.container == "flaky" and event.kind == "exited"] == [1, 2, 3]
    assert kinds(told, "task") == ["before_create", "created", "started", "ready", "exited", "stopped"]
    assert kinds(told, "late") == ["before_create", "created", "started", "ready", "exited", "stopped"]
    assert kinds(told, "never") == ["failed"]
    assert "flaky" in (told[[e.container for e in told].index("never")].detail or "")


async def test_a_hook_sees_what_is_still_to_be_started(register, stacks: Stacks) -> None:
    views: list[dict[str, str | None]] = []

    class Sees(Hook):
        @asynccontextmanager
        async def host(self, containers: Mapping[str, LifecycleEvent | None]) -> AsyncIterator[None]:
            self.containers = containers
            yield

        async def started(self, event: LifecycleEvent) -> None:
            views.append({name: last and last.kind for name, last in self.containers.items()})

    register("sees", Sees)
    text = """
        [hook.sees]
        [container.one]
        command = "sleep 1000"
        ready = { log = "never", timeout = "1m" }
        [container.two]
        command = "true"
        depends_on = { one = "ready" }
    """
    async with stacks.run(text) as stack:
        await stack.until(lambda: stack.instances["one"].state == "running")
        with trio.fail_after(5):
            while not views:
                await trio.sleep(0.01)
    assert views == [{"one": "started", "two": None}]


async def test_a_hook_sees_those_of_one_name_until_the_last_has_ended(register, spec) -> None:
    class Sees(Hook):
        @asynccontextmanager
        async def host(self, containers: Mapping[str, LifecycleEvent | None]) -> AsyncIterator[None]:
            views.append(containers)
            yield

    views: list[Mapping[str, LifecycleEvent | None]] = []
    async with (
        pysuper.open_supervisor(hooks=[register("sees", Sees)]) as supervisor,
        supervisor.pool(spec("exec sleep 1000"), size=1) as pool,
    ):
        (view,) = views
        with pytest.raises(pysuper.ConfigError):
            await pool.start(descriptors={11: 0})
        assert not view
        first, second = [await pool.start() for _ in range(2)]
        second.kill()
        await second.wait()
        last = view["box"]
        assert last is not None
        assert (last.kind, last.pid) == ("ready", first.pid)
        first.kill()
        await first.wait()
        assert not view


async def test_the_hooks_of_a_running_stack_cannot_be_changed(register, stacks: Stacks) -> None:
    register("recorder", recorder([]))
    text = '[hook.recorder]\n[container.a]\ncommand = "sleep 1000"\n'
    async with stacks.run(text) as stack:
        changed = attrs.evolve(stack.spec, hooks=())
        with pytest.raises(pysuper.ConfigError, match="hooks of a running stack cannot be changed"):
            await stack.reload(changed)


def test_a_warning_of_a_hook_is_a_line_on_the_terminal(tmp_path: Path) -> None:
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    (plugins / "sulks.py").write_text(
        textwrap.dedent("""
            from pysuper.drivers import Hook
            class Sulks(Hook):
                async def started(self, event):
                    raise ValueError("no\\nfun")
        """)
    )
    command = [
        sys.executable,
        "-m",
        "pysuper",
        "run",
        "--plugin-dir",
        str(plugins),
        "--hook",
        "sulks",
        "sh",
        "-c",
        "exit 5",
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 5
    assert re.fullmatch(
        rf"pysuper: the hook 'sulks' of {re.escape(str(plugins))}/sulks.py failed in started of sh-\w+: "
        r"ValueError: no\\nfun; report it to its authors, or do without it\n",
        result.stderr,
    )
