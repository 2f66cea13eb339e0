"""
The container as a script for sh(1): how one is made by hand, with unshare, nsenter, mount and setpriv of util-linux.

A step is a command or two, below what `pysuper plan` says of it. The order is the plan's, but for two things. The
cgroups are joined last, so that what builds the container does not count. And the old root is taken away when the
privileges are given up already: after that no program of the host can be executed, and before that none of the
container's must be.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from typing import ClassVar

from pysuper import steps
from pysuper.plan import Plan
from pysuper.spec import ContainerSpec
from pysuper.translate.form import Form, Translation
from pysuper.translate.script import UNSHARE, Script, call, comment
from pysuper.translate.words import comments, quote

__all__ = ["Sh"]

#: What prlimit(1) calls otherwise than getrlimit(2).
_RLIMITS = {"ofile": "nofile"}
_NOT_HERE = "only a process that joins a container takes this step"
_NO_IDS = "mount(8) maps ids from util-linux 2.39 on; with an older one, files keep their owners, who are nobody inside"
#: Variables that a shell has of its own: dash, and bash where that is sh.
_OF_THE_SHELL = frozenset(
    [
        *("BASHOPTS", "BASH_VERSINFO", "EUID", "GROUPS", "IFS", "LINENO", "OLDPWD", "OPTIND", "PPID", "PS4", "PWD"),
        *("SHELLOPTS", "SHLVL", "UID", "_"),
    ]
)


class Sh(Form):
    """A script for sh(1) with util-linux, coreutils, sed, awk, hostname(1), and ip(8) for the loopback interface."""

    implied = frozenset()
    beyond: ClassVar[Mapping[type[steps.Step], str]] = {
        steps.NewSessionKeyring: "util-linux has no program for it; `keyctl session - sh SCRIPT`, of keyutils, is one",
        steps.OpenTerminal: "the command has the caller's terminal, but no control of it: no Ctrl-C, no job control; "
        "`script -c 'sh SCRIPT'` gives it another one of the host's",
        steps.Seccomp: "util-linux has had a program for it, `enosys`, since 2.40, which takes names of calls",
        steps.Landlock: "newer versions of util-linux have `setpriv --landlock-access fs:make-char,make-block`",
        steps.Syscall: "a shell has no system calls but those of its programs",
        steps.Barrier: "what its driver does at this moment is not in the plan",
        steps.OpenSocket: _NOT_HERE,
        steps.Fork: _NOT_HERE,
    }

    def __init__(self, spec: ContainerSpec, plan: Plan) -> None:
        super().__init__(spec, plan)
        self._script = Script(plan=plan, promises=self.promises)

    def translate(self) -> Translation:
        self.take_steps()
        self._miss_more()
        who = "root" if self._script.user is None else f"the user {self._script.user}"
        title = f"The container {self.spec.name}, made by hand; for {who} to run."
        lines = (f"- {line}" for line in self.missing)
        header = comments([title, "", "What pysuper does, and this does not, or does otherwise:", *lines])
        return Translation(text=self._script.text(header), missing=self.missing, told=True)

    def _do(self, step: steps.Step, *commands: str) -> None:
        self._script.inside += [comment(step), *(f"{line}\n" for line in commands)]

    # --- the process, and its namespaces ---

    def setsid(self, step: steps.Setsid) -> None:
        self._script.above.add(step, "setsid")

    def private_mounts(self, step: steps.PrivateMounts) -> None:
        self._script.above.add(step)
        self._script.propagation = "slave"

    def join_cgroup(self, step: steps.JoinCgroup) -> None:
        self._script.joins += [comment(step), f"echo 0 > {quote(step.path)}\n"]

    def join_namespace(self, step: steps.JoinNamespace) -> None:
        chain = self._script.below if step.namespace == "user" else self._script.above
        chain.add(step, "nsenter", f'{UNSHARE[step.namespace]}="/proc/$holder/ns/{step.namespace}"')

    def enter_namespace(self, step: steps.EnterNamespace) -> None:
        self._script.above.add(step, "nsenter", f"{UNSHARE[step.namespace]}={quote(step.path)}")

    def become_root(self, step: steps.BecomeRoot) -> None:
        self._script.below.add(step)  # nsenter(1) does, with a user namespace

    def unshare(self, step: steps.Unshare) -> None:
        propagation = ["--propagation unchanged"] if "mnt" in step.namespaces else []
        self._script.below.add(step, "unshare", *(UNSHARE[name] for name in step.namespaces), *propagation)
        self._script.copied |= "mnt" in step.namespaces

    def set_hostname(self, step: steps.SetHostname) -> None:
        self._do(step, f"hostname {quote(step.hostname)}")

    def set_sysctl(self, step: steps.SetSysctl) -> None:
        name = step.name if "/" in step.name else step.name.replace(".", "/")
        self._do(step, f"echo {quote(step.value)} > {quote(f'/proc/sys/{name}')}")

    def loopback_up(self, step: steps.LoopbackUp) -> None:
        self._do(step, "ip link set lo up")

    # --- mounts ---

    def overlay(self, step: steps.Overlay) -> None:
        self.miss_image(step)
        more = [",userxattr"] if step.userxattr else [""] if step.idmap else []
        self._do(step, call("layer", step.source, _clean(step.target), *more) + self._map(step))

    def bind(self, step: steps.Bind) -> None:
        kind = "rbind" if step.recursive else "bind"
        more = [",".join(step.flags)] if step.flags or step.idmap else []
        self._do(step, call("show", kind, step.source, _clean(step.target), *more) + self._map(step))

    def _map(self, step: steps.Overlay | steps.Bind) -> str:
        if not step.idmap:
            return ""
        self.miss(step.describe(), _NO_IDS)
        return ' "$map"'

    def mount(self, step: steps.Mount) -> None:
        options = [*step.flags, *(key if value is None else f"{key}={value}" for key, value in step.options.items())]
        self._do(step, call("new", step.fstype, _clean(step.target), ",".join(options) or "defaults"))

    def make_directory(self, step: steps.MakeDirectory) -> None:
        self._do(step, call("directory", _clean(step.target), f"{step.mode:04o}"))

    def mknod(self, step: steps.Mknod) -> None:
        self._do(
            step, call("device", _clean(step.target), "b" if step.block else "c", str(step.major), str(step.minor))
        )

    def symlink(self, step: steps.Symlink) -> None:
        self._do(step, call("link", step.text, _clean(step.target)))

    def mask_path(self, step: steps.MaskPath) -> None:
        self._do(step, call("hide", _clean(step.target)))

    def read_only_path(self, step: steps.ReadOnlyPath) -> None:
        self._do(step, call("read_only", _clean(step.target)))

    def root_flags(self, step: steps.RootFlags) -> None:
        self._do(step, f'mount -o remount,bind,{",".join(step.flags)} "$root"')

    def pivot_root(self, step: steps.PivotRoot) -> None:
        self._script.pivoted = comment(step)

    def chroot(self, step: steps.Chroot) -> None:
        self._script.pivoted = comment(step)
        self.miss(step.describe(), "the old root is taken away, so that here it is a boundary")

    def write_file(self, step: steps.WriteFile) -> None:
        path = quote(step.path)
        if self._script.pivoted:
            path = f'"$root"{path}'
            self.miss(step.describe(), "it is written while there are all privileges and the old root")
        self._do(step, f"write {path} {quote(step.content)}")

    # --- limits and privileges ---

    def set_rlimit(self, step: steps.SetRlimit) -> None:
        values = ":".join("unlimited" if value == -1 else str(value) for value in (step.soft, step.hard))
        self._script.below.add(step, "prlimit", f"--{_RLIMITS.get(step.resource, step.resource)}={values}")

    def set_umask(self, step: steps.SetUmask) -> None:
        self._script.below.add(step)
        self._script.umask = step.umask

    def bound_capabilities(self, step: steps.BoundCapabilities) -> None:
        bound = ",".join(["-all", *(f"+{name.lower()}" for name in step.keep)])
        self._script.below.add(step, "setpriv", f"--bounding-set={bound}", "--inh-caps=-all", "--ambient-caps=-all")

    def set_user(self, step: steps.SetUser) -> None:
        user, _, group = (step.user or "0").partition(":")
        self._do(step, call("account", _kind(user), user))
        if step.user is not None:
            self._script.inside.append(call("groups", _kind(group), *([group] if group else [])) + "\n")
        # Without privileges setgroups(2) is denied, user_namespaces(7).
        groups = '"$groups"' if self._script.user is None else "--keep-groups"
        self._script.below.add(step, "setpriv", '--reuid="$user"', '--regid="$group"', groups)

    def set_capabilities(self, step: steps.SetCapabilities) -> None:
        # After an execve(2) root has what the bounding set allows, and nobody else anything, capabilities(7).
        self._script.below.add(step)

    def no_new_privileges(self, step: steps.NoNewPrivileges) -> None:
        self._script.below.add(step, "setpriv", "--no-new-privs")

    # --- what is no step ---

    def _miss_more(self) -> None:
        """What the script does otherwise and no step says."""
        for name in self.command.environment:
            if name in _OF_THE_SHELL or not (name.isascii() and name.isidentifier()):
                self.miss(f"the variable {name}", "the shell that executes the command loses or changes it")
        self.miss_init("a shell does, which reaps orphans, but passes no signal on")
        if self.plan.ids and self.plan.ids.helped:
            self.miss_ids("unshare(1) takes the first of /etc/subuid and /etc/subgid, from util-linux 2.38 on")
        elif self.plan.ids and len(self.plan.ids.uids) + len(self.plan.ids.gids) > 2:
            self.miss_ids("unshare(1) maps root to the caller, and nobody else")
        if self.plan.cgroup:
            moved = "a process moves itself into it; the one above must have none of its own, or be the root"
            self.miss(f"be born in the cgroup {self.plan.cgroup}", moved)
        stop = "SIGTERM, SIGINT or SIGHUP for the script kill the container at once"
        self.miss(f"stop with signal {self.spec.stop_signal}, wait {self.spec.stop_timeout:g} s, and kill", stop)
        if self.spec.timeout is not None:
            self.miss(f"stop after {self.spec.timeout:g} s", f"`timeout {self.spec.timeout:g} sh SCRIPT` kills it then")
        self.miss("an end of the container with that of who made it", "SIGKILL for the script lets it go on")
        self.miss("no descriptors but 0, 1 and 2", "those from 10 on that the script gets, the command gets too")
        self.miss_reservation()


def _clean(target: str) -> str:
    """A path without `.` and `..`, as the kernel would resolve it without symbolic links."""
    return posixpath.normpath(f"/{target.lstrip('/')}")


def _kind(key: str) -> str:
    """How a line of passwd(5) or group(5) is looked for."""
    return "number" if key.isdecimal() else "name"
