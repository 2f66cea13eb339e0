"""
The container as the config.json of an OCI bundle, for runc 1.1 or later, and for others that read it.

What is here follows version 1.0.2 of the OCI runtime specification, config.md and config-linux.md. The root file system
is the directory `rootfs` of the bundle, empty, where the plan has a layer as the root; otherwise the plan's directory.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping
from typing import Any, ClassVar

from pysuper import steps
from pysuper.plan import Plan
from pysuper.spec import ContainerSpec
from pysuper.translate.form import LINKS, NODES, Form, Translation

__all__ = ["Oci"]

_VERSION = "1.0.2"
_NAMESPACES = {
    "mnt": "mount",
    "pid": "pid",
    "net": "network",
    "uts": "uts",
    "ipc": "ipc",
    "user": "user",
    "cgroup": "cgroup",
}
_SYSCTL = "/proc/sys/"
_THROTTLES = {
    "rbps": "throttleReadBpsDevice",
    "wbps": "throttleWriteBpsDevice",
    "riops": "throttleReadIOPSDevice",
    "wiops": "throttleWriteIOPSDevice",
}
_NO_WORD = "the specification has no word for it"
_LAYER = (
    "a root is for the caller to make, says the specification: it is read-only here, but for its root, in which links "
    "are followed; what is mounted below is shown, too"
)
_IDS = "files keep their owners, who are nobody in the container"


class Oci(Form):
    """A config.json."""

    implied = frozenset(
        {
            steps.Setsid,
            steps.NewSessionKeyring,
            steps.JoinCgroup,
            steps.JoinNamespace,
            steps.Unshare,
            steps.BecomeRoot,
            steps.LoopbackUp,
            steps.PivotRoot,
        }
    )
    beyond: ClassVar[Mapping[type[steps.Step], str]] = {
        steps.MakeDirectory: f"{_NO_WORD}: make it in the root file system before",
        steps.Chroot: "runtimes pivot into the new root, so that here it is a boundary",
        steps.Syscall: _NO_WORD,
        steps.Barrier: _NO_WORD,
        steps.OpenSocket: _NO_WORD,
        steps.Seccomp: "the specification takes names of calls, and no program; runtimes have profiles of their own",
        steps.Landlock: _NO_WORD,
        steps.Fork: _NO_WORD,
    }

    def __init__(self, spec: ContainerSpec, plan: Plan) -> None:
        super().__init__(spec, plan)
        self._root: dict[str, Any] = {"path": "rootfs", "readonly": False}
        self._mounts: list[dict[str, Any]] = []
        self._process: dict[str, Any] = {}
        self._linux: dict[str, Any] = {
            "namespaces": [],
            "devices": [],
            "maskedPaths": [],
            "readonlyPaths": [],
            "sysctl": {},
        }
        self._config: dict[str, Any] = {}

    # --- the process, and its namespaces ---

    def private_mounts(self, step: steps.PrivateMounts) -> None:
        self._linux["rootfsPropagation"] = "slave"

    def enter_namespace(self, step: steps.EnterNamespace) -> None:
        self._linux["namespaces"].append({"type": _NAMESPACES[step.namespace], "path": step.path})

    def set_hostname(self, step: steps.SetHostname) -> None:
        self._config["hostname"] = step.hostname

    def set_sysctl(self, step: steps.SetSysctl) -> None:
        self._linux["sysctl"][step.name] = step.value

    # --- mounts ---

    def overlay(self, step: steps.Overlay) -> None:
        self.miss(step.describe(), _LAYER)
        self.miss_image(step)
        if step.idmap:
            self.miss(step.describe(), _IDS)
        if step.target != "/":
            self._bind(step.source, step.target, ("rbind", "rro"))
            return
        self._mount("tmpfs", "/", "tmpfs", ("mode=0755",))
        for name, text in self.entries(step.source):
            # A link is followed, in that root, if it leads anywhere.
            shown = posixpath.normpath(f"{step.source}/{posixpath.normpath(f'/{name if text is None else text}')}")
            if self.kind(shown):
                self._bind(shown, f"/{name}", ("rbind", "rro"))

    def bind(self, step: steps.Bind) -> None:
        if step.idmap:
            self.miss(step.describe(), _IDS)
        if step.target == "/":
            self._root["path"] = step.source
            return
        if step.target in NODES:
            return
        kind, each = ("rbind", "r") if step.recursive else ("bind", "")
        flags = [flag for flag in step.flags if flag != "nosymfollow"]
        self.miss_flags(step, step.flags, had=flags)
        self._bind(step.source, step.target, (kind, *(each + flag for flag in flags)))

    def _bind(self, source: str, target: str, options: tuple[str, ...]) -> None:
        self._mount("bind", target, source, options)

    def _mount(self, kind: str, target: str, source: str, options: tuple[str, ...]) -> None:
        self._mounts.append({"destination": target, "type": kind, "source": source, "options": list(options)})

    def mount(self, step: steps.Mount) -> None:
        self._mount(step.fstype, step.target, step.fstype, (*step.flags, *self.inside(step.options)))

    def mknod(self, step: steps.Mknod) -> None:
        if NODES.get(step.target) != (step.major, step.minor):
            kind = "b" if step.block else "c"
            node = {"path": step.target, "type": kind, "major": step.major, "minor": step.minor, "fileMode": 0o666}
            self._linux["devices"].append(node | {"uid": 0, "gid": 0})

    def symlink(self, step: steps.Symlink) -> None:
        if LINKS.get(step.target) == step.text:
            return
        if self.spec.rootfs.name == "host" and self.kind(step.target):
            self._bind(step.target, step.target, ("rbind", "rro"))
            self.miss(step.describe(), "what it leads to is mounted there")
        else:
            self.miss(step.describe(), f"{_NO_WORD}: make it in the root file system before")

    def mask_path(self, step: steps.MaskPath) -> None:
        self._linux["maskedPaths"].append(step.target)

    def read_only_path(self, step: steps.ReadOnlyPath) -> None:
        self._linux["readonlyPaths"].append(step.target)

    def root_flags(self, step: steps.RootFlags) -> None:
        self._root["readonly"] |= "ro" in step.flags
        self.miss_flags(step, step.flags, had=("ro",))

    def write_file(self, step: steps.WriteFile) -> None:
        if step.path.startswith(_SYSCTL):
            self._linux["sysctl"][step.path.removeprefix(_SYSCTL).replace("/", ".")] = step.content
        else:
            self.miss(step.describe(), _NO_WORD)

    # --- limits and privileges ---

    def set_rlimit(self, step: steps.SetRlimit) -> None:
        soft, hard = (2**64 - 1 if value == -1 else value for value in (step.soft, step.hard))
        limit = {"type": f"RLIMIT_{step.resource.upper()}", "soft": soft, "hard": hard}
        self._process.setdefault("rlimits", []).append(limit)

    def set_umask(self, step: steps.SetUmask) -> None:
        self._process.setdefault("user", {})["umask"] = step.umask

    def set_user(self, step: steps.SetUser) -> None:
        uid, gid = self.numbers(step)
        self._process["user"] = self._process.get("user", {}) | {"uid": uid, "gid": gid}

    def bound_capabilities(self, step: steps.BoundCapabilities) -> None:
        self._capabilities()["bounding"] = [f"CAP_{name}" for name in step.keep]

    def set_capabilities(self, step: steps.SetCapabilities) -> None:
        kept = [f"CAP_{name}" for name in step.keep]
        self._capabilities().update(permitted=kept, effective=kept)

    def _capabilities(self) -> dict[str, list[str]]:
        sets: dict[str, list[str]] = self._process.setdefault("capabilities", {"inheritable": [], "ambient": []})
        return sets

    def open_terminal(self, step: steps.OpenTerminal) -> None:
        if step.rows and step.columns:
            self._process["consoleSize"] = {"height": step.rows, "width": step.columns}

    def no_new_privileges(self, step: steps.NoNewPrivileges) -> None:
        self._process["noNewPrivileges"] = True

    # --- what no step says ---

    def translate(self) -> Translation:
        self.take_steps()
        self._add_namespaces()
        self._add_cgroup()
        self._add_command()
        self._miss_more()
        config = {
            "ociVersion": _VERSION,
            "process": self._process,
            "root": self._root,
            **self._config,
            "mounts": self._mounts,
            "linux": {key: value for key, value in self._linux.items() if value or key == "namespaces"},
        }
        return Translation(text=json.dumps(config, indent=2) + "\n", missing=self.missing, told=False)

    def _add_namespaces(self) -> None:
        entered = {namespace["type"] for namespace in self._linux["namespaces"]}
        new = [_NAMESPACES[name] for name in self.plan.namespaces if name in _NAMESPACES]
        self._linux["namespaces"] += [{"type": kind} for kind in new if kind not in entered]
        if "time" in self.plan.namespaces:
            self.miss("an own time namespace", "the specification has it from 1.1 on, and runc from 1.2 on")
        if self.ids:
            for key, lines in (("uidMappings", self.ids.uids), ("gidMappings", self.ids.gids)):
                self._linux[key] = [{"containerID": a, "hostID": b, "size": count} for a, b, count in lines]

    def _add_cgroup(self) -> None:
        promises = self.promises
        # Relative, so that runc makes it below its own cgroup, as pysuper does.
        self._linux["cgroupsPath"] = f"pysuper.{self.plan.id}"
        resources: dict[str, Any] = {}
        if promises.pids_max is not None:
            resources["pids"] = {"limit": promises.pids_max}
        memory = {"limit": promises.memory_max, "swap": promises.memory_swap_max}
        if memory["limit"] is not None and memory["swap"] is not None and memory["swap"] != -1:
            memory["swap"] += memory["limit"]  # of both, config-linux.md, "Memory"
        cpu = {"quota": promises.cpu_quota_us, "period": promises.cpu_period_us, "cpus": promises.cpuset_cpus}
        for name, limits in (("memory", memory), ("cpu", cpu)):
            if given := {key: value for key, value in limits.items() if value is not None}:
                resources[name] = given
        for device, key, rate in promises.io_max:
            major, minor = map(int, device.split(":"))
            throttle = resources.setdefault("blockIO", {}).setdefault(_THROTTLES[key], [])
            throttle.append({"major": major, "minor": minor, "rate": rate})
        resources["devices"] = [{"allow": promises.devices is None, "access": "rwm"}]
        for line in promises.devices or ():
            kind, numbers, access = line.split()
            named = dict(zip(("major", "minor"), numbers.split(":"), strict=True))
            rule = {key: int(number) for key, number in named.items() if number != "*"}
            resources["devices"].append({"allow": True, "type": kind, **rule, "access": access})
        self._linux["resources"] = resources

    def _add_command(self) -> None:
        args, command = self.argv(), self.command
        env = [f"{name}={value}" for name, value in command.environment.items()]
        self._process |= {"terminal": command.terminal, "args": args, "env": env, "cwd": command.working_dir}
        if any(ord(character) in range(0xDC80, 0xDD00) for word in (*args, *env) for character in word):
            self.miss("bytes that are not UTF-8, in the command or its variables", "JSON has characters only")

    def _miss_more(self) -> None:
        self.miss_init("the command is PID 1; `tini -- COMMAND` is such an init")
        self.miss_reservation()
        self.miss_receipts()
