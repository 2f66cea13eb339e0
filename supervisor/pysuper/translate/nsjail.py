"""
The container as a command line for nsjail(1), of version 3.4 or later.

Its mounts have no flags but read-only on a command line, and it splits their words at colons.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Mapping
from typing import ClassVar

from pysuper import steps
from pysuper.translate.commandline import CommandLine
from pysuper.translate.form import Translation

__all__ = ["Nsjail"]

_SHARE = {
    "user": "--disable_clone_newuser",
    "pid": "--disable_clone_newpid",
    "net": "--disable_clone_newnet",
    "uts": "--disable_clone_newuts",
    "ipc": "--disable_clone_newipc",
    "cgroup": "--disable_clone_newcgroup",
}
#: In which units its options are; those that it sets if nothing is said; both as getrlimit(2) calls them.
_RLIMITS = {
    "as": 1 << 20,
    "core": 1 << 20,
    "cpu": 1,
    "fsize": 1 << 20,
    "nofile": 1,
    "nproc": 1,
    "stack": 1 << 20,
    "memlock": 1 << 10,
    "rtprio": 1,
    "msgqueue": 1,
}
_SET_ANYWAY = ("as", "core", "cpu", "fsize", "nofile")
_NO_WORD = "nsjail has no option for it"
_LAYER = "nsjail makes no layers: it is read-only, but for its root; what is mounted below is shown, too"
_IDS = "files keep their owners, who are nobody in the container"


class Nsjail(CommandLine):
    """A command line of nsjail."""

    program = "nsjail"
    implied = frozenset(
        {
            steps.Setsid,
            steps.PrivateMounts,
            steps.JoinNamespace,
            steps.BecomeRoot,
            steps.Unshare,
            steps.LoopbackUp,
            steps.PivotRoot,
            steps.BoundCapabilities,
            steps.NoNewPrivileges,
        }
    )
    beyond: ClassVar[Mapping[type[steps.Step], str]] = {
        steps.NewSessionKeyring: "nsjail leaves the caller's; `keyctl session - nsjail ...`, of keyutils, makes one",
        steps.JoinCgroup: "nsjail makes cgroups of its own name, and only where it sets a limit",
        steps.Chroot: "nsjail pivots into the new root, so that here it is a boundary",
        steps.MakeDirectory: _NO_WORD,
        steps.WriteFile: _NO_WORD,
        steps.OpenTerminal: "the command has the caller's terminal, but no control of it: no Ctrl-C, no job control",
        steps.SetUmask: "it is the caller's; `umask` in the shell sets it",
        steps.Syscall: _NO_WORD,
        steps.Barrier: _NO_WORD,
        steps.OpenSocket: _NO_WORD,
        steps.SetSysctl: _NO_WORD,
        steps.Seccomp: "nsjail has a language of its own for it, `--seccomp_string`",
        steps.Landlock: _NO_WORD,
        steps.Fork: _NO_WORD,
    }

    def enter_namespace(self, step: steps.EnterNamespace) -> None:
        around = f"`nsenter --{step.namespace}={step.path} nsjail {_SHARE[step.namespace]} ...` enters it"
        self.miss(step.describe(), f"a new one is made; {around}")

    def set_hostname(self, step: steps.SetHostname) -> None:
        self.add("--hostname", step.hostname)

    # --- mounts ---

    def overlay(self, step: steps.Overlay) -> None:
        self.miss(step.describe(), _LAYER)
        self.miss_image(step)
        if step.idmap:
            self.miss(step.describe(), _IDS)
        if step.target != "/":
            self._show("--bindmount_ro", step.source, step.target)
            return
        self._begin_root()
        for name, text in self.entries(step.source):
            if text is None:
                self._show("--bindmount_ro", posixpath.join(step.source, name), f"/{name}")
            else:
                self._show("--symlink", text, f"/{name}")

    def bind(self, step: steps.Bind) -> None:
        if step.idmap:
            self.miss(step.describe(), _IDS)
        if not step.recursive:
            self.miss(step.describe(), "what is mounted below it is shown, too")
        self.miss_flags(step, step.flags, had=("ro",) if "ro" in step.flags else ())
        read_only = "ro" in step.flags
        if step.target == "/":
            read_only = self._begin_root()
        self._show("--bindmount_ro" if read_only else "--bindmount", step.source, step.target)

    def _begin_root(self) -> bool:
        """Whether the root is going to be read-only, as nsjail makes it if nothing is said."""
        read_only = any(isinstance(step, steps.RootFlags) and "ro" in step.flags for step in self.plan.steps)
        if not read_only:
            self.add("--rw")
        return read_only

    def _show(self, option: str, source: str, target: str) -> None:
        if ":" in source + target:
            self.miss(f"{source} at {target}", "a colon in a path ends it")
        self.add(option, f"{source}:{target}")

    def mount(self, step: steps.Mount) -> None:
        if step.target == "/" and step.fstype == "tmpfs":
            self._begin_root()  # nsjail's own is a tmpfs
            return
        options = [*self.inside(step.options), *(flag for flag in step.flags if flag == "ro")]
        self.add("--mount", f"none:{step.target}:{step.fstype}:{','.join(options)}")
        self.miss_flags(step, step.flags, had=("ro",) if "ro" in step.flags else ())

    def mknod(self, step: steps.Mknod) -> None:
        self._show("--bindmount", step.target, step.target)
        self.miss(step.describe(), "it is the host's")

    def symlink(self, step: steps.Symlink) -> None:
        self._show("--symlink", step.text, step.target)

    def mask_path(self, step: steps.MaskPath) -> None:
        match self.kind(step.target):
            case "directory":
                self.add("--mount", f"none:{step.target}:tmpfs:size=4k,mode=0,ro")
            case "file":
                self._show("--bindmount", "/dev/null", step.target)

    def read_only_path(self, step: steps.ReadOnlyPath) -> None:
        if self.kind(step.target):
            self._show("--bindmount_ro", step.target, step.target)
            self.miss(step.describe(), "a mount of the host's, which has only the flag ro")

    def root_flags(self, step: steps.RootFlags) -> None:
        self.miss_flags(step, step.flags, had=("ro",) if "ro" in step.flags else ())

    # --- limits and privileges ---

    def set_rlimit(self, step: steps.SetRlimit) -> None:
        unit = _RLIMITS.get(step.resource)
        if unit is None or step.soft % unit or step.soft == -1:
            self.miss(step.describe(), "nsjail has no such limit, or not in this unit; prlimit(1) sets it")
            return
        self.add(f"--rlimit_{step.resource}", str(step.soft // unit))
        if step.hard != step.soft:
            self.miss(step.describe(), f"the hard limit is {step.soft}, too")

    def set_user(self, step: steps.SetUser) -> None:
        user, _, group = (step.user or "0").partition(":")
        for option, name, lines in (
            ("--user", user, self.ids.uids if self.ids else ()),
            ("--group", group or "0", self.ids.gids if self.ids else ()),
        ):
            for inside, outside, count in lines:
                self.add(option, f"{inside}:{outside}:{count}")
            if not lines and name.isdecimal():
                self.add(option, name)
        if step.user is not None:
            self.miss(step.describe(), "nsjail becomes the first id that it maps, which is root")

    def set_capabilities(self, step: steps.SetCapabilities) -> None:
        for name in step.keep:
            self.add("--cap", f"CAP_{name}")
        if step.keep:
            self.miss("no inheritable and no ambient capabilities", "nsjail has those that are kept in these sets, too")

    # --- what no step says ---

    def _limits(self) -> None:
        promises = self.promises
        if self.plan.cgroup:
            self.add("--use_cgroupv2")
            self.add("--cgroupv2_mount", posixpath.dirname(self.plan.cgroup))
        for name, values in {
            "pids": (("max", promises.pids_max),),
            "mem": (("max", promises.memory_max), ("swap_max", promises.memory_swap_max)),
            "cpu": (("ms_per_sec", self._milliseconds()),),
        }.items():
            given = [(key, value) for key, value in values if value not in (None, -1)]
            for key, value in given:
                self.add(f"--cgroup_{name}_{key}", str(value))
            if given and not self.plan.cgroup:
                self.add(f"--cgroup_{name}_mount", self._above(name))
                self.add(f"--cgroup_{name}_parent", ".")
        for check in promises.files:
            if not posixpath.basename(check.path).startswith(("pids.", "memory.", "cpu.")):
                self.miss(check.describe(), _NO_WORD)

    def _milliseconds(self) -> int | None:
        quota, period = self.promises.cpu_quota_us, self.promises.cpu_period_us
        return None if not quota or not period or quota == -1 else round(1000 * quota / period)

    def _above(self, controller: str) -> str:
        """The cgroup above, in the hierarchy of a controller."""
        file = {"pids": "pids.", "mem": "memory.", "cpu": "cpu."}[controller]
        path = next(check.path for check in self.promises.files if posixpath.basename(check.path).startswith(file))
        return posixpath.dirname(posixpath.dirname(path))

    def translate(self) -> Translation:
        self.take_steps()
        first: list[tuple[str, ...]] = [("--mode", "o"), ("--quiet",), ("--disable_proc",), ("--nice_level", "0")]
        first += [(option,) for name, option in _SHARE.items() if name not in self.plan.namespaces]
        if "time" in self.plan.namespaces:
            self.miss("an own time namespace", "nsjail makes one only where it does not fork")
        timeout = self.spec.timeout or 0
        first.append(("--time_limit", str(round(timeout))))
        if timeout != round(timeout):
            self.miss(f"stop after {timeout:g} s", f"nsjail counts whole seconds: {round(timeout)}")
        limited = {step.resource for step in self.plan.steps if isinstance(step, steps.SetRlimit)}
        first += [(f"--rlimit_{name}", "soft") for name in _SET_ANYWAY if name not in limited]
        self._limits()
        self.add("--cwd", self.command.working_dir)
        for name, value in self.environment().items():
            self.add("--env", f"{name}={value}")
        self.miss_init("the command is PID 1")
        self.miss_reservation()
        self.miss_receipts()
        argv = self.argv()
        if "/" not in argv[0]:
            self._find(argv[0])
        return self.line(first, argv)

    def _find(self, program: str) -> None:
        """Look for the command in the root, along its PATH, since nsjail does not."""
        roots = [s.source for s in self.plan.steps if isinstance(s, steps.Bind | steps.Overlay) and s.target == "/"]
        for directory in self.command.environment.get("PATH", "").split(":"):
            path = posixpath.join("/", directory, program)
            if os.path.exists((roots[0] if roots else "/") + path):
                self.add("--exec_file", path)
                return
        self.miss("a search for the command along its PATH", "nsjail makes none: give the whole path")
