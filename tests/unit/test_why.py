"""`pysuper why`, on post-mortems as a stack writes them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_stack import variables
from hypothesis import given, strategies as st

from pysuper import cli
from pysuper.errors import PysuperError
from pysuper.record import ExitRecord
from pysuper.spec import ContainerSpec, Limits
from pysuper.stack.history import End, History
from pysuper.stack.journal import Journal
from pysuper.stack.postmortem import Because, postmortem
from pysuper.stack.project import Project
from pysuper.stack.spec import JournalSpec


class Story:
    """Writes what a stack would write."""

    def __init__(self, project: Project) -> None:
        project.state.mkdir(parents=True, exist_ok=True)
        self.journal = Journal(project.state, JournalSpec())
        self.exits = Journal(project.state, JournalSpec(), stem="exits")

    def begins(self, name: str, run: int) -> None:
        """A run."""
        self.journal.write("starting", container=name, run=run)

    def ends(
        self,
        name: str,
        run: int,
        *,
        because: Because = Because(),  # noqa: B008 - frozen
        detail: str = "",
        limits: Limits = Limits(),  # noqa: B008 - frozen
        log: tuple[str, ...] = (),
        then: str | None = None,
        then_fields: dict[str, Any] | None = None,
        **result: Any,
    ) -> None:
        """The end of a run, as `Instance._judge` writes it, and what it does next."""
        result = {"exit_code": None, "reason": "exited", "wall_seconds": 3.0, **result}
        record = ExitRecord(name=name, argv=("x",), **result)
        found = postmortem(record, because=because, detail=detail, limits=limits, log=log)
        self.exits.write("exited", container=name, run=run, **found)
        self.journal.write("exited", container=name, run=run, **found)
        if then is not None:
            self.journal.write(then, container=name, run=run, **(then_fields or {}), **because.fields())

    def gives_up(self, name: str, run: int | None, dependency: str, dependency_run: int) -> None:
        """One that waited for another one, which has failed."""
        because = Because(by="dependency", container=dependency, run=dependency_run)
        detail = f"{dependency}, which it depends on, is failed"
        self.journal.write("failed", container=name, run=run, detail=detail, **because.fields())


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project in a directory of the test's."""
    for name, value in variables(tmp_path).items():
        monkeypatch.setenv(name, value)
    return Project.of(name="demo")


@pytest.fixture
def story(project: Project) -> Iterator[Story]:
    """What has happened in it."""
    story = Story(project)
    yield story
    story.journal.close()
    story.exits.close()


Why = Any


@pytest.fixture
def why(capsys: pytest.CaptureFixture[str]) -> Why:
    """What the command prints."""

    def run(*argv: str) -> list[str]:
        assert cli.main(["why", *argv]) == 0
        lines = capsys.readouterr().out.splitlines()
        # The time is not the test's.
        return [line.replace(line[12:31], "TIME") if "when" in line[:12] else line for line in lines]

    return run


def out_of_memory(story: Story, name: str = "db", run: int = 3, **more: Any) -> None:
    """The kernel kills one."""
    story.ends(
        name,
        run,
        reason="oom",
        signal=9,
        oom_kills=1,
        memory_peak=2**26,
        user_seconds=0.4,
        system_seconds=0.2,
        limits=Limits(memory_max=2**26, pids_max=50, cpu_max=0.5),
        log=("loading", "\x1b[31mred\nforged"),
        **more,
    )


def test_a_postmortem_says_everything(story: Story, why: Why) -> None:
    out_of_memory(story, then="restarting", then_fields={"delay": 0.2})
    assert why("db") == [
        "db, run 3: killed by the kernel: out of memory (memory_max)",
        "  when      TIME, after 3.0s",
        "  ended by  the kernel, at its memory limit",
        "  memory    64M at most of 64M (100%); 1 process killed for it",
        "  processes 50 allowed",
        "  cpu       0.6s (20% of a core), 0.5 cores allowed",
        "  said      | loading",
        r"            | \x1b[31mred\nforged",
        "  then      restarted after 0.2s",
        "",
        "First domino: db, run 3: killed by the kernel: out of memory (memory_max)",
    ]


def test_the_first_domino_is_found_over_several_containers(story: Story, why: Why) -> None:
    out_of_memory(story)
    story.ends("web-1", 1, reason="stopped", signal=15, because=Because(by="strategy", container="db", run=3))
    story.gives_up("client", None, "web-1", 1)
    story.gives_up("report", None, "client", 0)
    assert why("report") == [
        "report: was not started",
        "  when      TIME",
        "  ended by  client, which it depends on: was not started",
        "  detail    client, which it depends on, is failed",
        "",
        "First domino: db, run 3: killed by the kernel: out of memory (memory_max)",
        "  then web-1, run 1: stopped on request (SIGTERM)",
        "  then client: was not started",
        "  then report: was not started",
    ]
    assert "  ended by  db, run 3, by the stack's strategy: killed by the kernel: out of memory (memory_max)" in why(
        "web"
    )
    assert "  then      web-1, run 1: stopped on request (SIGTERM)" in why("db")


def test_without_names_each_failure_is_a_line(story: Story, why: Why) -> None:
    story.ends("task", 1, exit_code=0)
    story.ends("flaky", 1, exit_code=7, log=("working", "something is wrong"))
    story.ends("web", 1, reason="unhealthy", signal=15, detail="unhealthy: no answer in 5 s")
    out_of_memory(story)
    story.ends("web", 2, reason="stopped", signal=15, because=Because(by="strategy", container="db", run=3))
    story.ends("flaky", 2, reason="stopped", signal=15, because=Because(by="operator", who="uid 0, pid 7"))
    story.ends("web", 3, reason="stopped", signal=15, because=Because(by="stack"))
    lines = why()
    assert [re.split("  +", line)[1:] for line in lines[:5]] == [
        ["CONTAINER", "AFTER", "WHAT", "WHY"],
        ["flaky, run 1", "3.0s", "exited with 7", "said: something is wrong"],
        ["web, run 1", "3.0s", "stopped because it was unhealthy (SIGTERM)", "unhealthy: no answer in 5 s"],
        ["db, run 3", "3.0s", "killed by the kernel: out of memory (memory_max)", r"said: \x1b[31mred\nforged"],
        ["web, run 2", "3.0s", "stopped on request (SIGTERM)", "because of db, run 3"],
    ]
    assert lines[5:] == [
        "",
        "First domino: db, run 3: killed by the kernel: out of memory (memory_max)",
        "  then web, run 2: stopped on request (SIGTERM)",
    ]


def test_when_nothing_has_failed_it_says_so(story: Story, why: Why) -> None:
    story.begins("db", 1)
    assert why() == ["nothing has failed in the stack demo"]
    assert why("db") == ["no run of db has ended yet"]
    story.ends("db", 1, exit_code=0)
    assert why() == ["nothing has failed in the stack demo"]
    assert why("db")[0] == "db, run 1: exited with 0"
    assert not any("domino" in line for line in why("db"))


def test_one_that_has_only_talked_is_known(story: Story, why: Why) -> None:
    """So much that the journal has nothing else of it any more."""
    story.journal.output("db", 1, "stdout", b"talk\n")
    assert why("db") == ["no run of db has ended yet"]


def test_the_last_incarnation_is_meant(story: Story, why: Why) -> None:
    """Each supervisor begins again with run 1."""
    story.ends("db", 1, exit_code=1)
    story.ends("db", 1, exit_code=2)
    story.ends("web", 1, reason="stopped", signal=15, because=Because(by="strategy", container="db", run=1))
    assert why("web")[-2:] == [
        "First domino: db, run 1: exited with 2",
        "  then web, run 1: stopped on request (SIGTERM)",
    ]
    assert [line for line in why("db") if "  then" in line] == ["  then      web, run 1: stopped on request (SIGTERM)"]


@pytest.mark.parametrize(
    ("result", "line"),
    [
        ({"exit_code": 1}, "ended by  itself"),
        ({"exit_code": 127}, "perhaps   a shell did not find the command"),
        ({"exit_code": 126}, "perhaps   a shell found the command, but could not execute it"),
        ({"exit_code": 137}, "perhaps   a shell whose command was ended by SIGKILL"),
        ({"signal": 11, "reason": "signaled"}, "ended by  itself: that is a fault of the program"),
        ({"signal": 15, "reason": "signaled"}, "ended by  a signal that pysuper did not send"),
        (
            {"signal": 9, "reason": "signaled"},
            "ended by  a signal that pysuper did not send: from somebody else, "
            "or because the machine was out of memory",
        ),
        ({"signal": 15, "reason": "timeout"}, "ended by  its timeout"),
        ({"signal": 15, "reason": "unhealthy"}, "ended by  its health check"),
        ({"signal": 15, "reason": "not-ready"}, "ended by  its readiness check"),
        ({"exit_code": 127, "reason": "start-failed", "error": "no"}, "ended by  nobody; it did not start"),
        ({"reason": "stuck", "error": "no"}, "ended by  the kernel, which does not let go of it"),
        ({"exit_code": 1, "pids_max_hits": 1, "limits": Limits(pids_max=20)}, "processes 20 allowed, 1 fork refused"),
        ({"exit_code": 1, "pids_max_hits": 312}, "processes 312 forks refused"),
        ({"exit_code": 1, "memory_peak": 2**20}, "memory    1M at most, without a limit"),
        ({"exit_code": 1, "then": "failed", "then_fields": {"detail": "gave up"}}, "then      it stays down: gave up"),
        ({"exit_code": 1, "then": "failed", "then_fields": {"detail": "exited with 1"}}, "then      it stays down"),
        ({"exit_code": 1, "then": "scheduled"}, "then      it runs again when it is due"),
        ({"exit_code": 0, "then": "completed"}, "then      its work is done"),
        ({"exit_code": 1, "then": "waiting"}, "then      started again"),
        (
            {"signal": 15, "because": Because(by="operator", who="uid 0, pid 7")},
            "ended by  the operator (uid 0, pid 7)",
        ),
        ({"signal": 15, "because": Because(by="stack")}, "ended by  the end of the stack"),
        (
            {"signal": 15, "because": Because(by="stack", container="lost", run=2)},
            "ended by  lost, run 2, with which the stack ends",
        ),
        (
            {"signal": 15, "because": Because(by="reload")},
            "ended by  a reload: it has changed in the file, or is not there any more",
        ),
    ],
)
def test_who_or_what_has_ended_it(story: Story, why: Why, result: dict[str, Any], line: str) -> None:
    story.ends("db", 1, **result)
    assert f"  {line}" in why("db")


def test_one_that_did_not_start_says_why(story: Story, why: Why) -> None:
    record = ExitRecord.start_failed(ContainerSpec(name="db"), PysuperError("no such driver"))
    story.ends("db", 1, **{key: getattr(record, key) for key in ("exit_code", "reason", "error", "wall_seconds")})
    assert why("db")[0] == "db, run 1: did not start: no such driver"


def test_names_are_those_of_instances_and_members(story: Story, why: Why, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("web-1", "web-2", "web-admin"):
        story.ends(name, 1, exit_code=1)
    assert sum("exited with 1" in line and "domino" not in line for line in why("web")) == 2
    assert sum("exited with 1" in line and "domino" not in line for line in why("web-2", "web-admin")) == 2
    assert cli.main(["why", "wbe-1"]) == 2
    assert capsys.readouterr().err == "pysuper: nothing is known of a container 'wbe-1'; did you mean 'web-1'?\n"


def test_programs_can_read_it(story: Story, capsys: pytest.CaptureFixture[str]) -> None:
    out_of_memory(story, then="restarting", then_fields={"delay": 0.2})
    story.ends("web", 1, reason="stopped", signal=15, because=Because(by="strategy", container="db", run=3))
    assert cli.main(["why", "--json", "web"]) == 0
    told = json.loads(capsys.readouterr().out)
    (end,) = told["ends"]
    assert end["record"]["reason"] == "stopped"
    assert end["first_domino"] == {"container": "db", "run": 3}
    db, _ = told["dominoes"]
    assert db["then"]["kind"] == "restarting"
    assert db["effects"] == [{"container": "web", "run": 1}]


def test_what_followed_is_left_out_when_the_journal_has_lost_it(story: Story, project: Project, why: Why) -> None:
    out_of_memory(story, then="restarting", then_fields={"delay": 0.2})
    story.journal.close()
    (project.state / "journal.jsonl").unlink()
    story.journal.write("stopped", container="db", run=3)
    assert not any("then" in line[:12] for line in why("db"))


def test_records_that_are_cut_off_are_passed_over(story: Story, project: Project, why: Why) -> None:
    story.ends("db", 1, exit_code=1)
    with (project.state / "exits.jsonl").open("a") as file:
        file.write('{"at": 1, "kind": "exited", "conta')
    assert why("db")[0] == "db, run 1: exited with 1"


def test_boots_are_in_the_order_of_the_wall_clock(project: Project, why: Why) -> None:
    """The monotonic clock begins anew."""
    project.state.mkdir(parents=True)
    lines = []
    for boot, day, at, code in (("b", 1, 900.0, 1), ("a", 2, 5.0, 2), ("a", 2, 6.0, 3)):
        result = ExitRecord(name="db", argv=(), exit_code=code, reason="exited")
        found = postmortem(result, because=Because(), detail="", limits=Limits(), log=())
        base = {
            "kind": "exited",
            "container": "db",
            "run": 1,
            "boot": boot,
            "at": at,
            "time": f"2026-01-0{day}T00:00:00Z",
        }
        lines.append(json.dumps({**base, **found}) + "\n")
    (project.state / "exits.jsonl").write_text("".join(lines[::-1]))
    assert [line for line in why("db") if line.startswith("db")] == [f"db, run 1: exited with {n}" for n in (1, 2, 3)]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.sampled_from("abc"), st.integers(0, 3))))
def test_every_chain_ends(links: list[tuple[str, int, str, int]]) -> None:
    """Whatever the records say: a cause always comes before its effect."""
    ends = [
        End(place, name, run, {"because": {"by": "strategy", "container": cause, "run": cause_run}}, None)
        for place, (name, run, cause, cause_run) in enumerate(links)
    ]
    history = History(ends, ())
    for end in ends:
        chain = history.chain(end)
        assert chain[-1] is end
        assert [link.place for link in chain] == sorted({link.place for link in chain})
        assert all(end in history.effects(cause) for cause in chain[-2:-1])


def test_it_works_without_a_supervisor_and_starts_fast(story: Story) -> None:
    out_of_memory(story)
    program = (
        "import sys; from pysuper.cli import main; main(['why']); "
        "print(*sorted({'trio', 'stevedore', 'attrs', 'attr'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "First domino: db, run 3" in done.stdout
    assert done.stderr == "\n"
