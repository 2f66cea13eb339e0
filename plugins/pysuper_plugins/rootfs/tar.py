"""
A root file system from a tarball, unpacked once and shared: each container gets a copy-on-write view.

The cache is keyed by the content of the archive, which is unpacked by a confined process. A link in the cache leads
from the archive, as long as it is not changed, to what was made of it: so that a plan can name what is still to be
made, and a start need not read the archive again, which takes longer than all the rest.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from io import BufferedReader
from pathlib import Path

import attrs
import trio

from pysuper.cache import Cache
from pysuper.drivers import Context, Phase, PlanBuilder, RootfsDriver, Trace
from pysuper.errors import DriverError, one_line
from pysuper.spec import BindMount, ContainerSpec, DriverChoice, Limits, Rlimit
from pysuper.steps import Overlay
from pysuper.units import parse_size, parse_whole
from pysuper.unpack import invocation
from pysuper.unpack.errors import LimitExceeded

_IMAGES = Cache("images")
#: Where the archive is unpacked to, in the container that does it; a path that the host's view has.
_DESTINATION = "/mnt"
_CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "SETFCAP")
#: Bytes of memory that it may take: xz and zstd need some hundred MiB at most, a million entries as much.
_MEMORY = 1024**3
#: Seconds that reading and unpacking may take.
_TIME = 1800.0
_CHUNK = 1024**2


def _max_size(value: str | int) -> int:
    return _named("max_size", parse_size, value)


def _max_entries(value: str | int) -> int:
    return _named("max_entries", partial(parse_whole, least=1, most=10**9), value)


def _named(option: str, parse: Callable[[str | int], int], value: str | int) -> int:
    try:
        return parse(value)
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from None


@attrs.frozen
class TarOptions:
    """
    Attributes:
        path: The archive: tar, plain or compressed with gz, bz2, xz or zst.
        max_size: Bytes that it may unpack to, such as "64G"; holes in files count.
        max_entries: Files and directories that it may unpack to.
    """

    path: str
    max_size: str | int = attrs.field(default="16G", converter=_max_size)
    max_entries: str | int = attrs.field(default=1_000_000, converter=_max_entries)


class TarRootfs(RootfsDriver):
    """`tar:FILE`: a tarball, unpacked once into a cache; every container has a copy-on-write view of it."""

    Options = TarOptions
    argument = "path"
    patience = 2 * _TIME  # never runs out first

    def contribute(self, plan: PlanBuilder) -> None:
        with _open(self.options.path) as file:
            source = str(_link(file))
        if not plan.context.privileged:
            plan.warn("rootfs tar: without root, every file of the archive belongs to the container's root")
        userxattr = not plan.context.privileged
        # Nobody but us can make links there.
        layer = Overlay(source=source, target="/", idmap=plan.idmap, userxattr=userxattr, follow=True)
        plan.add(Phase.ROOTFS, layer)

    def traces(self, context: Context) -> tuple[Trace, ...]:
        return (_IMAGES.trace(context),)

    @asynccontextmanager
    async def host(self, context: Context) -> AsyncIterator[None]:
        with _open(self.options.path) as file, trio.move_on_after(_TIME) as scope:
            await self._require(context, file)
        if scope.cancelled_caught:
            raise DriverError(
                f"rootfs {self.options.path}: reading and unpacking it takes more than {_TIME:g} s",
                remedy="unpack it into a directory and use dir:DIRECTORY",
            )
        yield

    async def _require(self, context: Context, file: BufferedReader) -> None:
        """See that the link leads to what was made of the archive."""
        link = _link(file)
        known = os.path.lexists(link)
        digest = os.readlink(link) if known else await trio.to_thread.run_sync(_digest, file)
        await _IMAGES.require(context, digest, partial(self._unpack, context, file, link))
        if not known:
            with suppress(FileExistsError):  # another start was faster
                link.symlink_to(digest)

    async def _unpack(self, context: Context, file: BufferedReader, link: Path, destination: Path) -> None:
        assert context.sandbox is not None
        most = (f"--max-bytes={self.options.max_size}", f"--max-entries={self.options.max_entries}")
        spec = ContainerSpec(
            name="unpack",
            command=invocation.command(_DESTINATION, *most),
            rootfs=DriverChoice("host"),
            cgroup=context.spec.cgroup,
            # What an ordinary user keeps is the user's, to be removed like other files, and fits each range of ids.
            namespaces={} if context.privileged else {"user": DriverChoice("user", options={"ids": "one"})},
            limits=Limits(),
            mounts=(
                # The interpreter may lie where the host's view is empty, such as below /root.
                *(
                    BindMount(source=os.path.realpath(path), target=path, read_only=True)
                    for path in invocation.directories()
                ),
                BindMount(source=str(destination), target=_DESTINATION),
            ),
            capabilities=_CAPABILITIES,
            read_only=True,
            init=False,
            rlimits=(Rlimit("data", _MEMORY, _MEMORY),),
        )
        file.seek(0)
        status, _, errors = await context.sandbox(spec, stdin=file.fileno())
        if status != 0:
            lines = errors.strip().splitlines() or [f"unpacking it failed with exit status {status}"]
            remedy = "if you trust it, set max_size or max_entries higher, or unpack it and use dir:DIRECTORY"
            raise DriverError(
                f"rootfs {self.options.path}: {one_line(lines[-1].removeprefix('unpack: '))}",
                remedy=remedy if status == LimitExceeded.exit_code else None,
            )
        if _link(file) != link:
            raise DriverError(f"rootfs {self.options.path}: it was changed while it was read", remedy="try again")


def _open(path: str) -> BufferedReader:
    remedy = "name a tar archive of a root file system"
    try:
        # Opening a FIFO would wait for a writer, fifo(7).
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise DriverError(f"rootfs {path}: {error.strerror}", remedy=remedy) from error
    except ValueError as error:
        raise DriverError(f"rootfs {path}: the path has a NUL character", remedy=remedy) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DriverError(f"rootfs {path}: not a regular file", remedy=remedy)
    return os.fdopen(descriptor, "rb")


def _digest(file: BufferedReader) -> str:
    """Of the content of the archive; in a thread, since it can be large."""
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK):
        trio.from_thread.check_cancelled()
        digest.update(chunk)
    return digest.hexdigest()


def _link(file: BufferedReader) -> Path:
    """What leads from an archive, as it is now, to what was made of it."""
    status = os.fstat(file.fileno())
    times = f"{status.st_mtime_ns}-{status.st_ctime_ns}"
    return _IMAGES.path / f".of-{status.st_dev}-{status.st_ino}-{status.st_size}-{times}"
