"""Projects: their names, their directories, and who holds them."""

from __future__ import annotations

import fcntl
import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from pysuper.errors import AlreadyRunning, ConfigError, PysuperError
from pysuper.stack.project import Project, find, running

HOLD = """
import sys
from pysuper.stack.project import Project
project = Project.of(file=sys.argv[1])
with project.lock():
    project.control.touch()
    (project.notify / "socket").touch()
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYSUPER_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("PYSUPER_STATE_DIR", str(tmp_path / "state"))


@contextmanager
def held_by_another_process(file: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLD, file]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


# --- names ---


def test_a_project_is_named_after_its_file_wherever_it_is_looked_at_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "web.toml"
    (tmp_path / "link").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    digest = hashlib.sha256(os.fsencode(file)).hexdigest()[:8]
    projects = [
        Project.of(file=path) for path in (str(file), "web.toml", "./x/../web.toml", f"{tmp_path}/link/web.toml")
    ]
    assert {(project.name, project.file) for project in projects} == {(f"web-{digest}", str(file))}


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_every_file_makes_a_name_that_can_be_given(name: str) -> None:
    made = Project.of(file=name).name
    assert Project.of(name=made).name == made


def test_a_name_is_short_enough_for_a_project_however_long_the_files_is() -> None:
    name = Project.of(file="/x/" + "y" * 200 + ".toml").name
    assert (len(name), Project.of(name=name).name) == (63, name)


@pytest.mark.parametrize("name", ["", ".", "..", "-a", "a/b", "a b", "a\n", "é", "a" * 64])
def test_a_name_that_could_be_a_path_or_an_option_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="the name of a project must be"):
        Project.of(name=name)


def test_the_longest_name_is_taken() -> None:
    assert Project.of(name="a" * 63).name == "a" * 63


# --- directories ---


@pytest.mark.parametrize(
    ("uid", "environment", "runtime", "state"),
    [
        (0, {"XDG_RUNTIME_DIR": "/x", "XDG_STATE_HOME": "/x"}, "/run/pysuper/a", "/var/lib/pysuper/a"),
        (7, {"XDG_RUNTIME_DIR": "/r", "XDG_STATE_HOME": "/s"}, "/r/pysuper/a", "/s/pysuper/a"),
        (7, {}, "/tmp/pysuper-7/a", "/home/me/.local/state/pysuper/a"),
        (7, {"XDG_RUNTIME_DIR": "r", "XDG_STATE_HOME": ""}, "/tmp/pysuper-7/a", "/home/me/.local/state/pysuper/a"),
        (0, {"PYSUPER_RUNTIME_DIR": "/r", "PYSUPER_STATE_DIR": "/s"}, "/r/a", "/s/a"),
    ],
)
def test_directories_are_where_the_system_has_such_things(
    uid: int, environment: dict[str, str], runtime: str, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("PYSUPER_RUNTIME_DIR", "PYSUPER_STATE_DIR", "XDG_RUNTIME_DIR", "XDG_STATE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", "/home/me")
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    project = Project.of(name="a")
    assert (str(project.runtime), str(project.state)) == (runtime, state)


def test_directories_are_for_nobody_else_whatever_the_umask_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYSUPER_STATE_DIR", str(tmp_path / "above" / "state"))
    project = Project.of(name="a")
    before = os.umask(0)
    try:
        with project.lock():
            made = [project.runtime, project.runtime.parent, project.notify, project.state, tmp_path / "above"]
            assert {mode(path) for path in made} == {0o700}
            assert mode(project.runtime / "lock") == 0o600
    finally:
        os.umask(before)


def test_a_project_directory_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    project = Project.of(name="a")
    project.state.mkdir(parents=True, mode=0o755)
    with project.lock():
        assert mode(project.state) == 0o700


@pytest.mark.parametrize("which", ["run", "run/a", "state", "state/a"])
@pytest.mark.parametrize("how", ["link", "writable", "file"])
def test_a_directory_that_somebody_else_could_write_in_is_refused(which: str, how: str, tmp_path: Path) -> None:
    directory = tmp_path / which
    directory.parent.mkdir(exist_ok=True, mode=0o700)
    if how == "link":
        (tmp_path / "target").mkdir(mode=0o700)
        directory.symlink_to(tmp_path / "target")
    elif how == "writable":
        directory.mkdir()
        directory.chmod(0o1777)
    else:
        directory.touch()
    reason = "could not use .*/{}: no directory, or a symbolic link"
    if how == "writable":
        reason = "others can write in .*/{}, its mode is 0777; chmod go-w"
    with pytest.raises(PysuperError, match=reason.format(which)), Project.of(name="a").lock():
        pass
    if which == "run":
        with pytest.raises(PysuperError, match=reason.format(which)):
            running()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("which", ["run", "run/a", "state", "state/a"])
def test_a_directory_of_somebody_else_is_refused(which: str, tmp_path: Path) -> None:
    (tmp_path / which).mkdir(parents=True, mode=0o700)
    os.chown(tmp_path / which, 12345, 12345)
    reason = "belongs to the user id 12345; set PYSUPER_RUNTIME_DIR"
    with pytest.raises(PysuperError, match=reason), Project.of(name="a").lock():
        pass


def test_a_directory_that_cannot_be_made_is_an_error_that_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYSUPER_STATE_DIR", "/proc/none")
    with pytest.raises(PysuperError, match="could not make /proc/none: No such file"), Project.of(name="a").lock():
        pass


def test_a_lock_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    project = Project.of(name="a")
    project.runtime.mkdir(parents=True, mode=0o700)
    (project.runtime / "lock").symlink_to(tmp_path / "target")
    with pytest.raises(PysuperError, match="could not open .*/run/a/lock: Too many levels"), project.lock():
        pass
    assert not (tmp_path / "target").exists()


# --- the lock ---


def test_the_runtime_directory_goes_with_the_lock_and_the_state_stays(tmp_path: Path) -> None:
    project = Project.of(file=str(tmp_path / "web.toml"))
    assert not project.is_running()
    with project.lock():
        assert project.is_running()
        assert (project.runtime / "lock").read_text() == f"{os.getpid()}\n{tmp_path}/web.toml\n"
        assert project.notify.is_dir()
        project.control.touch()
        project.hosts.touch()
        (project.notify / "socket").touch()
    assert not project.is_running()
    assert not project.runtime.exists()
    assert project.state.is_dir()


def test_a_project_that_runs_cannot_be_locked_and_the_holder_is_named() -> None:
    with held_by_another_process("/x/web.toml") as process:
        project = Project.of(file="/x/web.toml")
        reason = f"is running already; pid {process.pid} is its supervisor"
        with pytest.raises(AlreadyRunning, match=reason) as caught, project.lock():
            pass
        assert caught.value.exit_code == 100
        assert project.control.exists()
        process.communicate()
    with project.lock():
        pass


def test_what_a_killed_supervisor_has_left_is_removed() -> None:
    project = Project.of(file="/x/web.toml")
    with held_by_another_process("/x/web.toml") as process:
        assert project.is_running()
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert project.control.exists()
    assert not project.is_running()
    (project.runtime / "lock").write_text("1234567890\n" + "/a/long/path" * 100)
    with project.lock():
        assert sorted(path.name for path in project.runtime.rglob("*")) == ["lock", "notify"]
        assert (project.runtime / "lock").read_text() == f"{os.getpid()}\n/x/web.toml\n"


def test_a_lock_that_its_last_holder_removes_at_this_moment_is_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    project = Project.of(name="a")
    real = fcntl.flock

    def remove_and_lock(descriptor: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", real)
        (project.runtime / "lock").unlink()
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", remove_and_lock)
    with project.lock():
        assert project.is_running()


def test_a_client_that_asks_at_the_same_moment_does_not_stop_a_supervisor() -> None:
    project = Project.of(name="a")
    project.runtime.mkdir(parents=True, mode=0o700)
    with (project.runtime / "lock").open("w") as client:
        fcntl.flock(client, fcntl.LOCK_SH)
        assert not project.is_running()
        asked = threading.Timer(0.05, lambda: fcntl.flock(client, fcntl.LOCK_UN))
        asked.start()
        with project.lock():
            assert project.is_running()
        asked.join()


def test_supervisors_that_begin_and_end_at_once_never_hold_a_project_together(tmp_path: Path) -> None:
    program = f"""
import os, time
from pysuper.errors import AlreadyRunning
from pysuper.stack.project import Project
held = 0
end = time.monotonic() + 2
while time.monotonic() < end:
    try:
        with Project.of(name="a").lock():
            os.close(os.open({str(tmp_path / "held")!r}, os.O_CREAT | os.O_EXCL))
            os.unlink({str(tmp_path / "held")!r})
            held += 1
    except AlreadyRunning:
        pass
print(held)
"""
    processes = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    results = [(*process.communicate(), process.returncode) for process in processes]
    assert [(stderr, status) for _, stderr, status in results] == [("", 0)] * 4
    assert sum(int(stdout) for stdout, _, _ in results) > 10


# --- finding one ---


def test_the_only_one_that_runs_need_not_be_named() -> None:
    with pytest.raises(ConfigError, match="no project is running; `pysuper up FILE` starts one"):
        find()
    with Project.of(file="/x/web.toml").lock():
        assert find() == Project.of(file="/x/web.toml")
        assert find(name=Project.of(file="/x/web.toml").name) == find(file="/x/web.toml") == find()


def test_with_several_that_run_one_has_to_be_chosen() -> None:
    with ExitStack() as held:
        held.enter_context(Project.of(file="/x/web.toml", name="web").lock())
        held.enter_context(Project.of(name="db").lock())
        for past in (False, True):
            with pytest.raises(ConfigError, match=r"several projects .*; --project one of db, web \(/x/web.toml\)"):
                find(past=past)
        assert [project.name for project in running()] == ["db", "web"]
        assert find(name="db").name == "db"


def test_a_name_that_nobody_has_is_an_error_with_the_nearest_one() -> None:
    with Project.of(name="website").lock():
        with pytest.raises(ConfigError, match=r"no project webside is running; did you mean 'website'\?"):
            find(name="webside")
        with pytest.raises(ConfigError, match=r"no project db-[0-9a-f]{8} of /x/db.toml is known; there are website"):
            find(file="/x/db.toml", past=True)


def test_a_project_of_the_past_is_found_where_that_is_asked_for() -> None:
    for name in ("old", "older", "new"):
        with Project.of(name=name).lock():
            pass
    for name, age in (("old", 1000), ("older", 2000), ("new", 10)):
        journal = Project.of(name=name).state / "journal.jsonl"
        journal.touch()
        os.utime(journal, (time.time() - age, time.time() - age))
    assert find(past=True).name == "new"
    assert find(name="old", past=True).name == "old"
    with pytest.raises(ConfigError, match="no project old is running; there are none"):
        find(name="old")
    with Project.of(name="older").lock():
        assert find(past=True).name == "older"


def test_what_is_no_project_is_not_taken_for_one(tmp_path: Path) -> None:
    for name in (".hidden", "with space"):
        (tmp_path / "run" / name).mkdir(parents=True, mode=0o700)
    (tmp_path / "run" / "file").touch()
    (tmp_path / "run" / "empty").mkdir()
    (tmp_path / "run").chmod(0o700)
    assert running() == []


def test_projects_are_found_without_heavy_imports() -> None:
    program = (
        "import sys, pysuper.stack.project; print(*sorted({'trio', 'attr', 'attrs', 'stevedore'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout == b"\n"


def test_a_stack_with_a_name_of_its_own_is_found_by_its_file_as_well(tmp_path: Path) -> None:
    file = tmp_path / "multi.toml"
    file.touch()
    with Project.of(file=str(file), name="mine").lock():
        assert find(file=str(file)).name == "mine"
