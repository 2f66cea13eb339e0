"""
The supervisor's side of a launcher process: talks to it, and replaces it when it dies.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import struct
from abc import abstractmethod
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from resource import struct_rusage
from typing import Any

import trio

from pysuper.drivers import Launched, Launcher, Trace
from pysuper.errors import LaunchError, describe_errno
from pysuper.launcher import wire
from pysuper.plan import Plan

#: A launcher that dies this often in a row, without having launched anything, will not be of use.
_MAX_DEATHS = 5
#: The number of the control socket in a launcher: above those that a command may have, so that nothing has to make way.
CONTROL = 10
#: Bytes for the descriptors and the credentials of one message.
_ANCILLARY = socket.CMSG_SPACE(4 * wire.MAX_DESCRIPTORS) + socket.CMSG_SPACE(12)


class ProcessLauncher(Launcher):
    """
    A launcher that is a process of its own: all but what program that is, and how it is told of a plan.

    What it tells the supervisor is the same for all: `pysuper.launcher.wire`.
    """

    def __init__(self) -> None:
        self._control: socket.socket | None = None
        # Only one task may wait for a descriptor, and there are many that write to this one.
        self._waits_for_room = trio.Lock()
        self._ready = trio.Event()
        self._deaths = 0
        self._closed = False
        # What a new launcher has to be told when the old one dies.
        self._traces: set[Trace] = set()
        self._pidfds: set[int] = set()

    @trio.lowlevel.enable_ki_protection
    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep one launcher process running until cancelled."""
        try:
            while self._deaths < _MAX_DEATHS:
                await self._serve_once(task_status)
                task_status = trio.TASK_STATUS_IGNORED
                self._deaths += 1
            raise LaunchError(f"the launcher process died {self._deaths} times in a row")
        finally:
            self._closed = True
            self._ready.set()  # nobody is to wait for another one

    async def _serve_once(self, task_status: trio.TaskStatus[None]) -> None:
        """The life of one launcher process."""
        self._control, theirs = _channel()
        try:
            with theirs:
                pid = self._spawn(theirs.fileno())
        except BaseException:
            self._control.close()
            raise
        pidfd = os.pidfd_open(pid)
        try:
            with trio.CancelScope(shield=True):
                await self._hand_over()
            self._ready.set()
            task_status.started()
            await trio.lowlevel.wait_readable(pidfd)
        finally:
            self._not_ready()
            _close(self._control)
            with trio.CancelScope(shield=True):
                await reap(pid, pidfd)  # which ends when its control socket closes, and it has cleaned up
            os.close(pidfd)

    @asynccontextmanager
    async def launch(
        self, plan: Plan, files: Mapping[int, int], namespaces: Mapping[str, int]
    ) -> AsyncIterator[Launched]:
        """See `Launcher.launch`."""
        launched = await self._launch(plan, files, namespaces)
        self._pidfds.add(launched.pidfd)
        try:
            yield launched
        finally:
            self._pidfds.remove(launched.pidfd)
            _close(launched.status)
            trio.lowlevel.notify_closing(launched.pidfd)
            os.close(launched.pidfd)

    async def _launch(self, plan: Plan, files: Mapping[int, int], namespaces: Mapping[str, int]) -> Launched:
        """Repeat until a launcher has lived long enough to clone."""
        for _ in range(_MAX_DEATHS):
            ready = self._ready
            await ready.wait()
            if self._closed:
                raise LaunchError("the supervisor has ended, and its launcher process")
            if launched := await self._try_launch(plan, files, namespaces):
                self._deaths = 0
                return launched
            if ready is self._ready:  # and not of a new launcher already
                self._not_ready()
        raise LaunchError("the launcher process died while it was asked to start a container")

    async def remember(self, *traces: Trace) -> None:
        """See `Launcher.remember`."""
        self._traces.update(traces)
        await self._keep_books("remember", traces)

    async def forget(self, *traces: Trace) -> None:
        """See `Launcher.forget`."""
        self._traces.difference_update(traces)
        await self._keep_books("forget", traces)

    @abstractmethod
    def _spawn(self, control: int) -> int:
        """
        Start a launcher process, whose control socket is to be `control`; its pid.

        Raises:
            LaunchError: It cannot be started.
        """

    @abstractmethod
    def _encode(self, message: dict[str, Any]) -> bytes:
        """A message other than `launch`, as it takes them."""

    @abstractmethod
    def _encode_plan(self, plan: Plan, files: Sequence[int], namespaces: Sequence[str]) -> tuple[bytes, bytes | None]:
        """
        The message `launch`, and the content of the file that goes with it, if any.

        Args:
            plan: To run.
            files: What numbers descriptors have there that go with it.
            namespaces: Of what kind the namespaces are that go with it.
        """

    def _not_ready(self) -> None:
        # Never replaced while somebody may wait for it.
        if self._ready.is_set():
            self._ready = trio.Event()

    async def _notify(self, message: dict[str, Any], *descriptors: int) -> None:
        # A launcher that is dead needs no news: the next one gets all of it in `_hand_over`.
        with contextlib.suppress(OSError, trio.ClosedResourceError):
            await self._send(self._encode(message), descriptors)

    async def _hand_over(self) -> None:
        for pidfd in list(self._pidfds):
            await self._notify({"adopt": True}, pidfd)
        await self._keep_books("remember", list(self._traces))

    async def _keep_books(self, verb: str, traces: Sequence[Trace]) -> None:
        """Tell the launcher of traces, in as few packets as hold them."""
        message = {verb: [(trace.kind, trace.path) for trace in traces]}
        if len(traces) > 1 and len(self._encode(message)) > wire.MAX_PACKET:
            half = len(traces) // 2
            await self._keep_books(verb, traces[:half])
            await self._keep_books(verb, traces[half:])
        elif traces:
            await self._notify(message)

    async def _send(self, packet: bytes, descriptors: tuple[int, ...]) -> None:
        control = self._control
        while control is not None and control.fileno() != -1:
            if _sent(control, packet, descriptors):
                return
            async with self._waits_for_room:
                if control.fileno() != -1:
                    await trio.lowlevel.wait_writable(control)
        raise BrokenPipeError

    async def _try_launch(self, plan: Plan, files: Mapping[int, int], namespaces: Mapping[str, int]) -> Launched | None:
        """One attempt; None if the launcher died before it had cloned."""
        packet, content = self._encode_plan(plan, list(files), list(namespaces))
        given = (*files.values(), *namespaces.values())
        with _file_of(content) as plan_file:
            status, theirs = _channel()
            try:
                with theirs:
                    # Names the sender of a message by its pid, should the launcher die before it could.
                    status.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
                    await self._send(packet, (*plan_file, theirs.fileno(), *given))
                with trio.CancelScope(shield=True):
                    # A clone under way cannot be called back, only waited for; then it can be killed.
                    launched = await _first_message(status, plan)
            except (BrokenPipeError, ConnectionResetError, trio.ClosedResourceError):
                launched = None
            except BaseException:
                status.close()
                raise
        if launched is None:
            status.close()
        return launched


@contextlib.contextmanager
def _file_of(content: bytes | None) -> Iterator[tuple[int, ...]]:
    """The descriptor of a file in memory, if there is a content."""
    if content is None:
        yield ()
        return
    with open(os.memfd_create("plan", os.MFD_CLOEXEC), "wb", buffering=0) as file:
        file.write(content)
        file.seek(0)
        yield (file.fileno(),)


def spawn(program: str, arguments: list[str], environment: Mapping[str, str], control: int) -> int:
    """Execute a launcher with `control` as its descriptor `CONTROL`, and nothing of ours but the standard error."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    actions = [(os.POSIX_SPAWN_DUP2, null, 0), (os.POSIX_SPAWN_DUP2, null, 1), (os.POSIX_SPAWN_DUP2, control, CONTROL)]
    try:
        # Its own session: a Ctrl-C at the terminal is for the supervisor. No environment: it would be inherited.
        return os.posix_spawn(program, arguments, environment, file_actions=actions, setsid=True)
    finally:
        os.close(null)


async def reap(pid: int, pidfd: int) -> tuple[int, struct_rusage]:
    """Wait for a child process to end, and reap it; its status, and what it has used, as of wait4(2)."""
    # The number of a child is nobody else's before the child is reaped.
    ended, status, usage = os.wait4(pid, os.WNOHANG)  # noqa: ASYNC222 - it does not block
    if not ended:
        await trio.lowlevel.wait_readable(pidfd)
    while not ended:
        ended, status, usage = os.wait4(pid, os.WNOHANG)  # noqa: ASYNC222
        if not ended:  # a traced process is its tracer's to reap first, ptrace(2)
            await trio.sleep(0.001)
    return status, usage


# A socket of trio's lets all other tasks run whenever it has been used. There are a dozen messages to a container, and
# each would be a turn of the loop: here only those who have to wait do.


def _channel() -> tuple[socket.socket, socket.socket]:
    """A pair of connected sockets: ours, which does not block, and theirs."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    return ours, theirs


def _close(channel: socket.socket) -> None:
    """Close ours; who waits for it has a ClosedResourceError."""
    if channel.fileno() != -1:
        trio.lowlevel.notify_closing(channel)
        channel.close()


async def send(channel: socket.socket, packet: bytes, descriptors: tuple[int, ...] = ()) -> None:
    """Send one packet, with descriptors; waits only if there is no room for it."""
    while not _sent(channel, packet, descriptors):
        await trio.lowlevel.wait_writable(channel)


def _sent(channel: socket.socket, packet: bytes, descriptors: tuple[int, ...]) -> bool:
    """Whether there was room for a packet."""
    rights = struct.pack(f"={len(descriptors)}i", *descriptors)
    try:
        channel.sendmsg([packet], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if descriptors else [])
    except BlockingIOError:
        return False
    return True


async def receive(status: socket.socket) -> tuple[dict[str, Any] | None, list[int], int]:
    """
    One message of a status socket: the message (None at end of file), its descriptors, the sender's pid.

    Waits only if there is none.
    """
    while True:
        try:
            packet, ancillary, _, _ = status.recvmsg(wire.MAX_PACKET, _ANCILLARY, socket.MSG_CMSG_CLOEXEC)
            break
        except BlockingIOError:
            await trio.lowlevel.wait_readable(status)
    descriptors, sender = [], 0
    for level, kind, data in ancillary:
        descriptors += wire.descriptors_of((level, kind, data))
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            (sender,) = struct.unpack_from("=i", data)
    return wire.decode(packet), descriptors, sender


async def _first_message(status: socket.socket, plan: Plan) -> Launched | None:
    message, descriptors, sender = await receive(status)
    if message is None:
        return None
    if "failed" in message:
        if "child" in message:
            await _end_child(message["child"])
        raise launch_error(message["failed"], plan)
    if "pid" in message and not descriptors:  # there was no room for one
        await _end_child(message["pid"])
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    if "pid" in message:
        heard, held, cloned = message["times"]
        return Launched(message["pid"], descriptors[0], status, (heard, held, cloned))
    # The launcher died between clone and report, and this comes from the container: end it, and start another one.
    for descriptor in descriptors:
        os.close(descriptor)
    await _end_child(sender)
    return None


async def _end_child(pid: int) -> None:
    """Kill and reap a child for which there is no pidfd."""
    os.kill(pid, signal.SIGKILL)
    await trio.to_thread.run_sync(os.waitpid, pid, 0)


def launch_error(failed: dict[str, Any], plan: Plan) -> LaunchError:
    """The error of a `failed` message that did not come from the execution of the command."""
    number, step = failed["errno"], failed["step"]
    if isinstance(step, int):
        failing = plan.steps[step]
        text = failing.describe()
        message = f"could not {text}: {_reason(failed)}; see {failing.man}"
        return LaunchError(message, step=text, errno=number, remedy=failing.remedy or _remedy(number))
    texts = {
        "launcher": f"start the command of {plan.name}",
        "holder": "make the namespaces",
        "clone": f"fork in {plan.name}",
        "id maps": "write the id maps",
    }
    text = texts.get(step, str(step))
    return LaunchError(f"could not {text}: {_reason(failed)}", step=text, errno=number, remedy=_remedy(number))


def _remedy(number: int | None) -> str | None:
    return "is pids_max reached?" if number == errno.EAGAIN else None


def _reason(failed: dict[str, Any]) -> str:
    number = failed["errno"]
    if number is None:
        return str(failed["message"])
    name = describe_errno(number).partition(" ")[0]
    return f"{name} ({failed['message']})"
