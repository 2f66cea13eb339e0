"""What every rootfs driver has to keep, and what this one is for."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import pysuper
from pysuper.errors import DriverError
from pysuper.testing import RootfsDriverTests


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A root file system: a shell, and a file to know it by."""
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("needs a static busybox: apt install busybox-static")
    (tmp_path / "image/bin").mkdir(parents=True)
    shutil.copy(busybox, tmp_path / "image/bin/sh")
    (tmp_path / "image/file").write_text("of the image\n")
    return tmp_path / "image"


class TestSkeleton(RootfsDriverTests):
    @pytest.fixture(autouse=True)
    def _chosen(self, image: Path) -> None:
        self.driver = f"skeleton:{image}"
        self.shows = {"/file": "of the image\n"}


# CHANGE: what your driver is for.
async def test_writes_vanish(image: Path) -> None:
    rootfs = pysuper.DriverChoice("skeleton", argument=str(image))
    await pysuper.run(["/bin/sh", "-c", "echo changed > /file"], rootfs=rootfs)
    assert (image / "file").read_text() == "of the image\n"


async def test_what_is_no_directory_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DriverError, match="missing is no directory"):
        await pysuper.run(["true"], rootfs=pysuper.DriverChoice("skeleton", argument=str(tmp_path / "missing")))
