"""
A root file system from a tarball, unpacked once and shared: each container gets a copy-on-write view.

The cache is keyed by the content of the archive. It is unpacked by a confined process into a directory that no
container sees before it is complete, and that is renamed into place then; two that unpack the same archive at once
do not meet, and the second finds its work done.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import stat
import sys
import sysconfig
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from io import BufferedReader
from pathlib import Path

import attrs
import trio

from pysuper.drivers import Context, Phase, PlanBuilder, RootfsDriver, Trace
from pysuper.errors import DriverError, one_line
from pysuper.spec import BindMount, ContainerSpec, DriverChoice, Limits
from pysuper.steps import Overlay

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

    def contribute(self, plan: PlanBuilder) -> None:
        source = str(_image(self.options.path))
        plan.add(
            Phase.ROOTFS, Overlay(source=source, target="/", idmap=plan.idmap, userxattr=not plan.context.privileged)
        )

    def traces(self, context: Context) -> tuple[Trace, ...]:
        return (Trace("directory", str(_partial(context))),)

    def host(self, context: Context) -> AbstractAsyncContextManager[None]:
        return self._unpacked(context)

    @asynccontextmanager
    async def _unpacked(self, context: Context) -> AsyncIterator[None]:
        image = _image(self.options.path)
        if not image.exists():
            partial = _partial(context)
            _cache().mkdir(parents=True, mode=0o700, exist_ok=True)
            partial.mkdir(mode=0o755)
            try:
                await self._unpack(context, partial)
                _publish(partial, image, self.options.path)
            finally:
                await trio.to_thread.run_sync(_remove, partial)
        yield

    async def _unpack(self, context: Context, destination: Path) -> None:
        import pysuper.unpack

        assert context.sandbox is not None
        packages = sysconfig.get_path("purelib")
        program = pysuper.unpack.__file__
        # The interpreter may lie where the host's view is empty, such as below /root.
        needed = {sys.base_prefix, sys.base_exec_prefix, packages, os.path.dirname(program)}
        spec = ContainerSpec(
            name="unpack",
            command=(os.path.realpath(sys.executable), "-I", "-S", program, _DESTINATION, packages),
            rootfs=DriverChoice("host"),
            cgroup=context.spec.cgroup,
            limits=Limits(),
            mounts=(
                *(BindMount(source=path, target=path, read_only=True) for path in sorted(needed)),
                BindMount(source=str(destination), target=_DESTINATION),
            ),
            capabilities=_CAPABILITIES,
            read_only=True,
            init=False,
            rlimits=(),
        )
        with _open(self.options.path) as file:
            status, _, errors = await context.sandbox(spec, stdin=file.fileno())
        if status != 0:
            lines = errors.strip().splitlines() or [f"exit status {status}"]
            raise DriverError(f"rootfs {self.options.path}: {one_line(lines[-1])}")


def _cache() -> Path:
    """Where images are kept: /var/cache for root, the user's cache directory otherwise (XDG base directories)."""
    if os.geteuid() == 0:
        return Path("/var/cache/pysuper/images")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pysuper" / "images"


def _partial(context: Context) -> Path:
    return _cache() / f".partial-{context.id}"


def _open(path: str) -> BufferedReader:
    try:
        return open(path, "rb")
    except OSError as error:
        remedy = "name a tar archive of a root file system"
        raise DriverError(f"rootfs {path}: {error.strerror}", remedy=remedy) from error


def _image(path: str) -> Path:
    """The directory in which the content of this archive is, or will be."""
    with _open(path) as file:
        digest = _known_digest(file)
        try:
            return _cache() / digest.read_text()
        except FileNotFoundError:
            return _cache() / hashlib.file_digest(file, "sha256").hexdigest()


def _known_digest(file: BufferedReader) -> Path:
    """
    Where the digest of an archive is noted, for as long as the archive is not changed.

    Reading a large archive takes longer than starting a container.
    """
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        raise DriverError(f"rootfs {file.name}: not a regular file", remedy="name a tar archive")
    times = f"{status.st_mtime_ns}-{status.st_ctime_ns}"
    return _cache() / f".digest-{status.st_dev}-{status.st_ino}-{status.st_size}-{times}"


def _publish(partial: Path, image: Path, path: str) -> None:
    """Give a complete image its name, unless somebody else was faster; note the digest of the archive."""
    try:
        partial.rename(image)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    with _open(path) as file:
        _known_digest(file).write_text(image.name)


def _remove(partial: Path) -> None:
    shutil.rmtree(partial, ignore_errors=True)
