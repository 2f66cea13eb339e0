"""
What drivers make once and keep: directories, each complete or not there.

    IMAGES = Cache("images")

    image = await IMAGES.require(context, digest, unpack)     # in `host`; in `traces`: IMAGES.trace(context)

Two containers that need the same at once both make it, and do not meet: the second finds the work done.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import attrs
import trio

from pysuper.drivers import Context, Trace
from pysuper.errors import DriverError, describe_errno

__all__ = ["Cache"]

_REMEDY = "let XDG_CACHE_HOME be a directory that you can write to"


@attrs.frozen
class Cache:
    """
    A directory of such directories, which only its owner can look into.

    Attributes:
        name: Of the directory, below /var/cache/pysuper for root, and below the user's cache directory otherwise (XDG
            base directories).
    """

    name: str

    @property
    def path(self) -> Path:
        """
        Where it is, without links, since mounts do not follow them; it need not exist yet.

        Raises:
            DriverError: The user has no home directory.
        """
        try:
            home = "/var/cache" if os.geteuid() == 0 else os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        except RuntimeError as error:
            raise DriverError("there is no home directory, and so no cache", remedy=_REMEDY) from error
        return Path(os.path.realpath(home), "pysuper", self.name)

    def trace(self, context: Context) -> Trace:
        """What `require` leaves if the supervisor is killed meanwhile; for `Driver.traces`."""
        return Trace("directory", str(self._unfinished(context)))

    async def require(self, context: Context, key: str, fill: Callable[[Path], Awaitable[None]]) -> Path:
        """
        The directory with this key, which is made if it is not there. Cancelled meanwhile, nothing is left.

        Args:
            context: Of the container that needs it.
            key: Its name: it says everything on which the content depends.
            fill: Called with an empty directory, to fill it.

        Raises:
            DriverError: A directory cannot be made.
        """
        finished = self.path / key
        if finished.exists():
            return finished
        unfinished = self._unfinished(context)
        self._make(unfinished)
        try:
            await fill(unfinished)
            _rename(unfinished, finished)
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(_remove, unfinished)
        return finished

    def _make(self, unfinished: Path) -> None:
        try:
            for directory in (*reversed(self.path.parents[:2]), self.path):  # whatever the umask
                directory.mkdir(parents=True, mode=0o700, exist_ok=True)
            unfinished.mkdir()
            unfinished.chmod(0o755)  # since the users of a container need it
        except OSError as error:
            reason = describe_errno(error.errno or 0)
            remedy = None if os.geteuid() == 0 else _REMEDY
            raise DriverError(f"could not make {error.filename} for what is kept: {reason}", remedy=remedy) from error

    def _unfinished(self, context: Context) -> Path:
        return self.path / f".partial-{context.id}"


def _rename(unfinished: Path, finished: Path) -> None:
    """Give it its name, unless somebody else was faster."""
    try:
        unfinished.rename(finished)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise


def _remove(unfinished: Path) -> None:
    if os.geteuid() != 0 and unfinished.exists():
        _make_removable(unfinished)
    shutil.rmtree(unfinished, ignore_errors=True)


def _make_removable(directory: Path) -> None:
    """Let its owner remove what is in a directory, whatever modes an archive has given."""
    directory.chmod(0o700)
    for entry in directory.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            _make_removable(entry)
