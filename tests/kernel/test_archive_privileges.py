"""Set-user-id programs of an archive: they work as such for root only, and nobody of this machine reaches them."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pysuper
from pysuper.supervisor import Supervisor

IMAGES = Path("/var/cache/pysuper/images")
NOBODY = 65534

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def archive(program: Path) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as out:
        info = tarfile.TarInfo("id")
        info.mode, info.size = 0o4755, program.stat().st_size
        with program.open("rb") as file:
            out.addfile(info, file)
        out.addfile(tarfile.TarInfo(f"salt-{os.urandom(8).hex()}"))
    return made.getvalue()


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that everybody may enter, unlike pytest's."""
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)


def as_nobody(program: Path) -> str:
    """Whom nobody is when he runs `id`."""
    command = [program, "-u"]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, user=NOBODY, group=NOBODY).stdout


async def test_a_setuid_program_of_an_archive_makes_nobody_root(
    place: Path, tmp_path: Path, supervisor: Supervisor, spec: Callable[..., pysuper.ContainerSpec]
) -> None:
    if os.statvfs(place).f_flag & os.ST_NOSUID:
        pytest.skip("the file system of temporary files is nosuid")
    data = archive(Path(shutil.which("id") or "/usr/bin/id"))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        tar.extractall(place, filter="fully_trusted")
    assert as_nobody(place / "id") == "0\n"

    (tmp_path / "a.tar").write_bytes(data)
    with pytest.raises(pysuper.CommandNotFound):  # there is no sh in it, but now it is unpacked
        await supervisor.start(spec(rootfs=pysuper.DriverChoice("tar", argument=str(tmp_path / "a.tar"))))
    image = IMAGES / hashlib.sha256(data).hexdigest()
    try:
        assert os.stat(image / "id").st_mode & 0o7777 == 0o4755
        with pytest.raises(PermissionError):
            as_nobody(image / "id")
    finally:
        shutil.rmtree(image)
