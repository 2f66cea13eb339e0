"""
What the kernel does at each line of a plan, and why it stands where it stands: for `pysuper plan --explain`.

One table by class of step, one by class of check, one by moment. A text continues its label: "The kernel", of what
happens, and "Here", of why at this place in the order, as far as `Phase.reason` does not say it, or "Why", of why
something is read back. Facts are those of the documents that `see` and `Step.man` name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import attrs

from pysuper import receipts, steps
from pysuper.plan import Line, Moment, Plan
from pysuper.steps import Step

__all__ = ["explain", "heading"]


@attrs.frozen(kw_only=True)
class Explanation:
    """
    Of one line of a plan.

    Attributes:
        kernel: What the kernel does, after "The kernel".
        here: Why at this place, or why at all.
        see: Where that is documented, beyond the step's own `man`.
    """

    kernel: str = ""
    here: str = ""
    see: str = ""


_LAUNCHER = "LAUNCHER: what has to be there before the first step; only the launcher makes processes"
_RECEIPTS = "RECEIPTS: read back from outside while the process waits; unless all hold, nothing is executed"
_COMMAND = "COMMAND: once every receipt holds"
_HEADINGS: Mapping[Moment, str] = {
    Moment.HOLDER: _LAUNCHER,
    Moment.CLONE: _LAUNCHER,
    Moment.BIRTH: _LAUNCHER,
    Moment.WARNING: "WARNINGS: what was left out, and what is no boundary",
    Moment.INIT: _COMMAND,
    Moment.EXECUTE: _COMMAND,
    Moment.END: _COMMAND,
}

#: What a namespace of each kind holds.
_NAMESPACES: Mapping[str, str] = {
    "mnt": "a list of mounts, at first a copy of that of its maker: mount_namespaces(7)",
    "pid": "process numbers from 1 on; what is outside has none, and cannot be signalled: pid_namespaces(7)",
    "net": "network interfaces, addresses, routes, ports, abstract unix sockets: network_namespaces(7)",
    "uts": "a host name: uts_namespaces(7)",
    "ipc": "System V semaphores, queues and shared memory, POSIX message queues: ipc_namespaces(7)",
    "user": "ids and capabilities; who is root in it is nobody outside: user_namespaces(7)",
    "cgroup": "a cgroup tree that begins at the cgroup of its maker: cgroup_namespaces(7)",
    "time": "a monotonic and a boot-time clock: time_namespaces(7)",
}

_IDS = (
    "it maps them first of all. Who is not root may map the own id only, and must deny setgroups(2); newuidmap(1), "
    "which is, maps others that /etc/subuid gives the user, while the process waits"
)

_MOMENTS: Mapping[Moment, Explanation] = {
    Moment.HOLDER: Explanation(
        kernel="clones a process, the holder, into new namespaces. The launcher writes the id maps of the user "
        "namespace, opens descriptors of all of them, and ends the holder: a namespace lives as long as a descriptor.",
        here="the first process mounts as host root and enters these later. The user namespace has to be there "
        "before, since its map shifts the owners of mounted files, and to own the others, so that its root rules them.",
        see="clone(2); namespaces(7), Namespace lifetime",
    ),
    Moment.CLONE: Explanation(
        kernel="makes the first process of the container, which is in these namespaces from its first instruction "
        "on. CLONE_PARENT makes it the supervisor's child instead of the launcher's; CLONE_PIDFD gives a descriptor "
        "that means this process for good, and never another one with its number.",
        here="a process must be born in its pid and time namespaces: unshare(2) would move only its later children.",
        see="clone(2), unshare(2)",
    ),
    Moment.BIRTH: Explanation(
        kernel="puts the process into this cgroup v2 as it clones it (CLONE_INTO_CGROUP): none of its instructions "
        "runs outside of the limits.",
        here="to move it later would take 8 to 16 ms: a write to cgroup.procs waits for a grace period.",
        see="clone(2), cgroups(7)",
    ),
    Moment.WARNING: Explanation(),
    Moment.INIT: Explanation(
        kernel="makes PID 1 the parent of every orphan in its pid namespace, lets no signal from inside reach it that "
        "it does not handle, and kills everything in the namespace when it ends.",
        here="a command in that role would survive each SIGTERM that it does not handle, and few reap orphans. The "
        "init passes signals on, reaps, and ends with the command's status.",
        see="pid_namespaces(7), wait(2)",
    ),
    Moment.EXECUTE: Explanation(
        kernel="replaces the program of the process. Cgroups, namespaces, limits and ids stay; signal handlers are "
        "reset, and descriptors that are marked close-on-exec are closed: all but those given to the command.",
        here="last: with the descriptors closes the one by which the supervisor learns that the command runs.",
        see="execve(2)",
    ),
    Moment.END: Explanation(
        kernel="keeps what the process has made for as long as the supervisor has a descriptor of it.",
        see="namespaces(7), Namespace lifetime",
    ),
}

_STEPS: Mapping[type[Step], Explanation] = {
    steps.Setsid: Explanation(
        kernel="makes this process the leader of a new session and process group, without controlling terminal: no "
        "Ctrl-C reaches it, and it cannot open the caller's terminal as /dev/tty.",
        here="only the leader of a session can take a terminal as its own, which the command may get later.",
        see="credentials(7)",
    ),
    steps.NewSessionKeyring: Explanation(
        kernel="gives this process a new, empty session keyring. Else it would have the caller's, which forks and "
        "execve(2) pass on, and with it every key that the caller has stored there.",
    ),
    steps.PrivateMounts: Explanation(
        kernel="makes each shared mount of this namespace a slave of the host's: what is mounted there still appears "
        "here, what is mounted here appears nowhere else.",
        here="the first mount would be seen on the host otherwise; and pivot_root(2) refuses to work on shared mounts.",
    ),
    steps.JoinCgroup: Explanation(
        kernel="moves the thread that writes 0 to this file, the only one of this process, into the cgroup. What it "
        "and its children use from here on is counted there, and limited.",
        here="as host root, while the host's cgroup tree is in sight. Whoever makes a cgroup namespace later has as "
        "its root the cgroups in which it is then.",
        see="cgroup_namespaces(7)",
    ),
    steps.JoinNamespace: Explanation(
        kernel="moves this thread into the namespace behind a descriptor: one that the launcher has made, and that "
        "the container's user namespace owns.",
        here="sysfs shows the network, mqueue the message queues of the namespaces of whoever mounts it, and both are "
        "mounted soon.",
        see="ipc_namespaces(7); Documentation/filesystems/sysfs-tagging.rst",
    ),
    steps.EnterNamespace: Explanation(
        kernel="moves this thread into the namespace that the path leads to, and that others are in already.",
        here="the path is one of the host's /proc, which the pivot takes out of reach; and sysfs shows the network of "
        "whoever mounts it.",
        see="Documentation/filesystems/sysfs-tagging.rst",
    ),
    steps.Fork: Explanation(
        kernel="makes a child, which is born in the pid namespace that this process has joined. Joining one only "
        "decides where children are born; no process ever changes its own.",
        here="all other namespaces are entered, so that the child is in all of them.",
    ),
    steps.Unshare: Explanation(
        kernel="moves this process into new namespaces, which are owned by the user namespace that it is in.",
        here="the root of a cgroup namespace is the cgroup that its maker is in: all have been joined.",
        see="cgroup_namespaces(7)",
    ),
    steps.BecomeRoot: Explanation(
        kernel="gives this process uid 0 and gid 0 of the namespace, ids without any right on the host, and drops its "
        "supplementary groups.",
        here="at once: it has lost host root's capabilities, but with host root's ids still owns host root's files.",
        see="credentials(7)",
    ),
    steps.SetHostname: Explanation(
        kernel="changes the host name in the uts namespace of this process, and nowhere else.",
        here="the namespace has been entered: before, it would have been the host's name.",
        see="uts_namespaces(7)",
    ),
    steps.SetSysctl: Explanation(
        kernel="shows in /proc/sys, for what belongs to a namespace, the value of the namespace that the reader is in; "
        "and lets only that namespace's root change it.",
        here="the namespace has been entered, and /proc/sys is not read-only yet.",
        see="network_namespaces(7), ipc_namespaces(7)",
    ),
    steps.LoopbackUp: Explanation(
        kernel="starts the interface lo. A new network namespace has no other one, and this one is down: not even "
        "127.0.0.1 answers.",
        here="the namespace has been entered, and this process may still configure it (CAP_NET_ADMIN).",
        see="network_namespaces(7)",
    ),
    steps.Overlay: Explanation(
        kernel="shows the directory through two layers. Reading falls through to the lower one, which is never "
        "written; writing first copies the file into the upper one, a tmpfs that is gone with the mount.",
    ),
    steps.Bind: Explanation(
        kernel="makes another mount of the file system that the source is in, which begins at the source, sets its "
        "flags, and then attaches it at the target. Flags are a mount's, so that the source keeps its own.",
        here="after the pivot no path would lead to the source. A symbolic link in that path is an error: links were "
        "followed before, when no container could have made any.",
    ),
    steps.Mount: Explanation(
        kernel="makes a file system of this type, and attaches it. Flags such as nosuid are of this mount alone; what "
        "is not a flag is an option of the file system.",
    ),
    steps.MakeDirectory: Explanation(
        kernel="makes a directory. Its parent is found beneath the new root, through no symbolic link, and held by a "
        "descriptor, so that nobody can swap it meanwhile.",
        see="openat2(2)",
    ),
    steps.Mknod: Explanation(
        kernel="makes a name for a device; its two numbers say for which. Whoever may open the name has the device, "
        "unless the mount is nodev, or the cgroup denies it.",
        here="a user namespace gives no right to make device nodes, so this takes host root.",
        see="user_namespaces(7); Documentation/admin-guide/devices.txt",
    ),
    steps.Symlink: Explanation(
        kernel="makes a name that stands for a path. It is resolved by whoever follows it: /proc/self is that process.",
        see="symlink(7)",
    ),
    steps.MaskPath: Explanation(
        kernel="mounts something empty on top: a read-only tmpfs over a directory, the null device over "
        "a file. What is below is still there, but no path leads to it.",
        here="whatever is mounted later would lie on top. That nobody inside takes it away follows from IDENTITY.",
        see="mount_namespaces(7)",
    ),
    steps.ReadOnlyPath: Explanation(
        kernel="mounts the path onto itself, so that it is a mount of its own, and makes that read-only. In "
        "/proc/sys are the kernel's settings, and most of them are those of the whole machine.",
        here="whatever is mounted later would lie on top. That nobody inside takes it away follows from IDENTITY.",
        see="mount_namespaces(7), proc(5)",
    ),
    steps.RootFlags: Explanation(
        kernel="sets flags of the mount of the new root; the mounts below it keep theirs.",
        here="the directories that others are mounted at have been made in it.",
    ),
    steps.PivotRoot: Explanation(
        kernel="makes the new root the root of this mount namespace. The old one lands on top of it and is unmounted "
        "at once, with all that is below it: no path leads back, not for root either.",
        here="it takes CAP_SYS_ADMIN in the user namespace that owns this mount namespace, which is the one that "
        "the process is in until IDENTITY.",
        see="umount2(2), MNT_DETACH",
    ),
    steps.Chroot: Explanation(
        kernel="changes where the paths of this process begin, and nothing else. The old root is still mounted, and "
        "who may call chroot(2) once more can walk back to it.",
    ),
    steps.WriteFile: Explanation(
        kernel="takes the text as a call: what looks like a file in /proc, /sys or a cgroup is an interface.",
        here="a driver has asked for it in this phase.",
        see="proc(5), sysfs(5)",
    ),
    steps.SetRlimit: Explanation(
        kernel="bounds what this process may use of the resource. Children inherit it, each for itself: it is no "
        "limit of the container as a whole, which a cgroup has. The soft value counts, the hard one bounds it.",
        here="anybody may lower it at any time; to raise the hard value would take CAP_SYS_RESOURCE on the host.",
    ),
    steps.SetUmask: Explanation(
        kernel="takes these permission bits from each file that this process makes; children inherit it.",
    ),
    steps.SetUser: Explanation(
        kernel="sets the supplementary groups, the gid, the uid. If the uid leaves 0, it empties the permitted, the "
        "effective and the ambient capabilities.",
        here="after the bounding set, for which the new user may lack CAP_SETPCAP; before the other sets, which may "
        "lack CAP_SETUID and CAP_SETGID.",
        see="capabilities(7), Effect of user ID changes",
    ),
    steps.BoundCapabilities: Explanation(
        kernel="removes capabilities from the bounding set, for good. What execve(2) gives to uid 0, or "
        "because of a file's permitted set, never exceeds it.",
        here="it takes CAP_SETPCAP, so it comes before the user is set.",
    ),
    steps.SetCapabilities: Explanation(
        kernel="sets what this process may do now (effective), may take up (permitted) and may pass on (inheritable). "
        "A user other than root keeps nothing.",
        here="after the user is set, which takes CAP_SETUID and CAP_SETGID.",
        see="capabilities(7)",
    ),
    steps.NoNewPrivileges: Explanation(
        kernel="lets no execve(2) of this process and its children give more than they have: set-user-id bits and "
        "file capabilities are ignored. Nobody can take it back.",
        here="before seccomp(2), which takes CAP_SYS_ADMIN from those who could still gain privileges.",
    ),
    steps.Seccomp: Explanation(
        kernel="runs this program before each system call of the process and its children. It sees the number and the "
        "arguments, though not what they point to, and says whether the call is made, answered with an error, or the "
        "end of the process. Nobody can take it back.",
        here="what has been done so far took calls that it refuses: mounts, namespaces, keyrings.",
        see="Documentation/userspace-api/seccomp_filter.rst",
    ),
    steps.Landlock: Explanation(
        kernel="refuses this process and its children what the rules do not allow, on top of all other rights, and "
        "whatever capabilities they ever get. With rules about files come refusals that no rule lifts: to mount, to "
        "unmount, to pivot, and to trace or look into whoever does not have the same rules.",
        here="no mount follows; it takes CAP_SYS_ADMIN in this user namespace, as long as no_new_privs is not set.",
        see="Documentation/userspace-api/landlock.rst",
    ),
    steps.OpenTerminal: Explanation(
        kernel="makes a pair: the command reads and writes the slave as its terminal, the supervisor has the master, "
        "where it types and sees. The caller's own terminal never gets into the container.",
        here="who opens the master owns the slave, and it is to be the command's user.",
    ),
    steps.OpenSocket: Explanation(
        kernel="makes a socket. It stays in the network namespace of its maker, in whoever's hands it is.",
        here="the network namespace has been entered.",
        see="unix(7), SCM_RIGHTS",
    ),
    steps.Barrier: Explanation(
        kernel="puts the process to sleep until the supervisor has answered. Meanwhile a driver acts on it from "
        "outside, as nothing in it could: such as moving a network device into its namespace.",
        here="a driver has asked for it in this phase.",
        see="recvmsg(2)",
    ),
    steps.Syscall: Explanation(
        kernel="does what this system call does, with these arguments; the driver says what for.",
        here="a driver has asked for it in this phase.",
        see="syscalls(2)",
    ),
}

_USER = Explanation(
    kernel="makes this process a member of the user namespace, with all capabilities in it and none outside.",
    here="after everything that takes host root: device nodes, mounts with mapped ids, and the pivot, since the mount "
    "namespace so far is owned by the host's user namespace.",
    see="user_namespaces(7)",
)
_LOCKED = Explanation(
    kernel="moves this process into new namespaces, owned by the user namespace that it is in. The mounts are copied, "
    "and in a copy with another owner they are locked: nobody inside can remove one of them, or make it writable.",
    here="every mount stands, and the user namespace that is to own the copy has been entered. The root of a cgroup "
    "namespace is the cgroup that its maker is in: all have been joined.",
    see="mount_namespaces(7), Restrictions on mount namespaces; cgroup_namespaces(7)",
)
_MAPPED = Explanation(
    kernel="shows the directory through two layers: the lower one is never written, writing first copies a file into "
    "the upper one, a tmpfs. The mount maps ids: files of host root show as the container's root's, none is changed.",
    here="to map the ids of a mount takes CAP_SYS_ADMIN on the host.",
)
_FILE_SYSTEMS: Mapping[str, Explanation] = {
    "proc": Explanation(
        kernel="shows processes as directories: those of the pid namespace of whoever mounts it.",
        here="without root, a new one can be mounted only while another is in full view: so before the old root goes.",
        see="pid_namespaces(7), proc(5); fs/namespace.c, mount_too_revealing",
    ),
    "sysfs": Explanation(
        kernel="shows devices, drivers and kernel objects: the host's, but for the network devices, which are those of "
        "the network namespace of whoever mounts it.",
        here="the network namespace has been entered; and as for proc, another one has to be in full view.",
        see="sysfs(5); Documentation/filesystems/sysfs-tagging.rst",
    ),
    "tmpfs": Explanation(
        kernel="makes an empty file system in memory. What is written counts as memory of the writer's cgroup, and is "
        "gone with the mount.",
        see="tmpfs(5); Documentation/admin-guide/cgroup-v2.rst, Memory Ownership",
    ),
    "devpts": Explanation(
        kernel="makes a set of pseudo-terminals, numbered from 0: each mount is another set, so that those of the host "
        "cannot be opened.",
        see="pts(4); Documentation/filesystems/devpts.rst",
    ),
    "mqueue": Explanation(
        kernel="shows the POSIX message queues of the ipc namespace of whoever mounts it, as files.",
        here="the ipc namespace has been entered.",
        see="mq_overview(7), ipc_namespaces(7)",
    ),
}

_CHECKS: Mapping[type[receipts.Check], Explanation] = {
    receipts.OwnNamespace: Explanation(
        kernel="has a link in /proc/PID/ns for each namespace of a process: the same text is the same namespace. It is "
        "compared with the supervisor's.",
        here="inside, nothing tells a namespace that is shared by mistake from an own one.",
        see="namespaces(7), The /proc/pid/ns/ directory",
    ),
    receipts.SameNamespace: Explanation(
        kernel="has a link in /proc/PID/ns for each namespace of a process: the same text is the same namespace.",
        here="not to be in the host's is not enough: it could be a third one.",
        see="namespaces(7), The /proc/pid/ns/ directory",
    ),
    receipts.ProcessStatus: Explanation(
        kernel="shows in /proc/PID/status the capability sets of a process, as bit masks, and its no_new_privs.",
        here="what the command may do follows from these; that the calls succeeded is no proof of what they left.",
        see="proc(5), capabilities(7)",
    ),
    receipts.FileHolds: Explanation(
        kernel="answers a read with what is in force, which need not be what was written.",
        here="a limit may have been rounded or cut down. And where there is no cgroup, the same write makes a plain "
        "file, which limits nothing.",
        see="cgroups(7), user_namespaces(7)",
    ),
    receipts.FileLists: Explanation(
        kernel="lists in tasks and cgroup.procs who is in a cgroup.",
        here="a limit bounds only who is in it.",
        see="cgroups(7)",
    ),
    receipts.InCgroup: Explanation(
        kernel="says in /proc/PID/cgroup where a process is in each hierarchy.",
        here="a limit bounds only who is in its cgroup.",
        see="cgroups(7), /proc files",
    ),
    receipts.ResourceLimit: Explanation(
        kernel="tells the limits of another process, soft and hard.",
        here="the value may have been changed by a later step.",
        see="prlimit(2)",
    ),
    receipts.MountFlags: Explanation(
        kernel="lists in /proc/PID/mountinfo the mounts that a process sees, with the flags of each.",
        here="a mount that is covered by a later one, or is elsewhere, protects nothing.",
        see="proc(5), mount_namespaces(7)",
    ),
    receipts.OldRootGone: Explanation(
        kernel='lists in /proc/PID/mountinfo the mounts that a process sees: one of them may be at "/".',
        here="as long as the host's root is mounted, some way may lead to it.",
        see="proc(5), pivot_root(2)",
    ),
}


_ID_MAP = Explanation(
    kernel="shows the id map of a user namespace: the first id inside, the first outside, and how many follow.",
    here="with a map to other ids, the container would have somebody else's rights outside.",
    see="user_namespaces(7)",
)


def heading(line: Line) -> str:
    """What a line of a plan is grouped under: its phase, with the reason for that."""
    if line.phase is not None:
        return f"{line.phase.name}: {line.phase.reason}"
    return _HEADINGS[line.about] if isinstance(line.about, Moment) else _RECEIPTS


def explain(plan: Plan, line: Line) -> tuple[tuple[str, str], ...]:
    """The explanation of a line of a plan: labels, and the texts that continue them."""
    found = _of(line.about)
    rows = [
        ("The kernel", found.kernel),
        *_contents(plan, line.about),
        ("Why" if isinstance(line.about, receipts.Check) else "Here", found.here),
        ("See", "; ".join(filter(None, (line.about.man if isinstance(line.about, Step) else "", found.see)))),
    ]
    return tuple((label, text) for label, text in rows if text)


def _contents(plan: Plan, about: Step | receipts.Check | Moment) -> Iterator[tuple[str, str]]:
    """What is in each namespace that is made, and how a process without privileges gets its ids."""
    match about:
        case Moment.HOLDER if plan.holder:
            names = plan.holder.namespaces
        case Moment.CLONE:
            names = plan.clone
        case steps.Unshare():
            names = about.namespaces
        case _:
            return
    yield from ((name, _NAMESPACES[name]) for name in names)
    if about is Moment.CLONE and plan.ids:
        yield "ids", _IDS


def _of(about: Step | receipts.Check | Moment) -> Explanation:
    match about:
        case Moment():
            return _MOMENTS[about]
        case receipts.FileHolds() if about.path.endswith(("/uid_map", "/gid_map")):
            return _ID_MAP
        case receipts.Check():
            return _CHECKS[type(about)]
        case Step():
            return _of_step(about)


def _of_step(step: Step) -> Explanation:
    match step:
        case steps.JoinNamespace(namespace="user"):
            return _USER
        case steps.Unshare() if "mnt" in step.namespaces:
            return _LOCKED
        case steps.Overlay(idmap=True):
            return _MAPPED
        case steps.Mount() if step.fstype in _FILE_SYSTEMS:
            return _FILE_SYSTEMS[step.fstype]
        case _:
            return _STEPS[type(step)]
