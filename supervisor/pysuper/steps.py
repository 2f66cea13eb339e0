"""
The steps of a container's set-up: one frozen class per thing that the kernel is told.

A step is data. It says what it does in one line (`describe`) and where that is documented (`man`); the code that
does it is `pysuper.launcher.execute`, a function per class, which runs in the new process, or the same in C
(`pysuper.launcher.native`). Steps travel there as JSON objects: the fields, plus `"do"`, the name of the class in snake
case.

The vocabulary is closed, so that a plan can be printed, compared and checked; a plugin with an unusual wish has
`WriteFile` and `Syscall`.

Paths: a *target* is a path in the container, resolved beneath the new root and never outside of it; a symbolic link
in it is an error (openat2(2), RESOLVE_IN_ROOT and RESOLVE_NO_SYMLINKS). A *source* is a path of the host.
The step that mounts at target "/" makes the new root. Whatever a step creates belongs to the container's root.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import attrs

from pysuper.values import Value, value

__all__ = [
    "CLASSES",
    "Barrier",
    "BecomeRoot",
    "Bind",
    "BoundCapabilities",
    "Chroot",
    "EnterNamespace",
    "Fork",
    "JoinCgroup",
    "JoinNamespace",
    "Landlock",
    "LoopbackUp",
    "MakeDirectory",
    "MaskPath",
    "Mknod",
    "Mount",
    "NewSessionKeyring",
    "NoNewPrivileges",
    "OpenSocket",
    "OpenTerminal",
    "Overlay",
    "PivotRoot",
    "PrivateMounts",
    "ReadOnlyPath",
    "RootFlags",
    "Seccomp",
    "SetCapabilities",
    "SetHostname",
    "SetRlimit",
    "SetSysctl",
    "SetUmask",
    "SetUser",
    "Setsid",
    "Step",
    "Symlink",
    "Syscall",
    "Unshare",
    "WriteFile",
    "from_wire",
    "to_wire",
    "wire_name",
]


@value
class Step(Value):
    """
    The base of all steps.

    Attributes:
        man: Where it is documented.
        repeated: Whether a process that joins the running container does the step once more: outside, before it enters
            the container's namespaces, or inside of them. What is done to a process is; what is done to the
            container is not.
        remedy: For who has asked for it, when it fails; None where nothing can be said in general.
    """

    man: ClassVar[str]
    remedy: ClassVar[str | None] = None
    repeated: ClassVar[Literal["never", "outside", "inside"]] = "never"

    def describe(self) -> str:
        """What it does, in one line."""
        raise NotImplementedError


@value
class Setsid(Step):
    """Leave the caller's session, so that neither its terminal nor its Ctrl-C reaches the container."""

    man = "setsid(2)"
    repeated = "outside"

    def describe(self) -> str:
        return "start a new session, without controlling terminal"


@value
class NewSessionKeyring(Step):
    """Join a new, empty session keyring; the caller's keys stay with the caller."""

    man = "keyctl(2), session-keyring(7)"
    repeated = "outside"

    def describe(self) -> str:
        return "join a new, empty session keyring"


@value
class JoinCgroup(Step):
    """
    Move this process into a cgroup v1 directory, by writing 0 to its `tasks`.

    Not `cgroup.procs`: that one waits for a grace period of 8 to 16 ms, while `tasks` moves one thread, and this
    process has only one.
    """

    path: str
    man = "cgroups(7); Documentation/admin-guide/cgroup-v1/cgroups.rst, 2.2"
    repeated = "outside"

    def describe(self) -> str:
        return f"join the cgroup {self.path}"


@value
class JoinNamespace(Step):
    """
    Enter a namespace by a descriptor of it, which the launcher has: because it made the namespace for this container,
    or because the container is running and the supervisor handed it over.
    """

    namespace: str
    man = "setns(2)"

    def describe(self) -> str:
        return f"enter the container's {self.namespace} namespace"


@value
class EnterNamespace(Step):
    """Enter a namespace that exists already, and that others are in; `path` leads to it, such as /proc/PID/fd/N."""

    namespace: str
    path: str
    man = "setns(2), proc_pid_ns(5)"

    def describe(self) -> str:
        return f"enter the {self.namespace} namespace {self.path}"


@value
class Fork(Step):
    """
    Go on as a child, in a session of its own: it is the first to be in a pid namespace that this process has joined.

    The child is the supervisor's, not of this process, which ends. Neither can be looked into from the container,
    since neither is dumpable.
    """

    man = "clone(2), CLONE_PARENT; pid_namespaces(7)"

    def describe(self) -> str:
        return "fork into the container's pid namespace"


@value
class Unshare(Step):
    """Make new namespaces, owned by the user namespace that this process is in."""

    namespaces: tuple[str, ...]
    man = "unshare(2)"

    def describe(self) -> str:
        return f"make a new {', '.join(self.namespaces)} namespace"


@value
class BecomeRoot(Step):
    """Become uid and gid 0 of the user namespace just entered; until then this process has no id in it."""

    man = "setresuid(2), user_namespaces(7)"

    def describe(self) -> str:
        return "become uid 0 and gid 0 of the user namespace"


@value
class SetHostname(Step):
    """Set the host name in the container's uts namespace, and read it back."""

    hostname: str
    man = "sethostname(2)"

    def describe(self) -> str:
        return f"set the host name to {self.hostname}"


@value
class SetSysctl(Step):
    """Set a parameter of one of the namespaces that this process is in, and read it back."""

    name: str
    value: str
    man = "proc(5), sysctl(8)"

    def describe(self) -> str:
        return f"set the kernel parameter {self.name} to {shlex.quote(self.value)}"


@value
class LoopbackUp(Step):
    """Bring the loopback interface of the network namespace up."""

    man = "netdevice(7), SIOCSIFFLAGS"

    def describe(self) -> str:
        return "bring the loopback interface up"


@value
class PrivateMounts(Step):
    """Make every mount of this namespace a slave of the host's, so that none made here is seen there."""

    man = "mount_namespaces(7), MS_SLAVE"

    def describe(self) -> str:
        return "let no mount made here propagate to the host"


@value
class Overlay(Step):
    """
    Mount a copy-on-write view of the host's directory `source` at `target`; writes go to a tmpfs and vanish.

    With `idmap` the owners below are shown through the container's user namespace: host root's files belong to the
    container's root, and no file is changed for that. `userxattr` is for a mount inside a user namespace. A symbolic
    link in the path of the source is an error, unless `follow` says that only its maker can put links there.
    """

    source: str
    target: str
    idmap: bool = False
    userxattr: bool = False
    follow: bool = False
    man = "mount_setattr(2), MOUNT_ATTR_IDMAP; Documentation/filesystems/overlayfs.rst"

    def describe(self) -> str:
        shifted = ", ids mapped" if self.idmap else ""
        return f"mount a copy-on-write view of {self.source} at {self.target}{shifted}"


@value
class Bind(Step):
    """
    Mount the host's file or directory `source` at `target`, which is created if it is missing.

    A symbolic link in the path of the source is an error: another container could have put it there.

    Attributes:
        flags: `ro nosuid nodev noexec nosymfollow`, for the mounts below it too.
        idmap: Show owners through the container's user namespace.
        recursive: With the mounts below the source.
    """

    source: str
    target: str
    flags: tuple[str, ...] = ()
    idmap: bool = False
    recursive: bool = True
    man = "open_tree(2), mount_setattr(2), move_mount(2)"

    def describe(self) -> str:
        notes = [*self.flags, *(["ids mapped"] if self.idmap else [])]
        return f"bind {self.source} at {self.target}" + (f" ({', '.join(notes)})" if notes else "")


@value
class Mount(Step):
    """Mount a new file system at `target`, which is created if it is missing."""

    fstype: str
    target: str
    flags: tuple[str, ...] = ()
    options: Mapping[str, str | None] = attrs.field(factory=dict)
    man = "fsopen(2), fsmount(2), mount(8)"

    def describe(self) -> str:
        options = [*self.flags, *(k if v is None else f"{k}={v}" for k, v in self.options.items())]
        return f"mount {self.fstype} at {self.target}" + (f" ({','.join(options)})" if options else "")


@value
class MakeDirectory(Step):
    """Make a directory, unless it exists."""

    target: str
    mode: int = 0o755
    man = "mkdir(2)"

    def describe(self) -> str:
        return f"make the directory {self.target} (mode {self.mode:04o})"


@value
class Mknod(Step):
    """Make a device node with mode 0666: a character device, or a block device."""

    target: str
    major: int
    minor: int
    block: bool = False
    man = "mknod(2)"

    def describe(self) -> str:
        kind = "block device" if self.block else "device"
        return f"make the {kind} {self.target} ({self.major}:{self.minor})"


@value
class Symlink(Step):
    """Make a symbolic link at `target` that says `text`."""

    text: str
    target: str
    man = "symlink(2)"

    def describe(self) -> str:
        return f"link {self.target} to {self.text}"


@value
class MaskPath(Step):
    """
    Cover a file with an unreadable null device, a directory with an empty read-only tmpfs, which is the same one for
    all directories; skipped if absent.
    """

    target: str
    man = "mount(2)"

    def describe(self) -> str:
        return f"hide {self.target}"


@value
class ReadOnlyPath(Step):
    """Make the mount at `target`, or a new bind mount of it onto itself, read-only; skipped if absent."""

    target: str
    man = "mount_setattr(2), MOUNT_ATTR_RDONLY"

    def describe(self) -> str:
        return f"make {self.target} read-only"


@value
class RootFlags(Step):
    """Give the mount of the new root these flags, once everything below it stands."""

    flags: tuple[str, ...]
    man = "mount_setattr(2)"

    def describe(self) -> str:
        return f"make the root {', '.join(self.flags)}"


@value
class PivotRoot(Step):
    """Make the new root the root of the mount namespace and detach the old one, so that no path leads back."""

    man = "pivot_root(2)"

    def describe(self) -> str:
        return "pivot into the new root and detach the old one"


@value
class Chroot(Step):
    """Resolve paths from the new root. No boundary: the old root is still mounted, and root can get back to it."""

    man = "chroot(2)"

    def describe(self) -> str:
        return "chroot into the new root (no boundary: the old one stays mounted)"


@value
class WriteFile(Step):
    """Write `content` in one go to a file that exists already; none is ever created."""

    path: str
    content: str
    man = "write(2)"

    def describe(self) -> str:
        return f"write {shlex.quote(self.content)} to {self.path}"


@value
class SetRlimit(Step):
    """Limit a resource of the process; -1 is unlimited."""

    resource: str
    soft: int
    hard: int
    man = "setrlimit(2)"
    remedy = "ask for no more than its caller may have, which `ulimit -Ha` shows"
    repeated = "inside"

    def describe(self) -> str:
        return f"limit {self.resource} to {self.soft} (hard {self.hard})"


@value
class SetUmask(Step):
    """Set the mask of the permission bits of new files."""

    umask: int
    man = "umask(2)"
    repeated = "inside"

    def describe(self) -> str:
        return f"set the umask to {self.umask:03o}"


@value
class SetUser(Step):
    """
    Become `user`, `NAME|UID[:GROUP|GID]` of the container's own /etc/passwd and /etc/group; None stays its root.

    Supplementary groups are those that /etc/group lists. Also decides HOME and the login shell.
    """

    user: str | None
    man = "setresuid(2), setgroups(2), passwd(5)"
    repeated = "inside"

    def describe(self) -> str:
        return f"become the user {self.user}" if self.user else "stay root, without supplementary groups"


@value
class BoundCapabilities(Step):
    """Drop every capability but `keep` from the bounding set, so that no later execve brings one back."""

    keep: tuple[str, ...]
    man = "capabilities(7), PR_CAPBSET_DROP(2const)"
    repeated = "inside"

    def describe(self) -> str:
        return f"bound the capabilities to {' '.join(self.keep) or '(none)'}"


@value
class SetCapabilities(Step):
    """Drop every capability but `keep` from the permitted and effective sets; inheritable and ambient are empty."""

    keep: tuple[str, ...]
    man = "capset(2)"
    repeated = "inside"

    def describe(self) -> str:
        return f"keep of these only {' '.join(self.keep) or '(none)'}"


@value
class NoNewPrivileges(Step):
    """Let no execve gain privileges: set-user-id bits and file capabilities are ignored from here on."""

    man = "PR_SET_NO_NEW_PRIVS(2const)"
    repeated = "inside"

    def describe(self) -> str:
        return "gain no privileges by execve"


@value
class Seccomp(Step):
    """
    Refuse system calls from here on, to this process and all that come of it; nothing takes that back.

    It comes last, and still the process makes calls after it: to wait at the last barrier, to be the init, and to
    execute the command.

    Attributes:
        program: Of classic BPF, in hexadecimal (`pysuper.seccomp.bpf`).
    """

    program: str
    man = "seccomp(2)"
    repeated = "inside"

    def describe(self) -> str:
        return f"refuse system calls that are not allowed (a filter of {len(self.program) // 16} instructions)"


@value
class Landlock(Step):
    """
    Refuse this process, and all that come of it, every change of mounts, and more; nothing takes that back.

    It also can look into no other processes from here on than those. That the rules are in force is asked of the
    kernel: a mount that fails with EINVAL without them has to fail with EPERM.

    Attributes:
        deny: What it cannot do with files, wherever they are; `LANDLOCK_ACCESS_FS_*` in small letters.
        scope: What it can do to the processes that have these rules alone; `LANDLOCK_SCOPE_*`.
    """

    deny: tuple[str, ...] = ()
    scope: tuple[str, ...] = ()
    man = "landlock(7)"
    repeated = "inside"

    def describe(self) -> str:
        refused = ", ".join(("changes of mounts", *self.deny))
        outside = f", and outside of the container {', '.join(self.scope)}" if self.scope else ""
        return f"refuse itself {refused}{outside} (Landlock)"


@value
class OpenTerminal(Step):
    """Open a pseudo-terminal of the container's own devpts, send its master out, and make it descriptors 0 to 2."""

    rows: int = 0
    columns: int = 0
    man = "pts(4), ioctl_tty(2)"

    def describe(self) -> str:
        return "open a pseudo-terminal and hand its master to the supervisor"


@value
class OpenSocket(Step):
    """Open a socket in the network namespace of this process, and send it out; the numbers are those of socket(2)."""

    family: int
    kind: int
    man = "socket(2), network_namespaces(7)"

    def describe(self) -> str:
        return "open a socket and hand it to the supervisor"


@value
class Barrier(Step):
    """Wait until the supervisor, and the driver that asked for this barrier, say go."""

    name: str
    man = "pysuper.drivers"

    def describe(self) -> str:
        return f"wait for the supervisor ({self.name})"


@value
class Syscall(Step):
    """Any other system call: a number of this architecture, integers and strings; a negative result is an error."""

    number: int
    arguments: tuple[int | str, ...] = ()
    purpose: str
    man = "syscall(2)"

    def describe(self) -> str:
        return f"{self.purpose} (system call {self.number})"


def wire_name(step: type[Step]) -> str:
    """What a class of steps is called there: its name in snake case."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", step.__name__).lower()


#: All of them, by those names.
CLASSES = {wire_name(cls): cls for cls in Step.__subclasses__()}
_NAMES = {cls: (name, tuple(a.name for a in attrs.fields(cls))) for name, cls in CLASSES.items()}


def to_wire(step: Step) -> dict[str, Any]:
    """The JSON object of a step."""
    name, fields = _NAMES[type(step)]
    return {"do": name, **{field: getattr(step, field) for field in fields}}


def from_wire(message: Mapping[str, Any]) -> Step:
    """The step of a JSON object; the inverse of `to_wire`."""
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in message.items() if k != "do"}
    return CLASSES[message["do"]](**fields)
