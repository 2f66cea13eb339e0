"""
What each step does: one method per class of `pysuper.steps`, run in the process of the plan.

Everything is done on descriptors. A target is resolved once, beneath the new root (openat2(2), RESOLVE_IN_ROOT),
and what is mounted is attached to the descriptor that came out, so that a container which shares the file system,
and swaps a directory for a symbolic link meanwhile, cannot move a mount elsewhere (CVE-2021-30465, CVE-2025-31133).
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import socket
import stat
import struct
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from pysuper import capabilities, syscalls
from pysuper.launcher import wire

_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1
_TIOCSPTLCK = 0x40045431
_TIOCGPTPEER = 0x5441

#: Their files are for host root alone, test_perm() in fs/proc/proc_sysctl.c; the calls are for who owns the namespace.
_NAMES: dict[str, Callable[[str], None]] = {
    "/proc/sys/kernel/hostname": socket.sethostname,
    "/proc/sys/kernel/domainname": syscalls.set_domain_name,
}

# A symbolic link in a target is an error even where it stays inside: the receipt looks for the mount by its name.
_IN_ROOT = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_SYMLINKS


class StepError(Exception):
    """A step failed for a reason that no errno expresses."""


class Executor:
    """
    Runs the steps of one plan, in order, in the process that becomes the container, or joins it.

    Attributes:
        home, shell: Of the user that `set_user` chose.
    """

    def __init__(
        self,
        status: socket.socket,
        namespaces: dict[str, int],
        owner: tuple[int, int],
    ) -> None:
        """
        Args:
            status: To the supervisor.
            namespaces: Descriptors of those that exist already; each is closed once it is joined.
            owner: Uid and gid of the container's root, as this process must call them while it builds.
        """
        self._status = status
        self._namespaces = namespaces
        self._owner = owner
        self._root: int | None = None
        self._hidden: str | None = None
        self.home = "/"
        self.shell = "/bin/sh"

    def run(self, step: dict[str, Any]) -> None:
        """Run one step, as it came over the wire."""
        fields = {key: value for key, value in step.items() if key != "do"}
        method: Callable[..., None] = getattr(self, step["do"])
        method(**fields)

    # --- session, cgroup, namespaces ---

    def setsid(self) -> None:
        os.setsid()

    def new_session_keyring(self) -> None:
        syscalls.join_session_keyring()

    def join_cgroup(self, path: str) -> None:
        self.write_file(path, "0")

    def join_namespace(self, namespace: str) -> None:
        descriptor = self._namespaces.pop(namespace)
        syscalls.setns(descriptor, syscalls.NAMESPACE_FLAGS[namespace])
        os.close(descriptor)

    def enter_namespace(self, namespace: str, path: str) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        syscalls.setns(descriptor, syscalls.NAMESPACE_FLAGS[namespace])
        os.close(descriptor)

    def unshare(self, namespaces: list[str]) -> None:
        syscalls.unshare(sum(syscalls.NAMESPACE_FLAGS[name] for name in namespaces))

    def fork(self) -> None:
        wait_here, gate = os.pipe()
        pid, pidfd = syscalls.clone3(syscalls.CLONE_PARENT)
        if pid == 0:
            os.close(gate)
            if not os.read(wait_here, 1):
                raise SystemExit  # what forked it was killed, or the supervisor has given up
            os.close(wait_here)
            os.setsid()
            return
        wire.send(self._status, {"forked": pid}, (pidfd,))
        with suppress(BrokenPipeError):
            if wire.receive(self._status)[0] is not None:
                os.write(gate, b"go")
        os._exit(0)

    def become_root(self) -> None:
        os.setgroups([])
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        self._owner = (0, 0)

    def set_hostname(self, hostname: str) -> None:
        socket.sethostname(hostname)
        if (found := socket.gethostname()) != hostname:
            raise StepError(f"the kernel's host name is {found!r} afterwards")

    def set_sysctl(self, name: str, value: str) -> None:
        path = f"/proc/sys/{name if '/' in name else name.replace('.', '/')}"
        if set_name := _NAMES.get(path):
            set_name(value)
        elif name.startswith("net"):
            self.write_file(path, value)
        else:
            # Those of ipc are for the namespace's root, and capabilities do not help: ipc_permissions() in
            # ipc/ipc_sysctl.c.
            before = os.geteuid(), os.getegid()
            os.setegid(self._owner[1])
            os.seteuid(self._owner[0])
            try:
                self.write_file(path, value)
            finally:
                os.seteuid(before[0])
                os.setegid(before[1])
        with open(path) as file:
            found = file.read()
        if found.split() != value.split():
            raise StepError(f"it is {found.strip()!r} afterwards")

    def loopback_up(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
            request = fcntl.ioctl(channel, _SIOCGIFFLAGS, struct.pack("16sh22x", b"lo", 0))
            name, flags = struct.unpack("16sh22x", request)
            fcntl.ioctl(channel, _SIOCSIFFLAGS, struct.pack("16sh22x", name, flags | _IFF_UP))

    # --- mounts ---

    def private_mounts(self) -> None:
        root = os.open("/", os.O_PATH | os.O_CLOEXEC)
        syscalls.mount_setattr(root, propagation=syscalls.MS_SLAVE, recursive=True)
        os.close(root)

    def overlay(self, source: str, target: str, idmap: bool, userxattr: bool, follow: bool) -> None:
        """
        A tmpfs holds the writable layer, and under `lower` the source. It is attached over "/", where it hides
        nothing (paths start at the root below it), and detached when the overlay, which keeps it alive, stands.
        """
        uid, gid = self._owner
        found = _open_source(source, follow=follow)
        lower = self._tree(found, source, idmap=idmap, recursive=False)
        scratch = syscalls.new_mount("tmpfs", {"mode": "0755"}, 0)
        self._attach_over_root(scratch)
        os.fchdir(scratch)
        for name in ("lower", "upper", "work"):
            os.mkdir(name)
        at_lower = os.open("lower", os.O_PATH | os.O_CLOEXEC)
        syscalls.move_mount(lower, at_lower)
        # The writable layer's directory is what the root of the overlay looks like.
        like = os.fstat(found)
        if not userxattr:  # inside a user namespace most owners have no id, and its root owns the layer already
            os.chown("upper", like.st_uid + uid, like.st_gid + gid)
        os.chmod("upper", stat.S_IMODE(like.st_mode))
        options: dict[str, str | None] = {"lowerdir": "lower", "upperdir": "upper", "workdir": "work"}
        if userxattr:
            options["userxattr"] = None
        overlay = syscalls.new_mount("overlay", options, 0)
        syscalls.umount(".", syscalls.MNT_DETACH)
        os.chdir("/")
        for descriptor in (found, lower, at_lower, scratch):
            os.close(descriptor)
        self._attach(overlay, target, directory=True)

    def bind(self, source: str, target: str, flags: list[str], idmap: bool, recursive: bool) -> None:
        found = _open_source(source)
        directory = stat.S_ISDIR(os.fstat(found).st_mode)
        tree = self._tree(found, source, idmap=idmap, recursive=recursive)
        os.close(found)
        syscalls.mount_setattr(tree, attributes=_attributes(flags), recursive=recursive)
        self._attach(tree, target, directory=directory)

    def mount(self, fstype: str, target: str, flags: list[str], options: dict[str, str | None]) -> None:
        self._attach(syscalls.new_mount(fstype, options, _attributes(flags)), target, directory=True)

    def make_directory(self, target: str, mode: int) -> None:
        descriptor = self._resolve_or_create(target, directory=True)
        with self._as_owner():
            os.chmod(".", mode, dir_fd=descriptor)
        os.close(descriptor)

    def mknod(self, target: str, major: int, minor: int, block: bool) -> None:
        parent, name = self._parent(target)
        os.mknod(name, (stat.S_IFBLK if block else stat.S_IFCHR) | 0o666, os.makedev(major, minor), dir_fd=parent)
        os.chmod(name, 0o666, dir_fd=parent)
        os.chown(name, *self._owner, dir_fd=parent)
        os.close(parent)

    def symlink(self, text: str, target: str) -> None:
        parent, name = self._parent(target)
        with self._as_owner():
            os.symlink(text, name, dir_fd=parent)
        os.close(parent)

    def mask_path(self, target: str) -> None:
        try:
            found = self._resolve(target)
        except FileNotFoundError:
            return
        cover = self._empty_directory(target) if stat.S_ISDIR(os.fstat(found).st_mode) else self._clone("/dev/null")
        syscalls.move_mount(cover, found)
        os.close(cover)
        os.close(found)

    def _empty_directory(self, target: str) -> int:
        # One empty file system is over all directories: to the kernel each one is as much as another /proc.
        if self._hidden is not None:
            return self._clone(self._hidden)
        self._hidden = target
        return syscalls.new_mount("tmpfs", {"size": "4k", "mode": "0"}, _attributes(["ro", "nosuid", "nodev"]))

    def _clone(self, target: str) -> int:
        """A clone of the mount at a target that is there."""
        found = self._resolve(target)
        clone = syscalls.open_tree(found, recursive=False)
        os.close(found)
        return clone

    def read_only_path(self, target: str) -> None:
        try:
            found = self._resolve(target)
        except FileNotFoundError:
            return
        tree = syscalls.open_tree(found, recursive=True)
        syscalls.mount_setattr(tree, attributes=_attributes(["ro"]), recursive=True)
        syscalls.move_mount(tree, found)
        os.close(tree)
        os.close(found)

    def root_flags(self, flags: list[str]) -> None:
        syscalls.mount_setattr(self._new_root(), attributes=_attributes(flags))

    def pivot_root(self) -> None:
        os.fchdir(self._new_root())
        # The old root lands on top of the new one, from where it is detached: pivot_root(2), "pivot_root(".", ".")".
        syscalls.pivot_root(".", ".")
        syscalls.umount(".", syscalls.MNT_DETACH)
        self._enter_root()

    def chroot(self) -> None:
        os.fchdir(self._new_root())
        os.chroot(".")
        self._enter_root()

    # --- limits and privileges ---

    def write_file(self, path: str, content: str) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, content.encode())
        finally:
            os.close(descriptor)

    def set_rlimit(self, resource: str, soft: int, hard: int) -> None:
        _set_rlimit(resource, soft, hard)

    def set_umask(self, umask: int) -> None:
        os.umask(umask)

    def bound_capabilities(self, keep: list[str]) -> None:
        syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_CLEAR_ALL)
        kept = capabilities.mask(tuple(keep))
        for number in range(64):
            try:
                if not kept & 1 << number:
                    syscalls.prctl(syscalls.PR_CAPBSET_DROP, number)
            except OSError as error:
                if error.errno == errno.EINVAL:  # past the last capability that this kernel knows
                    return
                raise

    def set_capabilities(self, keep: list[str]) -> None:
        kept = capabilities.mask(tuple(keep)) if os.geteuid() == 0 else 0
        syscalls.set_capabilities(effective=kept, permitted=kept, inheritable=0)

    def set_user(self, user: str | None) -> None:
        account = _Accounts(user or "0")
        self.home, self.shell = account.home, account.shell
        # An unprivileged user namespace denies setgroups; then there are none to drop either, user_namespaces(7).
        if _may_setgroups():
            os.setgroups(account.groups)
        os.setresgid(account.gid, account.gid, account.gid)
        os.setresuid(account.uid, account.uid, account.uid)

    def no_new_privileges(self) -> None:
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)

    def seccomp(self, program: str) -> None:
        syscalls.set_seccomp_filter(bytes.fromhex(program))

    def landlock(self, deny: list[str], scope: list[str]) -> None:
        refer = syscalls.LANDLOCK_ACCESS_FS["refer"]
        denied = sum(syscalls.LANDLOCK_ACCESS_FS[name] for name in deny)
        scopes = sum(syscalls.LANDLOCK_SCOPES[name] for name in scope)
        ruleset = syscalls.landlock_create_ruleset(files=refer | denied, scopes=scopes)
        root = os.open("/", os.O_PATH | os.O_CLOEXEC)
        # Any rules about files refuse to move them between directories, unless that is allowed.
        syscalls.landlock_allow_beneath(ruleset, root, refer)
        syscalls.landlock_restrict_self(ruleset)
        os.close(root)
        os.close(ruleset)
        try:
            # Of nothing: whoever may mount, as this process still may, is told EINVAL.
            syscalls.mount("", "/", syscalls.MS_BIND)
        except OSError as error:
            if error.errno == errno.EPERM:
                return
        raise StepError("the kernel lets it change mounts afterwards")

    # --- the rest ---

    def open_terminal(self, rows: int, columns: int) -> None:
        master = os.open("/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
        # By descriptor, not by name: /dev/pts/N could have been mounted over, ioctl_tty(2).
        slave = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        termios.tcsetwinsize(slave, (rows, columns))
        wire.send(self._status, {"opened": "terminal"}, (master,))
        os.close(master)
        for standard in (0, 1, 2):
            os.dup2(slave, standard)
        os.close(slave)

    def open_socket(self, family: int, kind: int) -> None:
        with socket.socket(family, kind) as opened:
            wire.send(self._status, {"opened": "socket"}, (opened.fileno(),))

    def barrier(self, name: str) -> dict[int, int]:
        """Wait; what came with the answer: descriptors, by the numbers that the command shall have for them."""
        wire.send(self._status, {"barrier": name})
        answer, descriptors = wire.receive(self._status)
        if answer is None:
            raise SystemExit  # the supervisor has given up, or is gone
        return dict(zip(answer.get("files", ()), descriptors, strict=False))

    def syscall(self, number: int, arguments: list[int | str], purpose: str) -> None:
        syscalls.syscall(number, tuple(arguments))

    # --- paths beneath the new root ---

    def _new_root(self) -> int:
        if self._root is None:
            raise StepError('no step has mounted the new root at "/"')
        return self._root

    def _enter_root(self) -> None:
        os.chdir("/")
        os.close(self._new_root())
        self._root = os.open("/", os.O_PATH | os.O_CLOEXEC)

    def _resolve(self, target: str) -> int:
        try:
            return syscalls.openat2(self._new_root(), target, os.O_PATH, _IN_ROOT)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise StepError(f"{target} is or leads through a symbolic link in the container") from error
            raise

    def _parent(self, target: str) -> tuple[int, str]:
        parent, name = os.path.split(os.path.normpath(target))
        return self._resolve_or_create(parent, directory=True), name

    def _resolve_or_create(self, target: str, *, directory: bool) -> int:
        try:
            found = self._resolve(target)
        except FileNotFoundError:
            parent, name = self._parent(target)
            with self._as_owner():
                if directory:
                    os.mkdir(name, 0o755, dir_fd=parent)
                else:
                    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
                    os.close(os.open(name, flags, 0o644, dir_fd=parent))
            os.close(parent)
            found = self._resolve(target)
        if stat.S_ISDIR(os.fstat(found).st_mode) != directory:
            raise StepError(f"{target} exists in the container and is {'no' if directory else 'a'} directory")
        return found

    def _tree(self, found: int, source: str, *, idmap: bool, recursive: bool) -> int:
        tree = syscalls.open_tree(found, recursive=recursive)
        if idmap:
            try:
                syscalls.mount_setattr(tree, userns=self._namespaces["user"], recursive=recursive)
            except OSError as error:
                raise OSError(
                    error.errno,
                    f"{error.strerror}: the file system of {source} (or one mounted below it) cannot show its files "
                    "with mapped ids; --share user does without them",
                ) from None
        return tree

    def _attach(self, mount: int, target: str, *, directory: bool) -> None:
        if self._root is None:
            if target != "/":
                raise StepError('no step has mounted the new root at "/"')
            self._attach_over_root(mount)
            self._root = mount
            return
        at = self._resolve_or_create(target, directory=directory)
        syscalls.move_mount(mount, at)
        os.close(at)
        os.close(mount)

    @staticmethod
    def _attach_over_root(mount: int) -> None:
        """Stack a mount on "/": our own root stays the one below, so nothing is hidden and no directory is needed."""
        root = os.open("/", os.O_PATH | os.O_CLOEXEC)
        syscalls.move_mount(mount, root)
        os.close(root)

    @contextmanager
    def _as_owner(self) -> Iterator[None]:
        """Create files as the container's root; on a mount with mapped ids host root itself has no id at all."""
        syscalls.set_fs_ids(*self._owner)
        try:
            yield
        finally:
            syscalls.set_fs_ids(os.geteuid(), os.getegid())


def _open_source(source: str, *, follow: bool = False) -> int:
    """
    What is to be mounted, of the host. Links in its path were for who named it to follow, before anything ran.

    Another container may write to the directory that it is in, and files that it makes there belong to host root, as
    the ids of its mounts are mapped: so nobody can tell whose link one is (CVE-2017-1002101, CVE-2021-25741).
    """
    try:
        return syscalls.openat2(syscalls.AT_FDCWD, source, os.O_PATH, 0 if follow else syscalls.RESOLVE_NO_SYMLINKS)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise StepError(f"{source} is or leads through a symbolic link: name what it leads to") from error
        raise


def _set_rlimit(name: str, soft: int, hard: int) -> None:
    number = getattr(resource, f"RLIMIT_{name.upper()}")
    try:
        resource.setrlimit(number, (soft, hard))
    except ValueError as error:  # which is what Python makes of EPERM and EINVAL
        raise StepError(str(error)) from error
    if resource.getrlimit(number) != (soft, hard):
        raise StepError(f"the limit of {name} reads back as {resource.getrlimit(number)}")


def _attributes(flags: list[str]) -> int:
    return sum(syscalls.MOUNT_ATTRS[flag] for flag in flags)


def _may_setgroups() -> bool:
    with open("/proc/self/setgroups") as file:
        return file.read().strip() == "allow"


class _Accounts:
    """
    A user of the container, from its own /etc/passwd and /etc/group, passwd(5), group(5).

    Read by hand: the C library's look-ups would load modules from the container's root file system.
    """

    def __init__(self, user: str) -> None:
        name, _, group = user.partition(":")
        entry = self._find("/etc/passwd", name, 7)
        if entry is None and not name.isdecimal():
            raise StepError(f"/etc/passwd of the container has no user {name!r}")
        self.uid = int(entry[2]) if entry else int(name)
        self.gid = int(entry[3]) if entry else 0
        self.home = (entry and entry[5]) or "/"
        self.shell = (entry and entry[6]) or "/bin/sh"
        if group:
            line = self._find("/etc/group", group, 4)
            if line is None and not group.isdecimal():
                raise StepError(f"/etc/group of the container has no group {group!r}")
            self.gid = int(line[2]) if line else int(group)
        login = entry[0] if entry else None
        member = [] if login in (None, "root") else self._lines("/etc/group", 4)
        self.groups = [int(line[2]) for line in member if login in line[3].split(",")]

    @classmethod
    def _find(cls, path: str, key: str, fields: int) -> list[str] | None:
        column = 2 if key.isdecimal() else 0
        return next((line for line in cls._lines(path, fields) if line[column] == key), None)

    @staticmethod
    def _lines(path: str, fields: int) -> list[list[str]]:
        try:
            # The container's image made this file; it may be a FIFO, or endless.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError:
            return []
        try:
            regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
            text = os.read(descriptor, 1 << 20).decode(errors="surrogateescape") if regular else ""
        finally:
            os.close(descriptor)
        split = (line.split(":") for line in text.splitlines())
        return [line for line in split if len(line) == fields and line[2].isdecimal()]
