"""
What an operator can have done to a running stack, and see of it: the requests of `protocol`, carried out.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import trio

from pysuper.container import Container
from pysuper.errors import ConfigError, PysuperError
from pysuper.stack import reports
from pysuper.stack.instance import Instance
from pysuper.stack.lifecycle import State
from pysuper.stack.postmortem import Because
from pysuper.stack.protocol import Request, encode
from pysuper.stack.spec import StackSpec
from pysuper.stack.stack import Stack

if TYPE_CHECKING:
    from pysuper.stack.control import Client

__all__ = ["Operations"]

_T = TypeVar("_T")


class Operations:
    """Made once for a stack; see `serve_control`."""

    def __init__(self, stack: Stack, load: Callable[[], StackSpec], down: Callable[[Because], None]) -> None:
        self._stack = stack
        self._load = load
        self._take_down = down
        self._gate = _Gate()

    async def perform(self, request: Request, client: Client) -> Any:
        """
        Do what was asked for.

        Cancelled when the client leaves. A change that was begun by then is finished: half of it would help nobody.

        Returns:
            The answer, for JSON.

        Raises:
            PysuperError: It cannot be done.
        """
        return await self._OPERATIONS[request.operation](self, client, **request.arguments)

    # --- to see ---

    async def _ps(self, _client: Client, names: Sequence[str]) -> list[dict[str, Any]]:
        return [reports.status(instance) for instance in self._stack.select(names)]

    async def _stats(self, _client: Client, names: Sequence[str]) -> list[dict[str, Any]]:
        return [reports.usage(instance) for instance in self._stack.select(names)]

    async def _inspect(self, _client: Client, names: Sequence[str]) -> list[dict[str, Any]]:
        return [reports.details(instance) for instance in self._stack.select(names)]

    # --- to change ---

    async def _start(self, client: Client, names: Sequence[str], wait: bool) -> list[dict[str, Any]]:
        async with self._gate.beside_others():
            instances = self._stack.select(names)
            self._stack.start(instances, client.because)
        if wait:
            await self._settled(instances)
        return [reports.status(instance) for instance in instances]

    async def _settled(self, instances: Sequence[Instance]) -> None:
        """Wait until all are as they should be, or one never will."""

        def given_up() -> Instance | None:
            return next((i for i in instances if i.state in {State.FAILED, State.STOPPED}), None)

        await self._stack.until(lambda: given_up() is not None or self._stack.settled(instances))
        if (instance := given_up()) is not None:
            raise PysuperError(_state(instance), remedy=f"`pysuper why {instance.name}` says more")

    async def _stop(self, client: Client, names: Sequence[str]) -> list[dict[str, Any]]:
        return await self._change(names, partial(self._stack.stop, because=client.because))

    async def _restart(self, client: Client, names: Sequence[str]) -> list[dict[str, Any]]:
        return await self._change(names, partial(self._stack.restart, because=client.because))

    async def _change(
        self, names: Sequence[str], change: Callable[[Sequence[Instance]], Awaitable[None]]
    ) -> list[dict[str, Any]]:
        async def changed() -> list[dict[str, Any]]:
            async with self._gate.beside_others():
                instances = self._stack.select(names)
                await change(instances)
            return [reports.status(instance) for instance in instances]

        return await self._finish(changed)

    async def _reload(self, _client: Client) -> dict[str, list[str]]:
        # In a thread, and not yet at the gate: what is called a file may be something that blocks.
        spec = await trio.to_thread.run_sync(self._load, abandon_on_cancel=True)

        async def reloaded() -> dict[str, list[str]]:
            async with self._gate.alone():
                return await self._stack.reload(spec)

        return await self._finish(reloaded)

    async def _finish(self, function: Callable[[], Awaitable[_T]]) -> _T:
        """Run as a task of the stack, which goes on if the client leaves."""
        outcome: list[_T] = []
        error: Exception = PysuperError("the stack ended before this was done")
        done = trio.Event()

        async def run() -> None:
            nonlocal error
            try:
                outcome.append(await function())
            except Exception as raised:
                error = raised
            finally:
                done.set()

        self._stack.spawn(run, "operation")
        await done.wait()
        if not outcome:
            raise error
        return outcome[0]

    async def _down(self, client: Client) -> None:
        self._take_down(client.because)

    # --- containers ---

    async def _pause(self, client: Client, names: Sequence[str]) -> list[dict[str, Any]]:
        running = self._running(names)
        for instance, container in running:
            if not container.paused:
                container.pause()
                self._write("paused", instance, client.because)
        return [reports.status(instance) for instance, _ in running]

    async def _resume(self, client: Client, names: Sequence[str]) -> list[dict[str, Any]]:
        running = self._running(names)
        for instance, container in running:
            if container.paused:
                container.resume()
                self._write("resumed", instance, client.because)
        return [reports.status(instance) for instance, _ in running]

    def _write(self, kind: str, instance: Instance, because: Because) -> None:
        self._stack.journal.write(kind, container=instance.name, run=instance.run, **because.fields())

    def _running(self, names: Sequence[str]) -> list[tuple[Instance, Container]]:
        """Instances that have a container; who asks for all does not mean those that have none."""
        chosen = [(instance, instance.container) for instance in self._stack.select(names)]
        for instance, container in chosen:
            if names and container is None:
                raise PysuperError(_state(instance), remedy=f"`pysuper start {instance.name}` starts it")
        return [(instance, container) for instance, container in chosen if container is not None]

    async def _exec(
        self, client: Client, name: str, terminal: bool, size: Sequence[int] | None, **settings: Any
    ) -> dict[str, int]:
        """Run a command in a container, connected with the client."""
        (_, container), *others = self._running([name])
        if others:
            names = ", ".join(instance.name for instance in self._stack.select([name]))
            raise ConfigError(f"{name} has several instances", remedy=f"name one of {names}")
        if len(client.descriptors) != (0 if terminal else 3):
            raise ConfigError("exec comes with the descriptors 0 to 2, or with a terminal and none")
        stdin, stdout, stderr = client.descriptors or (None, None, None)
        rows_and_columns = None if size is None else (size[0], size[1])
        executed = container.execute(
            terminal=terminal, terminal_size=rows_and_columns, stdin=stdin, stdout=stdout, stderr=stderr, **settings
        )
        async with executed as execution:
            client.close_descriptors()  # or the pipes behind them never end
            client.on_signal = execution.send_signal
            await client.send(encode({"ok": None}), () if execution.terminal is None else (execution.terminal,))
            return {"status": (await execution.wait()).status}

    _OPERATIONS: ClassVar[Mapping[str, Callable[..., Awaitable[Any]]]] = {
        "ps": _ps,
        "stats": _stats,
        "inspect": _inspect,
        "start": _start,
        "stop": _stop,
        "restart": _restart,
        "pause": _pause,
        "resume": _resume,
        "reload": _reload,
        "down": _down,
        "exec": _exec,
    }


def _state(instance: Instance) -> str:
    return f"{instance.name} is {instance.state}" + (f": {instance.detail}" if instance.detail else "")


class _Gate:
    """
    Who may change the stack: starts and stops, side by side; or a reload, alone, since it takes instances away.

    Whoever comes is served in turn: a reload that waits for a stop to end is waited for by the next start.
    """

    def __init__(self) -> None:
        self._entrance = trio.Lock()
        self._inside = 0
        self._left = trio.Event()

    @asynccontextmanager
    async def beside_others(self) -> AsyncIterator[None]:
        async with self._entrance:
            self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1
            self._left.set()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        async with self._entrance:
            while self._inside:
                self._left = trio.Event()
                await self._left.wait()
            yield
