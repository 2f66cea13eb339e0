"""
The container as a command line for systemd-run(1): a transient service, of systemd 252 or later.

A service has what systemd.exec(5) and systemd.resource-control(5) know. It shares the pid and the time namespace with
the host, and its cgroup is where systemd wants it.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from typing import ClassVar

from pysuper import steps
from pysuper.translate.commandline import CommandLine
from pysuper.translate.form import LINKS, NODES, Translation

__all__ = ["SystemdRun"]

_PRIVATE = {
    "user": "PrivateUsers=yes",
    "net": "PrivateNetwork=yes",
    "ipc": "PrivateIPC=yes",
    "uts": "ProtectHostname=yes",
}
_SHARED = {
    "pid": "the service sees the host's processes; from 257 on there is PrivatePIDs=yes",
    "cgroup": "the service sees the host's tree; from 257 on there is ProtectControlGroups=private",
    "time": "systemd has no word for it",
}
_RATES = {
    "rbps": "IOReadBandwidthMax",
    "wbps": "IOWriteBandwidthMax",
    "riops": "IOReadIOPSMax",
    "wiops": "IOWriteIOPSMax",
}
_NO_WORD = "systemd has no word for it"
_LAYER = "systemd makes no layers of a directory: it is read-only; from 254 on there is RootEphemeral=yes"
_IDS = "files keep their owners, and of these the service knows root and the user that it runs as"
_DEV = "PrivateDevices=yes has nodes of its own, the host's pts, shm and mqueue, and also core, char, hugepages and log"


class SystemdRun(CommandLine):
    """A command line of systemd-run."""

    program = "systemd-run"
    implied = frozenset(
        {
            steps.Setsid,
            steps.JoinNamespace,
            steps.BecomeRoot,
            steps.Unshare,
            steps.LoopbackUp,
            steps.PivotRoot,
            steps.OpenTerminal,
            steps.SetCapabilities,
        }
    )
    beyond: ClassVar[Mapping[type[steps.Step], str]] = {
        steps.JoinCgroup: "systemd makes one of its own, in system.slice",
        steps.SetHostname: "the service keeps the host's name; from 258 on there is ProtectHostname=private:NAME",
        steps.Chroot: "systemd pivots into the new root, so that here it is a boundary",
        steps.MakeDirectory: _NO_WORD,
        steps.WriteFile: _NO_WORD,
        steps.Syscall: _NO_WORD,
        steps.Barrier: _NO_WORD,
        steps.OpenSocket: _NO_WORD,
        steps.SetSysctl: _NO_WORD,
        steps.Seccomp: "systemd takes names of calls, and its own groups of them: SystemCallFilter=@system-service",
        steps.Landlock: _NO_WORD,
        steps.Fork: _NO_WORD,
    }

    def set(self, name: str, value: str) -> None:
        """Set a property of the service."""
        self.add("-p", f"{name}={value}")

    # --- the process, and its namespaces ---

    def new_session_keyring(self, step: steps.NewSessionKeyring) -> None:
        self.set("KeyringMode", "private")

    def private_mounts(self, step: steps.PrivateMounts) -> None:
        self.set("PrivateMounts", "yes")

    def enter_namespace(self, step: steps.EnterNamespace) -> None:
        if step.namespace == "net":
            self.set("NetworkNamespacePath", step.path)
        else:
            self.miss(step.describe(), _NO_WORD)

    # --- mounts ---

    def overlay(self, step: steps.Overlay) -> None:
        self.miss(step.describe(), _LAYER)
        self.miss_image(step)
        if step.idmap:
            self.miss(step.describe(), _IDS)
        if step.target == "/" and step.source != "/":
            self._root(step.source)
        if step.target == "/":
            self.set("ProtectSystem", "strict")
        elif step.source != step.target:
            self._bind("BindReadOnlyPaths", step.source, step.target)

    def bind(self, step: steps.Bind) -> None:
        if step.idmap:
            self.miss(step.describe(), _IDS)
        if step.target == "/":
            self._root(step.source)
        elif step.target not in NODES:
            more = "" if step.recursive else ":norbind"
            self._bind("BindReadOnlyPaths" if "ro" in step.flags else "BindPaths", step.source, step.target, more)
            self.miss_flags(step, step.flags, had=("ro",) if "ro" in step.flags else ())

    def _root(self, directory: str) -> None:
        self.set("RootDirectory", directory)
        self.set("MountAPIVFS", "yes")
        if "/" not in (self.command.argv or ("/bin/sh",))[0]:
            self.miss("a search for the command along its PATH", "systemd-run looks on the host: give its whole path")

    def _bind(self, name: str, source: str, target: str, more: str = "") -> None:
        self.set(name, f"{_word(source)}:{_word(target)}{more}")

    def mount(self, step: steps.Mount) -> None:
        if step.target == "/dev" or step.target.startswith("/dev/"):
            if step.target == "/dev":
                self.set("PrivateDevices", "yes")
            self.miss(step.describe(), _DEV)
        elif step.fstype == "tmpfs":
            options = ",".join([*step.flags, *self.inside(step.options)])
            self.set("TemporaryFileSystem", f"{_word(step.target)}:{options}")
        else:
            self.miss(step.describe(), "it is the host's")
            if "ro" in step.flags:
                self.set("ReadOnlyPaths", _word(f"-+{step.target}"))

    def mknod(self, step: steps.Mknod) -> None:
        if NODES.get(step.target) != (step.major, step.minor):
            self.miss(step.describe(), _NO_WORD)

    def symlink(self, step: steps.Symlink) -> None:
        if LINKS.get(step.target) != step.text:
            self.miss(step.describe(), _NO_WORD)

    def mask_path(self, step: steps.MaskPath) -> None:
        self.set("InaccessiblePaths", _word(f"-+{step.target}"))

    def read_only_path(self, step: steps.ReadOnlyPath) -> None:
        self.set("ReadOnlyPaths", _word(f"-+{step.target}"))

    def root_flags(self, step: steps.RootFlags) -> None:
        if "ro" in step.flags:
            self.set("ReadOnlyPaths", "+/")
        self.miss_flags(step, step.flags, had=("ro",) if "ro" in step.flags else ())

    # --- limits and privileges ---

    def set_rlimit(self, step: steps.SetRlimit) -> None:
        values = ("infinity" if value == -1 else str(value) for value in (step.soft, step.hard))
        self.set(f"Limit{'NOFILE' if step.resource == 'ofile' else step.resource.upper()}", ":".join(values))

    def set_umask(self, step: steps.SetUmask) -> None:
        self.set("UMask", f"{step.umask:04o}")

    def bound_capabilities(self, step: steps.BoundCapabilities) -> None:
        self.set("CapabilityBoundingSet", " ".join(f"CAP_{name}" for name in step.keep))

    def no_new_privileges(self, step: steps.NoNewPrivileges) -> None:
        self.set("NoNewPrivileges", "yes")

    def set_user(self, step: steps.SetUser) -> None:
        if step.user is None:
            return
        user, _, group = step.user.partition(":")
        self.set("User", user)
        if group:
            self.set("Group", group)
        self.miss(step.describe(), "systemd asks the host who that is")

    # --- what no step says ---

    def _limits(self) -> None:
        promises = self.promises
        if promises.pids_max is not None:
            self.set("TasksMax", _number(promises.pids_max))
        if promises.memory_max is not None:
            self.set("MemoryMax", _number(promises.memory_max))
        if promises.memory_swap_max is not None:
            self.set("MemorySwapMax", _number(promises.memory_swap_max))
        if promises.cpu_quota_us is not None and promises.cpu_period_us is not None:
            self.set("CPUQuota", f"{100 * promises.cpu_quota_us / promises.cpu_period_us:g}%")
        if promises.cpuset_cpus is not None:
            self.set("AllowedCPUs", promises.cpuset_cpus)
        for device, key, rate in promises.io_max:
            self.set(_RATES[key], f"/dev/block/{device} {rate}")
        if promises.devices is not None:
            self.set("DevicePolicy", "closed")
        for check in promises.files:
            if "memsw" in check.path or (not self.plan.cgroup and "cpuset" in check.path):
                self.miss(check.describe(), "systemd does this with cgroup v2 only")
            if check.path.endswith("devices.list"):
                self.miss(check.describe(), "DevicePolicy=closed has a list of its own, much like that")

    def translate(self) -> Translation:
        self.take_steps()
        if self.plan.cgroup:
            self.miss(f"be born in the cgroup {self.plan.cgroup}", self.beyond[steps.JoinCgroup])
        for name in self.plan.namespaces:
            if name in _SHARED:
                self.miss(f"an own {name} namespace", _SHARED[name])
        joined = {step.namespace for step in self.plan.steps if isinstance(step, steps.EnterNamespace)}
        private = [word for name, word in _PRIVATE.items() if name in self.plan.namespaces and name not in joined]
        self.miss_ids("PrivateUsers=yes maps root to root, the user of the service to itself, and all others to nobody")
        self._limits()
        self._lifetime()
        self._command()
        self.miss_receipts()
        kind = "--pty" if self.command.terminal else "--pipe"
        general = [(kind,), ("--wait",), ("--collect",), ("--quiet",), ("--service-type=exec",)]
        first = [*general, *(("-p", word) for word in private)]
        # It replaces variables in these words: systemd.service(5), "Command lines".
        return self.line(first, (word.replace("$", "$$") for word in self.argv()))

    def _lifetime(self) -> None:
        self.set("IgnoreSIGPIPE", "no")
        self.set("KillSignal", signal.Signals(self.spec.stop_signal).name)
        self.set("TimeoutStopSec", f"{self.spec.stop_timeout:g}")
        if self.spec.timeout is not None:
            self.set("RuntimeMaxSec", f"{self.spec.timeout:g}")
        self.miss_init("systemd is it, for the whole machine")

    def _command(self) -> None:
        self.set("WorkingDirectory", self.command.working_dir)
        # It asks the host for the home of a User=, systemd.exec(5), "Environment Variables Set".
        variables = self.environment() if self.spec.user is None else self.command.environment
        for name, value in variables.items():
            self.add("--setenv", f"{name}={value}")
        self.miss("the variables of the command", "systemd adds its own, such as INVOCATION_ID")


def _number(value: int) -> str:
    return "infinity" if value == -1 else str(value)


def _word(text: str) -> str:
    """A word of a list, systemd.syntax(7), "Quoting": paths may have white space, quotes and colons in them."""
    if not re.search(r"[\s:\"'\\]", text):
        return text
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'
