"""A stack, in this process: order, readiness, health, restarts, strategies, schedules and output."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import trio

from machine import PATIENCE, Snapshot
from pysuper.container import Container
from pysuper.errors import ConfigError, LaunchError, PysuperError
from pysuper.pool import Pool
from pysuper.stack.lifecycle import DOWN, State
from pysuper.stack.postmortem import Because
from pysuper.stack.reading import records
from pysuper.stack.reports import details
from pysuper.stack.stack import Stack
from pysuper.supervisor import Supervisor
from pysuper.testing.faults import act_at
from stackfiles import Stacks, holds, reaches

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the network of a stack needs root")

OPERATOR = Because(by="operator", who="uid 0, pid 1")


async def over(stack) -> None:
    with trio.fail_after(30 * PATIENCE):
        await stack.until(lambda: all(i.state in DOWN for i in stack.instances.values()))


# --- order ---


async def test_a_member_starts_when_what_it_depends_on_is_as_it_wants_it(stacks: Stacks) -> None:
    async with stacks.run("""
        [container.web]
        command = "sleep 1000"
        depends_on = { db = "ready", prepare = "completed" }

        [container.db]
        command = ["sh", "-c", "sleep 0.2; echo listening; sleep 1000"]
        ready = { log = "^listening" }

        [container.prepare]
        kind = "task"
        command = ["sh", "-c", "sleep 0.1"]
    """) as stack:
        await reaches(stack, "web", State.READY)
    order = stacks.happened("ready", "completed", "starting")
    assert order.index("db ready") < order.index("web starting")
    assert order.index("prepare completed") < order.index("web starting")
    assert stacks.happened("stopped") == ["web stopped", "db stopped"]


async def test_independent_members_start_at_the_same_time(stacks: Stacks) -> None:
    began = time.monotonic()
    async with stacks.run("""
        [defaults]
        ready = { log = "go" }
        command = ["sh", "-c", "sleep 1; echo go; sleep 1000"]
        [container.a]
        [container.b]
        [container.c]
        [container.d]
    """) as stack:
        for name in "abcd":
            await reaches(stack, name, State.READY)
        assert time.monotonic() - began < 3.0


async def test_a_dependency_that_fails_makes_its_waiters_fail_at_once_and_says_why(stacks: Stacks) -> None:
    async with stacks.run("""
        [container.web]
        command = "sleep 1000"
        depends_on = { db = "ready" }
        [container.client]
        command = "sleep 1000"
        depends_on = { web = "ready" }
        [container.db]
        command = ["sh", "-c", "echo no space left >&2; exit 3"]
        ready = { log = "listening" }
    """) as stack:
        await over(stack)
        web, client = stack.instances["web"], stack.instances["client"]
        assert (web.state, web.because.container, web.run) == (State.FAILED, "db", 0)
        assert "exited with 3" in web.detail
        assert "no space left" in web.detail
        assert (client.state, client.because.container) == (State.FAILED, "web")
        assert stack.first_failure is stack.instances["db"]


async def test_a_chain_of_dependencies_longer_than_the_stack_of_python_fails_as_well(stacks: Stacks) -> None:
    links = [f'[container.c{n}]\ncommand = "true"\ndepends_on = ["c{n - 1}"]\n' for n in range(1, 1500)]
    text = '[container.c0]\ncommand = "no-such-command"\n' + "".join(reversed(links))
    async with stacks.run(text) as stack:
        await over(stack)
        assert {instance.state for instance in stack.instances.values()} == {State.FAILED}


# --- readiness ---


@pytest.mark.parametrize(
    ("ready", "command"),
    [
        ("{ tcp = 8080 }", "sleep 0.3; exec busybox httpd -f -p 8080 -h /etc"),
        ('{ http = "http://127.0.0.1:8080/hostname" }', "sleep 0.3; exec busybox httpd -f -p 8080 -h /etc"),
        ('{ command = "test -e /tmp/up" }', "sleep 0.3; touch /tmp/up; sleep 1000"),
        ('{ log = "up .* running" }', "sleep 0.3; echo up and running; sleep 1000"),
        ("{ fd = 3 }", "sleep 0.3; echo >&3; sleep 1000"),
    ],
)
async def test_ready_is_what_the_probe_says(stacks: Stacks, ready: str, command: str) -> None:
    async with stacks.run(f"""
        [container.web]
        command = ["sh", "-c", "{command}"]
        ready = {ready}
    """) as stack:
        web = await reaches(stack, "web", State.RUNNING)
        started = web.since
        await reaches(stack, "web", State.READY)
        assert web.since - started >= 0.2


async def test_sd_notify_makes_ready_and_tells_its_status(stacks: Stacks) -> None:
    notify = "import os, socket; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM);"
    notify += (
        "s.connect(os.environ['NOTIFY_SOCKET']); [s.send(b'STATUS=working ' + str(n).encode()) for n in range(50)];"
    )
    notify += "s.send(b'READY=1\\\\nSTATUS=serving')"
    async with stacks.run(f"""
        [container.web]
        command = ["sh", "-c", "/usr/bin/python3 -c \\"{notify}\\"; sleep 1000"]
        ready = "notify"
    """) as stack:
        web = await reaches(stack, "web", State.READY, State.FAILED)
        assert (web.state, web.status) == (State.READY, "serving"), stacks.output("web")


async def test_what_is_not_ready_in_time_is_stopped_as_a_failure(stacks: Stacks) -> None:
    async with stacks.run("""
        [container.web]
        command = "sleep 1000"
        ready = { tcp = 8080, timeout = "0.5s" }
    """) as stack:
        web = await reaches(stack, "web", State.FAILED)
        assert web.record.reason == "not-ready"
        assert "ECONNREFUSED" in stacks.journal("stopping")[0]["detail"]


async def test_an_attempt_that_is_never_answered_is_not_the_last_one(stacks: Stacks) -> None:
    async with stacks.run("""
        [container.late]
        command = "sleep 1000"
        ready = { command = ["sh", "-c", "mkdir /tmp/asked || exit 0; sleep 1000"], timeout = "4s" }

        [container.never]
        command = "sleep 1000"
        ready = { command = "sleep 1000", timeout = "1s" }
    """) as stack:
        await reaches(stack, "late", State.READY)
        await reaches(stack, "never", State.FAILED)
        assert stacks.journal("stopping")[0]["detail"] == "not ready after 1 s: no answer in 0.5 s"


# --- health ---


async def test_an_unhealthy_container_is_restarted(stacks: Stacks) -> None:
    async with stacks.run("""
        [container.web]
        command = ["sh", "-c", "touch /tmp/ok; sleep 1000"]
        restart = "on-failure"
        healthcheck = { command = "test -e /tmp/ok", interval = "0.1s", start_interval = "0.1s", retries = 2 }
    """) as stack:
        web = await reaches(stack, "web", State.READY)
        await holds(lambda: web.healthy is True)
        async with web.container.execute(("rm", "/tmp/ok")) as removal:
            await removal.wait()
        await reaches(stack, "web", State.READY, run=2)
        assert stacks.journal("exited")[0]["record"]["reason"] == "unhealthy"
        assert web.restarts == 1


async def test_a_hanging_health_check_times_out_and_leaves_no_process(stacks: Stacks) -> None:
    async with stacks.run("""
        [container.web]
        command = "sleep 1000"
        [container.web.healthcheck]
        command = ["sh", "-c", "sleep 999 & wait"]
        timeout = "0.3s"
        start_interval = "0.1s"
        on_unhealthy = "none"
    """) as stack:
        web = await reaches(stack, "web", State.READY)
        await holds(lambda: web.healthy is False)
        await trio.sleep(1)
        async with web.container.execute(("sh", "-c", "ps ax | grep -c '[s]leep 999' > /dev/stderr")) as count:
            await count.wait()
        processes = web.container.statistics().pids_current
        assert processes is None or processes < 8
        assert "no answer in 0.3 s" in stacks.journal("unhealthy")[0]["detail"]


# --- restarts ---


async def test_a_crash_is_restarted_with_growing_delays_and_given_up_in_the_end(stacks: Stacks) -> None:
    async with stacks.run("""
        [container.web]
        command = ["sh", "-c", "exit 7"]
        restart = { policy = "on-failure", delay = "0.05s", jitter = 0, max_restarts = 3, within = "30s" }
    """) as stack:
        web = await reaches(stack, "web", State.FAILED)
        assert (web.run, web.restarts, web.record.exit_code) == (4, 3, 7)
        assert web.detail == "gave up after 3 restarts in 30 s"
    assert [record["delay"] for record in stacks.journal("restarting")] == [0.05, 0.1, 0.2]


async def test_a_task_that_is_done_is_not_started_again(stacks: Stacks) -> None:
    async with stacks.run("""
        [container.job]
        kind = "task"
        command = "true"
        restart = "always"
    """) as stack:
        job = await reaches(stack, "job", State.COMPLETED)
        assert (job.run, stack.over) == (1, True)


async def test_a_command_that_is_missing_fails_and_says_so(stacks: Stacks) -> None:
    async with stacks.run("""
        [container.web]
        command = "no-such-command"
    """) as stack:
        web = await reaches(stack, "web", State.FAILED)
        assert (web.record.reason, web.record.exit_code) == ("start-failed", 127)
        assert "no-such-command" in web.detail


async def test_a_stop_while_it_waits_for_its_restart_keeps_it_down(stacks: Stacks) -> None:
    async with stacks.run("""
        [container.web]
        command = "false"
        restart = { policy = "always", delay = "30s" }
    """) as stack:
        web = await reaches(stack, "web", State.BACKOFF)
        await stack.stop([web], OPERATOR)
        assert (web.state, web.run) == (State.STOPPED, 1)


async def test_a_stop_during_the_start_leaves_nothing(stacks: Stacks) -> None:
    async with stacks.run("""
        [container.web]
        command = "sleep 1000"
    """) as stack:
        web = await reaches(stack, "web", State.STARTING, run=0)
        await stack.stop([web], OPERATOR)
        assert web.state is State.STOPPED


async def test_a_frozen_container_is_stopped_all_the_same(stacks: Stacks) -> None:
    async with stacks.run("""
        [container.web]
        command = "sleep 1000"
    """) as stack:
        web = await reaches(stack, "web", State.READY)
        web.container.pause()
        await stack.stop([web], OPERATOR)
        assert web.state is State.STOPPED


async def test_pid_1_killed_from_outside_is_a_failure_that_is_restarted(stacks: Stacks) -> None:
    async with stacks.run("""
        [container.web]
        command = "sleep 1000"
        restart = { policy = "always", delay = 0 }
    """) as stack:
        web = await reaches(stack, "web", State.READY)
        os.kill(web.container.pid, signal.SIGKILL)
        await reaches(stack, "web", State.READY, run=2)
        assert stacks.journal("exited")[0]["summary"] == "killed by SIGKILL"


# --- strategies ---


@pytest.mark.parametrize(
    ("strategy", "restarted"),
    [("one_for_one", {"b"}), ("rest_for_one", {"b", "c"}), ("one_for_all", {"a", "b", "c", "other"})],
)
async def test_who_is_restarted_with_a_container_that_dies(stacks: Stacks, strategy: str, restarted: set[str]) -> None:
    async with stacks.run(f"""
        [stack]
        strategy = "{strategy}"
        [defaults]
        command = "sleep 1000"
        restart = {{ policy = "always", delay = 0 }}
        [container.a]
        [container.b]
        depends_on = ["a"]
        [container.c]
        depends_on = ["b"]
        [container.other]
    """) as stack:
        for name in stack.instances:
            await reaches(stack, name, State.READY)
        stack.instances["b"].container.kill()
        for name in restarted:
            await reaches(stack, name, State.READY, run=2)
        assert {name for name, instance in stack.instances.items() if instance.run == 2} == restarted
        assert all(instance.state is State.READY for instance in stack.instances.values())


# --- schedules ---


async def test_a_scheduled_task_runs_again_and_again(stacks: Stacks) -> None:
    async with stacks.run("""
        [container.tick]
        every = "0.3s"
        command = ["sh", "-c", "echo tick"]
    """) as stack:
        await reaches(stack, "tick", State.SCHEDULED, run=3)
        assert stacks.output("tick") == ["tick"] * 3


async def test_a_cron_expression_waits_for_its_time(stacks: Stacks) -> None:
    async with stacks.run("""
        [container.tick]
        cron = "0 0 1 1 *"
        command = "true"
    """) as stack:
        tick = await reaches(stack, "tick", State.SCHEDULED, run=0)
        assert (tick.run, stack.over) == (0, False)
        stack.start([tick], OPERATOR)
        await reaches(stack, "tick", State.SCHEDULED, run=1)


# --- network ---


async def test_containers_of_a_stack_reach_each_other_by_name_and_nobody_else(stacks: Stacks) -> None:
    async with stacks.run("""
        [container.web]
        command = "busybox httpd -f -p 80 -h /etc"
        ready = { tcp = 80 }
        [container.client]
        command = ["sh", "-c", "busybox wget -q -O - http://web/hostname && ls /sys/class/net && ip route"]
        depends_on = { web = "ready" }
        [container.lonely]
        network = "own"
        command = "busybox wget -q -O - http://127.0.0.1/hostname"
        depends_on = { web = "ready" }
    """) as stack:
        client = await reaches(stack, "client", State.COMPLETED, State.FAILED)
        lonely = await reaches(stack, "lonely", State.COMPLETED, State.FAILED)
        assert (client.state, lonely.state) == (State.COMPLETED, State.FAILED), stacks.output("client")
        inodes = {os.readlink(f"/proc/{stack.instances['web'].container.pid}/ns/net"), os.readlink("/proc/self/ns/net")}
        assert len(inodes) == 2
    assert stacks.output("client")[1:] == ["lo"]


# --- output ---


async def test_output_is_kept_apart_and_in_order(stacks: Stacks) -> None:
    async with stacks.run("""
        [container.web]
        command = ["sh", "-c", "echo one; sleep 0.1; echo two >&2; sleep 0.1; printf 'three\\\\033[31m'"]
    """) as stack:
        await over(stack)
    found = [(record["kind"], record["text"]) for record in stacks.journal("stdout", "stderr")]
    assert found == [("stdout", "one"), ("stderr", "two"), ("stdout", "three\x1b[31m")]


async def test_what_is_faster_than_its_allowance_is_dropped_and_counted(stacks: Stacks) -> None:
    async with stacks.run("""
        [container.web]
        command = ["sh", "-c", "yes $(printf %0100d 0) | head -c 20000000; echo done"]
        logging = "drop"
    """) as stack:
        await over(stack)
    said = stacks.journal("stdout")
    kept = sum(len(record["text"]) + (not record.get("partial")) for record in said)
    dropped = sum(record["bytes"] for record in stacks.journal("dropped"))
    assert dropped > 0
    assert kept + dropped == 20_000_005


async def test_a_stop_that_comes_when_a_start_has_just_succeeded_stops_it(
    stacks: Stacks, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def start(supervisor: Supervisor, *args: Any, **fields: Any) -> Container:
        with trio.CancelScope(shield=True):
            container = await really(supervisor, *args, **fields)
            while not stack.instances["web"]._start.cancel_called:
                await trio.sleep(0.01)
        return container  # without having noticed

    really = Supervisor.start
    monkeypatch.setattr(Supervisor, "start", start)
    async with stacks.run("""
        [container.web]
        command = "sleep 1000"
        restart = { policy = "always", delay = 0 }
    """) as stack:
        web = await reaches(stack, "web", State.STARTING, run=0)
        with trio.fail_after(10 * PATIENCE):
            await stack.stop([web], OPERATOR)
        assert web.state is State.STOPPED
        assert web.container is None


# --- spares ---


async def spares(stack: Stack, name: str, number: int) -> list[int]:
    """The first processes of the spares of an instance, once there are so many."""
    instance = stack.instances[name]
    await holds(lambda: instance._pool is not None and instance._pool.ready == number)
    return [spare.pid for spare in instance._pool._spares]


async def test_the_next_run_is_a_spare_that_was_ready(stacks: Stacks) -> None:
    async with stacks.run("""
        [container.web]
        command = ["sh", "-c", "echo run; echo go >&3; exec sleep 1000"]
        ready = { fd = 3 }
        warm = 2
        restart = { policy = "always", delay = 0 }
    """) as stack:
        web = await reaches(stack, "web", State.READY)
        for run in (2, 3, 4):
            ready = await spares(stack, "web", 2)
            assert details(web)["spares"] == 2
            web.container.send_signal(signal.SIGKILL)
            await reaches(stack, "web", State.READY, run=run)
            assert web.container.pid == ready[0]
            assert web.container.receipts
    assert stacks.output("web") == ["run"] * 4


async def test_who_is_down_has_no_spares(stacks: Stacks) -> None:
    async with stacks.run("""
        [container.other]
        command = "sleep 1000"
        [container.web]
        command = "sleep 1000"
        warm = 2
    """) as stack:
        await reaches(stack, "other", State.READY)
        web = await reaches(stack, "web", State.READY)
        ready = await spares(stack, "web", 2)
        assert all(os.path.exists(f"/proc/{pid}") for pid in ready)
        await stack.stop([web], OPERATOR)
        await holds(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in ready))
        stack.start([web], OPERATOR)
        await reaches(stack, "web", State.READY, run=2)
        assert not set(await spares(stack, "web", 2)) & set(ready)


async def test_spares_are_of_the_file_that_was_loaded_last(stacks: Stacks) -> None:
    text = """
        [container.web]
        command = ["sh", "-c", "hostname; exec sleep 1000"]
        hostname = "old"
        warm = 1
        restart = { policy = "always", delay = 0 }
    """
    async with stacks.run(text) as stack:
        await reaches(stack, "web", State.READY)
        ready = await spares(stack, "web", 1)
        await stack.reload(stacks.load(text.replace("old", "new")))
        await holds(lambda: not os.path.exists(f"/proc/{ready[0]}"))
        await reaches(stack, "web", State.READY)
        await spares(stack, "web", 1)
        stack.instances["web"].container.send_signal(signal.SIGKILL)
        await reaches(stack, "web", State.READY, run=2)
        await holds(lambda: stacks.output("web") == ["old", "new", "new"])


async def test_a_container_without_its_spares_runs(stacks: Stacks, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(_pool: Pool) -> None:
        raise LaunchError("out of luck")

    with monkeypatch.context() as patched:
        patched.setattr(Pool, "open", refuse)
        async with stacks.run("""
            [container.web]
            command = "sleep 1000"
            warm = 1
            restart = { policy = "always", delay = 0 }
        """) as stack:
            web = await reaches(stack, "web", State.READY)
            await holds(
                lambda: [r["detail"] for r in stacks.journal("warning")] == ["there are no spares: out of luck"]
            )
            patched.undo()
            web.container.send_signal(signal.SIGKILL)
            await reaches(stack, "web", State.READY, run=2)
            await spares(stack, "web", 1)


async def test_without_a_spare_it_is_tried_as_ever(stacks: Stacks, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    async with stacks.run(f"""
        [container.web]
        command = ["sh", "-c", "until test -e /volume/gone; do sleep 0.01; done; exec sleep 1000"]
        volumes = ["{volume}:/volume"]
        warm = 1
        restart = {{ policy = "always", delay = 0, max_restarts = 1 }}
    """) as stack:
        web = await reaches(stack, "web", State.READY)
        (spare,) = await spares(stack, "web", 1)
        volume.rename(tmp_path / "moved")
        os.kill(spare, signal.SIGKILL)
        await holds(lambda: web._pool.ready == 0)
        assert web.state is State.READY
        web.container.send_signal(signal.SIGKILL)
        await over(stack)
        assert web.detail == "gave up after 1 restarts in 10 s"
        assert "/volume" in web.record.error


# --- several changes at once ---

#: `db` takes a while to stop, and says when it has begun to.
SLOW_TO_STOP = """
    [container.db]
    command = ["sh", "-c", "trap 'echo stops; sleep 0.5; exit 0' TERM; echo up; while :; do sleep 0.05; done"]
    stop_grace_period = "20s"
    ready = { log = "^up" }
"""


async def test_who_waits_for_one_that_is_restarted_goes_on_waiting(stacks: Stacks) -> None:
    async with stacks.run(
        SLOW_TO_STOP
        + """
        [container.web]
        command = "sleep 1000"
        depends_on = { db = "ready", slow = "completed" }
        [container.slow]
        kind = "task"
        command = ["sh", "-c", "sleep 1"]
    """
    ) as stack:
        db = await reaches(stack, "db", State.READY)
        assert stack.instances["web"].state is State.WAITING
        await stack.restart([db], OPERATOR)
        await reaches(stack, "web", State.READY)
        assert db.run == 2


async def test_who_waits_for_one_that_a_reload_changes_goes_on_waiting(stacks: Stacks) -> None:
    text = """
        [container.web]
        command = "sleep 1000"
        depends_on = {{ db = "healthy" }}
        [container.db]
        command = "sleep 1000"
        healthcheck = {{ command = ["{0}"], interval = "0.1s", retries = 1000 }}
    """
    async with stacks.run(text.format("false")) as stack:
        await reaches(stack, "db", State.READY)
        await stack.reload(stacks.load(text.format("true")))
        await reaches(stack, "web", State.READY)


async def test_a_start_during_a_stop_is_not_waited_for_by_the_stop(stacks: Stacks) -> None:
    async with stacks.run(SLOW_TO_STOP) as stack, trio.open_nursery() as nursery:
        db = await reaches(stack, "db", State.READY)
        nursery.start_soon(stack.stop, [db], OPERATOR)
        await holds(lambda: "stops" in stacks.output("db"))
        stack.start([db], OPERATOR)
        await reaches(stack, "db", State.READY, run=2)


async def test_who_is_being_stopped_stays_down_whatever_the_strategy(stacks: Stacks) -> None:
    async with stacks.run(
        """
        [stack]
        strategy = "one_for_all"
        [container.crashes]
        command = "sleep 1000"
        restart = "always"
    """
        + SLOW_TO_STOP
    ) as stack:
        db = await reaches(stack, "db", State.READY)
        crashes = await reaches(stack, "crashes", State.READY)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stack.stop, [db], OPERATOR)
            await holds(lambda: "stops" in stacks.output("db"))
            crashes.container.kill()
        await reaches(stack, "crashes", State.READY, run=2)
        assert db.state is State.STOPPED
        assert db.run == 1


async def test_nothing_is_started_any_more_in_a_stack_that_ends(stacks: Stacks) -> None:
    async with stacks.run(SLOW_TO_STOP) as stack:
        db = await reaches(stack, "db", State.READY)
        stack.ending = True
        with pytest.raises(PysuperError, match="is being stopped"):
            await stack.restart([db], OPERATOR)
        with pytest.raises(PysuperError, match="is being stopped"):
            stack.start([db], OPERATOR)
        assert db.run == 1


# --- reload ---


async def test_reload_touches_only_what_differs(stacks: Stacks) -> None:
    text = """
        [defaults]
        command = "sleep 1000"
        [container.same]
        [container.changed]
        [container.gone]
    """
    async with stacks.run(text) as stack:
        for name in ("same", "changed", "gone"):
            await reaches(stack, name, State.READY)
        pid = stack.instances["same"].container.pid
        changed = stacks.load("""
            [defaults]
            command = "sleep 1000"
            [container.same]
            [container.changed]
            hostname = "other"
            [container.new]
            depends_on = { changed = "ready" }
        """)
        outcome = await stack.reload(changed)
        await reaches(stack, "new", State.READY)
        assert outcome == {"removed": ["gone"], "changed": ["changed"], "added": ["new"], "kept": ["same"]}
        assert list(stack.instances) == ["same", "changed", "new"]
        assert stack.instances["same"].container.pid == pid


async def test_a_reload_cannot_change_the_journal(stacks: Stacks) -> None:
    text = """
        [container.box]
        command = "sleep 1000"
    """
    async with stacks.run(text) as stack:
        with pytest.raises(ConfigError, match="the journal of a running stack cannot be changed"):
            await stack.reload(stacks.load(text + '[journal]\nmax_size = "1M"\n'))


# --- faults ---


async def test_out_of_memory_is_in_the_post_mortem_with_its_limit(stacks: Stacks) -> None:
    async with stacks.run("""
        [container.hog]
        command = ["sh", "-c", "echo eating; exec tail /dev/zero"]
        cgroup = { memory_max = "32M" }
    """) as stack:
        hog = await reaches(stack, "hog", State.FAILED)
        assert hog.record.reason == "oom"
    (found,) = records(Path(stacks.project.state), "exits")
    assert (found["container"], found["limits"]["memory_max"], found["log"]) == ("hog", 32 * 2**20, ["eating"])
    assert found["record"]["memory_peak"] <= 33 * 2**20


@pytest.mark.timeout(600)
async def test_cancellation_of_a_stack_leaves_nothing_wherever_it_lands(stacks: Stacks) -> None:
    """Every third task step; each run of the tests begins at another one."""
    text = """
        [container.db]
        command = ["sh", "-c", "echo go; sleep 0.05"]
        ready = { log = "go" }
        [container.web]
        command = ["sh", "-c", "echo > /dev/fd/3; sleep 0.05"]
        ready = { fd = 3 }
        depends_on = { db = "ready" }
        [container.job]
        kind = "task"
        command = "true"
    """
    before = Snapshot.take()
    step = 1 + os.getpid() % 3
    finished = False
    while not finished:
        with trio.CancelScope() as scope, act_at(step, scope.cancel):
            async with stacks.run(text) as stack:
                await over(stack)
        before.require_nothing_left()
        assert not stacks.project.is_running()
        finished = not scope.cancelled_caught
        step += 3
    assert step > 90
