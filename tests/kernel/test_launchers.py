"""The two launchers do the same: what a command finds is the same, and so is what is said of a plan that fails."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

import pysuper
from pysuper import registry, steps
from pysuper.container import Container
from pysuper.drivers import Launcher, Phase
from pysuper.launcher.client import reap, receive, send
from pysuper.plan import Plan
from pysuper.planning import make_plan
from pysuper.process import standard_files
from pysuper.spec import BindMount, DriverChoice, Rlimit, TmpfsMount

try:
    registry.load_launcher("native")
except pysuper.PysuperError as missing:
    pytest.skip(str(missing), allow_module_level=True)

LAUNCHERS = ("python", "native")

#: All that a process can find out about itself, without what is never twice the same.
FOUND = """
grep -Ev '^(Vm|Rss|Pid|PPid|Tgid|Ngid|NS|SigQ|Cpus_|Mems_)|ctxt_switches' /proc/self/status
cat /proc/self/limits /proc/self/uid_map /proc/self/gid_map /proc/self/setgroups
cut -d' ' -f3- /proc/self/mountinfo
cat /proc/self/cgroup
tr '\\0' '\\n' </proc/self/environ
ls /proc/self/fd; ls -ln /dev /proc/1/cwd; ls -ldn / /tmp
id; umask; pwd; hostname; cat /proc/net/dev | grep lo:
cat /proc/self/timens_offsets /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/msgmax
"""


def same(text: str) -> str:
    """Without what names one container: its id, the block of ids, and when it was made."""
    text = re.sub(r"\.[0-9a-f]{8}\b", ".ID", text)
    text = re.sub(r"( +|\b)\d{9,10}\b", " HOSTID", text)
    text = re.sub(r"\b\d{2}:\d{2}\b|\b0:\d+\b", "TIME", text)
    return re.sub(r"(workdir|upperdir|lowerdir)=\S+", r"\1", text)


async def found(launcher: str, wanted: pysuper.ContainerSpec) -> tuple[str, int | None]:
    """What a container's command says, and how it ended."""
    reading, writing = os.pipe()
    umask = os.umask(0o027)  # the launcher inherits another one than containers have
    with os.fdopen(reading, "rb") as output:
        async with pysuper.open_supervisor(launcher=launcher) as supervisor:
            os.umask(umask)
            with os.fdopen(writing, "wb"):
                container: Container = await supervisor.start(wanted, stdout=writing, stderr=writing)
            said = await trio.to_thread.run_sync(output.read)
            record = await container.wait()
    return same(said.decode(errors="backslashreplace")), record.exit_code


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"init": False},
        {"user": "nobody", "working_dir": "/usr", "environment": {"HOME": "/x", "ODD": "\udcff=\n"}},
        {"user": "12:34", "rlimits": (Rlimit("nofile", 64, 128), Rlimit("core", 0, 0)), "read_only": True},
        {"mounts": (BindMount(source="/usr", target="/data/deep", read_only=True), TmpfsMount(target="/scratch"))},
        {"share": frozenset({"net", "ipc"}), "hostname": None},
        {"share": frozenset({"user"})},
        {"share": frozenset({"pid", "cgroup"})},
        {"sysctls": {"net.ipv4.ip_unprivileged_port_start": "80", "kernel.msgmax": "4242"}, "hostname": "pear"},
    ],
    ids=["defaults", "no init", "a user", "an id", "mounts", "net shared", "user shared", "pid shared", "sysctls"],
)
async def test_a_command_finds_the_same(spec, fields: dict[str, Any]) -> None:
    wanted = spec(FOUND, **fields)
    python, native = [await found(launcher, wanted) for launcher in LAUNCHERS]
    assert python[0].count("\n") > 60
    assert native == python


async def test_a_command_in_a_tree_of_files_finds_the_same(spec, busybox: Path) -> None:
    for driver in ("dir", "chroot"):
        wanted = spec(FOUND, rootfs=DriverChoice(driver, argument=str(busybox)))
        python, native = [await found(launcher, wanted) for launcher in LAUNCHERS]
        assert native == python


@pytest.mark.parametrize("launcher", LAUNCHERS)
async def test_all_hidden_directories_are_one_empty_file_system(spec, launcher: str) -> None:
    paths = [step.target for step in make_plan(spec("true")).steps if isinstance(step, steps.MaskPath)]
    hidden = [path for path in paths if os.path.isdir(path)]
    if len(hidden) < 2:
        pytest.skip("there is one directory at most that is hidden")
    script = f"for path in {' '.join(hidden)}; do stat -c '%d %a' $path; ls -A $path 2>/dev/null || :; done"
    said, status = await found(launcher, spec(script))
    assert status == 0
    assert len(said.splitlines()) == len(hidden)
    assert len(set(said.splitlines())) == 1


ACCOUNTS = {
    "passwd": "root:x:0:0:root:/root:/bin/sh\nshort:1\nx:y:nan:0::/:/bin/sh\nada:x:1000:1001:Ada:/home/ada:/bin/ash\r\n"
    "bob:x:12:13::/ho\xedme:/bin/sh\nnohome:x:14:14:::",
    "group": "root:x:0:\ntape:x:26:bob,ada\nlike:x:27:adam,da\nada:x:1001:\nlast:x:28:ada",
}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("user", ["ada", "1000", "ada:tape", "bob:1001", "12:28", "nohome", "5:6", "root:tape"])
async def test_a_user_of_the_tree_is_the_same(spec, own_busybox: Path, user: str) -> None:
    for name, content in ACCOUNTS.items():
        (own_busybox / "etc").mkdir(exist_ok=True)
        (own_busybox / "etc" / name).write_bytes(content.encode("latin-1"))
    wanted = spec(FOUND, rootfs=DriverChoice("dir", argument=str(own_busybox)), user=user)
    python, native = [await found(launcher, wanted) for launcher in LAUNCHERS]
    assert python[0].count("\n") > 60
    assert native == python


# --- failures ---


async def failure(launcher: str, plan: Plan) -> list[dict[str, Any]]:
    """The messages of the process of a plan, which is let go at every barrier; the last of them is `failed`."""
    running: Launcher = registry.load_launcher(launcher)[0]()
    told: list[dict[str, Any]] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(running.serve)
        with standard_files(None, None, None) as files:
            async with running.launch(plan, files, {}) as launched:
                while True:
                    message, descriptors, _ = await receive(launched.status)
                    for descriptor in descriptors:
                        os.close(descriptor)
                    if message is None:
                        break
                    told.append(message)
                    if "barrier" in message:
                        await send(launched.status, b'{"go": true}')
                await reap(launched.pid, launched.pidfd)
        nursery.cancel_scope.cancel()
    return told


def plan_of(
    *last: steps.Step, argv: Sequence[str] = ("true",), root: Path | None = None, working_dir: str = "/", **fields: Any
) -> Plan:
    """A plan with default steps, in no cgroup, and before it changes its identity, or after it, others."""
    rootfs = DriverChoice("dir", argument=str(root)) if root else DriverChoice("host")
    wanted = pysuper.ContainerSpec(name="box", command=("true",), cgroup=DriverChoice("none"), rootfs=rootfs, **fields)
    plan = make_plan(wanted)
    assert plan.command is not None
    command = attrs.evolve(plan.command, argv=tuple(argv), working_dir=working_dir)
    late = isinstance(last[0], steps.SetUser | steps.SetRlimit) if last else False
    phase = Phase.LIMITS if late else Phase.ROOTFS
    phases = dict(plan.phases)
    phases[phase] = (*phases.get(phase, ()), *last)
    return attrs.evolve(plan, phases=phases, command=command)


BROKEN: dict[str, Callable[[], steps.Step]] = {
    "through a link": lambda: steps.Mount(fstype="tmpfs", target="/link/below"),
    "on a link": lambda: steps.Bind(source="/usr", target="/link"),
    "file over directory": lambda: steps.Bind(source="/etc/passwd", target="/usr"),
    "directory over file": lambda: steps.Bind(source="/usr", target="/etc/passwd"),
    "below a file": lambda: steps.MakeDirectory(target="/etc/passwd/below"),
    "no source": lambda: steps.Bind(source="/nowhere", target="/usr"),
    "source through a link": lambda: steps.Bind(source="/proc/self/root/usr", target="/usr"),
    "no file system": lambda: steps.Mount(fstype="nonsense", target="/usr"),
    "bad option": lambda: steps.Mount(fstype="tmpfs", target="/usr", options={"size": "much", "mode": "0700"}),
    "flag for an option": lambda: steps.Mount(fstype="tmpfs", target="/usr", options={"size": None}),
    "bad flag": lambda: steps.Mount(fstype="tmpfs", target="/usr", flags=("nonsense",)),
    "ids of a file system that cannot": lambda: steps.Bind(source="/proc/self/fd", target="/usr", idmap=True),
    "no file to write": lambda: steps.WriteFile(path="/proc/nothing", content="1"),
    "bad content": lambda: steps.WriteFile(path="/proc/self/oom_score_adj", content="many"),
    "bad sysctl": lambda: steps.SetSysctl(name="net.ipv4.ip_unprivileged_port_start", value="-1"),
    "no sysctl": lambda: steps.SetSysctl(name="net.nothing", value="-1"),
    "sysctl that reads back otherwise": lambda: steps.SetSysctl(name="net.core.somaxconn", value="0x50"),
    "long name": lambda: steps.SetHostname(hostname="x" * 65),
    "no namespace": lambda: steps.EnterNamespace(namespace="net", path="/nowhere"),
    "wrong namespace": lambda: steps.EnterNamespace(namespace="net", path="/proc/self/ns/uts"),
    "namespace that was not given": lambda: steps.JoinNamespace(namespace="cgroup"),
    "no cgroup": lambda: steps.JoinCgroup(path="/nowhere/tasks"),
    "no system call": lambda: steps.Syscall(number=999, arguments=(1, "two"), purpose="try"),
    "a node that exists": lambda: steps.Mknod(target="/etc/passwd", major=1, minor=3),
    "a link that exists": lambda: steps.Symlink(text="x", target="/etc/../etc/./passwd"),
    "no protocol": lambda: steps.OpenSocket(family=9999, kind=1),
    "a second layer": lambda: steps.Overlay(source="/nowhere", target="/"),
    "no such user": lambda: steps.SetUser(user="nobody-such's"),
    "no such group": lambda: steps.SetUser(user='root:no"such'),
    "huge user": lambda: steps.SetUser(user="99999999999"),
    "user without id": lambda: steps.SetUser(user="70000"),
    "limits reversed": lambda: steps.SetRlimit(resource="nofile", soft=100, hard=50),
    "no right to a limit": lambda: steps.SetRlimit(resource="nofile", soft=1 << 40, hard=1 << 40),
}


def root_with_a_link(tree: Path) -> Path:
    """A root file system that has what broken steps need."""
    (tree / "link").symlink_to("usr")
    for name in ("usr", "etc"):
        (tree / name).mkdir(exist_ok=True)
    (tree / "etc/passwd").touch()
    return tree


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("broken", BROKEN)
async def test_a_step_that_fails_is_told_alike(broken: str, own_busybox: Path) -> None:
    plan = plan_of(BROKEN[broken](), root=root_with_a_link(own_busybox))
    python, native = [await failure(launcher, plan) for launcher in LAUNCHERS]
    assert list(python[-1]) == ["failed"]
    assert native == python


def files_that_do_not_execute(tree: Path) -> Path:
    """A root file system with programs that are none."""
    directory = tree / "bin"
    for name, content, mode in (
        ("plain", "echo", 0o644),
        ("orphan", "#!/nowhere\n", 0o755),
        ("odd", "\x00\x01", 0o755),
        ("lonely", "#!/bin/plain\n", 0o755),
    ):
        (directory / name).write_text(content)
        (directory / name).chmod(mode)
    (directory / "dir").mkdir()
    return tree


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
@pytest.mark.parametrize("init", [True, False])
@pytest.mark.parametrize("name", ["missing", "plain", "orphan", "odd", "lonely", "dir", "../x", "\udcff\n\"'"])
@pytest.mark.parametrize("place", ["", "/bin/"])
async def test_a_command_that_cannot_be_executed_is_told_alike(
    own_busybox: Path, name: str, place: str, init: bool
) -> None:
    plan = plan_of(argv=(place + name, "x"), root=files_that_do_not_execute(own_busybox), init=init)
    python, native = [await failure(launcher, plan) for launcher in LAUNCHERS]
    assert python[-1]["failed"]["step"] == "execute"
    assert native == python


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
async def test_a_missing_working_directory_is_told_alike(own_busybox: Path) -> None:
    plan = plan_of(root=own_busybox, working_dir="/no/where")
    python, native = [await failure(launcher, plan) for launcher in LAUNCHERS]
    assert python[-1]["failed"]["message"].startswith("working directory /no/where")
    assert native == python


@pytest.mark.parametrize("launcher", LAUNCHERS)
async def test_a_plan_larger_than_a_packet_is_executed(spec, launcher: str) -> None:
    wanted = spec("echo ${#LONG}", environment={"LONG": "x" * 100_000})
    assert await found(launcher, wanted) == ("100000\n", 0)


@pytest.mark.parametrize("launcher", LAUNCHERS)
@pytest.mark.parametrize("init", [True, False])
async def test_what_comes_with_the_last_answer_replaces_descriptors(launcher: str, init: bool) -> None:
    plan = plan_of(argv=("sh", "-c", "read line; echo $line; echo err >&2; ls /proc/self/fd"), init=init)
    running: Launcher = registry.load_launcher(launcher)[0]()
    async with trio.open_nursery() as nursery:
        await nursery.start(running.serve)
        with standard_files(None, None, None) as files, ExitStack() as stack:
            inside, outside = os.pipe()
            stack.callback(os.close, inside)
            async with running.launch(plan, files, {}) as launched:
                while (message := (await receive(launched.status))[0]) not in (None, {"started": True}):
                    if message is not None and "barrier" in message:
                        assert message == {"barrier": "ready"}
                        question = stack.enter_context(Path("/etc/hostname").open("rb"))
                        given = question.fileno(), outside, outside
                        await send(launched.status, b'{"files": [0, 1, 2]}', given)
                        os.close(outside)
                said = await trio.to_thread.run_sync(lambda: Path(f"/proc/self/fd/{inside}").read_bytes())
                await reap(launched.pid, launched.pidfd)
        nursery.cancel_scope.cancel()
    assert said.decode() == Path("/etc/hostname").read_text().strip() + "\nerr\n0\n1\n2\n3\n"


def memory_of_each(pids: list[int]) -> float:
    """Their shares (PSS), in kB."""
    rollups = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids]
    return sum(int(re.findall(r"^Pss: +([0-9]+) kB", rollup, re.MULTILINE)[0]) for rollup in rollups) / len(pids)


@pytest.mark.skipif(os.geteuid() != 0, reason="looks into processes that are not dumpable")
async def test_an_init_takes_no_more_memory_if_there_have_been_others_before(spec) -> None:
    wanted, found = spec("exec sleep 1000"), []
    async with pysuper.open_supervisor(launcher="native") as supervisor:
        for count in (50, 200, 50):
            containers = [await supervisor.start(wanted) for _ in range(count)]
            found.append(memory_of_each([container.pid for container in containers]))
            for container in containers:
                container.kill()
            for container in containers:
                await container.wait()
    assert found[2] < 1.15 * found[0]
