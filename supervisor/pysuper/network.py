"""
A network namespace that several containers share: made before them, and gone when the last of them and its maker are.
"""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import trio

from pysuper import steps
from pysuper.drivers import Launcher
from pysuper.errors import LaunchError
from pysuper.plan import Phase, Plan
from pysuper.process import Process, standard_files

__all__ = ["shared_network"]

#: Ports below 1024 belong to who is root of the user namespace that owns the network, which none of the containers is;
#: the same for ping's sockets. ip-sysctl.rst, ip_unprivileged_port_start and ping_group_range.
_SYSCTLS = {"ip_unprivileged_port_start": "0", "ping_group_range": "0 2147483647"}


@asynccontextmanager
@trio.lowlevel.enable_ki_protection
async def shared_network(launcher: Launcher, watchers: trio.Nursery) -> AsyncIterator[str]:
    """
    A path that leads to a new network namespace with loopback, for as long as the context lasts; root only.

    Args:
        launcher: Clones the process that makes it.
        watchers: Where that is waited for.

    Raises:
        LaunchError: The kernel refused it, or the supervisor has ended.
    """
    settings = (steps.WriteFile(path=f"/proc/sys/net/ipv4/{name}", content=text) for name, text in _SYSCTLS.items())
    plan = Plan(
        id="network.0",
        clone=("net",),
        holder=None,
        ids=None,
        cgroup=None,
        phases={Phase.SESSION: (steps.Setsid(),), Phase.NAMESPACES: (steps.LoopbackUp(), *settings)},
        command=None,
        checks=(),
        warnings=(),
    )
    taken: list[int] = []
    try:
        await _make(launcher, plan, watchers, taken)
        yield f"/proc/{os.getpid()}/fd/{taken[0]}"
    finally:
        for descriptor in taken:
            os.close(descriptor)


async def _make(launcher: Launcher, plan: Plan, watchers: trio.Nursery, taken: list[int]) -> None:
    """Run a plan, and take a descriptor of its process's namespace, by which that outlives the process."""
    try:
        with standard_files(None, None, None) as files:
            async with launcher.launch(plan, files, {}) as launched:
                process = Process(launched, plan, "the process that makes a network")
                watchers.start_soon(process.watch)

                async def take(_barrier: str) -> Mapping[int, int]:
                    taken.append(os.open(f"/proc/{process.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC))
                    return {}

                try:
                    await process.start(take)
                finally:
                    with trio.CancelScope(shield=True):
                        process.send_signal(signal.SIGKILL)
                        await process.reap()
    except OSError as error:
        raise LaunchError.of("make a network", error) from error
