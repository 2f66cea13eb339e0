"""The same program as an ordinary user: what works, works; what cannot, says why."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from ordinary import BECOME_USER, USER, Run
from pysuper.spec import NAMESPACES
from roots import make_busybox


@pytest.fixture(scope="module")
def as_user(python_as_user: Run) -> Run:
    """Run the program."""

    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return python_as_user("-m", "pysuper", *arguments, **more)

    return run


def test_a_command_runs_and_its_exit_code_is_passed_on(as_user: Run) -> None:
    result = as_user("run", "--", "sh", "-c", "id -u; exit 3")
    assert (result.returncode, result.stdout) == (3, "0\n")


def test_root_inside_is_the_user_outside(as_user: Run) -> None:
    result = as_user("run", "cat", "/proc/self/uid_map")
    assert result.stdout.split() == ["0", str(USER), "1"]


def test_the_host_can_be_read_but_not_changed(as_user: Run) -> None:
    result = as_user("run", "--", "sh", "-c", "touch /usr/made && ls /usr/made; ls -A /home /root /tmp")
    assert result.stdout.split()[0] == "/usr/made"
    assert result.stdout.split()[1:] == ["/home:", "/root:", "/tmp:"]
    assert not os.path.exists("/usr/made")


def test_every_namespace_is_the_containers_own(as_user: Run) -> None:
    result = as_user("run", "--", "sh", "-c", f"for n in {' '.join(NAMESPACES)}; do readlink /proc/self/ns/$n; done")
    ours = {os.readlink(f"/proc/self/ns/{name}") for name in NAMESPACES}
    theirs = set(result.stdout.split())
    assert len(theirs) == 8
    assert not ours & theirs


@pytest.mark.parametrize("form", ["sh", "bwrap"])
def test_the_container_can_be_made_with_other_tools(as_user: Run, home: Path, form: str) -> None:
    if shutil.which({"sh": "unshare", "bwrap": "bwrap"}[form]) is None:
        pytest.skip(f"needs {form}")
    look = "id -u; cat /proc/self/uid_map; touch /usr/made && ls /usr/made; ls -A /root; grep CapEff /proc/self/status"
    translated = as_user("plan", "--as", form, "--name", "box", "--", "sh", "-c", look)
    (home / "box.sh").write_text(translated.stdout)
    made = subprocess.run([*BECOME_USER, "sh", home / "box.sh"], cwd=home, capture_output=True, text=True, check=False)
    expected = as_user("run", "--", "sh", "-c", look).stdout
    if form == "bwrap":  # which says so
        expected = expected.replace("/usr/made\n", "")
        assert "mount a copy-on-write view of /usr at /usr" in translated.stdout
    assert made.stdout == expected, made.stderr


def test_a_limit_that_cannot_be_had_is_an_error_with_a_remedy(as_user: Run) -> None:
    result = as_user("run", "--pids-limit", "20", "true")
    assert result.returncode == 125
    assert "pids" in result.stderr
    assert "delegat" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_best_effort_leaves_the_limit_out_and_says_so(as_user: Run) -> None:
    result = as_user("run", "--best-effort", "--pids-limit", "20", "--", "echo", "ran")
    assert (result.returncode, result.stdout) == (0, "ran\n")
    assert "pids_max" in result.stderr


def test_the_report_has_receipts(as_user: Run, home: Path) -> None:
    result = as_user("run", "--report", "report.json", "true")
    assert result.returncode == 0, result.stderr
    record = json.loads((home / "report.json").read_text())
    assert record["reason"] == "exited"
    assert all(receipt["expected"] == receipt["actual"] for receipt in record["receipts"])


def test_a_start_is_traced(as_user: Run) -> None:
    result = as_user("run", "--trace", "--", "sh", "-c", "echo ran >&2; exit 3")
    *lines, ran = result.stderr.splitlines()
    assert (result.returncode, ran) == (3, "ran")
    assert all(line.startswith("pysuper: ") for line in lines)
    clone = next(
        number for number, line in enumerate(lines) if "  clone into new mnt, pid, net, uts, ipc, user" in line
    )
    assert "  start a new session" in lines[clone + 1]
    assert "failed" not in result.stderr


def test_doctor_says_what_an_ordinary_user_lacks(as_user: Run) -> None:
    result = as_user("doctor")
    assert "user" in result.stdout


JOIN = """
import os, socket, sys, trio, pysuper

NAMESPACES = "for n in mnt pid net uts ipc user cgroup time; do readlink /proc/self/ns/$n; done; id -u"

async def output(start, **options):
    read, write = os.pipe()
    with os.fdopen(read) as file:
        ended = await start(write)
        os.close(write)
        return (await trio.to_thread.run_sync(file.read)), ended

async def main():
    async with pysuper.open_supervisor() as supervisor:
        async def first(write):
            script = NAMESPACES + "; exec >&-; exec sleep 1000"
            spec = pysuper.ContainerSpec(name="box", command=("sh", "-c", script), init=sys.argv[1] == "init")
            return await supervisor.start(spec, stdout=write)

        def more(script):
            async def run(write):
                async with container.execute(["sh", "-c", script], stdout=write) as execution:
                    return await execution.wait()
            return run

        before, container = await output(first)
        after, ended = await output(more(NAMESPACES))
        assert (after, ended.exit_code) == (before, 0), (before, after)
        assert after.split()[-1] == "0"
        promised, _ = await output(more("grep -E 'Cap(Eff|Bnd)|NoNewPrivs|Seccomp' /proc/self/status"))
        assert promised.split()[1::2] == ["00000000000005fb", "00000000000005fb", "1", "2", "1"], promised
        async with container.execute(["sh", "-c", "tty"], terminal=True) as execution:
            said = b""
            while not said.endswith(b"\\n"):  # the kernel puts the end of a line in behind it
                await trio.lowlevel.wait_readable(execution.terminal)
                said += os.read(execution.terminal, 100)
            assert said == b"/dev/pts/0\\r\\n", said
            await execution.wait()
        async with container.execute(["sleep", "1000"]) as execution:
            execution.kill()
            assert (await execution.wait()).signal == 9
        with socket.create_server(("127.0.0.1", 0)) as host:
            with await container.open_socket() as channel:
                try:
                    await channel.connect(host.getsockname())
                except ConnectionRefusedError:
                    print("done")

trio.run(main)
"""


@pytest.mark.parametrize("init", ["init", "no init"])
def test_processes_join_a_container(python_as_user: Run, init: str) -> None:
    result = python_as_user("-c", JOIN, init)
    assert (result.stdout, result.stderr) == ("done\n", "")


def test_the_hosts_network_can_be_had(as_user: Run) -> None:
    result = as_user("run", "--network", "host", "--", "sh", "-c", "readlink /proc/self/ns/net; ls -A /sys/fs/cgroup")
    assert (result.returncode, result.stdout) == (0, f"{os.readlink('/proc/self/ns/net')}\n")
    result = as_user("run", "--network", "host", "--", "sh", "-c", "echo > /sys/kernel/uevent_seqnum")
    assert "Read-only file system" in result.stderr


def test_what_belongs_to_others_in_a_tarball_belongs_to_the_containers_root(as_user: Run, home: Path) -> None:
    tree = make_busybox(home / "tree")
    for path in ("etc/passwd", "bin/ls"):
        os.lchown(tree / path, 1234, 5678)
    subprocess.run(["tar", "-cf", home / "root.tar", "-C", tree, "."], check=True)
    archive = f"tar:{home / 'root.tar'}"
    result = as_user("run", "--rootfs", archive, "--", "stat", "-c", "%u %g", "/etc/passwd", "/bin/ls", "/bin/sh")
    assert (result.returncode, result.stdout.split()) == (0, ["0", "0"] * 3)
    assert "every file of the archive belongs to the container's root" in result.stderr
