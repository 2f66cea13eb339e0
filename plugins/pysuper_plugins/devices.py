"""The device nodes of the host that a container was given."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

import attrs

from pysuper.errors import DriverError
from pysuper.spec import ContainerSpec, Device

__all__ = ["Node", "nodes"]


@attrs.frozen(kw_only=True)
class Node:
    """
    One device node.

    Attributes:
        source, target: Where it is on the host, and in the container.
        block: Whether it is a block device.
        major, minor: Its number.
    """

    source: str
    target: str
    block: bool
    major: int
    minor: int


def nodes(spec: ContainerSpec) -> Iterator[Node]:
    """
    Every node, each target once.

    Raises:
        DriverError: There is none.
    """
    found: dict[str, Node] = {}
    for device in spec.devices:
        here = {node.target: node for node in _nodes_of(device)}
        if not here:
            raise DriverError(f"{device.source} is no device, and no directory that has one", remedy="see ls -l /dev")
        found |= here
    yield from found.values()


def _nodes_of(device: Device) -> Iterator[Node]:
    if not os.path.isdir(device.source):
        yield from _node(device.source, device.target)
        return
    for directory, names, files in os.walk(device.source):
        # Terminals, shared memory and queues are the container's own.
        names[:] = [name for name in names if not os.path.ismount(f"{directory}/{name}")]
        for name in sorted(files):
            path = f"{directory}/{name}"
            yield from _node(path, device.target + path.removeprefix(device.source))


def _node(path: str, target: str) -> Iterator[Node]:
    try:
        status = os.lstat(path)
    except OSError as error:
        raise DriverError(f"the device {path}: {error.strerror}", remedy="see ls -l /dev") from error
    if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
        number = status.st_rdev
        block = stat.S_ISBLK(status.st_mode)
        yield Node(source=path, target=target, block=block, major=os.major(number), minor=os.minor(number))
