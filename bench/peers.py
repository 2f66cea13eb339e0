"""The programs that are compared: how each runs a command in the root file system, and how isolated that is."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence

import attrs

from bench.measure import Failed, run
from bench.rig import PYSUPER, Rig
from pysuper_plugins.cgroup.mounts import hierarchies

__all__ = ["System", "found_isolation", "systems", "usable"]

_PRIVATE = "private /dev, masked /proc"
#: What `pysuper run` gives a container that asked for nothing else.
_FULL = f"idmapped root, {_PRIVATE} and /sys, each v1 cgroup with its limits (or v2's pids.max)"
_LIMITED = "a cgroup with pids.max"

#: Lower than what podman sets by itself, which root may not where it has no CAP_SYS_RESOURCE.
_ULIMITS = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"]

_numbers = itertools.count()

Argv = Callable[[Rig, Sequence[str]], list[str]]


@attrs.frozen(kw_only=True)
class System:
    """
    One way to run a command.

    Attributes:
        name: In tables and plots.
        package: Of Debian; None is a part of the benchmark.
        program: What is looked for in $PATH.
        isolation: For the reader, who should compare like with like: what `found_isolation` does not find out.
        argv: The whole command line, for a command by its path in the root file system. `%n` in it stands for a number
            that no other run has.
        version: The options that make it print its version.
    """

    name: str
    package: str | None = None
    program: str
    isolation: str
    argv: Argv
    version: tuple[str, ...] = ("--version",)

    def template(self, rig: Rig, command: Sequence[str]) -> list[str]:
        """The command line, with the program's path, so that nobody pays for the search in $PATH."""
        program, *arguments = self.argv(rig, command)
        path = shutil.which(program)
        assert path is not None
        return [path, *arguments]

    def command(self, rig: Rig, command: Sequence[str]) -> list[str]:
        """The command line of one run."""
        number = f"{os.getpid()}-{next(_numbers)}"
        return [word.replace("%n", number) for word in self.template(rig, command)]

    def describe(self, rig: Rig) -> dict[str, str | None]:
        """For the report: what is stated, and what a command sees of it."""
        return {
            "isolation": "; without ".join(
                [self.isolation, *(rig.beyond_floor if self.name == "C floor, full" else ())]
            ),
            "found": found_isolation(self, rig),
            "package": self.package,
            "version": self._version(),
        }

    def _version(self) -> str | None:
        if self.package is None:
            return None
        said = subprocess.run([self.program, *self.version], capture_output=True, text=True, check=False)
        return (said.stdout or said.stderr).strip().split("\n")[0]


def systems() -> Iterator[System]:
    """All of them, the plainest first."""
    yield System(name="plain process", program="gcc", isolation="posix_spawn(3) and wait4(2)", argv=_plain)
    yield System(
        name="C floor, basic",
        program="gcc",
        isolation=f"pivot_root, /proc, {_LIMITED}",
        argv=_floor("basic"),
    )
    yield System(name="C floor, full", program="gcc", isolation=f"{_FULL}; no receipts", argv=_floor("full"))
    yield System(
        name="pysuper run", program=PYSUPER, isolation=f"{_FULL}; an init, receipts", argv=_pysuper, package="pysuper"
    )
    yield System(
        name="unshare",
        package="util-linux",
        program="unshare",
        isolation="chroot, /proc; no cgroup",
        argv=lambda rig, command: [
            *["unshare", "--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "--mount-proc", "--root"],
            str(rig.root),
            *command,
        ],
    )
    yield System(
        name="bwrap",
        package="bubblewrap",
        program="bwrap",
        isolation="pivot_root, private /dev, /proc; no cgroup",
        argv=lambda rig, command: [
            *["bwrap", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-ipc", "--die-with-parent"],
            *["--bind", str(rig.root), "/", *["--proc", "/proc", "--dev", "/dev", "--"], *command],
        ],
    )
    yield System(
        name="crun",
        package="crun",
        program="crun",
        isolation=f"{_PRIVATE}, {_LIMITED}; shown v1 only, since it refuses v1 beside v2",
        argv=_without_v2(_oci("crun")),
    )
    yield System(name="runc", package="runc", program="runc", isolation=f"{_PRIVATE}, {_LIMITED}", argv=_oci("runc"))
    yield System(
        name="lxc-execute",
        package="lxc",
        program="lxc-execute",
        isolation=f"/proc, {_LIMITED}; an init",
        argv=_lxc,
    )
    yield System(
        name="firejail",
        package="firejail",
        program="firejail",
        isolation="on this machine's root, since its chroot is disabled by default; no cgroup",
        argv=lambda rig, command: [
            *["firejail", "--quiet", "--noprofile", "--net=none", "--ipc-namespace", "--"],
            f"{rig.root}{command[0]}",
            *command[1:],
        ],
    )
    yield System(
        name="systemd-nspawn",
        package="systemd-container",
        program="systemd-nspawn",
        isolation=f"{_PRIVATE}, no cgroup of its own; a read-only root, since it locks others; a stub init",
        argv=lambda rig, command: [
            *[
                "systemd-nspawn",
                "--quiet",
                "--register=no",
                "--keep-unit",
                "--settings=no",
                "--private-network",
                "--pipe",
            ],
            *["--read-only", f"--directory={rig.root}", "--machine=bench-%n", "--", *command],
        ],
    )
    yield System(
        name="podman + crun",
        package="podman",
        program="podman",
        isolation=f"{_PRIVATE}, {_LIMITED}; shown v1 only, like crun",
        argv=_without_v2(_podman("crun")),
    )
    yield System(
        name="podman + runc",
        package="podman",
        program="podman",
        isolation=f"{_PRIVATE}, {_LIMITED}",
        argv=_podman("runc"),
    )


def usable(rig: Rig, wanted: Sequence[str]) -> tuple[list[System], dict[str, str]]:
    """
    Those that work here, by trial, and why the others do not.

    Args:
        wanted: Parts of names; none is all.
    """
    working, left_out = [], {}
    for system in systems():
        if wanted and not any(part in system.name for part in wanted):
            continue
        if shutil.which(system.program) is None:
            left_out[system.name] = f"{system.program} is not installed"
            continue
        try:
            run(system.command(rig, ["/bin/true"]))
            stamps = run(system.command(rig, ["/bin/stamp", "last"])).stamps
            if set(stamps) != {"first", "last"}:
                raise Failed("does not pass on what its command writes")
        except Failed as error:
            left_out[system.name] = str(error)
        else:
            working.append(system)
    return working, left_out


def found_isolation(system: System, rig: Rig) -> str:
    """What a command finds: its namespaces that are not ours, its ids, capabilities and filters."""
    script = "ls -l /proc/self/ns; cat /proc/self/uid_map; cat /proc/self/status"
    said = subprocess.run(
        system.command(rig, ["/bin/sh", "-c", script]),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=False,
        text=True,
    ).stdout
    here = {os.readlink(f"/proc/self/ns/{name}") for name in os.listdir("/proc/self/ns")}
    links = dict.fromkeys(re.findall(r"(\w+):\[[0-9]+\]$", said, re.MULTILINE))
    own = [name for name in links if not any(f"{link}\n" in said for link in here if link.startswith(f"{name}:"))]
    ids = re.search(r"^ +0 +[1-9][0-9]* +([0-9]+)$", said, re.MULTILINE)
    status = dict(re.findall(r"^(\w+):\t(.*)$", said, re.MULTILINE))
    facts = [
        " ".join(own) or "no namespaces",
        f"{ids[1]} own ids" if ids else "",
        f"{int(status['CapEff'], 16).bit_count()} capabilities" if "CapEff" in status else "",
        "no_new_privs" if status.get("NoNewPrivs") == "1" else "",
        "seccomp" if status.get("Seccomp") == "2" else "",
    ]
    return ", ".join(filter(None, facts))


def _plain(rig: Rig, command: Sequence[str]) -> list[str]:
    return [f"{rig.root}{command[0]}", *command[1:]]


def _floor(level: str) -> Argv:
    return lambda rig, command: [*rig.floor_options[level], "--", *command]


def _pysuper(rig: Rig, command: Sequence[str]) -> list[str]:
    return [PYSUPER, "run", "--rootfs", f"dir:{rig.root}", "--", *command]


def _without_v2(inner: Argv) -> Argv:
    """For crun, see hide.c."""

    def argv(rig: Rig, command: Sequence[str]) -> list[str]:
        program, *arguments = inner(rig, command)
        mounted = hierarchies()
        tops = [hierarchy.top for hierarchy in mounted if hierarchy.version == 2]
        if not tops or len(tops) == len(mounted):
            return [program, *arguments]
        return [rig.hide, tops[0], str(shutil.which(program)), *arguments]

    return argv


def _oci(runtime: str) -> Argv:
    """Its own default configuration, but with a network namespace, a limit, and our command."""

    def argv(rig: Rig, command: Sequence[str]) -> list[str]:
        bundle = rig.scratch / f"{runtime}-{hashlib.sha256(repr(command).encode()).hexdigest()[:12]}"
        if not bundle.exists():
            bundle.mkdir()
            subprocess.run([runtime, "spec"], cwd=bundle, check=True)
            config = json.loads((bundle / "config.json").read_text())
            config["process"] |= {"terminal": False, "args": list(command)}
            config["root"] = {"path": str(rig.root), "readonly": False}
            config["mounts"] = [mount for mount in config["mounts"] if mount["type"] != "cgroup"]
            kinds = ("pid", "network", "ipc", "uts", "mount")
            config["linux"]["namespaces"] = [{"type": kind} for kind in kinds]
            config["linux"]["resources"]["pids"] = {"limit": 1024}
            (bundle / "config.json").write_text(json.dumps(config))
        return [runtime, "--root", str(rig.scratch / runtime), "run", "--bundle", str(bundle), "bench-%n"]

    return argv


def _lxc(rig: Rig, command: Sequence[str]) -> list[str]:
    settings, state = rig.scratch / "lxc.conf", rig.scratch / "lxc"
    if not state.exists():
        state.mkdir()
        settings.write_text(
            f"lxc.rootfs.path = dir:{rig.root}\nlxc.net.0.type = empty\nlxc.mount.auto = proc:mixed sys:ro\n"
            "lxc.cgroup.pids.max = 1024\n"
        )
    return ["lxc-execute", "-n", "bench-%n", "-P", str(state), "-f", str(settings), "--", *command]


def _podman(runtime: str) -> Argv:
    def argv(rig: Rig, command: Sequence[str]) -> list[str]:
        home = rig.scratch / f"podman-{runtime}"
        return [
            *["podman", f"--root={home}/root", f"--runroot={home}/run", f"--tmpdir={home}/tmp"],
            *["--cgroup-manager=cgroupfs", "--events-backend=none", f"--runtime={runtime}"],
            *[
                "run",
                "--rm",
                "--interactive",
                "--network=none",
                "--pids-limit=1024",
                *_ULIMITS,
                "--rootfs",
                str(rig.root),
                *command,
            ],
        ]

    return argv
