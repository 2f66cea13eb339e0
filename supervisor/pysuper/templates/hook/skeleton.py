"""
The hook `skeleton`: a file with a line for each run of a container that is over.

    2026-01-31T12:00:00 web exited with 3

A hook is made once a supervisor, and told of all its containers. Only the methods that it defines are called:

    before_create, created        a start waits for these, and `on_failure = "fail"` lets them end it
    started, ready, exited        nobody waits for these
    stopped, restarted, failed    one of them follows each `exited`
    host                          an asynchronous context manager around all of that
"""

from __future__ import annotations

import os
import time

import attrs
import trio

from pysuper.drivers import Hook, LifecycleEvent
from pysuper.errors import DriverError, describe_errno


# CHANGE: the options that it has. Their names are keys in files, their types are checked, their docs are shown by
# `pysuper plugins show`.
@attrs.frozen
class SkeletonOptions:
    """
    Attributes:
        path: The file, which lines are added to.
    """

    path: str


class Skeleton(Hook):
    """`skeleton:PATH`: a line in a file for each run of a container that is over."""

    Options = SkeletonOptions
    argument = "path"  # which option `skeleton:VALUE` sets
    on_failure = "log"  # a call that fails is a warning; "fail" is for those that a start waits for
    timeout = 5.0  # seconds that a call may take

    def __init__(self, options: SkeletonOptions) -> None:
        super().__init__(options)
        # CHANGE: refuse here what a user gets wrong; what fails later is only a warning.
        if not os.access(os.path.dirname(os.path.abspath(options.path)), os.W_OK):
            raise DriverError(f"hook skeleton: {options.path} is in no directory that can be written to")

    # CHANGE: what it wants to know, and what it does then. Each may be called for several containers at once.
    async def exited(self, event: LifecycleEvent) -> None:
        assert event.record is not None
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(event.time))
        await self._append(f"{at} {event.container} {event.record.describe()}\n")

    async def _append(self, text: str) -> None:
        try:
            async with await trio.open_file(self.options.path, "a") as file:
                await file.write(text)
        except OSError as error:
            raise DriverError(f"hook skeleton: {self.options.path}: {describe_errno(error.errno or 0)}") from error
