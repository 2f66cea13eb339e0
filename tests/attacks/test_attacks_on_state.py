"""Attacks by what is written down: state files that are links, process ids that are used again, names and paths."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from machine import PATIENCE, cgroup_driver
from pysuper import cli
from pysuper.errors import PysuperError
from pysuper.stack.journal import Journal
from pysuper.stack.project import Project
from pysuper.stack.spec import JournalSpec

is_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture(autouse=True)
def directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYSUPER_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("PYSUPER_STATE_DIR", str(tmp_path / "state"))


# --- links ---


def lock(project: Project) -> None:
    with project.lock():
        pass


def journal(project: Project) -> None:
    Journal(project.state, JournalSpec()).close()


#: What is a link, to be made before that is done; and whose target must not be touched.
LINKS: dict[str, tuple[Callable[[Project], Path], Callable[[Project], None]]] = {
    "the lock": (lambda project: project.runtime / "lock", lock),
    "the runtime directory": (lambda project: project.runtime, lock),
    "the directory above": (lambda project: project.runtime.parent, lock),
    "the state directory": (lambda project: project.state, lock),
    "the journal": (lambda project: project.state / "journal.jsonl", journal),
}


@pytest.mark.parametrize("name", LINKS)
def test_a_state_file_that_is_a_link_is_not_followed(tmp_path: Path, name: str) -> None:
    path, use = LINKS[name]
    project = Project.of(name="shop")
    victim = tmp_path / "victim"
    (victim / "shop").mkdir(parents=True, mode=0o755)
    (victim / "shop/file").write_text("of the host")
    target = victim / "shop/file" if name in {"the lock", "the journal"} else victim
    place = path(project)
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    place.symlink_to(target)

    with (place if target.is_file() else place / "shop/file").open("a") as naive:
        naive.write("!")
    assert (victim / "shop/file").read_text() == "of the host!"

    with pytest.raises(PysuperError, match="symbolic link"):
        use(project)
    assert (victim / "shop/file").read_text() == "of the host!"
    assert sorted(os.listdir(victim)) == ["shop"]
    assert os.listdir(victim / "shop") == ["file"]
    assert stat.S_IMODE(victim.stat().st_mode) == 0o755


# --- process ids ---


@pytest.fixture
def innocent() -> Iterator[subprocess.Popen[bytes]]:
    """A process that has nothing to do with any of this."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process
        process.kill()


def test_a_process_that_is_named_in_a_stale_lock_is_not_taken_for_a_supervisor(
    innocent: subprocess.Popen[bytes], capsys: pytest.CaptureFixture[str]
) -> None:
    project = Project.of(name="shop")
    project.runtime.mkdir(parents=True, mode=0o700)
    (project.runtime / "lock").write_text(f"{innocent.pid}\n/x/shop.toml\n")
    os.kill(int((project.runtime / "lock").read_text().split()[0]), 0)  # who trusts the number finds somebody
    assert not project.is_running()
    assert cli.main(["down", "--project", "shop"]) != 0
    assert "no project" in capsys.readouterr().err
    assert innocent.poll() is None


#: Run in a pid namespace, where the next process id can be chosen: proc_sys_kernel(5), ns_last_pid.
RECYCLED = """
import os, signal, subprocess, sys, trio, pysuper

def again(pid):
    for _ in range(100):
        with open("/proc/sys/kernel/ns_last_pid", "w") as file:
            file.write(str(pid - 1))
        innocent = subprocess.Popen(["sleep", "1000"])
        if innocent.pid == pid:
            return innocent
        innocent.kill()
        innocent.wait()
    raise AssertionError(f"{pid} cannot be had again")

async def main():
    async with pysuper.open_supervisor() as supervisor:
        cgroup = pysuper.DriverChoice(sys.argv[1])
        container = await supervisor.start(pysuper.ContainerSpec(name="box", command=("true",), cgroup=cgroup))
        await container.wait()
        pid = container.pid
        innocent = again(pid)
        container.send_signal(signal.SIGKILL)
        container.kill()
        await container.stop()
        with trio.move_on_after(0.2):
            await trio.to_thread.run_sync(innocent.wait, abandon_on_cancel=True)
        print("lives" if innocent.poll() is None else "was killed")
        os.kill(pid, signal.SIGKILL)
        print("was killed" if innocent.wait() == -signal.SIGKILL else "lives")

trio.run(main)
"""


@is_root
@pytest.mark.skipif(not os.path.exists("/proc/sys/kernel/ns_last_pid"), reason="process ids cannot be chosen here")
def test_a_container_that_has_ended_is_not_looked_for_by_its_process_id() -> None:
    """The second who has the id is killed by who goes by it, and by nobody else."""
    apart = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    done = subprocess.run(
        [*apart, sys.executable, "-c", RECYCLED, cgroup_driver()],
        capture_output=True,
        text=True,
        timeout=60 * PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["lives", "was killed"]


# --- names, values and paths ---

NAMES = {
    "NUL": "box\0",
    "a slash": "box/x",
    "dots": "..",
    "dots and slashes": "../../etc",
    "a newline": "box\nbank",
    "an escape": "box\x1b[2J",
    "a surrogate": "box\udce9",
    "nothing": "",
    "64 KiB": "x" * 65536,
}
#: A path may have most of these; where it leads is the container's own business.
PATHS = {
    "NUL": "/data\0",
    "dots": "/data/../../etc",
    "relative": "data",
    "the root": "/",
    "/proc": "/proc/sys",
    "64 KiB": "/" + "x" * 65536,
}


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> None:
    """The command line is refused, in a line that can be shown."""
    try:
        status = cli.main(argv)
    except SystemExit as error:  # argparse's
        status = error.code
    out, err = capsys.readouterr()
    assert status in {2, 125, 126}, (status, err)
    assert out == ""
    assert len(err.splitlines()) == 1
    assert len(err) < 2000
    assert err.rstrip("\n").isprintable()


def test_a_hostile_name_leads_who_trusts_it_elsewhere(tmp_path: Path) -> None:
    """What there is to defend against: a name as a part of a path, and as a part of a line."""
    place = tmp_path / "run" / NAMES["dots and slashes"]
    assert not place.resolve().is_relative_to(tmp_path / "run")
    assert len(f"{NAMES['a newline']} | fine".splitlines()) == 2
    with pytest.raises(ValueError, match="null"):
        (tmp_path / NAMES["NUL"]).stat()


@pytest.mark.parametrize("what", NAMES)
def test_a_hostile_name_is_refused_in_a_line(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = NAMES[what]
    refused(capsys, "run", f"--name={name}", "--", "true")
    refused(capsys, "run", f"--hostname={name}", "--", "true")
    refused(capsys, "run", f"--rootfs={name or 'x'}", "--", "true")
    refused(capsys, "ps", f"--project={name}")
    if what != "a surrogate":  # which TOML cannot say
        file = tmp_path / "stack.toml"
        escaped = "".join(f"\\u{ord(c):04x}" for c in name)
        file.write_text(f'[container."{escaped}"]\ncommand = "true"\n')
        refused(capsys, "plan", str(file))
        file.write_text(f'[container.box]\ncommand = "true"\nhostname = "{escaped}"\n')
        refused(capsys, "plan", str(file))
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("what", PATHS)
def test_a_hostile_path_is_refused_in_a_line(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = PATHS[what]
    refused(capsys, "run", "-v", f"/usr:{path}", "--", "true")
    refused(capsys, "run", "--tmpfs", path, "--", "true")
    if what not in {"the root", "/proc"}:
        refused(capsys, "run", "--workdir", path, "--", "true")
    file = tmp_path / "stack.toml"
    escaped = "".join(f"\\u{ord(c):04x}" for c in path)
    file.write_text(f'[container.box]\ncommand = "true"\nvolumes = ["/usr:{escaped}"]\n')
    refused(capsys, "plan", str(file))


@pytest.mark.parametrize("value", ["A\0=1", "=1", "A=1\0", f"{'A' * 300000}=1"])
def test_a_hostile_variable_is_refused_in_a_line(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    refused(capsys, "run", "-e", value, "--", "true")


@pytest.mark.parametrize("argument", ["x\0", "x" * 300000])
def test_a_hostile_argument_is_refused_in_a_line(argument: str, capsys: pytest.CaptureFixture[str]) -> None:
    refused(capsys, "run", "--", "true", argument)
