"""
One container in the foreground: what a terminal, a script and systemd expect of a command.

A signal that ends programs is passed on to the command as it is; then `stop_timeout` runs before
everything in the container is killed. A second SIGINT kills at once. If there is no command soon to
pass it on to, a signal cancels the start; when it has ended, the wait for a reader of its output.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Sequence
from functools import partial

import attrs
import trio

from pysuper.container import Container
from pysuper.errors import PysuperError
from pysuper.record import ExitRecord
from pysuper.screen import user_size
from pysuper.spec import ContainerSpec, DriverChoice
from pysuper.supervisor import open_supervisor
from pysuper.terminal import Pipes, relay_terminal
from pysuper.tracing import Traced

__all__ = ["heeded", "run"]

_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
_PASSED_ON = (signal.SIGUSR1, signal.SIGUSR2)
#: Seconds for the reader of the last output, once the user wants it to end.
_HURRY = 1.0
#: Seconds for a start under way to become a command that a signal can be passed on to.
_START_GRACE = 0.3


def heeded(*numbers: signal.Signals) -> list[signal.Signals]:
    """Those for a receiver: what the parent has set to be ignored stays so, as by nohup(1), and `&` in a script."""
    # It wants one at least; SIGURG is ignored by default, and never sent by hand.
    return [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN] or [signal.SIGURG]


async def run(
    spec: ContainerSpec,
    hooks: Sequence[DriverChoice],
    *,
    warn: Callable[[str], None],
    report: Callable[[ExitRecord], None],
    trace: Callable[[Traced], None] | None = None,
) -> int:
    """
    Run a container to its end, connected with the descriptors 0 to 2.

    Args:
        spec: What to run.
        hooks: Who is told of it.
        warn: Called with each line that the user should see.
        report: Called with what became of it, also if it did not start.
        trace: See `Supervisor.start`.

    Returns:
        The exit status, as a shell says it.

    Raises:
        PysuperError: Alone, or in exception groups.
    """
    with trio.open_signal_receiver(*heeded(*_ENDING, *_PASSED_ON)) as signals:
        async with trio.open_nursery() as nursery:
            # Told before the command runs, which may ask for it at once.
            foreground = _Foreground(attrs.evolve(spec, terminal_size=user_size()), hooks, trace, nursery)

            async def heed() -> None:
                async for number in signals:
                    foreground.deliver(number)

            nursery.start_soon(heed)
            try:
                record = await foreground.run(warn)
            except PysuperError as error:
                if foreground.container is None:
                    report(ExitRecord.start_failed(spec, error))
                raise
            nursery.cancel_scope.cancel()
    report(record)
    return record.status


class _Foreground:
    """
    The state of `run`.

    Attributes:
        container: Once it has started.
    """

    def __init__(
        self,
        spec: ContainerSpec,
        hooks: Sequence[DriverChoice],
        trace: Callable[[Traced], None] | None,
        nursery: trio.Nursery,
    ) -> None:
        self.container: Container | None = None
        self._spec = spec
        self._hooks = hooks
        self._trace = trace
        self._nursery = nursery
        self._early: list[int] = []
        self._wanted_end: int | None = None
        self._record: ExitRecord | None = None
        self._before_end = trio.CancelScope()
        self._after_end = trio.CancelScope()

    async def run(self, warn: Callable[[str], None]) -> ExitRecord:
        """Start, relay, wait, drain."""
        with self._before_end:
            async with open_supervisor(hooks=self._hooks, warn=warn) as supervisor:
                with Pipes(() if self._spec.terminal else (0, 1, 2)) as pipes:
                    stdin, stdout, stderr = pipes.given or (0, 1, 2)  # with a terminal of its own it gets neither
                    self.container = container = await supervisor.start(
                        self._spec, stdin=stdin, stdout=stdout, stderr=stderr, trace=self._trace
                    )
                    self._before_end.deadline = math.inf
                    for number in self._early:
                        self.deliver(number)
                    for line in container.warnings:
                        warn(line)
                    hang_up = partial(self.deliver, signal.SIGHUP)
                    if container.terminal is None:
                        relayed = pipes.relay()
                    else:
                        relayed = relay_terminal(container.terminal, hang_up)
                    async with relayed as relay:
                        self._record = await container.wait()
                        if self._wanted_end is not None:
                            self._after_end.deadline = trio.current_time() + _HURRY
                        with self._after_end:
                            await relay.drain()
        if self._record is None:
            return ExitRecord(
                name=self._spec.name,
                argv=self._spec.command,
                signal=next(number for number in self._early if number in _ENDING),
                reason="stopped",
            )
        return self._record

    def deliver(self, number: int) -> None:
        """Act on a signal that pysuper was sent."""
        if self._record is not None:
            self._after_end.cancel()
        elif self.container is None:
            self._early.append(number)
            if number in _ENDING:
                # Not at once: the command may run already, and we be about to hear of it.
                grace = trio.current_time() + _START_GRACE
                self._before_end.deadline = min(grace, self._before_end.deadline)
        elif number in _PASSED_ON:
            self.container.send_signal(number)
        elif self._wanted_end is None:
            self._wanted_end = number
            self._nursery.start_soon(partial(self.container.stop, stop_signal=number))
        elif number == signal.SIGINT:
            self.container.kill()
        else:
            self.container.send_signal(number)
