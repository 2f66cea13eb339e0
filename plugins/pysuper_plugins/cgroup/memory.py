"""
The memory controller: how much memory and swap may be in use.

Kernel: Documentation/admin-guide/cgroup-v1/memory.rst; Documentation/admin-guide/cgroup-v2.rst,
"Memory".
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator

from pysuper.errors import ConfigError, DriverError
from pysuper.spec import Limits
from pysuper_plugins.cgroup import files
from pysuper_plugins.cgroup.settings import Controller, Setting

__all__ = ["MEMORY_V1", "MEMORY_V2"]

_PAGE = resource.getpagesize()

#: PAGE_COUNTER_MAX of include/linux/page_counter.h, in bytes: the kernel's "unlimited". It would
#: silently cut off the upper bits of a number of 2**64 and more, so that is never written.
_UNLIMITED = (2**63 - 1) // _PAGE * _PAGE

_REMEDY = "give a number of bytes"


def _v1(limits: Limits, directory: str) -> Iterator[Setting]:
    """
    v1 limits memory, and memory plus swap; the second may not be less than the first, hence the
    order.

    Raises:
        DriverError: Swap cannot be limited here.
    """
    memory, swap = _memory(limits), _swap(limits)
    if memory is not None:
        yield _setting(f"{directory}/memory.limit_in_bytes", memory, str(memory))
    if swap is None:
        return
    if memory is None:
        raise DriverError(
            "cgroup v1: memory_swap_max needs memory_max, because only their sum can be limited",
            remedy="set memory_max too, or use --cgroup v2",
        )
    file = "memory.memsw.limit_in_bytes"
    if os.path.exists(f"{os.path.dirname(directory)}/{file}"):
        both = min(memory + swap, _UNLIMITED)
        yield _setting(f"{directory}/{file}", both, str(both))
    else:
        yield from _no_swap(f"cgroup v1: there is no {file}")


def _v2(limits: Limits, directory: str) -> Iterator[Setting]:
    """Raises DriverError if swap cannot be limited here."""
    memory, swap = _memory(limits), _swap(limits)
    if memory is not None:
        shows = "max" if memory == _UNLIMITED else str(memory)
        yield _setting(f"{directory}/memory.max", memory, shows)
    if swap is None:
        return
    parent, file = os.path.dirname(directory), "memory.swap.max"
    # The root of the hierarchy never has the file, the cgroups below it do if the kernel was built
    # with swap.
    root = not os.path.exists(f"{parent}/cgroup.type")
    if os.path.exists("/proc/swaps" if root else f"{parent}/{file}"):
        yield _setting(f"{directory}/{file}", swap, "max" if swap == _UNLIMITED else str(swap))
    else:
        yield from _no_swap(f"cgroup v2: there is no {file}")


def _memory(limits: Limits) -> int | None:
    """`memory_max` as the kernel will count it."""
    if limits.memory_max is None:
        return None
    if limits.memory_max < _PAGE:
        raise ConfigError(
            f"memory_max is {limits.memory_max}: less than one page of {_PAGE} bytes",
            remedy=_REMEDY,
        )
    return _whole_pages(limits.memory_max)


def _swap(limits: Limits) -> int | None:
    """`memory_swap_max` as the kernel will count it; without swap a memory limit is one."""
    if limits.memory_swap_max is None:
        return None if limits.memory_max is None else 0
    if limits.memory_swap_max < 0:
        raise ConfigError(f"memory_swap_max is {limits.memory_swap_max}: less than 0", remedy=_REMEDY)
    return _whole_pages(limits.memory_swap_max)


def _whole_pages(size: int) -> int:
    return min(size // _PAGE * _PAGE, _UNLIMITED)


def _setting(path: str, value: int, shows: str) -> Setting:
    return Setting(path=path, value=str(value), shows=shows, remedy=_REMEDY)


def _no_swap(reason: str) -> Iterator[Setting]:
    """Where swap is not counted, a limit of it holds only if there is none: promise that."""
    if not os.path.exists("/proc/swaps"):
        return
    if len(files.read("/proc/swaps").splitlines()) > 1:
        raise DriverError(
            f"{reason}, but /proc/swaps lists swap, so memory_max would be no limit",
            remedy="boot with swapaccount=1, or switch swap off with swapoff -a",
        )
    yield Setting(path="/proc/swaps", value=None, shows="Filename Type Size Used Priority")


#: Bytes become whole pages; v1 adds memory and swap.
MEMORY_V1 = Controller(("memory_max", "memory_swap_max"), _v1)
MEMORY_V2 = Controller(("memory_max", "memory_swap_max"), _v2)
