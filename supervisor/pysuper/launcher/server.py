"""
The launcher process: clones containers on request, and cleans up after a supervisor that died.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import os
import select
import signal
import socket
import stat
import sys
import time
from typing import Any, BinaryIO

from pysuper import syscalls
from pysuper.launcher import child, wire
from pysuper.launcher.idmaps import write_file, write_id_maps

#: Seconds that the clean-up after a dead supervisor may take.
_CLEANUP_BOUND = 5.0


def main(control_descriptor: int) -> None:
    """Serve requests until the supervisor closes its end of the control socket, or dies."""
    os.umask(0o022)  # what is made for a container is not for the caller's umask to hide from its users
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.closerange(3, control_descriptor)
    os.closerange(control_descriptor + 1, 1 << 20)
    # Where a command may want descriptors of its own, none of ours will come to be.
    for number in range(3, control_descriptor):
        os.dup2(0, number, inheritable=False)
    _seal()
    control = socket.socket(fileno=control_descriptor)
    launcher = _Launcher()
    poll = select.poll()
    poll.register(control, select.POLLIN)
    while True:
        for descriptor, _ in poll.poll():
            if descriptor != control.fileno():
                poll.unregister(descriptor)
                launcher.forget_container(descriptor)
                continue
            message, descriptors = wire.receive(control)
            if message is None:
                launcher.clean_up()
                return
            pidfd = None
            if "launch" in message:
                pidfd = launcher.launch(message["launch"], descriptors)
            elif "adopt" in message:
                pidfd = launcher.adopt(descriptors[0])
            else:
                launcher.keep_books(message)
            if pidfd is not None:
                poll.register(pidfd, select.POLLIN)


def _seal() -> None:
    """
    Nothing can be imported from here on, read from our memory, or sent to us by a terminal.

    A lazy import in a child would search the container's file system, and run what it finds as host root.
    """
    sys.path.clear()
    sys.path_hooks.clear()
    sys.meta_path.clear()
    sys.path_importer_cache.clear()
    syscalls.set_process_title("pysuper-launcher")
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The collector would touch, and so copy, every page that a child shares with us.
    gc.disable()
    gc.freeze()


class _Launcher:
    """What is running, and what would be left behind: enough to clean up without the supervisor."""

    def __init__(self) -> None:
        self._pidfds: set[int] = set()
        self._traces: set[tuple[str, str]] = set()

    def keep_books(self, message: dict[str, Any]) -> None:
        """Note, or strike out, what `clean_up` would have to remove."""
        # A launcher that took over may be told twice, or be told to forget what the one before it knew.
        if "remember" in message:
            self._traces.update(map(tuple, message["remember"]))
        else:
            self._traces.difference_update(map(tuple, message["forget"]))

    def adopt(self, pidfd: int) -> int:
        """A container of a launcher that died."""
        self._pidfds.add(pidfd)
        return pidfd

    def forget_container(self, pidfd: int) -> None:
        """The process behind the pidfd has ended."""
        self._pidfds.remove(pidfd)
        os.close(pidfd)

    def launch(self, given: dict[str, Any], descriptors: list[int]) -> int | None:
        """Clone the process of a plan; its pidfd, or None if that failed (the supervisor is told)."""
        plan_file, status_descriptor, *rest = descriptors
        status = socket.socket(fileno=status_descriptor)
        held: dict[str, int] = {}
        pidfd: int | None = None
        step = "clone"
        unknown: int | None = None  # a child that the supervisor has not been told of
        times = [time.monotonic()]
        try:
            with open(plan_file, "rb") as file:
                plan: dict[str, Any] = json.load(file)
            if len(rest) < len(given["files"]) + len(given["namespaces"]):  # there was no room for all
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            files = dict(zip(given["files"], rest, strict=False))
            namespaces = dict(zip(given["namespaces"], rest[len(files) :], strict=True))
            if plan["holder"]:
                step = "holder"
                held = _hold_namespaces(plan["holder"])
            times.append(time.monotonic())
            step = "clone"
            unknown, pidfd, gate = _clone(plan, status, files, namespaces | held)
            times.append(time.monotonic())
            with gate:
                self._pidfds.add(pidfd)
                # From here on the supervisor can end the process, so whatever fails now is only to be told.
                wire.send(status, {"pid": unknown, "times": times}, (pidfd,))
                unknown = None
                with contextlib.suppress(BrokenPipeError):  # it was killed meanwhile, as its end will tell
                    gate.write(b"go")
                return pidfd
        except OSError as error:
            failed = {"step": step, "errno": error.errno, "message": error.strerror or str(error)}
            wire.tell(status, {"failed": failed} if unknown is None else {"failed": failed, "child": unknown})
            return pidfd
        finally:
            status.close()
            for descriptor in (*rest, *held.values()):
                os.close(descriptor)

    def clean_up(self) -> None:
        """The supervisor is gone: kill its containers and remove what it had made on the host."""
        for pidfd in self._pidfds:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        deadline = time.monotonic() + _CLEANUP_BOUND
        left = self._traces
        while left and time.monotonic() < deadline:
            left = {trace for trace in left if not _remove(*trace)}
            time.sleep(0.002 if left else 0)


def _hold_namespaces(holder: dict[str, Any]) -> dict[str, int]:
    """Make namespaces, owned by a new user namespace with these id maps; descriptors by name."""
    flags = sum(syscalls.NAMESPACE_FLAGS[name] for name in holder["namespaces"])
    wait_here, gate = os.pipe()
    pid, pidfd = syscalls.clone3(flags)
    if pid == 0:
        os.close(gate)
        os.read(wait_here, 1)  # end of file: it was killed before, or the launcher is gone
        os._exit(0)
    try:
        write_id_maps(pid, holder["ids"])
        return {name: os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in holder["namespaces"]}
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        for descriptor in (pidfd, wait_here, gate):
            os.close(descriptor)


def _clone(
    plan: dict[str, Any], status: socket.socket, files: dict[int, int], namespaces: dict[str, int]
) -> tuple[int, int, BinaryIO]:
    """
    Clone the process of a plan, as a child of the supervisor.

    Returns:
        Its pid, its pidfd, and a gate at which it waits: a byte lets it run, end of file lets it exit.
    """
    flags = syscalls.CLONE_PARENT
    flags |= sum(syscalls.NAMESPACE_FLAGS[name] for name in plan["clone"])
    cgroup = os.open(plan["cgroup"], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) if plan["cgroup"] else None
    wait_here, gate = os.pipe()
    try:
        pid, pidfd = syscalls.clone3(flags, cgroup=cgroup)
        if pid == 0:
            os.close(gate)
            if not os.read(wait_here, 1):
                # The launcher has died; who sends this is told by the kernel, if it was not before.
                wire.tell(status, {"orphaned": True})
                if wire.receive(status)[0] is None:
                    os._exit(125)
            child.run_plan(plan, status, files, namespaces, _owner(plan))
    except OSError:
        os.close(gate)
        raise
    finally:
        os.close(wait_here)
        if cgroup is not None:
            os.close(cgroup)
    return pid, pidfd, open(gate, "wb", buffering=0)


def _owner(plan: dict[str, Any]) -> tuple[int, int]:
    """The container's root, as its first process must call it while it still is host root."""
    if not plan["holder"]:
        return 0, 0
    ids = plan["holder"]["ids"]
    return ids["uids"][0][1], ids["gids"][0][1]


def _remove(kind: str, path: str) -> bool:
    """Remove a trace of a dead supervisor; whether it is gone."""
    try:
        if kind == "cgroup":
            _kill_cgroup(path)
            os.rmdir(path)
        else:
            _remove_tree(path)
    except FileNotFoundError:
        pass
    except OSError:
        return False
    return True


def _kill_cgroup(path: str) -> None:
    if os.path.exists(f"{path}/cgroup.kill"):
        write_file(f"{path}/cgroup.kill", "1")
        return
    with open(f"{path}/cgroup.procs") as file:
        pids = [int(line) for line in file]
    for pid in pids:
        if pid > 0:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    if os.path.exists(f"{path}/freezer.state"):  # a frozen v1 cgroup holds SIGKILL back
        write_file(f"{path}/freezer.state", "THAWED")


def _remove_tree(path: str) -> None:
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        os.unlink(path)
        return
    if os.geteuid() != 0:
        os.chmod(path, 0o700)  # whose mode may forbid its owner to remove what is in it
    for name in os.listdir(path):
        _remove_tree(f"{path}/{name}")
    os.rmdir(path)
