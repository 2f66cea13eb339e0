"""Landlock stands behind the other walls: each test has one of them opened, and shows what is refused all the same."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pysuper
from machine import PATIENCE, cgroup_driver
from pysuper import landlock
from pysuper.supervisor import Supervisor
from stackfiles import PYSUPER

pytestmark = pytest.mark.skipif(landlock.version() < 2, reason="this kernel has no Landlock")
is_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
has_scopes = pytest.mark.skipif(landlock.version() < 6, reason="scopes are newer than this kernel")
shares_pid = pytest.mark.skipif(cgroup_driver() == "none", reason="a shared pid namespace takes a cgroup")
needs_strace = pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("strace"), reason="traces the launcher")

#: Whether a device node is refused before anybody has looked at capabilities: with EACCES, and not with EPERM.
MAKE_NODE = "LC_ALL=C mknod /tmp/node c 1 3 2>&1 | grep -q 'Permission denied' && exit 9; exit 0"

PYTHON = "/usr/bin/python3"
has_python = pytest.mark.skipif(not os.path.exists(PYTHON), reason=f"there is no {PYTHON}, which containers see too")


async def without_and_with(supervisor: Supervisor, spec, script: str, **fields: Any) -> list[int | None]:
    """What a script exits with."""
    codes = []
    for wanted in (False, True):
        container = await supervisor.start(spec(script, landlock=wanted, **fields))
        codes.append((await container.wait()).exit_code)
    return codes


# --- what is refused ---


@is_root
async def test_nothing_is_mounted_in_a_user_namespace_made_inside(supervisor, spec) -> None:
    inner = "unshare -Urm --propagation=unchanged sh -c 'mount -t tmpfs none /tmp 2>/dev/null || exit 9'"
    script = f"setpriv --reuid=1 --regid=1 --clear-groups {inner}"
    assert await without_and_with(supervisor, spec, script, seccomp="unconfined") == [0, 9]


async def test_no_device_node_is_made_whatever_the_capabilities(supervisor, spec) -> None:
    assert await without_and_with(supervisor, spec, MAKE_NODE) == [0, 9]


async def test_who_may_make_nodes_and_who_may_mount_can(supervisor, spec) -> None:
    more = pysuper.ContainerSpec(name="box").capabilities
    assert await without_and_with(supervisor, spec, MAKE_NODE, capabilities=(*more, "MKNOD")) == [0, 0]
    mount = "mount -t tmpfs none /tmp"
    assert await without_and_with(supervisor, spec, mount, capabilities=(*more, "SYS_ADMIN")) == [0, 0]


@is_root
@shares_pid
async def test_processes_outside_cannot_be_looked_into(supervisor, spec) -> None:
    command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "sh", "-c", "echo; exec sleep 60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as outside:
        assert outside.stdout is not None
        outside.stdout.readline()
        script = f"cat /proc/{outside.pid}/environ >/dev/null 2>&1 || exit 9"
        codes = await without_and_with(supervisor, spec, script, share=frozenset({"pid", "user"}))
        outside.kill()
    assert codes == [0, 9]


@is_root
@shares_pid
@has_scopes
async def test_processes_outside_cannot_be_signalled(supervisor, spec) -> None:
    with subprocess.Popen(["sleep", "60"]) as outside:
        script = f"kill -0 {outside.pid} 2>/dev/null || exit 9"
        codes = await without_and_with(supervisor, spec, script, share=frozenset({"pid", "user"}))
        outside.kill()
    assert codes == [0, 9]


CONNECT = """
import socket, sys
peer = socket.socket(socket.AF_UNIX)
try:
    peer.connect("\\0" + sys.argv[1])
except PermissionError:
    sys.exit(9)
"""


@pytest.fixture
def abstract() -> Iterator[str]:
    """A name at which this process listens, and which is in no file system (CVE-2020-15257)."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("")
        listener.listen(8)
        yield listener.getsockname()[1:].decode()


@has_python
@has_scopes
async def test_abstract_sockets_of_a_shared_network_are_out_of_reach(supervisor, spec, abstract: str) -> None:
    command = (PYTHON, "-c", CONNECT, abstract)
    host = pysuper.DriverChoice("host")
    assert await without_and_with(supervisor, spec, "", command=command, network=host) == [0, 9]


@has_python
async def test_those_of_the_container_itself_are_not(supervisor, spec) -> None:
    script = "import socket; a = socket.socket(1); a.bind(b'\\0x'); a.listen(); socket.socket(1).connect(b'\\0x')"
    assert await without_and_with(
        supervisor, spec, "", command=(PYTHON, "-c", script), network=pysuper.DriverChoice("host")
    ) == [0, 0]


async def test_files_are_moved_and_linked_as_ever_and_children_signalled(supervisor, spec) -> None:
    script = """
        set -e
        mkdir /tmp/a /tmp/b; echo text >/tmp/a/f; mv /tmp/a/f /tmp/b/g; ln /tmp/b/g /tmp/a/h; mv /tmp/a /tmp/b/
        mkfifo /tmp/fifo; cat /proc/$$/environ >/dev/null; sleep 60 & kill $!
    """
    assert await without_and_with(supervisor, spec, script) == [0, 0]


# --- who has the rules ---


@pytest.mark.parametrize("init", [True, False])
@pytest.mark.parametrize("no_new_privileges", [True, False])
async def test_every_kind_of_start_has_them(supervisor, spec, init: bool, no_new_privileges: bool) -> None:
    fields = {"init": init, "no_new_privileges": no_new_privileges, "user": "1" if os.geteuid() == 0 else None}
    assert await without_and_with(supervisor, spec, MAKE_NODE, **fields) == [0, 9]


async def test_what_joins_a_container_has_them_too(supervisor, spec) -> None:
    # A layer of its own: it can signal the container's processes, but not look into them, as they cannot into it.
    look = "kill -0 2 && cat /proc/2/environ >/dev/null 2>&1 || exit 9"
    for wanted, code in ((False, 0), (True, 9)):
        container = await supervisor.start(spec("exec sleep 60", landlock=wanted))
        for command in (MAKE_NODE, look, "kill -0 2"):
            async with container.execute(["sh", "-c", command]) as execution:
                assert (await execution.wait()).exit_code == (0 if command == "kill -0 2" else code)


# --- whether they are in force ---


def traced(inject: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run pysuper on a kernel that answers a call otherwise, strace(1)."""
    call = inject.partition(":")[0]
    command = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={inject}"]
    return subprocess.run(
        [*command, PYSUPER, *arguments], capture_output=True, text=True, check=False, timeout=120 * PATIENCE
    )


@needs_strace
def test_a_kernel_that_only_says_yes_stops_the_start() -> None:
    result = traced("landlock_restrict_self:retval=0", "run", "--", "true")
    assert result.returncode == 125
    assert "the kernel lets it change mounts afterwards; see landlock(7)" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@needs_strace
def test_a_kernel_without_them_starts_containers_and_the_report_and_the_doctor_say_so(tmp_path: Path) -> None:
    for error in ("ENOSYS", "EOPNOTSUPP"):  # not built in; not switched on
        report = tmp_path / error
        result = traced(f"landlock_create_ruleset:error={error}", "run", "--report", report, "--", "true")
        assert (result.returncode, result.stderr) == (0, "")
        assert "landlock" not in json.loads(report.read_text())["protections"]
    doctor = traced("landlock_create_ruleset:error=ENOSYS", "doctor", "--security")
    assert "NO   landlock: nothing guards against mounts" in doctor.stdout
    found = traced("landlock_create_ruleset:error=EOPNOTSUPP", "doctor").stdout
    assert "NO   landlock rules: not in this kernel, or not switched on\n     -> a kernel with" in found


async def test_switched_off_a_line_says_so(supervisor, spec) -> None:
    lines = (await supervisor.start(spec(landlock=False))).warnings
    assert lines == ("landlock is off: nothing stands behind what is shared with the host, or let through otherwise",)
    assert (await supervisor.start(spec())).warnings == ()
