"""A directory of the host as the root; what the container writes stays in it."""

from __future__ import annotations

import os

import attrs

from pysuper.drivers import Phase, PlanBuilder, RootfsDriver
from pysuper.errors import DriverError
from pysuper.steps import Bind


@attrs.frozen
class DirectoryOptions:
    """
    Attributes:
        path: The directory.
    """

    path: str


class DirectoryRootfs(RootfsDriver):
    """`dir:PATH`: a directory with a root file system; writes stay in it."""

    Options = DirectoryOptions
    argument = "path"
    reusable = True

    def contribute(self, plan: PlanBuilder) -> None:
        path = checked_directory(self.options.path)
        # Not what is mounted below: a prepared chroot often has the host's /proc and /dev in it.
        plan.add(Phase.ROOTFS, Bind(source=path, target="/", idmap=plan.idmap, recursive=False))


def checked_directory(path: str) -> str:
    """
    The absolute path of a directory that can be a root.

    Raises:
        DriverError: It is missing, no directory, or empty; before anything was cloned.
    """
    absolute = os.path.abspath(path)
    try:
        entries = os.listdir(absolute)
    except OSError as error:
        remedy = "name a directory that holds a root file system"
        raise DriverError(f"rootfs {path}: {error.strerror}", remedy=remedy) from error
    if not entries:
        raise DriverError(f"rootfs {path}: the directory is empty", remedy="unpack a root file system into it")
    return absolute
