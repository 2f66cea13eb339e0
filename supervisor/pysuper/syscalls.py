"""
The system calls that Python's `os` lacks, one function each; the only ctypes import.

Every function raises OSError with the kernel's errno. Nothing is interpreted here: the caller knows what it was
doing. Numbers are those of x86_64 and aarch64; calls newer than Linux 5.0 have the same number on both
(Documentation/process/adding-syscalls.rst, "unistd.h").
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct

_libc = ctypes.CDLL(None, use_errno=True)
# Unlike CDLL, PyDLL keeps the GIL: nothing else of the interpreter may run between clone3 and the child's hooks.
_libc_holding_gil = ctypes.PyDLL(None, use_errno=True)

_NUMBERS = {
    "x86_64": {
        "pivot_root": 155,
        "capget": 125,
        "capset": 126,
        "keyctl": 250,
        "seccomp": 317,
        "rt_sigaction": 13,
    },
    "aarch64": {
        "pivot_root": 41,
        "capget": 90,
        "capset": 91,
        "keyctl": 219,
        "seccomp": 277,
        "rt_sigaction": 134,
    },
}
_SHARED_NUMBERS = {
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "clone3": 435,
    "openat2": 437,
    "mount_setattr": 442,
    "landlock_create_ruleset": 444,
    "landlock_add_rule": 445,
    "landlock_restrict_self": 446,
}
_MACHINE = os.uname().machine
if _MACHINE not in _NUMBERS:
    raise ImportError(f"pysuper knows the system call numbers of {', '.join(_NUMBERS)}, not of {_MACHINE}")
_NR = _SHARED_NUMBERS | _NUMBERS[_MACHINE]

AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000

CLONE_NEWTIME = 0x00000080
CLONE_PIDFD = 0x00001000
CLONE_PARENT = 0x00008000
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_INTO_CGROUP = 0x200000000

#: The kernel's abbreviations (`/proc/PID/ns`) and the clone flag of each, namespaces(7).
NAMESPACE_FLAGS = {
    "mnt": CLONE_NEWNS,
    "pid": CLONE_NEWPID,
    "net": CLONE_NEWNET,
    "uts": CLONE_NEWUTS,
    "ipc": CLONE_NEWIPC,
    "user": CLONE_NEWUSER,
    "cgroup": CLONE_NEWCGROUP,
    "time": CLONE_NEWTIME,
}

FSCONFIG_SET_FLAG = 0
FSCONFIG_SET_STRING = 1
FSCONFIG_CMD_CREATE = 6
FSMOUNT_CLOEXEC = 1
FSOPEN_CLOEXEC = 1
MOVE_MOUNT_F_EMPTY_PATH = 0x04
MOVE_MOUNT_T_EMPTY_PATH = 0x40
OPEN_TREE_CLONE = 1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
MNT_DETACH = 2
MS_BIND = 1 << 12
MS_SLAVE = 1 << 19
MOUNT_ATTR_IDMAP = 0x00100000
#: Names as in /proc/PID/mountinfo, mount_setattr(2).
MOUNT_ATTRS = {
    "ro": 0x01,
    "nosuid": 0x02,
    "nodev": 0x04,
    "noexec": 0x08,
    "nosymfollow": 0x00200000,
}

RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_IN_ROOT = 0x10

PR_SET_DUMPABLE = 4
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4

KEYCTL_JOIN_SESSION_KEYRING = 1

SECCOMP_SET_MODE_FILTER = 1

LANDLOCK_CREATE_RULESET_VERSION = 1
LANDLOCK_RULE_PATH_BENEATH = 1
#: Rights to files, and scopes, by their names in linux/landlock.h: those that are used.
LANDLOCK_ACCESS_FS = {"make_char": 1 << 6, "make_block": 1 << 11, "refer": 1 << 13}
LANDLOCK_SCOPES = {"abstract_unix_socket": 1 << 0, "signal": 1 << 1}


def _check(result: int, name: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def _call(name: str, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    """Make the system call `name`; integers are passed as C longs, bytes as pointers to NUL-terminated strings."""
    converted = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    return _check(_libc.syscall(ctypes.c_long(_NR[name]), *converted), name)


def syscall(number: int, arguments: tuple[int | str, ...]) -> int:
    """Make any system call by number (`steps.Syscall`); strings are passed as pointers, integers as C longs."""
    converted = [ctypes.c_long(a) if isinstance(a, int) else os.fsencode(a) for a in arguments]
    return _check(_libc.syscall(ctypes.c_long(number), *converted), f"syscall {number}")


def clone3(flags: int, *, cgroup: int | None = None) -> tuple[int, int]:
    """
    Fork with namespaces, clone3(2).

    A forked interpreter needs its after-fork hooks, which `os.fork` runs and a bare system call does not; without
    them its locks and its idea of the main thread are the parent's.

    Args:
        flags: CLONE_* but for CLONE_PIDFD, which is always set.
        cgroup: A descriptor of a cgroup v2 directory in which the child is born, or None.

    Returns:
        `(pid, pidfd)` in the parent, `(0, -1)` in the child.
    """
    pidfd = ctypes.c_int(-1)
    flags |= CLONE_PIDFD | (CLONE_INTO_CGROUP if cgroup is not None else 0)
    # With CLONE_PARENT the kernel takes the exit signal from the caller and refuses another one.
    exit_signal = 0 if flags & CLONE_PARENT else signal.SIGCHLD
    arguments = struct.pack("=11Q", flags, ctypes.addressof(pidfd), 0, 0, exit_signal, 0, 0, 0, 0, 0, cgroup or 0)
    buffer = ctypes.create_string_buffer(arguments, len(arguments))
    ctypes.pythonapi.PyOS_BeforeFork()
    pid = _libc_holding_gil.syscall(ctypes.c_long(_NR["clone3"]), buffer, ctypes.c_long(len(arguments)))
    if pid == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
        return 0, -1
    number = ctypes.get_errno()
    ctypes.pythonapi.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(number, f"clone3: {os.strerror(number)}")
    return pid, pidfd.value


def unshare(flags: int) -> None:
    """Move the caller into new namespaces, unshare(2)."""
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare")


def setns(descriptor: int, flags: int) -> None:
    """Move the caller into the namespace behind a descriptor, setns(2)."""
    _check(_libc.setns(ctypes.c_int(descriptor), ctypes.c_int(flags)), "setns")


def pivot_root(new_root: str, put_old: str) -> None:
    """Make `new_root` the root of this mount namespace and hang the old one at `put_old`, pivot_root(2)."""
    _call("pivot_root", os.fsencode(new_root), os.fsencode(put_old))


def umount(path: str, flags: int) -> None:
    """Detach the mount at `path`, umount2(2)."""
    _check(_libc.umount2(os.fsencode(path), ctypes.c_int(flags)), "umount2")


def set_domain_name(name: str) -> None:
    """Set the NIS domain name of this uts namespace, setdomainname(2)."""
    encoded = os.fsencode(name)
    _check(_libc.setdomainname(encoded, ctypes.c_size_t(len(encoded))), "setdomainname")


def mount(source: str, target: str, flags: int) -> None:
    """Mount what needs no file system to be named, mount(2)."""
    _check(_libc.mount(os.fsencode(source), os.fsencode(target), None, ctypes.c_ulong(flags), None), "mount")


def open_tree(path: str | int, *, recursive: bool) -> int:
    """Clone the mount at a path or descriptor (and with `recursive` those below) as a detached mount, open_tree(2)."""
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (AT_RECURSIVE if recursive else 0)
    if isinstance(path, int):
        return _call("open_tree", path, b"", flags | AT_EMPTY_PATH)
    return _call("open_tree", AT_FDCWD, os.fsencode(path), flags)


def move_mount(mount: int, target: int) -> None:
    """Attach a detached mount at an open directory or file, move_mount(2)."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
    _call("move_mount", mount, b"", target, b"", flags)


def mount_setattr(
    mount: int,
    *,
    attributes: int = 0,
    propagation: int = 0,
    userns: int | None = None,
    recursive: bool = False,
) -> None:
    """
    Set attributes of a mount, mount_setattr(2).

    Args:
        mount: A descriptor of the mount's root.
        attributes: MOUNT_ATTR_* to set; none is cleared.
        propagation: MS_SLAVE and the like, or 0.
        userns: A user namespace whose id map the mount gets, or None.
        recursive: Also for the mounts below.
    """
    if userns is not None:
        attributes |= MOUNT_ATTR_IDMAP
    packed = struct.pack("=4Q", attributes, 0, propagation, userns or 0)
    buffer = ctypes.create_string_buffer(packed, len(packed))
    flags = AT_EMPTY_PATH | (AT_RECURSIVE if recursive else 0)
    _call("mount_setattr", mount, b"", flags, buffer, len(packed))


def new_mount(fstype: str, options: dict[str, str | None], attributes: int) -> int:
    """
    Make a detached mount of a new file system: fsopen(2), fsconfig(2), fsmount(2).

    Args:
        fstype: As in /proc/filesystems.
        options: Of the file system (not of the mount); None is a flag without value.
        attributes: MOUNT_ATTR_* of the mount.

    Raises:
        OSError: With what the file system wrote into the context's log, which says more than the errno.
    """
    context = _call("fsopen", os.fsencode(fstype), FSOPEN_CLOEXEC)
    try:
        try:
            # "source" is what mount(8) lists in its first column.
            for key, value in {"source": fstype, **options}.items():
                if value is None:
                    _call("fsconfig", context, FSCONFIG_SET_FLAG, os.fsencode(key), None, 0)
                else:
                    encoded = os.fsencode(value)
                    _call("fsconfig", context, FSCONFIG_SET_STRING, os.fsencode(key), encoded, 0)
            _call("fsconfig", context, FSCONFIG_CMD_CREATE, None, None, 0)
            return _call("fsmount", context, FSMOUNT_CLOEXEC, attributes)
        except OSError as error:
            log = _context_log(context)
            raise OSError(error.errno, f"{error.strerror}{log and f' ({log})'}") from None
    finally:
        os.close(context)


def _context_log(context: int) -> str:
    """The messages that a file system left for the reader of its context, fsopen(2)."""
    messages = []
    while True:
        try:
            messages.append(os.read(context, 4096).decode(errors="replace").strip())
        except OSError:
            return "; ".join(messages)


def openat2(directory: int, path: str, flags: int, resolve: int) -> int:
    """Open a path with control over how it is resolved, openat2(2)."""
    packed = struct.pack("=3Q", flags | os.O_CLOEXEC, 0, resolve)
    buffer = ctypes.create_string_buffer(packed, len(packed))
    return _call("openat2", directory, os.fsencode(path), buffer, len(packed))


def set_process_title(title: str) -> None:
    """
    Replace the caller's argument vector, as ps(1) and /proc/PID/cmdline show it, by one word.

    In place, since PR_SET_MM_ARG_START needs CAP_SYS_RESOURCE; a longer title is cut off.
    """
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    start, end = int(fields[45]), int(fields[46])  # arg_start and arg_end, proc_pid_stat(5)
    ctypes.memmove(start, title.encode()[: end - start - 1].ljust(end - start, b"\0"), end - start)


def set_fs_ids(uid: int, gid: int) -> None:
    """Set the ids with which the caller creates and opens files, setfsuid(2); it reports no errors."""
    _libc.setfsgid(ctypes.c_uint(gid))
    _libc.setfsuid(ctypes.c_uint(uid))


def prctl(option: int, *arguments: int) -> int:
    """Operate on the calling process, prctl(2)."""
    padded = (*arguments, 0, 0, 0, 0)[:4]
    return _check(_libc.prctl(ctypes.c_int(option), *map(ctypes.c_ulong, padded)), "prctl")


_CAPABILITY_HEADER = struct.pack("=Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process


def set_capabilities(*, effective: int, permitted: int, inheritable: int) -> None:
    """Set the capability sets (bit masks) of the caller, capset(2)."""
    halves = []
    for shift in (0, 32):
        halves += [(mask >> shift) & 0xFFFFFFFF for mask in (effective, permitted, inheritable)]
    _call("capset", _CAPABILITY_HEADER, struct.pack("=6I", *halves))


#: As many as there are, signal(7).
SIGNALS = range(1, 65)
#: struct sigaction of the kernel: SIG_DFL, no flags, an empty mask.
_DEFAULT_ACTION = bytes(32)


def default_signal(number: int) -> None:
    """Let a signal do what it does by default, rt_sigaction(2): also one that the C library keeps for itself."""
    _call("rt_sigaction", number, _DEFAULT_ACTION, None, len(SIGNALS) // 8)


def join_session_keyring() -> None:
    """Replace the session keyring by a new anonymous one, keyctl(2)."""
    _call("keyctl", KEYCTL_JOIN_SESSION_KEYRING, None)


def set_seccomp_filter(program: bytes) -> None:
    """Let a program (an array of struct sock_filter) decide about every later call of the caller, seccomp(2)."""
    instructions = ctypes.create_string_buffer(program, len(program))
    sock_fprog = struct.pack("@HP", len(program) // 8, ctypes.addressof(instructions))
    _call("seccomp", SECCOMP_SET_MODE_FILTER, 0, sock_fprog)


def landlock_version() -> int:
    """The version of the kernel's Landlock, landlock_create_ruleset(2)."""
    return _call("landlock_create_ruleset", None, 0, LANDLOCK_CREATE_RULESET_VERSION)


def landlock_create_ruleset(*, files: int, scopes: int) -> int:
    """
    A descriptor of rules that allow nothing of this yet, landlock_create_ruleset(2).

    Args:
        files: LANDLOCK_ACCESS_FS_* that it is about.
        scopes: LANDLOCK_SCOPE_*.
    """
    ruleset = struct.pack("=3Q", files, 0, scopes)  # the second is about the network
    # A kernel that knows only the first fields takes the others if they are 0.
    return _call("landlock_create_ruleset", ruleset, len(ruleset), 0)


def landlock_allow_beneath(ruleset: int, directory: int, files: int) -> None:
    """Allow this beneath an open directory, landlock_add_rule(2)."""
    _call("landlock_add_rule", ruleset, LANDLOCK_RULE_PATH_BENEATH, struct.pack("=Qi", files, directory), 0)


def landlock_restrict_self(ruleset: int) -> None:
    """Give the caller these rules, on top of those that it has, landlock_restrict_self(2)."""
    _call("landlock_restrict_self", ruleset, 0)
