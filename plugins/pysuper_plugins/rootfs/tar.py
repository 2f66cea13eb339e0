"""
A root file system from a tarball, unpacked once and shared: each container gets a copy-on-write view.

The cache is keyed by the content of the archive, which is unpacked by a confined process.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from io import BufferedReader
from pathlib import Path

import attrs

from pysuper.cache import Cache
from pysuper.drivers import Context, Phase, PlanBuilder, RootfsDriver, Trace
from pysuper.errors import DriverError, one_line
from pysuper.spec import BindMount, ContainerSpec, DriverChoice, Limits
from pysuper.steps import Overlay
from pysuper.unpack import invocation

_IMAGES = Cache("images")
#: Where the archive is unpacked to, in the container that does it; a path that the host's view has.
_DESTINATION = "/mnt"
_CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "SETFCAP")


@attrs.frozen
class TarOptions:
    """
    Attributes:
        path: The archive: tar, plain or compressed with gz, bz2, xz or zst.
    """

    path: str


class TarRootfs(RootfsDriver):
    """`tar:FILE`: a tarball, unpacked once into a cache; every container has a copy-on-write view of it."""

    Options = TarOptions
    argument = "path"
    patience = 3600.0  # a large archive takes its time

    def contribute(self, plan: PlanBuilder) -> None:
        with _open(self.options.path) as file:
            source = str(_IMAGES.path / _digest(file))
        if not plan.context.privileged:
            plan.warn("rootfs tar: without root, every file of the archive belongs to the container's root")
        plan.add(
            Phase.ROOTFS, Overlay(source=source, target="/", idmap=plan.idmap, userxattr=not plan.context.privileged)
        )

    def traces(self, context: Context) -> tuple[Trace, ...]:
        return (_IMAGES.trace(context),)

    @asynccontextmanager
    async def host(self, context: Context) -> AsyncIterator[None]:
        with _open(self.options.path) as file:
            digest = _digest(file)
            await _IMAGES.require(context, digest, partial(self._unpack, context, file))
            if not (note := _note(file)).exists():
                note.write_text(digest)
        yield

    async def _unpack(self, context: Context, file: BufferedReader, destination: Path) -> None:
        assert context.sandbox is not None
        spec = ContainerSpec(
            name="unpack",
            command=invocation.command(_DESTINATION),
            rootfs=DriverChoice("host"),
            cgroup=context.spec.cgroup,
            limits=Limits(),
            mounts=(
                # The interpreter may lie where the host's view is empty, such as below /root.
                *(BindMount(source=path, target=path, read_only=True) for path in invocation.directories()),
                BindMount(source=str(destination), target=_DESTINATION),
            ),
            capabilities=_CAPABILITIES,
            read_only=True,
            init=False,
            rlimits=(),
        )
        file.seek(0)
        status, _, errors = await context.sandbox(spec, stdin=file.fileno())
        if status != 0:
            lines = errors.strip().splitlines() or [f"exit status {status}"]
            raise DriverError(f"rootfs {self.options.path}: {one_line(lines[-1])}")


def _open(path: str) -> BufferedReader:
    try:
        return open(path, "rb")
    except OSError as error:
        remedy = "name a tar archive of a root file system"
        raise DriverError(f"rootfs {path}: {error.strerror}", remedy=remedy) from error


def _digest(file: BufferedReader) -> str:
    """Of the content of the archive."""
    try:
        return _note(file).read_text()
    except FileNotFoundError:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _note(file: BufferedReader) -> Path:
    """
    Where the digest of an archive is noted, for as long as the archive is not changed.

    Reading a large archive takes longer than starting a container.
    """
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        raise DriverError(f"rootfs {file.name}: not a regular file", remedy="name a tar archive")
    times = f"{status.st_mtime_ns}-{status.st_ctime_ns}"
    return _IMAGES.path / f".digest-{status.st_dev}-{status.st_ino}-{status.st_size}-{times}"
