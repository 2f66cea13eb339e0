"""
The process of a plan: from the clone to the command, and as PID 1 behind it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import termios
import time
from collections.abc import Iterable
from typing import Any, NamedTuple, NoReturn

from pysuper import syscalls
from pysuper.launcher import wire
from pysuper.launcher.execute import Executor, StepError
from pysuper.launcher.idmaps import write_id_maps

#: Which signals the init passes on to the command.
_FORWARDED = frozenset(signal.Signals) - {
    signal.SIGKILL,
    signal.SIGSTOP,
    signal.SIGCHLD,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGTSTP,
}
#: Above all numbers that a command may have.
_ASIDE = 10


class _Failed(Exception):
    """A step failed: what the supervisor is told."""

    def __init__(self, step: int | str, error: OSError | StepError) -> None:
        super().__init__(step)
        number = error.errno if isinstance(error, OSError) else None
        message = (error.strerror if isinstance(error, OSError) else None) or str(error)
        self.message = {"failed": {"step": step, "errno": number, "message": message}}


def run_plan(
    plan: dict[str, Any],
    status: socket.socket,
    files: dict[int, int],
    namespaces: dict[str, int],
    owner: tuple[int, int],
) -> NoReturn:
    """
    Run a plan in this process, and never return.

    Args:
        plan: As `Plan.to_json` writes it.
        status: To the supervisor.
        files: What becomes the command's descriptors, by their numbers there; these and all others are above those.
        namespaces: Descriptors of the namespaces that exist already.
        owner: Uid and gid of the container's root, as this process must call them before it enters its user
            namespace.
    """
    try:
        _arrange_descriptors(files, [status.fileno(), *namespaces.values()])
        if plan["ids"]:
            _become_owner(plan["ids"])
        executor = Executor(status, namespaces, owner)
        began = time.monotonic()
        steps = [step for phase in plan["phases"].values() for step in phase]
        for index, step in enumerate(steps):
            before = time.monotonic()
            try:
                executor.run(step)
            except (OSError, StepError) as error:
                raise _Failed(index, error) from error
            if plan["trace"]:
                now = time.monotonic()
                wire.tell(status, {"done": index, "after": now - began, "seconds": now - before})
            # As it was, whatever new credentials make of that: proc_sys_fs(5), suid_dumpable.
            syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1 if plan["ids"] else 0)
        if plan["command"] is None:
            executor.barrier("ready")
            os._exit(0)
        _run_command(plan["command"], executor, status, files)
    except _Failed as failure:
        wire.tell(status, failure.message)
    except OSError as error:
        wire.tell(status, _Failed("launcher", error).message)
    except SystemExit:
        pass
    except BaseException as error:
        unexpected = {"step": "launcher", "errno": None, "message": f"{type(error).__name__}: {error}"}
        wire.tell(status, {"failed": unexpected})
    os._exit(125)


def _become_owner(ids: dict[str, Any]) -> None:
    """
    Be root of the user namespace that this process was born in, by mapping its ids, unless others do that for it.

    From here on it is dumpable, which the launcher never is: the files in /proc of a process that is not belong to host
    root, proc(5), while it is an ordinary user who writes these, and takes the receipts. In a pid namespace of its own
    nothing of the container is there yet that could look into it.
    """
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
    if not ids["helped"]:
        try:
            write_id_maps("self", ids)
        except OSError as error:
            raise _Failed("id maps", error) from error


def _arrange_descriptors(files: dict[int, int], keep: list[int]) -> None:
    """Close everything that this process was not told to have: one directory too many is a way out."""
    for number, given in files.items():
        os.dup2(given, number)
    start = 3
    for descriptor in sorted({*files, *keep} - {0, 1, 2}):
        os.closerange(start, descriptor)
        start = descriptor + 1
    os.closerange(start, 1 << 20)


def _run_command(command: dict[str, Any], executor: Executor, status: socket.socket, files: Iterable[int]) -> NoReturn:
    """
    Do all that can be done before the command may run, wait for that, and run it.

    An init is there when the supervisor looks, and its child is the process that waits: behind the barrier there is
    hardly more than execve(2).
    """
    environment: dict[str, str] = {"HOME": executor.home} | command["environment"]
    argv: list[str] = command["argv"] or [executor.shell]
    init = _fork_behind_init(status, files) if command["init"] else None
    # An ignored signal stays ignored across execve(2), as 32 and 33 are in whatever glibc's posix_spawn(3) has started.
    for number in set(syscalls.SIGNALS) - {signal.SIGKILL, signal.SIGSTOP}:
        syscalls.default_signal(number)
    try:
        given = executor.barrier("ready")
        if init is not None:
            os.write(init.out, b"go")
            os.read(init.in_, 1)
        _take_over(given)
        _execute(command, argv, environment)
    except OSError as error:
        failure = _Failed("execute", error)
    if init is None:
        raise failure
    os.write(init.out, wire.encode(failure.message))  # with whose end this process ends, too
    os._exit(125)


def _take_over(given: dict[int, int]) -> None:
    """Replace descriptors; those that came may have any numbers, also those that are to be replaced."""
    aside = {number: fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _ASIDE) for number, descriptor in given.items()}
    for descriptor in given.values():
        os.close(descriptor)
    for number, descriptor in aside.items():
        os.dup2(descriptor, number)


class _Init(NamedTuple):
    """
    The pipes to the init, which is asked whether the command may be executed.

    Pipes, since a system call filter is in force already, and has to allow whatever is called here.
    """

    in_: int
    out: int


def _fork_behind_init(status: socket.socket, files: Iterable[int]) -> _Init:
    """
    Become PID 1, and go on in a child of it.

    The init passes signals on to the command, reaps every orphan, and ends when the command ends. The kernel then kills
    whatever else is in the pid namespace, pid_namespaces(7).
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
    if os.getpid() != 1:  # in a shared pid namespace orphans come here only if this process asks for them
        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    asked, ask = os.pipe()
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(asked)
        os.close(tell)
        os.setsid()
        return _Init(told, ask)
    os.close(ask)
    os.close(told)
    for number in files:  # the command alone keeps pipes and terminal open
        os.close(number)
    syscalls.set_process_title("pysuper-init")
    if os.read(asked, 2) != b"go":  # it was killed, or the supervisor has given up
        os._exit(125)
    # Not dumpable, so that no process of the container can open /proc/1/exe or /proc/1/fd (CVE-2019-5736). Not before
    # the receipts were taken, which ordinary users could not do then.
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    os.write(tell, b"!")
    if failure := os.read(asked, wire.MAX_PACKET):  # otherwise it is the end of file: execve has closed the other end
        status.send(failure)
        os._exit(125)
    os.close(asked)
    os.close(tell)
    wire.tell(status, {"started": True})
    while True:
        received = signal.sigwait(set(signal.Signals))
        if received == signal.SIGCHLD:
            ended = _reap_all(child)
            if ended is not None:
                wire.tell(status, {"exited": ended})
                os._exit(os.waitstatus_to_exitcode(ended) & 0x7F)
        elif received in _FORWARDED:
            os.kill(child, received)


def _reap_all(child: int) -> int | None:
    """Reap every zombie; the wait status of `child` if it is among them."""
    ended = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        if pid == child:
            ended = status


def _execute(command: dict[str, Any], argv: list[str], environment: dict[str, str]) -> NoReturn:
    """Execute the command: in its directory, with its terminal, with no signal blocked."""
    try:
        os.chdir(command["working_dir"])
    except OSError as error:
        raise OSError(error.errno, f"working directory {command['working_dir']}: {error.strerror}") from None
    if command["terminal"]:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    _search_and_execute(argv, environment)


def _search_and_execute(argv: list[str], environment: dict[str, str]) -> NoReturn:
    """execvpe(3), but a file that exists and cannot be executed is not reported as missing."""
    if "/" in argv[0]:
        candidates = [argv[0]]
    else:
        candidates = [f"{d or '.'}/{argv[0]}" for d in environment.get("PATH", "").split(":")]
    refused: OSError | None = None
    for candidate in candidates:
        try:
            os.execve(candidate, argv, environment)
        except (FileNotFoundError, NotADirectoryError) as error:
            if os.path.lexists(candidate):
                refused = refused or OSError(errno.ENOEXEC, f"{candidate}: its interpreter is missing")
            elif "/" in argv[0]:
                raise OSError(error.errno, f"{candidate}: {error.strerror}") from None
        except OSError as error:
            refused = refused or OSError(error.errno, f"{candidate}: {_why(candidate, error)}")
    raise refused or OSError(errno.ENOENT, f"{argv[0]}: not found in {environment.get('PATH', '')}")


def _why(path: str, error: OSError) -> str:
    if error.errno == errno.ENOEXEC:
        return "not a program of this machine's architecture, and no script with a #! line"
    if os.path.isdir(path):
        return "is a directory"
    return error.strerror or str(error)
