"""What the tests of attacks share: a clean machine before and after, and stacks of a directory of the test's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from machine import Snapshot
from ordinary import home as home, public as public  # noqa: PLC0414
from stackfiles import Stacks, Up


@pytest.fixture(autouse=True)
def nothing_is_left(own_quarters: None) -> Iterator[None]:
    """Whatever an attack does, the machine is afterwards as it was."""
    before = Snapshot.take()
    yield
    before.require_nothing_left()


@pytest.fixture
def stacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stacks:
    """Stacks whose files, sockets and journals are in a directory of the test's."""
    monkeypatch.setenv("PYSUPER_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("PYSUPER_STATE_DIR", str(tmp_path / "state"))
    return Stacks(tmp_path)


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    """A file of the test's own; nothing of it runs afterwards."""
    made = Up(tmp_path)
    yield made
    made.clean_up()
