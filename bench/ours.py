"""
pysuper's Python API, in a process of its own: so that it can be weighed, and has loaded nothing but what it needs.

It takes requests from its standard input, a line of JSON each, and answers each with another.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from itertools import repeat
from pathlib import Path
from types import TracebackType
from typing import Any

import trio

import pysuper
from bench.measure import Announced
from pysuper.pool import Pool

__all__ = ["Ours"]

#: In the pool of a batch.
_SPARES = 4


class Ours:
    """The benchmark's side: a context, in which `ask` sends a request to the process."""

    def __init__(self, root: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.ours", str(root)],
            cwd=Path(__file__).parent.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid

    def __enter__(self) -> Ours:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._process:  # closes its standard input, at which it ends, and waits
            pass

    def ask(self, request: str, **arguments: Any) -> Any:
        """
        Have it call one of the methods of `_Serving`.

        Raises:
            RuntimeError: It has ended; what it died of is on standard error.
        """
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps([request, arguments]) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"pysuper's API failed at {request} {arguments}")
        return json.loads(answer)


class _Serving:
    """The process's side."""

    def __init__(self, root: str, stack: AsyncExitStack) -> None:
        self._root = root
        self._stack = stack
        self._supervisor: pysuper.Supervisor | None = None
        self._pools: dict[tuple[tuple[str, ...], bool], Pool] = {}
        self._sleeping: list[pysuper.Container] = []
        self._keeps_sleeping = -1

    def _spec(self, command: tuple[str, ...], init: bool = True) -> pysuper.ContainerSpec:
        rootfs = pysuper.DriverChoice("dir", argument=self._root)
        return pysuper.ContainerSpec(name="bench", command=command, rootfs=rootfs, init=init)

    async def batch(self, count: int, jobs: int, init: bool, pool: bool) -> dict[str, float]:
        """
        Containers, so many at once, of a command that ends at once; from a pool, which is made for that, and closed.

        Returns:
            Seconds from the first start until the last has been cleaned up, and of CPU, the launcher's start included.
        """
        before = _cpu()
        async with pysuper.open_supervisor() as supervisor:
            spec = self._spec(("/bin/true",), init)
            began = time.monotonic()
            async with AsyncExitStack() as stack:
                start: Callable[[], Awaitable[pysuper.Container]] = partial(supervisor.start, spec)
                if pool:
                    start = (await stack.enter_async_context(supervisor.pool(spec, size=_SPARES))).start
                await _at_once(jobs, count, partial(_to_the_end, start))
            wall = time.monotonic() - began
        return {"wall": wall, "cpu": _cpu() - before}

    async def plain(self, count: int, jobs: int) -> dict[str, float]:
        """Processes of a command that ends at once, so many at once, as trio starts them; the same figures."""
        before, began = _cpu(), time.monotonic()
        await _at_once(jobs, count, partial(trio.run_process, ["/bin/true"]))
        wall = time.monotonic() - began
        return {"wall": wall, "cpu": _cpu() - before}

    async def once(self, count: int, init: bool, warm: bool = False) -> dict[str, list[float]]:
        """
        Containers, one after the other; spares that were made before, if they are to be warm.

        Returns:
            For each, in seconds: `total` from the call of `start` until `wait` has returned, for /bin/true; `first`
            from that call to the first instruction of another command; `exit` and `notice` from its last one until its
            exit is known, and until `wait` has returned, when everything is cleaned up.
        """
        times: dict[str, list[float]] = {"total": [], "first": [], "exit": [], "notice": []}
        spec = self._spec(("/bin/stamp", "last"), init)
        whole = self._spec(("/bin/true",), init)
        for _ in range(count):
            start = await self._starter(whole, warm)
            began = time.monotonic_ns()
            await _end_of(await start())
            times["total"].append((time.monotonic_ns() - began) / 1e9)
            start = await self._starter(spec, warm)
            out, into = os.pipe2(os.O_CLOEXEC)
            began = time.monotonic_ns()
            container = await start(stdout=into)
            os.close(into)
            # There is no public event of this: to its users a container ends when it is cleaned up.
            await container._process.ended.wait()
            exited = time.monotonic_ns()
            await container.wait()
            known = time.monotonic_ns()
            said = dict(line.split() for line in os.read(out, 4096).decode().splitlines())
            os.close(out)
            for name, span in {
                "first": int(said["first"]) - began,
                "exit": exited - int(said["last"]),
                "notice": known - int(said["last"]),
            }.items():
                times[name].append(span / 1e9)
        return times

    async def _starter(self, spec: pysuper.ContainerSpec, warm: bool) -> Callable[..., Awaitable[pysuper.Container]]:
        """What starts a container; if it is to be warm, once there is a spare."""
        supervisor = await self._open()
        if not warm:
            return partial(supervisor.start, spec)
        key = spec.command, spec.init
        if key not in self._pools:
            self._pools[key] = await self._stack.enter_async_context(supervisor.pool(spec, size=1))
        pool = self._pools[key]
        while pool.ready < pool.size:
            await trio.sleep(0.005)
        await trio.sleep(0.005)  # until what has made it is at rest
        return pool.start

    async def ready(self) -> None:
        """Have a supervisor that has started one container."""
        await _to_the_end(partial((await self._open()).start, self._spec(("/bin/true",))))

    async def up(self, size: int, jobs: int, init: bool) -> float:
        """Have so many containers sleep; seconds until all do."""
        supervisor = await self._open()
        sleeps, self._keeps_sleeping = os.pipe2(os.O_CLOEXEC)
        out, into = os.pipe2(os.O_CLOEXEC)
        spec = self._spec(("/bin/stamp", "sleep"), init)

        async def start() -> None:
            self._sleeping.append(await supervisor.start(spec, stdin=sleeps, stdout=into))

        began = time.monotonic()
        await _at_once(jobs, size, start)
        os.close(into)
        await trio.to_thread.run_sync(Announced(out).wait, size)
        took = time.monotonic() - began
        for end in (sleeps, out):
            os.close(end)
        return took

    async def starts(self, count: int, init: bool) -> list[float]:
        """Containers, one after the other, beside those that sleep; seconds of each."""
        supervisor = await self._open()
        spec = self._spec(("/bin/true",), init)
        took = []
        for _ in range(count):
            began = time.monotonic()
            await _to_the_end(partial(supervisor.start, spec))
            took.append(time.monotonic() - began)
        return took

    async def down(self) -> float:
        """End what sleeps; seconds until all is cleaned up."""
        began = time.monotonic()
        os.close(self._keeps_sleeping)
        for container in self._sleeping:
            await container.wait()
        self._sleeping.clear()
        return time.monotonic() - began

    async def _open(self) -> pysuper.Supervisor:
        if self._supervisor is None:
            self._supervisor = await self._stack.enter_async_context(pysuper.open_supervisor())
        return self._supervisor


async def _at_once(jobs: int, count: int, do: Callable[[], Awaitable[object]]) -> None:
    """Call something so many times, by so many tasks."""
    left = iter(repeat(None, count))

    async def work() -> None:
        for _ in left:
            await do()

    async with trio.open_nursery() as nursery:
        for _ in range(jobs):
            nursery.start_soon(work)


async def _to_the_end(start: Callable[[], Awaitable[pysuper.Container]]) -> None:
    await _end_of(await start())


async def _end_of(container: pysuper.Container) -> None:
    record = await container.wait()
    if record.status:
        raise RuntimeError(f"{container.spec.command} ended with {record.status}")


def _cpu() -> float:
    usages = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


async def _serve(root: str) -> None:
    answers = os.dup(1)
    os.dup2(2, 1)  # of a command that writes
    async with AsyncExitStack() as stack, trio.lowlevel.FdStream(os.dup(0)) as requests:
        serving = _Serving(root, stack)
        async for line in _lines(requests):
            request, arguments = json.loads(line)
            answer = await getattr(serving, request)(**arguments)
            os.write(answers, json.dumps(answer).encode() + b"\n")


async def _lines(stream: trio.abc.ReceiveStream) -> Any:
    pending = b""
    async for chunk in stream:
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            yield line


if __name__ == "__main__":
    trio.run(_serve, sys.argv[1])
