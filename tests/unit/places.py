"""A directory to unpack into, and around it what must stay as it is."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from pysuper.unpack import invocation
from pysuper.unpack.errors import UnpackError
from pysuper.unpack.stream import Codecs
from pysuper.unpack.unpacker import Limits, unpack

Status = dict[str, tuple[Any, ...]]


def snapshot(top: Path, *, without: Path | None = None) -> Status:
    """Return all there is to know of a tree, but for times of access and one directory in it."""
    found: Status = {}
    for folder, folders, files in os.walk(top):
        folders[:] = [name for name in folders if Path(folder, name) != without]
        for path in [Path(folder), *(Path(folder, name) for name in (*folders, *files))]:
            info = path.lstat()
            content: str | bytes | None = None
            if stat.S_ISLNK(info.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(info.st_mode) and info.st_size < 2**20:
                content = path.read_bytes()
            found[str(path.relative_to(top))] = (
                oct(info.st_mode),
                f"{info.st_uid}:{info.st_gid}",
                info.st_nlink if not stat.S_ISDIR(info.st_mode) else None,
                info.st_size if not stat.S_ISDIR(info.st_mode) else None,
                info.st_mtime_ns,
                content,
            )
    return found


class Place:
    """DEST, and beside it what must stay as it is."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.dest = top / "deep" / "dest"
        self.outside = top / "deep" / "outside"
        self.dest.mkdir(parents=True)
        (self.outside / "inner").mkdir(parents=True)
        (self.outside / "secret").write_text("secret")
        (self.outside / "inner" / "file").write_text("inner")
        (self.outside / "link").symlink_to("secret")
        (top / "outside").symlink_to("deep/outside")
        for path in (self.outside / "secret", self.outside / "inner", self.outside):
            os.utime(path, (1, 1))

    def around(self) -> Status:
        """Return the state of everything but DEST."""
        return snapshot(self.top, without=self.dest)

    def run(self, data: bytes, *options: str, pipe: bool = False, **more: Any) -> subprocess.CompletedProcess[str]:
        """Run the program, see that nothing outside DEST changed, and that it says one line."""
        before = self.around()
        command = invocation.command(str(self.dest), *options)
        with tempfile.TemporaryFile() as stdin:
            stdin.write(data)
            stdin.seek(0)
            # `cat` makes a pipe of it, and does not wait for more.
            source = subprocess.Popen(["cat"], stdin=stdin, stdout=subprocess.PIPE) if pipe else None
            done = subprocess.run(
                command,
                stdin=source.stdout if source else stdin,
                capture_output=True,
                text=True,
                errors="surrogateescape",
                timeout=120,
                check=False,
                **more,
            )
            if source:
                assert source.stdout
                source.stdout.close()
                source.wait()
        assert self.around() == before
        shown = done.stdout if done.returncode == 0 else done.stderr
        assert re.fullmatch(r"[^\x00-\x1f\x7f]+\n", shown), done
        assert (done.stderr == "") == (done.returncode == 0)
        return done

    def unpacks(self, data: bytes, *options: str, **more: Any) -> dict[str, int]:
        done = self.run(data, *options, **more)
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        assert set(report) == {"entries", "bytes", "skipped_devices"}
        return dict(report)

    def fails(self, data: bytes, *options: str, code: int = 1, **more: Any) -> str:
        done = self.run(data, *options, **more)
        assert done.returncode == code, done
        assert done.stdout == ""
        assert done.stderr.startswith("unpack: ")
        return done.stderr


class Quick:
    """Unpack in this process, for speed.  Gives what is said, or None."""

    def __init__(self, top: Path, data: bytes) -> None:
        self._dest = Path(tempfile.mkdtemp(dir=top))
        self._data = data

    def __enter__(self) -> str | None:
        stream = os.memfd_create("archive")
        try:
            os.write(stream, self._data)
            os.lseek(stream, 0, os.SEEK_SET)
            limits = Limits(bytes=2**20, entries=100, depth=16)
            unpack(stream, str(self._dest), limits, Codecs())
        except UnpackError as error:
            return str(error)
        finally:
            os.close(stream)
        return None

    def __exit__(self, *_: object) -> None:
        self._dest.chmod(0o700)
        for folder, folders, _files in os.walk(self._dest):
            for path in (Path(folder, name) for name in folders):
                if not path.is_symlink():
                    path.chmod(0o700)
        shutil.rmtree(self._dest)
