"""System calls of containers are filtered: by default, by a profile of the user's, or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import syscallprobes
import trio

import pysuper
from machine import cgroup_driver
from pysuper.seccomp.calls import NUMBERS
from pysuper.seccomp.choice import _TO_BE_INIT, _TO_EXECUTE

PYTHON = "/usr/bin/python3"
has_python = pytest.mark.skipif(not os.path.exists(PYTHON), reason=f"there is no {PYTHON}, which containers see too")

#: What the default profile answers, where it is not EPERM.
ANSWERS = {
    "clone3": errno.ENOSYS,
    "int 0x80": f"killed by {signal.SIGSYS}",
    **{name: errno.EAFNOSUPPORT for name in syscallprobes.PROBES if name.startswith("socket of")},
}


@pytest.fixture(scope="module")
def outcomes() -> dict[str, dict[str, Any]]:
    """What comes of the probes: without a filter, and with the default one."""

    async def probe(seccomp: str) -> dict[str, Any]:
        numbers = json.dumps(NUMBERS[os.uname().machine])
        command = [PYTHON, "-c", Path(syscallprobes.__file__).read_text(), numbers]
        cgroup = pysuper.DriverChoice(cgroup_driver())
        done = await pysuper.run(command, capture_stdout=True, cgroup=cgroup, seccomp=seccomp)
        found: dict[str, Any] = json.loads(done.stdout or b"")
        return found

    return {seccomp: trio.run(probe, seccomp) for seccomp in ("unconfined", "default")}


@has_python
@pytest.mark.parametrize("probe", syscallprobes.PROBES)
def test_what_the_kernel_would_do_for_everybody_is_refused(outcomes: dict[str, dict[str, Any]], probe: str) -> None:
    refused = ANSWERS.get(probe, errno.EPERM)
    if outcomes["unconfined"][probe] == refused:
        pytest.skip("this kernel says the same without a filter")
    assert outcomes["default"][probe] == refused


@has_python
def test_most_of_it_was_not_refused_by_the_kernel_anyway(outcomes: dict[str, dict[str, Any]]) -> None:
    told_apart = [name for name, answer in outcomes["unconfined"].items() if answer != outcomes["default"][name]]
    assert len(told_apart) > 0.75 * len(syscallprobes.PROBES)


# --- what works ---

STATUS = "awk '/^Seccomp/ {print $2}' /proc/self/status /proc/1/status"

WORKLOADS = {
    "sh": "for i in 1 2 3; do (echo $i | tr 1-3 a-c) & done; wait; trap 'exit 0' USR1; kill -USR1 $$; exit 1",
    "sort": "seq 100000 | sort -r --parallel=2 -S 1M -T /tmp | tail -n1 | grep -qx 1",
    "tar": "mkdir /tmp/a && mkfifo /tmp/a/f && ln -s f /tmp/a/l && tar -C /tmp -cz a | tar -tz | grep -qx a/f",
    "git": "cd /tmp && git init -q . && git -c user.name=a -c user.email=b commit -qm c --allow-empty && git fsck",
    "gcc": "cd /tmp && echo 'int main(void) { return 3; }' >a.c && gcc -O2 -flto -o a a.c; ./a; test $? = 3",
    "python3": "exec python3 - </script",
    "strace": "strace -f -e trace=openat -o /dev/null sh -c 'ls / >/dev/null'",
    "setpriv": "setpriv --reuid=1 --regid=1 --clear-groups --inh-caps=-all id -u | grep -qx 1",
    "unshare": "unshare --help >/dev/null && timeout 5 nice ionice -c3 chrt -b 0 taskset 1 true",
    "dpkg": "dpkg-query -W base-files && apt-get -v >/dev/null",
}


@pytest.mark.parametrize("program", WORKLOADS)
async def test_ordinary_programs_notice_nothing(supervisor, spec, program: str) -> None:
    if shutil.which(program, path="/usr/sbin:/usr/bin:/sbin:/bin") is None:
        pytest.skip(f"there is no {program}")
    script = pysuper.BindMount(source=str(Path(__file__).with_name("pythonworkload.py")), target="/script")
    container = await supervisor.start(spec(WORKLOADS[program], mounts=(script,)))
    assert (await container.wait()).status == 0


# --- which processes have the filter ---


@pytest.mark.parametrize("init", [True, False])
async def test_the_command_and_the_init_have_the_filter(output, init: bool) -> None:
    assert (await output(STATUS, init=init)).split() == ["2", "1"] * 2
    assert (await output(STATUS, init=init, no_new_privileges=False)).split() == ["2", "1"] * 2
    assert (await output(STATUS, init=init, seccomp="unconfined")).split() == ["0", "0"] * 2


async def test_what_joins_a_container_has_its_filter(supervisor, spec) -> None:
    container = await supervisor.start(spec("exec sleep 60"))
    for terminal in (True, False):
        async with container.execute(
            ["sh", "-c", f'test "$({STATUS} | uniq -c | wc -l)" = 4'], terminal=terminal
        ) as ls:
            assert await ls.wait() == pysuper.ExitStatus(exit_code=0, signal=None)
    async with container.execute(["unshare", "-U", "true"]) as refused:
        assert (await refused.wait()).exit_code == 1


async def test_that_it_is_in_force_is_a_receipt(supervisor, spec) -> None:
    container = await supervisor.start(spec("exec sleep 60"))
    found = {receipt.promise: receipt.actual for receipt in container.receipts}
    assert (found["Seccomp is 2"], found["Seccomp_filters is 1"]) == ("2", "1")


async def test_without_a_filter_a_line_says_so(supervisor, spec) -> None:
    container = await supervisor.start(spec("unshare -U true", seccomp="unconfined"))
    assert [line for line in container.warnings if "seccomp" in line] == [
        "seccomp is off: the container may make every system call that the kernel lets its user make"
    ]
    assert (await container.wait()).exit_code == 0
    confined = await supervisor.start(spec("unshare -U true"))
    assert (confined.warnings, (await confined.wait()).exit_code) == ((), 1)


async def test_a_capability_that_is_kept_opens_what_it_is_for(output) -> None:
    mount = "mount -t tmpfs none /tmp 2>/dev/null && echo mounted || echo refused"
    assert (await output(mount)).strip() == "refused"
    more = (*pysuper.ContainerSpec(name="box").capabilities, "SYS_ADMIN")
    assert (await output(mount, capabilities=more)).strip() == "mounted"


# --- profiles of the user's ---


def profile(directory: Path, default: str, **actions: list[str]) -> str:
    """The path of a file: calls, by the action."""
    rules = [{"names": names, "action": f"SCMP_ACT_{action}"} for action, names in actions.items()]
    path = directory / "profile.json"
    path.write_text(json.dumps({"defaultAction": f"SCMP_ACT_{default}", "syscalls": rules}))
    return str(path)


async def test_a_profile_can_refuse_one_call(output, tmp_path: Path) -> None:
    script = "mkdir /tmp/a 2>/dev/null && echo made || echo refused"
    assert (await output(script)).strip() == "made"
    assert (await output(script, seccomp=profile(tmp_path, "ALLOW", ERRNO=["mkdir", "mkdirat"]))).strip() == "refused"


@pytest.mark.parametrize("init", [True, False])
async def test_a_profile_can_end_a_process(supervisor, spec, tmp_path: Path, init: bool) -> None:
    killing = profile(tmp_path, "ALLOW", KILL_PROCESS=["mkdir", "mkdirat"])
    container = await supervisor.start(spec("exec mkdir /tmp/a", seccomp=killing, init=init))
    assert (await container.wait()).signal == signal.SIGSYS


#: What the C library does before and after `true`.
BUSYBOX = """
    arch_prctl fstat futex getrandom gettid getuid mprotect prlimit64 readlink readlinkat rseq set_robust_list
    set_tid_address
"""


@pytest.mark.parametrize("init", [True, False])
async def test_a_profile_needs_no_more_than_the_command_and_what_is_documented(
    supervisor, spec, busybox, tmp_path: Path, init: bool
) -> None:
    own = _TO_EXECUTE.split() + (_TO_BE_INIT.split() if init else [])
    seccomp = profile(tmp_path, "KILL_PROCESS", ALLOW=[*own, *BUSYBOX.split()])
    rootfs = pysuper.DriverChoice("dir", {"path": str(busybox)})
    container = await supervisor.start(spec(command=("true",), rootfs=rootfs, seccomp=seccomp, init=init))
    assert (await container.wait()).status == 0
    less = profile(tmp_path, "KILL_PROCESS", ALLOW=[name for name in own if name != "sendmsg"])
    with pytest.raises(pysuper.ConfigError, match=r"profile.json: refuses sendmsg, which pysuper itself calls"):
        await supervisor.start(spec(seccomp=less, init=init))


async def test_a_profile_with_names_that_nobody_knows_is_said_in_a_line(supervisor, spec, tmp_path: Path) -> None:
    seccomp = profile(tmp_path, "ALLOW", LOG=["read", "newest_call"])
    container = await supervisor.start(spec(seccomp=seccomp))
    assert container.warnings == (f"{seccomp}: no system call, as far as is known, is called newest_call",)
    assert (await container.wait()).status == 0
