"""
Programs that containers run for the rules of cgroups, in Python; each says a line when it is where it should be.
"""

from __future__ import annotations

__all__ = ["ESCAPE", "FAMILY", "HARE", "SPIN", "USE"]

#: Keeps three children, and says who they are; the pid namespace is the host's.
FAMILY = """
import os, time
children = [os.getpid()]
for _ in range(3):
    pid = os.fork()
    if pid == 0:
        time.sleep(1000)
    children.append(pid)
print(*children, flush=True)
time.sleep(1000)
"""

#: A process that forks and goes on as its child, two hundred times a second, for ten seconds: whoever reads pids and
#: signals them comes too late. The first one stays, and takes in the dead, PR_SET_CHILD_SUBREAPER(2const).
HARE = """
import ctypes, os, signal, time
ctypes.CDLL(None).prctl(36, 1)
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
end = time.monotonic() + 10
if os.fork() == 0:
    print("runs", flush=True)
    while time.monotonic() < end:
        time.sleep(0.005)
        if os.fork():
            os._exit(0)
    os._exit(0)
time.sleep(1000)
"""

#: Uses 0.3 s of CPU and 32 MiB, and keeps the memory.
USE = """
import time
kept = b"x" * (32 << 20)
while time.process_time() < 0.3:
    pass
print("used", flush=True)
time.sleep(1000)
"""

SPIN = """
print("spins", flush=True)
while True:
    pass
"""

#: Tries to write "no limit" into every file of every hierarchy that it can mount, as root of a user namespace of its
#: own, cgroup_namespaces(7).
ESCAPE = """
import ctypes, os
libc = ctypes.CDLL(None)
def write_everywhere(top):
    for directory, _, files in os.walk(top):
        for name in files:
            for text in (b"max", b"-1"):
                try:
                    with open(f"{directory}/{name}", "wb", buffering=0) as file:
                        file.write(text)
                except OSError:
                    pass
write_everywhere("/sys/fs/cgroup")
libc.unshare(0x10000000 | 0x00020000 | 0x02000000)  # CLONE_NEWUSER, CLONE_NEWNS, CLONE_NEWCGROUP
lines = [line.split(":") for line in open("/proc/self/cgroup")]
for _, controllers, _ in lines:
    for fstype, options in ((b"cgroup", controllers.encode()), (b"cgroup2", b"")):
        if libc.mount(b"none", b"/tmp", fstype, 0, options) == 0:
            write_everywhere("/tmp")
            libc.umount2(b"/tmp", 2)
print("tried", flush=True)
import time
time.sleep(1000)
"""
