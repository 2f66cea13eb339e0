"""The output of one run: its pipes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from pysuper.stack.journal import Journal
from pysuper.stack.output import Output
from pysuper.stack.spec import JournalSpec, LogMode
from pysuper.testing.faults import few_descriptors


@pytest.mark.parametrize("free", range(4))
def test_pipes_for_which_there_are_no_descriptors_leave_none(tmp_path: Path, free: int) -> None:
    journal, turns = Journal(tmp_path, JournalSpec()), trio.Lock()
    before = os.listdir("/proc/self/fd")
    with few_descriptors(free), pytest.raises(OSError, match="Too many open files"):
        Output(journal, "web", 1, LogMode.BLOCK, turns)
    assert os.listdir("/proc/self/fd") == before
    journal.close()
