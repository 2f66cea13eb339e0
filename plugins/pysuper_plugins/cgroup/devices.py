"""
The devices controller, which only v1 has: which device nodes may be made and opened.

It is no limit that anyone asks for: it backs the container's private /dev, so that a node for any
other device than those that it was given, however it got there, does not open.

Kernel: Documentation/admin-guide/cgroup-v1/devices.rst.
"""

from __future__ import annotations

from collections.abc import Iterator

from pysuper.spec import ContainerSpec, Limits
from pysuper_plugins.cgroup.settings import Controller, Setting
from pysuper_plugins.devices import nodes

__all__ = ["devices_v1"]

# The nodes of the private /dev: null, zero, full, random, urandom, tty, console, ptmx and pts/*.
# With `m`, because the container's own first process makes them, after it has joined.
_ALLOWED = tuple(f"c {number} rwm" for number in ("1:3", "1:5", "1:7", "1:8", "1:9", "5:0", "5:1", "5:2", "136:*"))
_REMEDY = "the cgroup above denies what every container needs: allow it there, or use --cgroup v2"


def devices_v1(spec: ContainerSpec) -> Controller:
    """Everything is denied but the container's own nodes, and those that it was given."""

    def settings(_limits: Limits, directory: str) -> Iterator[Setting]:
        given = (f"{'b' if node.block else 'c'} {node.major}:{node.minor} rwm" for node in nodes(spec))
        allowed = tuple(dict.fromkeys((*_ALLOWED, *given)))
        yield Setting(path=f"{directory}/devices.deny", value="a", remedy=_REMEDY)
        for device in allowed:
            yield Setting(path=f"{directory}/devices.allow", value=device, remedy=_REMEDY)
        yield Setting(path=f"{directory}/devices.list", value=None, shows=" ".join(allowed))

    return Controller((), settings)
