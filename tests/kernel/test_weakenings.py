"""Each option by which a container is less of a boundary is said in one line: by plan, by run, and by up."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import attrs
import pytest

import pysuper
from machine import cgroup_driver
from pysuper import cli
from stackfiles import PYSUPER, Up, with_defaults

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="not all of it can be had without root")


@attrs.frozen
class Weakening:
    """
    One of them.

    Attributes:
        options: Of `run` and `plan`.
        keys: Of a container's table.
        line: What is said.
    """

    options: tuple[str, ...]
    keys: str
    line: str


def shared(name: str) -> str:
    return f"the {name} namespace is the host's: in that respect the container is no boundary"


WEAKENINGS = {
    "userns": Weakening(("--userns", "host"), 'userns = "host"', shared("user")),
    "network": Weakening(("--network", "host"), 'network = "host"', shared("net")),
    **{
        name: Weakening(("--share", name), f'share = ["{name}"]', shared(name))
        for name in ("net", "uts", "ipc", "cgroup", "time")
    },
    "capability": Weakening(
        ("--cap-add", "SYS_ADMIN"), 'cap_add = ["SYS_ADMIN"]', "capabilities beyond the default: SYS_ADMIN"
    ),
    "seccomp": Weakening(
        ("--security-opt", "seccomp=unconfined"),
        'security_opt = ["seccomp=unconfined"]',
        "seccomp is off: the container may make every system call that the kernel lets its user make",
    ),
    "landlock": Weakening(
        ("--security-opt", "landlock=off"),
        'security_opt = ["landlock=off"]',
        "landlock is off: nothing stands behind what is shared with the host, or let through otherwise",
    ),
    "no_new_privs": Weakening(
        ("--security-opt", "no-new-privileges=false"),
        'security_opt = ["no-new-privileges=false"]',
        "execve may gain privileges: set-user-id programs work as such",
    ),
    "unmask": Weakening(
        ("--security-opt", "unmask=/proc/interrupts"),
        'security_opt = ["unmask=/proc/interrupts"]',
        "neither hidden nor read-only: /proc/interrupts",
    ),
    "device": Weakening(
        ("--device", "/dev/zero:/dev/other"),
        'devices = ["/dev/zero:/dev/other"]',
        "devices of the host can be used, and what is behind them: /dev/zero",
    ),
    "volumes": Weakening(
        ("-v", "/srv:/a", "-v", "/opt:/b", "-v", "/srv:/c", "-v", "/usr:/d:ro", "--tmpfs", "/e"),
        'volumes = ["/srv:/a", "/opt:/b", "/srv:/c", "/usr:/d:ro"]',
        "files of the host can be changed, set-user-id bits too: /srv, /opt",
    ),
    "chroot": Weakening(
        ("--rootfs", "chroot:BUSYBOX"),
        'rootfs = "chroot:BUSYBOX"',
        "rootfs chroot is no boundary: the host's root stays mounted; use dir:PATH",
    ),
}
if cgroup_driver() != "none":
    WEAKENINGS["pid"] = Weakening(("--share", "pid"), 'share = ["pid"]', shared("pid"))

PRIVILEGED = {
    *(shared("user"), WEAKENINGS["unmask"].line.replace("/proc/interrupts", "ALL")),
    *("devices of the host can be used, and what is behind them: /dev", WEAKENINGS["landlock"].line),
    *(WEAKENINGS["seccomp"].line, WEAKENINGS["no_new_privs"].line),
}


@pytest.fixture(scope="module")
def weakenings(busybox: Path) -> dict[str, Weakening]:
    """Those, with a root file system to change to."""
    return {
        name: attrs.evolve(
            weakening,
            options=tuple(option.replace("BUSYBOX", str(busybox)) for option in weakening.options),
            keys=weakening.keys.replace("BUSYBOX", str(busybox)),
        )
        for name, weakening in WEAKENINGS.items()
    }


def planned(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    """The warnings that `plan` prints."""
    assert cli.main(["plan", "--cgroup", cgroup_driver(), *arguments]) == 0
    numbered = (line.partition(". ")[2] for line in capsys.readouterr().out.splitlines())
    return [line.removeprefix("warning: ") for line in numbered if line.startswith("warning: ")]


def file_of(directory: Path, *keys: str) -> str:
    path = directory / "box.toml"
    path.write_text(with_defaults("\n".join(["[container.box]", 'command = "true"', *keys])))
    return str(path)


@pytest.mark.parametrize("name", WEAKENINGS)
def test_each_is_a_line_of_the_plan(
    weakenings: dict[str, Weakening], name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weakening = weakenings[name]
    assert planned(capsys, *weakening.options, "--", "true") == [weakening.line]
    assert planned(capsys, "-f", file_of(tmp_path, weakening.keys)) == [weakening.line]


def test_privileged_is_a_line_for_each_thing_that_it_opens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (("--privileged", "--", "true"), ("-f", file_of(tmp_path, "privileged = true"))):
        lines = planned(capsys, *arguments)
        assert len(lines) == len(set(lines)) == 7
        assert {line for line in lines if not line.startswith("capabilities beyond the default: ")} == PRIVILEGED


def test_a_container_with_all_defaults_has_nothing_to_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert planned(capsys, "--", "true") == planned(capsys, "-f", file_of(tmp_path)) == []
    assert planned(capsys, "-v", "/usr:/d:ro", "--tmpfs", "/e", "--cap-drop", "ALL", "--read-only", "--", "true") == []


def test_run_says_them_once_each_whether_they_are_options_or_in_a_file(
    weakenings: dict[str, Weakening], tmp_path: Path
) -> None:
    together = [weakenings[name] for name in ("uts", "capability", "volumes", "landlock")]
    expected = sorted(f"pysuper: {weakening.line}" for weakening in together)
    options = [option for weakening in together for option in weakening.options]
    given = (
        ["--cgroup", cgroup_driver(), *options, "--", "true"],
        ["-f", file_of(tmp_path, *(weakening.keys for weakening in together))],
    )
    for arguments in given:
        done = subprocess.run([PYSUPER, "run", *arguments], capture_output=True, text=True, check=True, timeout=60)
        assert sorted(done.stderr.splitlines()) == expected


def test_up_says_them_of_each_container(weakenings: dict[str, Weakening], up: Up) -> None:
    tables = {name: [weakening.keys] for name, weakening in weakenings.items()}
    tables["default"] = []
    text = "\n".join("\n".join([f"[container.{name}]", 'command = "true"', *keys]) for name, keys in tables.items())
    up.write(text)
    done = up.run()
    assert done.returncode == 0
    said = [line.split(None, 3) for line in done.stderr.splitlines() if " * warning: " in line]
    assert {(name, line) for name, _, _, line in said} == {(name, w.line) for name, w in weakenings.items()}
    assert len(said) == len(weakenings)


async def test_set_user_id_bits_are_why_a_writable_mount_is_said(supervisor, spec, tmp_path: Path) -> None:
    """Root inside is nobody outside, but what it makes in a volume is root's there."""
    mounts = (pysuper.BindMount(source=str(tmp_path), target="/data"),)
    container = await supervisor.start(spec("cp /bin/true /data/tool; chmod 4755 /data/tool", mounts=mounts))
    await container.wait()
    made = (tmp_path / "tool").stat()
    assert (made.st_uid, oct(made.st_mode)) == (0, "0o104755")
    (warning,) = container.warnings
    assert warning == f"files of the host can be changed, set-user-id bits too: {tmp_path}"
