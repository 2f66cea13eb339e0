"""
The container as a command line for bwrap(1), of version 0.8 or later.

bubblewrap maps one id, that of its caller, and mounts everything inside of the user namespace. It makes no cgroup.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import ClassVar

from pysuper import steps
from pysuper.translate.commandline import CommandLine
from pysuper.translate.form import LINKS, NODES, Translation
from pysuper.units import parse_size

__all__ = ["Bwrap"]

_UNSHARE = {
    "user": "--unshare-user",
    "pid": "--unshare-pid",
    "net": "--unshare-net",
    "uts": "--unshare-uts",
    "ipc": "--unshare-ipc",
    "cgroup": "--unshare-cgroup",
}
#: The flags that a mount of bubblewrap's has anyway.
_FLAGS = ("nosuid", "nodev")
_NO_WORD = "bubblewrap has no option for it"
_LAYER = (
    "there are layers from bubblewrap 0.11 on: it is read-only, but for its root; what is mounted below is shown, too"
)
_IDS = "files keep their owners, and of these the container knows only the caller"


class Bwrap(CommandLine):
    """A command line of bubblewrap."""

    program = "bwrap"
    implied = frozenset(
        {
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
        steps.NewSessionKeyring: "bubblewrap keeps the caller's; `keyctl session - bwrap ...`, of keyutils, does not",
        steps.JoinCgroup: "bubblewrap makes none; `systemd-run --scope -p TasksMax=N bwrap ...` makes one around it",
        steps.Chroot: "bubblewrap pivots into the new root, so that here it is a boundary",
        steps.WriteFile: _NO_WORD,
        steps.OpenTerminal: "the command has the caller's terminal, but no control of it: no Ctrl-C, no job control",
        steps.Syscall: _NO_WORD,
        steps.Barrier: _NO_WORD,
        steps.OpenSocket: _NO_WORD,
        steps.SetSysctl: _NO_WORD,
        steps.Seccomp: "bubblewrap takes the program from a descriptor, `--seccomp FD`; a command line cannot hold it",
        steps.Landlock: "rules that bubblewrap is started with would refuse it its own mounts",
        steps.Fork: _NO_WORD,
    }

    def translate(self) -> Translation:
        self.take_steps()
        first = [(option,) for name, option in _UNSHARE.items() if name in self.plan.namespaces]
        if "time" in self.plan.namespaces:
            self.miss("an own time namespace", _NO_WORD)
        if self.ids and self.ids.privileged:
            self.miss_ids("bubblewrap maps one id, so that root inside is its caller outside, host root too")
        if not self.command.init:
            self.add("--as-pid-1")
        self.add("--chdir", self.command.working_dir)
        self.add("--clearenv")
        for name, value in self.environment().items():
            self.add("--setenv", name, value)
        self.miss("the variables of the command", "also PWD")
        self.miss("no descriptors but 0, 1 and 2", "all that the caller has and does not close at an execve")
        self.miss_cgroup(self.beyond[steps.JoinCgroup])
        self.miss_receipts()
        return self.line([*first, ("--die-with-parent",)], self.argv())

    # --- the process, and its namespaces ---

    def setsid(self, step: steps.Setsid) -> None:
        self.add("--new-session")

    def enter_namespace(self, step: steps.EnterNamespace) -> None:
        option = _UNSHARE[step.namespace]
        enters = f"`nsenter --{step.namespace}={step.path} bwrap ...` without {option} enters it"
        self.miss(step.describe(), f"a new one is made; {enters}")

    def set_hostname(self, step: steps.SetHostname) -> None:
        self.add("--hostname", step.hostname)

    # --- mounts ---

    def overlay(self, step: steps.Overlay) -> None:
        self.miss(step.describe(), _LAYER)
        self.miss_image(step)
        if step.idmap:
            self.miss(step.describe(), _IDS)
        if step.target != "/":
            self.add("--ro-bind", step.source, step.target)
            return
        for name, text in self.entries(step.source):
            if text is None:
                self.add("--ro-bind", posixpath.join(step.source, name), f"/{name}")
            else:
                self.add("--symlink", text, f"/{name}")

    def bind(self, step: steps.Bind) -> None:
        if step.target in NODES:
            return  # of --dev
        if step.idmap:
            self.miss(step.describe(), _IDS)
        if not step.recursive:
            self.miss(step.describe(), "what is mounted below is shown, too")
        read_only = ("ro",) if "ro" in step.flags else ()
        self.miss_flags(step, step.flags, had=(*_FLAGS, *read_only))
        self.add("--ro-bind" if read_only else "--bind", step.source, step.target)

    def mount(self, step: steps.Mount) -> None:
        match step.fstype, step.target:
            case "tmpfs", "/":
                pass  # with which bubblewrap begins
            case "tmpfs", "/dev":
                self.add("--dev", "/dev")
                self.miss_flags(step, step.flags, had=_FLAGS)
                self.miss("nothing else in /dev", "also the link /dev/core, to /proc/kcore")
            case "devpts", "/dev/pts":
                pass  # of --dev
            case "tmpfs", target:
                size = step.options.get("size")
                sized = () if size is None else ("--size", str(parse_size(size)))
                self.add("--perms", step.options.get("mode") or "0755", *sized, "--tmpfs", target)
                self.miss_flags(step, step.flags, had=_FLAGS)
            case "proc", target:
                self.add("--proc", target)
            case "mqueue", target:
                self.add("--mqueue", target)
                self.miss_flags(step, step.flags)
            case "sysfs", target:
                self.add("--ro-bind", "/sys", target)
                self.miss(step.describe(), "it is the host's, with the host's network interfaces")
                self.miss_flags(step, step.flags, had=(*_FLAGS, "ro"))
            case _:
                self.miss(step.describe(), "bubblewrap cannot mount that")

    def make_directory(self, step: steps.MakeDirectory) -> None:
        self.add("--perms", f"{step.mode:04o}", "--dir", step.target)

    def mknod(self, step: steps.Mknod) -> None:
        if NODES.get(step.target) != (step.major, step.minor):
            self.miss(step.describe(), "bubblewrap makes no device; --dev-bind shows one of the host")

    def symlink(self, step: steps.Symlink) -> None:
        if LINKS.get(step.target) != step.text:
            self.add("--symlink", step.text, step.target)

    def mask_path(self, step: steps.MaskPath) -> None:
        match self.kind(step.target):
            case "directory":
                self.add("--perms", "0000", "--size", "4096", "--tmpfs", step.target)
                self.add("--remount-ro", step.target)
            case "file":
                self.add("--dev-bind", "/dev/null", step.target)

    def read_only_path(self, step: steps.ReadOnlyPath) -> None:
        if self.kind(step.target):
            self.add("--ro-bind", step.target, step.target)
            self.miss(step.describe(), "a mount of the host's, which has only the flags nosuid, nodev, ro")

    def root_flags(self, step: steps.RootFlags) -> None:
        self.add("--remount-ro", "/")
        self.miss_flags(step, step.flags, had=("ro",))

    # --- limits and privileges ---

    def set_rlimit(self, step: steps.SetRlimit) -> None:
        values = ":".join("unlimited" if value == -1 else str(value) for value in (step.soft, step.hard))
        self.miss(step.describe(), f"the caller's is kept; `prlimit --{step.resource}={values} bwrap ...` sets it")

    def set_umask(self, step: steps.SetUmask) -> None:
        self.miss(step.describe(), f"the caller's is kept; `umask {step.umask:03o}` before sets it")

    def set_user(self, step: steps.SetUser) -> None:
        uid, gid = self.numbers(step)
        if self.ids:
            self.add("--uid", str(uid))
            self.add("--gid", str(gid))
        elif step.user is not None:
            self.miss(step.describe(), "without a user namespace bubblewrap stays who it is")

    def set_capabilities(self, step: steps.SetCapabilities) -> None:
        self.add("--cap-drop", "ALL")
        for name in step.keep:
            self.add("--cap-add", f"CAP_{name}")
        if step.keep:
            self.miss("no inheritable and no ambient capabilities", "those that are kept are in these sets, too")
