"""The rootless lane: what root's containers do, those of an ordinary user do, with one id and with a range of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from machine import PATIENCE, alive, wait_until
from ordinary import USER, Public, delegated, with_ids
from roots import make_busybox

FIRST, COUNT = 700_000, 65_535
ONE = ["0", str(USER), "1"]
RANGE = [*ONE, "1", str(FIRST), str(COUNT)]
IDS = f"{FIRST}:65536"


class Machine:
    """A machine on which the user works."""

    def __init__(self, public: Public, through: list[str], ids: list[str]) -> None:
        """
        Args:
            through: See `Public.run`.
            ids: Of the containers, as in uid_map and gid_map.
        """
        self.public = public
        self.home = public.home
        self.through = through
        self.ids = ids

    def python(self, code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.public.run("-c", code, *arguments, user=True, through=self.through)

    def pysuper(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.public.run("-m", "pysuper", *arguments, user=True, through=self.through, **self.directories)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return self.public.start("-m", "pysuper", *arguments, through=self.through, **self.directories)

    @property
    def directories(self) -> dict[str, str]:
        return {f"PYSUPER_{kind}_DIR": str(self.home / kind) for kind in ("RUNTIME", "STATE")}

    def with_cgroups(self, through: list[str]) -> Machine:
        return Machine(self.public, [*through, *self.through], self.ids)


@pytest.fixture(params=["one id", "range"])
def machine(request: pytest.FixtureRequest, public: Public) -> Machine:
    """A machine that gives the user a range of ids, or does not."""
    if request.param == "one id":
        return Machine(public, [], ONE)
    return Machine(public, with_ids(public.home, IDS, IDS), RANGE)


@pytest.fixture
def delegating(machine: Machine) -> Iterator[Machine]:
    """And cgroups."""
    with delegated() as through:
        yield machine.with_cgroups(through)


@pytest.fixture
def ranged(public: Public) -> Callable[..., Machine]:
    """A machine that gives the user what these lines of /etc/subuid and /etc/subgid say."""

    def make(subuid: str = IDS, subgid: str = IDS, helper: Path | None = None) -> Machine:
        return Machine(public, with_ids(public.home, subuid, subgid, helper), RANGE)

    return make


DEFAULTS = """
echo $(cat /proc/self/uid_map) / $(cat /proc/self/gid_map)
grep -E '^(Cap(Inh|Prm|Eff|Bnd|Amb)|NoNewPrivs|Seccomp):' /proc/self/status | cut -f 2 | xargs
head -c 1 /proc/kcore | wc -c
echo > /proc/sys/kernel/core_pattern || echo read-only
ulimit -n
exit 3
"""


def test_it_has_the_defaults_of_roots_containers(machine: Machine) -> None:
    done = machine.pysuper("run", "--report", "report.json", "--", "sh", "-c", DEFAULTS)
    maps, status, kcore, core_pattern, descriptors = done.stdout.splitlines()
    assert done.returncode == 3
    assert maps.split(" / ") == [" ".join(machine.ids)] * 2
    assert status.split() == [f"{0:016x}", *[f"{0x5FB:016x}"] * 3, f"{0:016x}", "1", "2"]
    assert (kcore, core_pattern, descriptors) == ("0", "read-only", "1024")
    report = json.loads((machine.home / "report.json").read_text())
    read_back = {r["source"].rpartition("/")[2]: r["actual"].split() for r in report["receipts"]}
    assert (read_back["uid_map"], read_back["gid_map"]) == (machine.ids, machine.ids)
    assert ("several ids" in report["protections"]) == (machine.ids == RANGE)


def test_a_signal_ends_it_and_nothing_is_left(machine: Machine) -> None:
    with machine.start("run", "--", "sh", "-c", "echo begun; exec sleep 1000") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20 * PATIENCE) == 143


def test_what_it_writes_to_a_volume_is_the_users_and_its_tmpfs_is_its_own(machine: Machine) -> None:
    data = machine.home / "data"
    data.mkdir(exist_ok=True)
    os.chown(data, USER, USER)
    volume = ("-v", f"{data}:/data", "--tmpfs", "/scratch:size=1M")
    done = machine.pysuper(
        "run",
        *volume,
        "--",
        "sh",
        "-c",
        "touch /data/of-root /scratch/there; chown 5:7 /data/of-root; stat -c %u:%g /data/*",
    )
    status = (data / "of-root").stat()
    if machine.ids == ONE:
        assert "Invalid argument" in done.stderr
        assert (done.stdout, status.st_uid, status.st_gid) == ("0:0\n", USER, USER)
    else:
        assert (done.stdout, status.st_uid, status.st_gid) == ("5:7\n", FIRST + 4, FIRST + 6)
    # Also by another container, of the same name or not: there is only one slice.
    assert machine.pysuper("run", *volume, "--", "sh", "-c", "rm /data/of-root; ls /data /scratch").stdout.split() == [
        "/data:",
        "/scratch:",
    ]


def test_its_users_are_not_its_root(ranged: Callable[..., Machine]) -> None:
    script = "id -u; id -G; ls /root || echo refused; grep -E '^Cap(Eff|Prm)' /proc/self/status | cut -f 2 | xargs"
    done = ranged().pysuper("run", "--user", "www-data", "--", "sh", "-c", script)
    assert done.stdout.splitlines() == ["33", "33", "refused", f"{0:016x} {0:016x}"], done.stderr


def test_a_tarball_is_unpacked_to_files_of_the_users(ranged: Callable[..., Machine]) -> None:
    machine = ranged()
    tree = make_busybox(machine.home / "tree-of-others")
    os.lchown(tree / "etc/group", 1234, 5678)
    archive = machine.home / "others.tar"
    subprocess.run(["tar", "-cf", archive, "-C", tree, "."], check=True)
    done = machine.pysuper(
        "run",
        "--rootfs",
        f"tar:{archive}",
        "--",
        "sh",
        "-c",
        "stat -c %u /etc/group; chown 5 /etc/group; stat -c %u /etc/group",
    )
    assert done.stdout.split() == ["0", "5"], done.stderr
    cache = machine.home / ".cache/pysuper"
    assert {path.lstat().st_uid for path in cache.rglob("*")} == {USER}


def test_limits_hold_in_cgroups_that_were_delegated(delegating: Machine) -> None:
    bomb = "for i in $(seq 30); do sleep 1 & done"
    done = delegating.pysuper("run", "--report", "bomb.json", "--pids-limit", "10", "-m", "64M", "--", "sh", "-c", bomb)
    assert done.returncode == 2, done.stderr
    report = json.loads((delegating.home / "bomb.json").read_text())
    assert report["pids_max_hits"] >= 1
    assert "10" in [receipt["actual"] for receipt in report["receipts"]]
    assert delegating.pysuper("run", "-m", "32M", "--", "sh", "-c", "tail /dev/zero").returncode == 137


def test_where_there_are_none_a_limit_is_an_error_and_the_guard_is_left_out(machine: Machine) -> None:
    refused = machine.pysuper("run", "-m", "64M", "true")
    assert (refused.returncode, len(refused.stderr.splitlines())) == (125, 1)
    assert "memory_max cannot be applied" in refused.stderr
    assert machine.pysuper("run", "--report", "report.json", "true").stderr == ""
    assert "pids limit" not in json.loads((machine.home / "report.json").read_text())["protections"]


STACK = """
[defaults]
network = "own"
stop_grace_period = "1s"

[container.db]
command = ["sh", "-c", "trap 'echo db stops; exit 0' TERM; echo serves; sleep 1000 & wait"]
ready = { log = "serves" }
cgroup = { pids_max = 20 }

[container.web]
command = ["sh", "-c", "trap 'echo web stops; exit 0' TERM; sleep 1000 & wait"]
depends_on = ["db"]
"""


def test_a_stack_is_supervised(delegating: Machine) -> None:
    file = delegating.home / "stack.toml"
    file.write_text(STACK)
    up = delegating.start("up", str(file))
    try:
        assert wait_until(
            lambda: delegating.pysuper("exec", "--file", str(file), "web", "--", "true").returncode == 0, 20
        )
        look = "id -u; cat /proc/self/uid_map; grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status | cut -f 2"
        done = delegating.pysuper("exec", "--file", str(file), "db", "--", "sh", "-c", look)
        assert done.stdout.split() == ["0", *delegating.ids, f"{0x5FB:016x}", "1", "2"], done.stderr
        rows = json.loads(delegating.pysuper("ps", "--file", str(file), "--json").stdout)
        assert {row["name"]: row["state"] for row in rows} == {"db": "ready", "web": "ready"}
        assert delegating.pysuper("down", "--file", str(file)).returncode == 0
        out, _ = up.communicate(timeout=30 * PATIENCE)
        assert out.index("web stops") < out.index("db stops")
        assert up.returncode == 0
    finally:
        up.kill()
        up.communicate()


def test_kill_9_leaves_nothing_of_other_ids(delegating: Machine) -> None:
    user = ["--user", "www-data"] if delegating.ids == RANGE else []
    with delegating.start("run", *user, "--", "sh", "-c", "echo begun; exec sleep 1000") as process:
        assert process.stdout is not None
        process.stdout.readline()
        (launcher,) = (int(pid) for pid in _children(process.pid) if "launcher" in _command(int(pid)))
        assert os.stat(f"/proc/{launcher}/fd").st_uid == 0  # root's: it is not dumpable
        first = [int(pid) for pid in _children(process.pid) if int(pid) != launcher]
        process.kill()
        process.wait()
        assert first
        assert wait_until(lambda: not any(map(alive, [launcher, *first])))


def _children(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def _command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode()


SLICES = """
import sys, trio, pysuper

async def main():
    async with pysuper.open_supervisor() as supervisor:
        for name in sys.argv[1:]:
            spec = pysuper.ContainerSpec(name=name, command=("sleep", "1000"))
            container = await supervisor.start(spec)
            print(open(f"/proc/{container.pid}/uid_map").read().split()[4])

trio.run(main)
"""


def test_containers_have_slices_of_their_own_until_there_are_none_left(ranged: Callable[..., Machine]) -> None:
    first = 100_000_000 + os.getpid() % 1000 * 1_000_000  # which no test has that runs meanwhile
    machine = ranged(f"{first}:{2 * COUNT}", f"{first}:{3 * COUNT}")
    done = machine.python(SLICES, "db", "web", "more")
    db, web, more = done.stdout.split()
    assert {db, web} == {str(first), str(first + COUNT)}, done.stderr
    assert more in {db, web}
    # The same for the same name, if it is free, and no other supervisor has it.
    assert machine.python(SLICES, "web", "db").stdout.split() == [web, db]
    with machine.start("run", "--name", "db", "--", "sh", "-c", "echo begun; exec sleep 1000") as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "begun\n"
        assert machine.python(SLICES, "db").stdout.split() == [web]
        other.terminate()


def _script(home: Path, text: str) -> Path:
    """A helper that has the mode of one."""
    path = home / "helper"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o4755)
    return path


CASES = {
    "no groups": ("/etc/subgid gives pysuper-user no ids", {"subgid": ""}),
    "too few": ("/etc/subuid gives pysuper-user 65000 ids in a row, not 65535", {"subuid": f"{FIRST}:65000"}),
    "failing helper": ("newgidmap failed: no such luck", {"helper": "echo no such luck >&2; exit 1"}),
    "idle helper": ("newgidmap did not map what it was told to", {"helper": "exit 0"}),
    "plain helper": ("newgidmap is neither set-user-ID root nor", {"helper": ""}),
    "no_new_privs": ("this process has no_new_privs", {}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_range_that_cannot_be_had_is_an_error_where_it_was_asked_for_and_is_told_otherwise(
    ranged: Callable[..., Machine], public: Public, case: str
) -> None:
    reason, given = CASES[case]
    if "helper" in given:
        given = {"helper": _script(public.home, given["helper"])}
        if case == "plain helper":
            given["helper"].chmod(0o755)
    machine = ranged(**given)
    if case == "no_new_privs":
        machine.through = [*machine.through, "setpriv", "--no-new-privs"]
    refused = machine.pysuper("run", "--userns", "range", "true")
    assert (refused.returncode, len(refused.stderr.splitlines())) == (125, 1), refused
    assert reason in refused.stderr
    done = machine.pysuper("run", "cat", "/proc/self/uid_map")
    assert (done.returncode, done.stdout.split(), len(done.stderr.splitlines())) == (0, ONE, 1)
    assert f"it has one user id: {refused.stderr.removeprefix('pysuper: ').strip()}" in done.stderr
    assert machine.pysuper("run", "--userns", "one", "true").stderr == ""


def test_doctor_says_what_the_machine_gives_the_user(delegating: Machine) -> None:
    said = delegating.pysuper("doctor").stdout.splitlines()
    ids = next(line for line in said if "several user ids" in line)
    assert ids.startswith("yes" if delegating.ids == RANGE else "NO")
    assert "newuidmap" in ids
    assert next(line for line in said if "delegated cgroup" in line).startswith("yes")


def test_a_range_can_be_had_without_us(ranged: Callable[..., Machine]) -> None:
    machine = ranged()
    translated = machine.pysuper("plan", "--as", "sh", "--", "cat", "/proc/self/uid_map")
    (machine.home / "box.sh").write_text(translated.stdout)
    code = "import subprocess; raise SystemExit(subprocess.run(['sh', 'box.sh']).returncode)"
    done = machine.python(code)
    assert (done.returncode, done.stdout.split()) == (0, RANGE), done.stderr


def test_a_cache_that_cannot_be_made_says_what_another_one_needs(public: Public) -> None:
    archive = public.home / "without-cache.tar"
    archive.touch()
    command = ["-m", "pysuper", "run", "--rootfs", f"tar:{archive}", "true"]
    without_home = ["sh", "-c", 'exec env -u HOME "$@"', "sh"]
    for through, variables in ([], {"XDG_CACHE_HOME": "/proc/none"}), (without_home, {}):
        done = public.run(*command, user=True, through=through, **variables)
        assert (done.returncode, done.stderr.count("\n")) == (125, 1), done.stderr
        assert "XDG_CACHE_HOME" in done.stderr


CACHED = """
import os, trio, pysuper
from pathlib import Path
from pysuper.cache import Cache
from pysuper.drivers import Context

async def fill(directory):
    pass

context = Context(id=f"box.{os.getpid()}", spec=pysuper.ContainerSpec(name="box"), privileged=False, uid_base=0)
made = trio.run(Cache("things").require, context, "key", fill)
print(*(oct(path.stat().st_mode & 0o777) for path in (made, *made.parents[:3])))
"""


@pytest.mark.parametrize("umask", ["000", "077"])
def test_a_cache_is_its_owners_and_what_it_keeps_for_all_users_whatever_the_umask(public: Public, umask: str) -> None:
    through = ["sh", "-c", f'umask {umask}; exec "$@"', "sh"]
    done = public.run("-c", CACHED, user=True, through=through, XDG_CACHE_HOME=str(public.home / f"cache-{umask}"))
    assert done.stdout.split() == ["0o755", "0o700", "0o700", "0o700"], done.stderr


UNWRITABLE = """
import os, signal, sys, trio, pysuper
from pathlib import Path
from pysuper.cache import Cache
from pysuper.drivers import Context, Trace

async def fill(directory):
    (directory / "usr/bin").mkdir(parents=True)
    (directory / "usr/bin/tool").write_text("")
    for path in ("usr/bin", "usr", "."):
        (directory / path).chmod(0o555)
    print(directory, flush=True)
    if sys.argv[1] == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise ValueError

async def main():
    context = Context(id=f"box.{os.getpid()}", spec=pysuper.ContainerSpec(name="box"), privileged=False, uid_base=0)
    cache = Cache("things")
    async with pysuper.open_supervisor() as supervisor:
        await supervisor._launcher.remember(cache.trace(context))
        await cache.require(context, "key", fill)

trio.run(main)
"""


@pytest.mark.parametrize("end", ["fail", "kill"])
def test_what_an_archive_has_made_unwritable_is_removed_too(public: Public, end: str) -> None:
    done = Machine(public, [], ONE).python(UNWRITABLE, end)
    made = Path(done.stdout.strip())
    assert ("ValueError" in done.stderr) == (end == "fail")
    assert made.is_relative_to(public.home)
    assert wait_until(lambda: not made.exists())
