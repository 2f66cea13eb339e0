"""
System calls that a container has no use for, each made in a process of its own, and what came of it.

Run in a container, as `python3 -c TEXT NUMBERS`, where the numbers of the calls are a JSON object. What comes of a
probe is the kernel's errno, 0 for success, or `killed by SIGNAL`. Arguments are such that the kernel itself has no
error for them, or another one than the filter: pointers that lead nowhere, unknown flags, what anybody may do.
"""

import ctypes
import json
import mmap
import os
import sys

NOWHERE = ctypes.c_void_p(-4096)
SIGCHLD = 17
NEW_USER = 0x10000000
SESSION = -3  # KEY_SPEC_SESSION_KEYRING
HIGH = 1 << 32

numbers = json.loads(sys.argv[1]) if __name__ == "__main__" else {}
libc = ctypes.CDLL(None, use_errno=True)


def call(name, *arguments):
    """The errno of a call; 0 if it succeeds."""
    converted = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = libc.syscall(ctypes.c_long(numbers[name]), *converted)
    if name == "clone" and result == 0:
        os._exit(0)
    return ctypes.get_errno() if result == -1 else 0


def getpid_of_i386():
    """What 32-bit programs do: `mov $20, %eax; int $0x80; ret`, put where it can be executed."""
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(bytes.fromhex("b814000000 cd80 c3"))
    function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    return 0 if function() > 0 else 38


PROBES = {
    "mount": lambda: call("mount", None, NOWHERE, b"tmpfs", 0, None),
    "umount2": lambda: call("umount2", b"/", 0xFFFF),
    "open_tree": lambda: call("open_tree", -1, b"/", 0x7FFFFFFF),
    "mount_setattr": lambda: call("mount_setattr", -1, b"/", 0x7FFFFFFF, None, 0),
    "fsconfig": lambda: call("fsconfig", -1, 0, None, None, 0),
    "chroot": lambda: call("chroot", NOWHERE),
    "unshare of a user namespace": lambda: call("unshare", NEW_USER),
    "unshare of a network namespace": lambda: call("unshare", 0x40000000 | NEW_USER),
    "clone into a user namespace": lambda: call("clone", NEW_USER | SIGCHLD, 0, 0, 0, 0),
    "clone3": lambda: call("clone3", None, 0),
    "setns": lambda: call("setns", -1, 0),
    "keyctl": lambda: call("keyctl", 0, SESSION, 0),
    "add_key": lambda: call("add_key", b"user", b"name", b"key", 3, SESSION),
    "request_key": lambda: call("request_key", NOWHERE, NOWHERE, None, 0),
    "bpf": lambda: call("bpf", 0, NOWHERE, 1 << 20),
    "io_uring_setup": lambda: call("io_uring_setup", 1, NOWHERE),
    "userfaultfd": lambda: call("userfaultfd", 1),
    "perf_event_open": lambda: call("perf_event_open", NOWHERE, 0, -1, -1, 0x7FFF),
    "swapon": lambda: call("swapon", NOWHERE, 0x7FFFFFFF),
    "settimeofday": lambda: call("settimeofday", NOWHERE, None),
    "clock_settime": lambda: call("clock_settime", 99, NOWHERE),
    "quotactl": lambda: call("quotactl", 0xFFFF, None, 0, None),
    "fanotify_init": lambda: call("fanotify_init", 0x200, 0),
    "get_mempolicy": lambda: call("get_mempolicy", None, None, 0, None, 0),
    "process_vm_readv": lambda: call("process_vm_readv", os.getpid(), None, 0, None, 0, 0),
    "pidfd_getfd": lambda: call("pidfd_getfd", -1, 0, 0),
    "kcmp": lambda: call("kcmp", os.getpid(), os.getpid(), 0, 0, 0),
    "lookup_dcookie": lambda: call("lookup_dcookie", 0, None, 0),
    "nfsservctl": lambda: call("nfsservctl", 0, None, None),
    "personality without randomization": lambda: call("personality", 0x0040000),
    "socket of AF_ALG": lambda: call("socket", 38, 5, 0),
    "socket of AF_VSOCK": lambda: call("socket", 40, 1, 0),
    "socket of AF_VSOCK, with more bits": lambda: call("socket", 40 | HIGH, 1, 0),
    "socket of AF_CAN": lambda: call("socket", 29, 3, 1),
    "ioctl TIOCSTI": lambda: call("ioctl", os.open("/dev/null", os.O_RDWR), 0x5412, b"x"),
    "ioctl TIOCSTI, with more bits": lambda: call("ioctl", os.open("/dev/null", os.O_RDWR), 0x5412 | HIGH, b"x"),
    "ioctl TIOCLINUX": lambda: call("ioctl", os.open("/dev/null", os.O_RDWR), 0x541C, b"x"),
}
if os.uname().machine == "x86_64":
    PROBES |= {
        "modify_ldt": lambda: call("modify_ldt", 0, None, 0),
        "iopl": lambda: call("iopl", 0),
        "int 0x80": getpid_of_i386,
    }


def probe(function):
    """What comes of a function, in a process of its own."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writing, str(function()).encode())
        os._exit(0)
    os.close(writing)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with open(reading) as result:
        return f"killed by {-status}" if status < 0 else int(result.read() or -1)


if __name__ == "__main__":
    print(json.dumps({name: probe(function) for name, function in PROBES.items()}))
