"""
Translations are run for real: what their containers see is what pysuper's see, but for what they say is missing.

There is no systemd here, and Debian 12 has no nsjail: of systemd-run only the words are tested, in the unit tests, and
nsjail is run where it is installed.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, Phase, given, settings, strategies as st

import pysuper
from machine import PATIENCE, cgroup_driver
from pysuper import BindMount, ContainerSpec, DriverChoice, Rlimit, TmpfsMount, receipts, steps
from pysuper.phase import Phase as order  # noqa: N813 - hypothesis has another Phase
from pysuper.plan import Plan
from pysuper.planning import make_plan
from pysuper.spec import NAMESPACES, Limits
from pysuper.translate import Translation, translate

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers as root makes them")

#: What a container sees of itself: a line for each aspect, and then its mounts.
PROBE = r"""
say() { printf '%s=' "$1"; shift; "$@" 2>/dev/null | tr '\n' ' '; echo; }
say "host name" hostname
say "ids of users" cat /proc/self/uid_map
say "ids of groups" cat /proc/self/gid_map
say user id
for field in CapInh CapPrm CapEff CapBnd CapAmb NoNewPrivs SigIgn; do
    say $field sed -n "s/^$field:.//p" /proc/self/status
done
for name in mnt pid net uts ipc user cgroup time; do say "namespace $name" readlink /proc/self/ns/$name; done
say environment sh -c "tr '\0' '\n' < /proc/$$/environ | sort"
say directory pwd
say umask umask
say "open files" ulimit -n
say "size of files" ulimit -f
say descriptors sh -c 'cd /proc/$$/fd && echo *'
say devices sh -c 'cd /dev && ls -d * */*'
say interfaces ls /sys/class/net
for file in keys timer_list interrupts; do say "content of $file" sh -c "head -c 9 /proc/$file | wc -c"; done
say "content of firmware" sh -c 'ls /sys/firmware | wc -l'
for path in / /bin /data /scratch /proc/sys/kernel /sys/kernel; do
    say "write to $path" sh -c ": > $path/made && echo can && rm $path/made"
done
say volume cat /data/file
say "owner of the volume" stat -c %u:%g /data
say "owner of the root" stat -c %u:%g /bin
say "own pid" sh -c "test $$ = 1 && echo 1 || echo another"
mounts=$(cat /proc/self/mountinfo)
# Not with `say`, whose pipeline could find no process left for its other half.
processes=$(sh -c 'for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do sleep 5 > /dev/null & echo $n; done' 2>/dev/null)
echo processes= $processes
echo
echo "$mounts"
"""
MOUNTS = ("/", "/proc", "/proc/sys", "/sys", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue", "/tmp", "/data", "/scratch")
#: Signals that glibc keeps for itself. Its posix_spawn(3), with which make starts programs, lets a child ignore them;
#: pysuper's commands start with no signal ignored, others pass on what they were started with.
INTERNAL = 0x180000000


def seen(output: str) -> dict[str, str]:
    """What the probe has said, by aspect."""
    said, _, mountinfo = output.partition("\n\n")
    aspects = dict(line.split("=", 1) for line in said.splitlines())
    aspects = {name: " ".join(value.split()) for name, value in aspects.items()}
    for name in NAMESPACES:
        own = aspects[f"namespace {name}"] != os.readlink(f"/proc/self/ns/{name}")
        aspects[f"namespace {name}"] = "own" if own else "the host's"
    for name in ("users", "groups"):
        inside, outside, count = aspects[f"ids of {name}"].split()
        aspects[f"ids of {name}"] = f"{inside} is {'root' if outside == '0' else 'nobody'} for {count}"
    aspects["SigIgn"] = f"{int(aspects['SigIgn'], 16) & ~INTERNAL:x}"
    aspects["processes"] = "unlimited" if aspects["processes"].endswith("16") else "limited"
    for line in mountinfo.splitlines():
        fields = line.split()
        if fields[4] in MOUNTS:
            flags = sorted(set(fields[5].split(",")) - {"relatime"})
            aspects[f"mount at {fields[4]}"] = " ".join([fields[fields.index("-") + 1], *flags])
    return aspects


# --- what may differ, and what is said of it ---

_OWNERS = ("owner of the root", "owner of the volume", "write to /bin", "write to /data", "mount at /data")
_ROOT_OWNERS = (*_OWNERS, "write to /", "mount at /")
_BWRAP = {
    "ids of users": "bubblewrap maps one id",
    "ids of groups": "bubblewrap maps one id",
    "CapInh": "no inheritable and no ambient capabilities",
    "CapAmb": "no inheritable and no ambient capabilities",
    "namespace time": "an own time namespace",
    "environment": "also PWD",
    "open files": "limit nofile to 64",
    "size of files": "limit fsize to 1048576",
    "interfaces": "with the host's network interfaces",
    "processes": "pids.max holds '12'",
    "mount at /proc/sys": "make /proc/sys read-only: a mount of the host's, which has only",
    "mount at /sys": "mount sysfs at /sys",
    "mount at /dev": "): also nodev",
    "mount at /dev/shm": "mount tmpfs at /dev/shm",
    "mount at /dev/mqueue": "mount mqueue at /dev/mqueue",
    "mount at /data": "ids mapped): files keep their owners",
}
_NSJAIL = {
    "CapInh": "no inheritable and no ambient capabilities",
    "CapAmb": "no inheritable and no ambient capabilities",
    "namespace time": "an own time namespace",
    "own pid": "the command is PID 1",
    **dict.fromkeys(_OWNERS[1:], "files keep their owners"),
    "mount at /proc": "mount proc at /proc (nosuid,nodev,noexec)",
    "mount at /proc/sys": "make /proc/sys read-only",
    "mount at /sys": "mount sysfs at /sys",
    "mount at /dev": "mount tmpfs at /dev (",
    "mount at /dev/pts": "mount devpts at /dev/pts",
    "mount at /dev/shm": "mount tmpfs at /dev/shm",
    "mount at /dev/mqueue": "mount mqueue at /dev/mqueue",
    "mount at /scratch": "mount tmpfs at /scratch",
}
_OCI = {
    "namespace time": "an own time namespace",
    "own pid": "the command is PID 1",
    **dict.fromkeys(_OWNERS, "files keep their owners"),
}
EXCUSES: dict[tuple[str, str], dict[str, str]] = {
    ("sh", "host"): dict.fromkeys(_OWNERS, "mount(8) maps ids"),
    ("sh", "dir"): dict.fromkeys(_ROOT_OWNERS, "mount(8) maps ids"),
    ("bwrap", "host"): {
        **_BWRAP,
        "devices": "also the link /dev/core",
        "write to /bin": "it is read-only, but for its root",
        "mount at /": "mount a copy-on-write view of / at /",
    },
    ("bwrap", "dir"): {**_BWRAP, "mount at /": "also nosuid, nodev"},
    ("oci", "host"): {**_OCI, "mount at /": "mount a copy-on-write view of / at /"},
    ("oci", "dir"): {**_OCI, **dict.fromkeys(_ROOT_OWNERS, "files keep their owners")},
    ("nsjail", "host"): {
        **_NSJAIL,
        "mount at /tmp": "mount tmpfs at /tmp",
        "mount at /": "mount a copy-on-write view of / at /",
    },
    ("nsjail", "dir"): {**_NSJAIL, **dict.fromkeys(_ROOT_OWNERS, "files keep their owners")},
}


def excuses(form: str, rootfs: str) -> dict[str, str]:
    """What has to differ on this machine: a newer mount(8) maps ids."""
    version = subprocess.run(["mount", "--version"], capture_output=True, text=True, check=True).stdout
    return {} if form == "sh" and "idmapping" in version else EXCUSES[form, rootfs]


# --- running them ---

PROGRAMS = {"sh": "unshare", "bwrap": "bwrap", "oci": "runc", "nsjail": "nsjail"}
#: Where nsjail mounts its roots; it never removes the directories.
WORK_DIRECTORIES = [Path(f"/tmp/nsjail.0.{purpose}") for purpose in ("root", "tmp")]


@contextmanager
def made(translation: Translation, form: str, directory: Path) -> Iterator[list[str]]:
    """The command by which a user runs a translation."""
    if (program := shutil.which(PROGRAMS[form])) is None:
        pytest.skip(f"needs {PROGRAMS[form]}")
    directory.mkdir(exist_ok=True)
    if form == "oci":
        (directory / "rootfs").mkdir(exist_ok=True)
        (directory / "config.json").write_text(translation.text)
        yield [program, "--root", str(directory / "state"), "run", "--bundle", str(directory), f"test-{os.getpid()}"]
        return
    (directory / "box.sh").write_text(translation.text)
    left = [path for path in WORK_DIRECTORIES if form == "nsjail" and not path.exists()]
    try:
        yield ["sh", str(directory / "box.sh")]
    finally:
        for path in left:
            if path.exists():
                path.rmdir()


def run(
    form: str, spec: ContainerSpec, directory: Path, plan: Plan | None = None, **more: Any
) -> subprocess.CompletedProcess[bytes]:
    """Run a container in another tool's words, to its end."""
    translation = translate(form, spec, plan or make_plan(spec))
    settings = {"stdin": subprocess.DEVNULL, "timeout": 60 * PATIENCE, **more}
    with made(translation, form, directory) as command:
        return subprocess.run(command, capture_output=True, check=False, **settings)


async def run_in_pysuper(spec: ContainerSpec) -> bytes:
    fields = {field.name: getattr(spec, field.name) for field in attrs.fields(ContainerSpec)}
    done = await pysuper.run(fields.pop("command"), capture_stdout=True, check=False, **fields)
    assert done.stdout is not None
    return done.stdout


Make = Callable[..., ContainerSpec]


@pytest.fixture(autouse=True)
def reachable(tmp_path: Path) -> None:
    """Everybody can get into the test's directory: root inside is nobody here, and pytest's are root's alone."""
    for directory in (tmp_path, *tmp_path.parents):
        directory.chmod(0o755)
        if directory.name.startswith("pytest-of-"):  # the topmost of pytest's, of which workers have one more
            return


@pytest.fixture
def probe(tmp_path: Path, own_busybox: Path, spec: Make) -> Make:
    """A container with some of everything, which looks at itself."""
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume/file").write_text("from the host\n")
    for name in ("data", "scratch"):
        (own_busybox / name).mkdir()

    def make(rootfs: str, **fields: Any) -> ContainerSpec:
        choices = {"host": DriverChoice("host"), "dir": DriverChoice("dir", argument=str(own_busybox))}
        defaults = {
            "name": "probe",
            "rootfs": choices[rootfs],
            "mounts": (BindMount(source=str(tmp_path / "volume"), target="/data"), TmpfsMount(target="/scratch")),
            "environment": {"GREETING": "hello"},
            "working_dir": "/scratch",
            "limits": Limits(pids_max=12),
            "rlimits": (Rlimit("nofile", 64, 64), Rlimit("fsize", 1 << 20, 1 << 20)),
        }
        return spec(PROBE, **(defaults | fields))

    return make


@pytest.mark.parametrize("rootfs", ["host", "dir"])
@pytest.mark.parametrize("form", PROGRAMS)
async def test_what_a_translated_container_sees_differs_only_as_it_says(
    form: str, rootfs: str, probe: Make, tmp_path: Path
) -> None:
    wanted = probe(rootfs)
    plan = make_plan(wanted)
    done = run(form, wanted, tmp_path / "translated", plan)
    ours, theirs = seen((await run_in_pysuper(wanted)).decode()), seen(done.stdout.decode())
    different = {aspect for aspect in ours | theirs if ours.get(aspect) != theirs.get(aspect)}
    allowed, missing = excuses(form, rootfs), translate(form, wanted, plan).missing
    assert {aspect: (ours.get(aspect), theirs.get(aspect)) for aspect in different - allowed.keys()} == {}
    assert different == allowed.keys()
    assert [aspect for aspect in different if not any(allowed[aspect] in line for line in missing)] == []


@pytest.mark.parametrize("form", PROGRAMS)
async def test_a_root_that_is_read_only_is_so_everywhere(form: str, probe: Make, tmp_path: Path) -> None:
    wanted = probe("dir", read_only=True)
    theirs = seen(run(form, wanted, tmp_path / "translated").stdout.decode())
    assert [theirs[f"write to {path}"] for path in ("/", "/bin", "/scratch")] == ["", "", "can"]
    assert "ro" in theirs["mount at /"].split()


# --- words, however hostile ---

#: What can be in an argument vector or an environment: everything but NUL.
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
#: But those that shells have of their own.
VARIABLES = st.from_regex(r"[A-Z]{3,9}", fullmatch=True).filter(lambda name: name not in {"IFS", "PPID", "PWD", "UID"})
EXAMPLES = settings(
    max_examples=3,
    deadline=None,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
ECHO = "printf '%s\\0' \"$@\"; cat /proc/$$/environ"
HOSTILE = [
    "",
    " ",
    "-n",
    "--",
    "$HOME",
    "$(id)",
    "`id`",
    "'",
    '"',
    "\\",
    "two\nlines",
    "a\nCONTAINER\nb",
    "last\n",
    "\x1b[2J",
]


@pytest.mark.parametrize("form", PROGRAMS)
@given(words=st.lists(TEXTS, max_size=10), values=st.dictionaries(VARIABLES, TEXTS))
@EXAMPLES
def test_the_command_gets_the_words_and_variables_that_were_given(
    form: str, words: list[str], values: dict[str, str], spec: Make, own_busybox: Path, tmp_path: Path
) -> None:
    command = ("sh", "-c", ECHO, "sh", *HOSTILE, *words)
    environment = {"PATH": "/bin", "VALUE": "".join(HOSTILE), **values}
    rootfs = DriverChoice("dir", argument=str(own_busybox))
    wanted = spec(command=command, environment=environment, rootfs=rootfs, cgroup=DriverChoice("none"), rlimits=())
    done = run(form, wanted, tmp_path / "box")
    assert done.returncode == 0, done.stderr
    received = done.stdout.decode().split("\0")[:-1]
    assert received[: len(HOSTILE) + len(words)] == [*HOSTILE, *words]
    variables = dict(variable.split("=", 1) for variable in received[len(HOSTILE) + len(words) :])
    assert environment.items() <= variables.items()
    assert variables.keys() - environment.keys() <= {"HOME", "LANG", "PWD", "OLDPWD", "SHLVL"}  # of the shell inside


@pytest.mark.parametrize("form", ["sh", "bwrap", "oci"])
def test_a_target_may_have_any_name(form: str, spec: Make, tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume/file").write_text("found\n")
    name = "/tmp/a b\tc\\d ü\u2028\x0c"
    mounts = (BindMount(source=str(tmp_path / "volume"), target=name, read_only=True),)
    wanted = spec('cat "$NAME/file"; : > "$NAME/made"', environment={"NAME": name}, mounts=mounts)
    done = run(form, wanted, tmp_path / "box")
    assert done.stdout == b"found\n", done.stderr
    assert not (tmp_path / "volume/made").exists()


# --- the script, which claims most ---


@pytest.fixture
def script(spec: Make, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Run a shell script in a container that is made by hand."""

    def call(text: str = "true", **fields: Any) -> subprocess.CompletedProcess[bytes]:
        return run("sh", spec(text, **fields), tmp_path / "box")

    return call


def test_the_exit_status_is_the_commands(script: Any) -> None:
    assert script("exit 3").returncode == 3
    assert script("kill -KILL $$").returncode == 128 + signal.SIGKILL
    assert script("kill -KILL $$", init=False).returncode == 0  # as PID 1, which nobody in there can kill
    assert script(command=("no-such-program",)).returncode == 127
    assert script(command=("exit", "3")).returncode == 127  # which only a shell knows


def test_the_command_line_writes_a_script_that_runs(tmp_path: Path) -> None:
    command = f"{sys.executable} -m pysuper plan --as sh --cgroup {cgroup_driver()} -- echo hello > box.sh && sh box.sh"
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "hello\n"), done.stderr


@pytest.mark.parametrize("shell", ["dash", "bash --posix"])
def test_it_makes_no_difference_which_shell_is_sh(shell: str, spec: Make, tmp_path: Path) -> None:
    if shutil.which(shell.split(maxsplit=1)[0]) is None:
        pytest.skip(f"needs {shell}")
    wanted = spec("tr '\\0' '\\n' < /proc/$$/environ; exit 3", environment={"A": "1"})
    text = translate("sh", wanted, make_plan(wanted)).text.replace("/bin/sh -c", f"/bin/{shell} -c")
    (tmp_path / "box.sh").write_text(text.replace("    sh /dev/fd/9", f"    {shell} /dev/fd/9"))
    done = subprocess.run([*shell.split(), tmp_path / "box.sh"], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (3, b"")
    names = {line.partition("=")[0] for line in done.stdout.decode().splitlines()}
    assert {"A", "HOME", "LANG", "PATH"} <= names <= {"A", "HOME", "LANG", "PATH", "SHLVL", "_"}


def test_input_and_output_are_the_callers(spec: Make, tmp_path: Path) -> None:
    wanted = spec(command=("tr", "a-z", "A-Z"))
    with open(tmp_path / "input", "w+b") as file:
        file.write(b"hello")
        file.seek(0)
        assert run("sh", wanted, tmp_path / "box", stdin=file).stdout == b"HELLO"


def test_orphans_are_reaped(script: Any) -> None:
    zombies = "cat /proc/[0-9]*/status | grep -c 'State:.Z'"
    assert script(f"sh -c 'sleep 0.1 &'; sleep 0.5; {zombies}").stdout == b"0\n"


@pytest.mark.parametrize("user", ["ada", "ada:friends", "1000:7", "12345", None])
async def test_a_user_is_looked_up_in_the_container(
    user: str | None, spec: Make, busybox: Path, tmp_path: Path
) -> None:
    rootfs = DriverChoice("dir", argument=str(busybox))
    wanted = spec("id; echo $HOME; grep Cap /proc/self/status", rootfs=rootfs, user=user)
    assert run("sh", wanted, tmp_path / "box").stdout == await run_in_pysuper(wanted)


async def test_without_a_command_it_is_the_users_shell(spec: Make, own_busybox: Path, tmp_path: Path) -> None:
    own_busybox.joinpath("bin/ash").unlink()
    own_busybox.joinpath("bin/ash").write_text("#!/bin/sh\necho shell of $HOME\n")
    own_busybox.joinpath("bin/ash").chmod(0o755)
    wanted = spec(command=(), user="ada", rootfs=DriverChoice("dir", argument=str(own_busybox)))
    assert run("sh", wanted, tmp_path / "box").stdout == b"shell of /home/ada\n"


@pytest.mark.parametrize(
    "shared", [{"user"}, {"pid"}, {"net", "uts", "ipc"}, {"cgroup", "time"}, {"user", "net", "pid"}]
)
async def test_namespaces_can_be_shared(shared: set[str], probe: Make, tmp_path: Path) -> None:
    wanted = probe("dir", share=frozenset(shared))
    ours, theirs = await run_in_pysuper(wanted), run("sh", wanted, tmp_path / "box")
    assert theirs.returncode == 0, theirs.stderr
    differences = {
        aspect for aspect, value in seen(theirs.stdout.decode()).items() if seen(ours.decode())[aspect] != value
    }
    assert differences == (set() if "user" in shared else set(excuses("sh", "dir")))


async def test_a_container_that_is_pid_1_itself(probe: Make, tmp_path: Path) -> None:
    wanted = probe("dir", init=False, share=frozenset({"user"}), read_only=True)
    ours, theirs = await run_in_pysuper(wanted), run("sh", wanted, tmp_path / "box")
    assert seen(theirs.stdout.decode()) == seen(ours.decode())


def test_a_promise_that_does_not_hold_stops_it(spec: Make, tmp_path: Path) -> None:
    wanted = spec("echo ran")
    plan = make_plan(wanted)
    broken = receipts.FileHolds(path="/proc/sys/kernel/ostype", content="Minix")
    done = run("sh", wanted, tmp_path / "box", attrs.evolve(plan, checks=(*plan.checks, broken)))
    assert (done.returncode, done.stdout) == (125, b"")
    assert b"not in force, so the command was not run: /proc/sys/kernel/ostype holds 'Minix'" in done.stderr


@pytest.mark.parametrize(
    "step",
    [
        steps.Bind(source="/no/such", target="/data"),
        steps.Mount(fstype="no-such", target="/data"),
        steps.WriteFile(path="/proc/no/such", content="1"),
    ],
)
def test_a_step_that_fails_stops_it_and_nothing_is_left(step: steps.Step, spec: Make, tmp_path: Path) -> None:
    wanted = spec("echo ran")
    plan = make_plan(wanted)
    failing = attrs.evolve(plan, phases={**plan.phases, order.PIVOT: (step, *plan.phases[order.PIVOT])})
    (tmp_path / "temporary").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    done = run("sh", wanted, tmp_path / "box", failing, env=environment)
    assert (done.returncode, done.stdout) == (125, b"")
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_target_that_is_a_symbolic_link_stops_it(spec: Make, own_busybox: Path, tmp_path: Path) -> None:
    (outside := tmp_path / "outside").mkdir()
    (own_busybox / "link").symlink_to(outside)
    wanted = spec(
        rootfs=DriverChoice("dir", argument=str(own_busybox)),
        mounts=(BindMount(source="/usr", target="/link/inside"),),
    )
    done = run("sh", wanted, tmp_path / "box")
    assert done.returncode == 125
    assert b"/link/inside is or leads through a symbolic link" in done.stderr
    assert os.listdir(outside) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_and_nothing_is_left(number: signal.Signals, spec: Make, tmp_path: Path) -> None:
    wanted = spec("echo running; exec sleep 100")
    (tmp_path / "temporary").mkdir()
    with made(translate("sh", wanted, make_plan(wanted)), "sh", tmp_path / "box") as command:
        environment = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"running\n"
            process.send_signal(number)
            assert process.communicate(timeout=30 * PATIENCE)[0] == b""  # nobody has it open any more
            assert process.returncode == 128 + number
    assert list((tmp_path / "temporary").iterdir()) == []
