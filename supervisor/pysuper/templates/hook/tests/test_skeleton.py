"""What every hook has to keep, and what this one is for."""

from __future__ import annotations

from pathlib import Path

import pytest

import pysuper
from pysuper.errors import DriverError
from pysuper.testing import HookTests


class TestSkeleton(HookTests):
    @pytest.fixture(autouse=True)
    def _chosen(self, tmp_path: Path) -> None:
        self.driver = f"skeleton:{tmp_path / 'ended'}"
        self.wrong = [f"skeleton:{tmp_path / 'missing' / 'ended'}"]
        self.keeps = [str(tmp_path)]  # the file is there to stay


# CHANGE: what your hook is for.
async def test_each_run_that_is_over_is_a_line(tmp_path: Path) -> None:
    hook = pysuper.DriverChoice("skeleton", argument=str(tmp_path / "ended"))
    async with pysuper.open_supervisor(hooks=[hook]) as supervisor:
        for script in ("exit 0", "exit 3"):
            spec = pysuper.ContainerSpec(name="web", command=("sh", "-c", script))
            await (await supervisor.start(spec)).wait()
    lines = (tmp_path / "ended").read_text().splitlines()
    assert [line.partition(" ")[2] for line in lines] == ["web exited with 0", "web exited with 3"]


async def test_a_file_that_cannot_be_written_to_is_an_error(tmp_path: Path) -> None:
    hook = pysuper.DriverChoice("skeleton", argument=str(tmp_path / "missing/ended"))
    with pytest.raises(DriverError, match="missing/ended is in no directory"):
        async with pysuper.open_supervisor(hooks=[hook]):
            pass
