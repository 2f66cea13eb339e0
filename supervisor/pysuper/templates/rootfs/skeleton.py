"""
The rootfs driver `skeleton`: the root is a copy-on-write view of a directory; what a container writes vanishes with it.

A rootfs driver adds the step that mounts at "/", in Phase.ROOTFS. All other mounts come after it, by others.
"""

from __future__ import annotations

import os

import attrs

from pysuper.drivers import Phase, PlanBuilder, RootfsDriver
from pysuper.errors import DriverError
from pysuper.steps import Overlay


# CHANGE: the options that it has. Their names are keys in files, their types are checked, their docs are shown by
# `pysuper plugins show`. A relative `path` is made absolute, as seen from the file or the command line.
@attrs.frozen
class SkeletonOptions:
    """
    Attributes:
        path: The directory.
    """

    path: str


class Skeleton(RootfsDriver):
    """`skeleton:PATH`: a copy-on-write view of a directory; writes vanish."""

    Options = SkeletonOptions
    argument = "path"  # which option `skeleton:VALUE` sets

    def contribute(self, plan: PlanBuilder) -> None:
        path = os.path.realpath(self.options.path)
        if not os.path.isdir(path):
            raise DriverError(f"rootfs skeleton: {path} is no directory", remedy="name one with a root file system")
        # CHANGE: where the root comes from. What has to be fetched or unpacked first is made in `host`, by a program
        # in `context.sandbox`, into a `pysuper.cache.Cache`.
        #
        # As root, owners are shown through the container's user namespace (`idmap`). Without root the container is
        # born in it, and an overlay there keeps its notes in extended attributes of its own (`userxattr`).
        userxattr = not plan.context.privileged
        plan.add(Phase.ROOTFS, Overlay(source=path, target="/", idmap=plan.idmap, userxattr=userxattr))
