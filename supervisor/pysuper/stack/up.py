"""
The supervisor process of a stack, from its lock to its exit status.

It ends when nothing is left to happen, when it is told to (a signal, `pysuper down`), or when a container ends whose
end is to end the rest. Then everything is stopped in order; a second SIGINT kills it.
"""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import attrs
import trio

from pysuper.errors import PysuperError
from pysuper.foreground import heeded
from pysuper.stack.console import Console
from pysuper.stack.control import serve_control
from pysuper.stack.instance import Instance
from pysuper.stack.lifecycle import DOWN, State
from pysuper.stack.postmortem import Because
from pysuper.stack.project import Project
from pysuper.stack.spec import Kind, StackSpec
from pysuper.stack.stack import Stack, open_stack

__all__ = ["Ending", "Report", "supervise"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: Seconds between two lines about what a long start waits for.
_PROGRESS = 5.0


@attrs.frozen(kw_only=True)
class Ending:
    """
    When a stack ends by itself, and with which exit status.

    Attributes:
        on_exit: When any container ends that is no task done, or for good.
        status_of: When this one ends, and with its status.
    """

    on_exit: bool = False
    status_of: str | None = None


@attrs.frozen(kw_only=True)
class Report:
    """
    Whom `up` tells about the start.

    Attributes:
        begun: Called once: the control socket answers, and containers are being started.
        settled: Called once: everything is ready, healthy and completed that has to be, or (with words) will not be.
        progress: Called now and then before that, with what is waited for.
    """

    begun: Callable[[], None]
    settled: Callable[[str | None], None]
    progress: Callable[[str], None]


async def supervise(
    load: Callable[[], StackSpec], project: Project, *, ending: Ending, report: Report, console: Console | None
) -> int:
    """
    Run a stack to its end.

    Args:
        load: Reads the file; called again for `pysuper reload`.
        console: Shows the journal, or None.

    Returns:
        The exit status: of a signal 128 and its number; of `pysuper down` 0; otherwise the status of `ending`'s
        container, or of the first that failed, or 0.

    Raises:
        ConfigError: The file is wrong.
        AlreadyRunning: There is a supervisor for this project.
    """
    _raise_descriptor_limit()
    spec = load()
    with project.lock():
        async with AsyncExitStack() as scope:
            signals = scope.enter_context(trio.open_signal_receiver(*heeded(*_SIGNALS)))
            stack = await scope.enter_async_context(open_stack(spec, project))
            nursery = await scope.enter_async_context(trio.open_nursery())
            if console is not None:
                await nursery.start(console.show, stack.journal, list(stack.instances))
            up = _Up(stack, ending, report)
            await nursery.start(serve_control, stack, project, load, up.down)
            stack.journal.write("up", pid=os.getpid(), file=spec.path)
            nursery.start_soon(up.heed, signals)
            nursery.start_soon(up.watch_start)
            stack.begin()
            report.begun()
            status = await up.run()
            stack.journal.write("down", status=status)
            nursery.cancel_scope.cancel()
    return status


def _raise_descriptor_limit() -> None:
    """Let this process have as many descriptors as it may: a container takes six. Containers have their own limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class _Up:
    """What ends a stack, and how."""

    def __init__(self, stack: Stack, ending: Ending, report: Report) -> None:
        self._stack = stack
        self._ending = ending
        self._report = report
        self._told_to_end = trio.Event()
        self._status: int | None = None
        self._because = Because(by="stack")

    async def run(self) -> int:
        """Wait for the end, and stop everything in order."""
        stack = self._stack
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch_end)
            await self._told_to_end.wait()
            nursery.cancel_scope.cancel()
        await stack.stop(list(stack.instances.values()), self._because)
        assert self._status is not None
        return self._status

    async def _watch_end(self) -> None:
        await self._stack.until(lambda: self._stack.over or self._last() is not None)
        last = self._last()
        if last is not None:
            self._because = Because(by="stack", container=last.name, run=last.run)
            self._end(_status(last))
        else:
            failed = self._stack.first_failure
            self._end(0 if failed is None else _status(failed))

    def _last(self) -> Instance | None:
        """The instance whose end ends the stack, if there is one by now."""
        ended = [i for i in self._stack.instances.values() if i.run and i.state in DOWN and i.because.by != "operator"]
        if self._ending.status_of is not None:
            return next((i for i in ended if self._ending.status_of in (i.name, i.member.name)), None)
        if self._ending.on_exit:
            done = (i for i in ended if not (i.state is State.COMPLETED and i.member.kind is Kind.TASK))
            return next(done, None)
        return None

    def down(self, because: Because) -> None:
        """`pysuper down`."""
        self._because = because
        self._end(0)

    def _end(self, status: int) -> None:
        if self._status is None:
            self._status = status
            self._stack.ending = True
            self._told_to_end.set()

    async def heed(self, signals: AsyncIterator[int]) -> None:
        """Act on the signals that this process is sent."""
        async for number in signals:
            if self._told_to_end.is_set() and number == signal.SIGINT:
                self._stack.kill()
            self._end(128 + number)

    async def watch_start(self) -> None:
        """Report when everything has started, and what is waited for until then."""
        stack = self._stack
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._report_progress)
            await stack.until(lambda: stack.settled(stack.instances.values()) or stack.first_failure is not None)
            nursery.cancel_scope.cancel()
        failed = stack.first_failure
        self._report.settled(None if failed is None else f"{failed.name} failed: {failed.detail}")

    async def _report_progress(self) -> None:
        while True:
            await trio.sleep(_PROGRESS)
            self._report.progress("; ".join(_unsettled(self._stack)))


def _unsettled(stack: Stack) -> list[str]:
    """What is waited for, a few words each."""
    words = {State.WAITING: "waits for", State.BACKOFF: "restarts:", State.READY: "is running"}
    return [
        f"{instance.name} {words.get(instance.state, f'is {instance.state}')} {instance.detail}".rstrip()
        for instance in stack.instances.values()
        if instance.state not in DOWN and not stack.settled([instance])
    ]


def _status(instance: Instance) -> int:
    """The exit status of its last run; 125 if there was none."""
    return PysuperError.exit_code if instance.record is None else instance.record.status
