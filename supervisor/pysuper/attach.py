"""
Connects the user with a command that somebody else runs: what `terminal` does for a supervisor, for a short client.

One loop on poll(2), without trio. The user's descriptors stay in blocking mode, since others share them; they are
written only when poll says so, and then no more than fits into a pipe for certain (PIPE_BUF of pipe(7)).
"""

from __future__ import annotations

import io
import math
import os
import select
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Protocol

from pysuper.screen import BACKLOG, PATIENCE, copy_size, end_of_file_key, find_screen, in_background, raw_mode

__all__ = ["Command", "Signals", "attach_pipes", "attach_terminal"]

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_OTHERS = (signal.SIGUSR1, signal.SIGUSR2)
#: Seconds for a start under way to become a command that a signal can be passed on to.
_START_GRACE = 0.3
#: Seconds until a client in the background looks whether it is in the foreground again.
_BACKGROUND_PAUSE = 0.2
#: Seconds between the first two end-of-file keys; see `_Typing`.
_FIRST_DELAY = 0.1


class Command(Protocol):
    """What the user is connected with."""

    def fileno(self) -> int:
        """Readable when it has ended."""

    def wait(self) -> int:
        """Its exit status, as a shell says it."""

    def send_signal(self, number: int) -> None:
        """Pass on a signal; nothing happens if it has ended."""


class Signals:
    """
    Catches what is for the command, from before it runs; a context manager.

    What the parent has set to be ignored stays ignored, as nohup(1) wants it.
    """

    def __init__(self) -> None:
        self._early: list[int] = []
        self._heed: Callable[[int], None] = self._remember
        self._resize: Callable[[], None] = _nothing
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        for number in (*_ENDING, *_OTHERS, signal.SIGWINCH, signal.SIGALRM):
            if signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def deliver(self, heed: Callable[[int], None], resize: Callable[[], None]) -> None:
        """The command runs: from now on, this is called with each signal, and the other when the window changes."""
        signal.setitimer(signal.ITIMER_REAL, 0)
        self._heed, self._resize = heed, resize
        resize()
        for number in self._early:
            heed(number)

    def _handle(self, number: int, _frame: object) -> None:
        if number == signal.SIGWINCH:
            self._resize()
        elif number == signal.SIGALRM:
            raise SystemExit(128 + next(early for early in self._early if early in _ENDING))
        else:
            self._heed(number)

    def _remember(self, number: int) -> None:
        self._early.append(number)
        if number in _ENDING:
            # Not at once: the command may run already, and we be about to hear of it.
            signal.setitimer(signal.ITIMER_REAL, _START_GRACE)


def attach_terminal(command: Command, signals: Signals, master: int, stdio: Sequence[int] = (0, 1, 2)) -> int:
    """
    Connect the user with the pseudo-terminal of a command, until that has ended and the user has all of its output.

    Args:
        signals: Entered before the command was started.
        master: Of the pseudo-terminal; nobody else uses it.
        stdio: The user's descriptors.

    Returns:
        The exit status of the command.
    """
    stdin, stdout, _ = stdio
    os.set_blocking(master, False)
    screen = find_screen(stdio)

    def resize() -> None:
        if screen is not None:
            copy_size(screen, master)

    def hang_up() -> None:
        command.send_signal(signal.SIGHUP)

    loop = _Loop(command, [_Typing(stdin, master, _nothing)], [_Output(master, stdout, hang_up)])
    with raw_mode(stdin):
        signals.deliver(loop.heed, resize)
        return loop.run()


def attach_pipes(command: Command, signals: Signals, ours: Mapping[int, int], stdio: Sequence[int] = (0, 1, 2)) -> int:
    """
    The same for a command that has pipes in place of terminals.

    Args:
        ours: Our ends by their index in `stdio`, as `make_pipes` has made them; closed by this.
    """
    inputs: list[_Flow] = []
    outputs: list[_Output] = []
    with ExitStack() as stack:
        for index, end in ours.items():
            # The command finds out that the user's side has gone, or has ended, when the pipe is closed.
            file = stack.enter_context(io.FileIO(end, "w" if index == 0 else "r"))
            if index == 0:
                os.set_blocking(end, False)
                inputs.append(_Pouring(stdio[index], end, file.close))
            else:
                outputs.append(_Output(end, stdio[index], file.close))
        loop = _Loop(command, inputs, outputs)
        signals.deliver(loop.heed, _nothing)
        return loop.run()


def _nothing() -> None:
    """What has to be done where there is nothing to do."""


class _Flow:
    """
    Copies one way, from one descriptor to another.

    Attributes:
        timer: When `tick` is to be called, on the monotonic clock.
    """

    def __init__(self, source: int, sink: int, lost: Callable[[], None]) -> None:
        """`lost` is called when nobody reads the sink any more."""
        self.timer = math.inf
        self._source = source
        self._sink = sink
        self._lost = lost
        self._pending = b""
        self._open = True

    @property
    def busy(self) -> bool:
        """Whether there is, or may be, something to copy."""
        return self._open or bool(self._pending)

    def awaited(self) -> tuple[int, int] | None:
        """The descriptor that it waits for, and the events of poll(2)."""
        if self._pending:
            return self._sink, select.POLLOUT
        return (self._source, select.POLLIN) if self._open else None

    def proceed(self) -> None:
        """What was waited for has come."""
        if self._pending:
            self._write()
        else:
            self._read()

    def tick(self, now: float) -> None:
        """The timer has run out."""
        self.timer = math.inf

    def _read(self) -> None:
        try:
            self._pending = os.read(self._source, select.PIPE_BUF)
        except BlockingIOError:  # somebody else was faster
            return
        except OSError:  # EIO: a terminal that has hung up, or a pseudo-terminal that no process has open
            self._pending = b""
        if not self._pending:
            self._open = False
            self._ended()

    def _write(self) -> None:
        try:
            written = os.write(self._sink, self._pending)
        except BlockingIOError:
            return
        except OSError:
            self._open = False
            self._pending = b""
            self._lost()
        else:
            self._pending = self._pending[written:]

    def _ended(self) -> None:
        """The source has ended."""


class _Input(_Flow):
    """What the user types, or has in a file."""

    def awaited(self) -> tuple[int, int] | None:
        """Nothing in the background: what is typed is not for us."""
        if self._open and not self._pending and in_background(self._source):
            self.timer = time.monotonic() + _BACKGROUND_PAUSE
            return None
        return super().awaited()


class _Pouring(_Input):
    """Into a pipe, which is closed at the end."""

    def _ended(self) -> None:
        self._lost()


class _Typing(_Input):
    """
    Into a pseudo-terminal.

    That has no end of file, only a key that says so to whoever reads at this moment, and that ends just the line when
    there is one. So it is typed again, until the command has ended.
    """

    def __init__(self, source: int, sink: int, lost: Callable[[], None]) -> None:
        super().__init__(source, sink, lost)
        self._delay = _FIRST_DELAY

    def _ended(self) -> None:
        if not os.isatty(self._source):  # else it has hung up, and SIGHUP tells the command
            self.timer = time.monotonic()

    def tick(self, now: float) -> None:
        """Time for the key, if the input has ended."""
        super().tick(now)
        if not self._open and not self._pending:
            self._pending = end_of_file_key(self._sink)
            self.timer = now + self._delay
            self._delay *= 2


class _Output(_Flow):
    """What the command writes."""

    def __init__(self, source: int, sink: int, lost: Callable[[], None]) -> None:
        super().__init__(source, sink, lost)
        self._backlog = math.inf

    def expect_end(self) -> None:
        """The command has ended: take what is left."""
        self._backlog = BACKLOG
        self.timer = time.monotonic() + PATIENCE

    def tick(self, now: float) -> None:
        """Nothing came for long enough, unless it was the reader who took so long."""
        super().tick(now)
        self._open = self._open and bool(self._pending)

    def _read(self) -> None:
        super()._read()
        self._backlog -= len(self._pending)
        if self._backlog <= 0:
            self._open = False

    def _write(self) -> None:
        super()._write()
        if self._backlog < math.inf:
            self.timer = time.monotonic() + PATIENCE


class _Enough(Exception):
    """The command has ended, and the user does not wait for the reader of its output."""


class _Loop:
    """All flows of one command."""

    def __init__(self, command: Command, inputs: Sequence[_Flow], outputs: Sequence[_Output]) -> None:
        self._command = command
        self._inputs = inputs
        self._outputs = outputs
        self._status: int | None = None

    def heed(self, number: int) -> None:
        """A signal has come, perhaps in the middle of a write."""
        if self._status is None:
            self._command.send_signal(number)
        elif self._unread():
            raise _Enough

    def run(self) -> int:
        """Copy until the command has ended and its output is through; its status."""
        try:
            while self._status is None or self._unread():
                self._turn()
        except _Enough:
            self._outputs = ()
        assert self._status is not None
        return self._status

    def _unread(self) -> bool:
        return any(output.busy for output in self._outputs)

    def _turn(self) -> None:
        """Wait for something, and act on it."""
        flows = [*self._inputs, *self._outputs] if self._status is None else list(self._outputs)
        awaited = {flow: place for flow in flows if (place := flow.awaited()) is not None}
        poll = select.poll()
        masks: dict[int, int] = {}
        for descriptor, events in awaited.values():
            masks[descriptor] = masks.get(descriptor, 0) | events
        if self._status is None:
            masks[self._command.fileno()] = select.POLLIN
        for descriptor, mask in masks.items():
            poll.register(descriptor, mask)
        ready = dict(poll.poll(_milliseconds(min((flow.timer for flow in flows), default=math.inf))))
        self._act(awaited, ready, flows)

    def _act(self, awaited: Mapping[_Flow, tuple[int, int]], ready: Mapping[int, int], flows: Sequence[_Flow]) -> None:
        for flow, (descriptor, events) in awaited.items():
            if ready.get(descriptor, 0) & (events | select.POLLHUP | select.POLLERR | select.POLLNVAL):
                flow.proceed()
        now = time.monotonic()
        for flow in flows:
            if flow.timer <= now:
                flow.tick(now)
        if self._status is None and self._command.fileno() in ready:
            self._status = self._command.wait()
            for output in self._outputs:
                output.expect_end()


def _milliseconds(when: float) -> float | None:
    """For poll(2): rounded up, so that it does not wake up too early, and at once again."""
    return None if when == math.inf else max(0, math.ceil((when - time.monotonic()) * 1000))
