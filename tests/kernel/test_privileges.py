"""More privileges than the default, or fewer: in force inside, and said in a line."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

import pysuper
from machine import cgroup_driver
from pysuper.capabilities import DEFAULT, NAMES
from pysuper.privileges import grant
from stackfiles import PYSUPER

is_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def number(path: str) -> str:
    """As stat(1) prints it with %t:%T."""
    status = os.stat(path)
    return f"{os.major(status.st_rdev):x}:{os.minor(status.st_rdev):x}"


def other_device() -> str:
    """A character device that is not in every container."""
    for path in ("/dev/fuse", "/dev/net/tun", "/dev/loop-control"):
        if os.path.exists(path) and stat.S_ISCHR(os.stat(path).st_mode):
            return path
    pytest.skip("there is no other character device here")


async def start(supervisor, spec, script: str, **privileges):
    return await supervisor.start(grant(spec(script), **privileges))


async def test_a_capability_is_added_and_said(supervisor, spec) -> None:
    container = await start(supervisor, spec, "grep CapEff /proc/self/status | grep -q 25fb", cap_add=["NET_RAW"])
    assert (await container.wait()).exit_code == 0
    assert container.warnings == ("capabilities beyond the default: NET_RAW",)


async def test_what_is_dropped_cannot_be_used(supervisor, spec) -> None:
    script = "touch /tmp/a && ! chown 1:1 /tmp/a"
    container = await start(supervisor, spec, script, cap_drop=["cap_chown"])
    assert (await container.wait()).exit_code == 0
    assert container.warnings == ()
    control = await start(supervisor, spec, script)
    assert (await control.wait()).exit_code == 1


async def test_all_can_be_dropped_but_for_a_few(supervisor, spec) -> None:
    script = "grep CapBnd /proc/self/status | grep -q 0000000000000001"
    container = await start(supervisor, spec, script, cap_drop=["ALL"], cap_add=["CHOWN"])
    assert (await container.wait()).exit_code == 0


def test_all_are_those_that_the_kernel_has() -> None:
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    assert grant(pysuper.ContainerSpec(name="box"), cap_add=["ALL"]).capabilities == NAMES[: last + 1]
    assert grant(pysuper.ContainerSpec(name="box"), cap_add=["chown"]).capabilities == DEFAULT


async def test_a_set_user_id_program_gains_privileges_only_if_that_is_wanted(supervisor, spec, tmp_path) -> None:
    program = "/usr/local/bin/id-of-root"
    script = (
        f"cp /usr/bin/id {program}; chmod 4755 {program}; setpriv --reuid=1000 --clear-groups {program} -u > /out/id"
    )
    mounts = (pysuper.BindMount(source=str(tmp_path), target="/out"),)
    tmp_path.chmod(0o777)
    said = {}
    for value in (True, False):
        wanted = grant(spec(script, mounts=mounts), security_opt=[("no_new_privileges", value)])
        container = await supervisor.start(wanted)
        await container.wait()
        said[value] = (tmp_path / "id").read_text().strip()
        (tmp_path / "id").unlink()
        assert any("may gain privileges" in line for line in container.warnings) is not value
    assert said == {True: "1000", False: "0"}


async def test_the_kernel_says_whether_privileges_can_be_gained(output) -> None:
    script = "grep NoNewPrivs /proc/self/status"
    assert (await output(script)).split()[-1] == "1"
    assert (await output(script, no_new_privileges=False)).split()[-1] == "0"


@is_root
async def test_a_device_can_be_used_and_no_other(supervisor, spec) -> None:
    path = other_device()
    script = f"test $(stat -c %t:%T {path}) = {number(path)} && test -c /dev/mine && (: <>{path}) 2>/dev/null"
    devices = [pysuper.Device(source=path, target=path), pysuper.Device(source=path, target="/dev/mine")]
    container = await start(supervisor, spec, script, devices=devices)
    assert (await container.wait()).exit_code == 0
    assert container.warnings == (f"devices of the host can be used, and what is behind them: {path}, {path}",)
    control = await start(supervisor, spec, f"test -e {path}")
    assert (await control.wait()).exit_code == 1


@is_root
@pytest.mark.skipif(cgroup_driver() != "v1", reason="only cgroup v1 has a devices controller")
async def test_the_controller_lets_through_what_was_given_and_nothing_else(supervisor, spec) -> None:
    path = other_device()
    container = await start(supervisor, spec, "exec sleep 60", devices=[pysuper.Device(source=path, target=path)])
    (listed,) = (r.actual for r in container.receipts if r.source.endswith("devices.list"))
    status = os.stat(path)
    assert f"c {os.major(status.st_rdev)}:{os.minor(status.st_rdev)} rwm" in listed
    control = await start(supervisor, spec, "exec sleep 60")
    (listed,) = (r.actual for r in control.receipts if r.source.endswith("devices.list"))
    assert f"c {os.major(status.st_rdev)}:{os.minor(status.st_rdev)} rwm" not in listed


@is_root
async def test_a_directory_gives_all_devices_in_it(output, tmp_path) -> None:
    (tmp_path / "below").mkdir()
    os.mknod(tmp_path / "one", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    os.mknod(tmp_path / "below/two", stat.S_IFBLK | 0o600, os.makedev(7, 0))
    (tmp_path / "text").touch()
    found = await output(
        "cd /dev/all; find . -type c -o -type b", devices=(pysuper.Device(source=str(tmp_path), target="/dev/all"),)
    )
    assert sorted(found.split()) == ["./below/two", "./one"]


@pytest.mark.parametrize("source", ["/dev/no-such-device", "/etc/passwd", "/etc"])
async def test_what_is_no_device_is_an_error_before_anything_is_made(supervisor, spec, source) -> None:
    with pytest.raises(pysuper.DriverError, match=source):
        await start(supervisor, spec, "true", devices=[pysuper.Device(source=source, target="/dev/x")])


async def test_a_kernel_parameter_is_set_in_the_container_alone(output) -> None:
    before = Path("/proc/sys/net/ipv4/ip_default_ttl").read_text()
    sysctls = {"net.ipv4.ip_default_ttl": "33", "net/ipv4/ip_forward": "1", "kernel.shmmni": "77"}
    script = "cat /proc/sys/net/ipv4/ip_default_ttl /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/shmmni"
    assert (await output(script, sysctls=sysctls)).split() == ["33", "1", "77"]
    assert Path("/proc/sys/net/ipv4/ip_default_ttl").read_text() == before


async def test_the_names_of_a_machine_are_kernel_parameters_too(output) -> None:
    script = "cat /proc/sys/kernel/domainname; hostname"
    assert (await output(script, sysctls={"kernel.domainname": "example.org"})).split()[0] == "example.org"
    named = {"kernel/domainname": "example.net", "kernel.hostname": "other"}
    assert (await output(script, sysctls=named)).split() == ["example.net", "other"]


async def test_a_kernel_parameter_of_a_shared_namespace_or_of_the_host_is_refused(supervisor, spec) -> None:
    with pytest.raises(pysuper.DriverError, match="net.ipv4.ip_forward is of the net namespace, which is not"):
        await start(
            supervisor,
            lambda script: spec(script, share=frozenset({"net"})),
            "true",
            sysctls={"net.ipv4.ip_forward": "1"},
        )
    with pytest.raises(pysuper.ConfigError, match="'kernel.core_pattern' is not of a namespace"):
        await start(supervisor, spec, "true", sysctls={"kernel.core_pattern": "core"})


async def test_a_kernel_parameter_that_the_kernel_does_not_take_as_it_is_stops_the_start(supervisor, spec) -> None:
    with pytest.raises(pysuper.LaunchError, match="set the kernel parameter net.ipv4.ip_default_ttl to 300"):
        await start(supervisor, spec, "true", sysctls={"net.ipv4.ip_default_ttl": "300"})
    with pytest.raises(pysuper.LaunchError, match="kernel parameter net.no.such.thing.*ENOENT"):
        await start(supervisor, spec, "true", sysctls={"net.no.such.thing": "1"})


@is_root
async def test_a_path_is_unmasked_and_no_other(output) -> None:
    script = "for f in interrupts kcore; do head -c 1 /proc/$f | wc -c; done; grep -c ' /proc/sys ' /proc/mounts || :"
    assert (await output(script)).split() == ["0", "0", "1"]
    assert (await output(script, unmask=("/proc/interrupts", "/proc/sys"))).split() == ["1", "0", "0"]


@is_root
async def test_privileged_is_everything_at_once(supervisor, spec) -> None:
    script = """
        test "$(cut -c-40 /proc/self/uid_map | tr -s ' ')" = " 0 0 4294967295" &&
        grep -q 'NoNewPrivs:.0' /proc/self/status &&
        ! grep -q ' /proc/[a-z]' /proc/mounts &&
        mkdir /tmp/m && mount -t tmpfs none /tmp/m
    """
    container = await start(supervisor, spec, script, privileged=True)
    assert (await container.wait()).exit_code == 0
    assert len(container.warnings) == 7
    control = await start(supervisor, spec, script)
    assert (await control.wait()).exit_code != 0


@is_root
def test_the_command_line_has_dockers_words() -> None:
    options = [
        "--cap-drop",
        "ALL",
        "--cap-add",
        "NET_RAW,chown",
        "--userns",
        "host",
        "--sysctl",
        "net.ipv4.ip_forward=1",
    ]
    options += ["--security-opt", "unmask=/proc/interrupts", "--security-opt", "no-new-privileges"]
    script = "grep CapBnd /proc/self/status; cat /proc/self/uid_map /proc/sys/net/ipv4/ip_forward"
    result = subprocess.run(
        [PYSUPER, "run", *options, "--", "sh", "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stdout.split() == ["CapBnd:", "0000000000002001", "0", "0", "4294967295", "1"]
    assert len(result.stderr.splitlines()) == 3


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--cap-add", "NET_RAWW"], "there is no capability 'NET_RAWW'; did you mean 'NET_RAW'?"),
        (["--security-opt", "apparmor=x"], "'apparmor=x' is not seccomp=default|unconfined|FILE, landlock=on|off,"),
        (["--security-opt", "unmask=/etc"], "'/etc' is not ALL, or a path below /proc or /sys"),
        (["--device", "fuse"], "'fuse' is not SOURCE or SOURCE:TARGET"),
        (["--device", "/dev/fuse:r"], "a device is given for reading and writing; leave 'r' out"),
        (["--sysctl", "net.ipv4.ip_forward"], "is not NAME=VALUE"),
        (["--sysctl", "net.ipv4/../../kernel/x=1"], "is not a kernel parameter"),
        (["--userns", "none"], "invalid choice: 'none'"),
    ],
)
def test_what_is_wrong_is_one_line(options: list[str], expected: str) -> None:
    result = subprocess.run([PYSUPER, "run", *options, "true"], capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 2
    assert expected in result.stderr
    assert len(result.stderr.splitlines()) == 1
