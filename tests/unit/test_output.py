"""The output of one run: its pipes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from pysuper.stack import output
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


async def test_what_was_written_by_the_end_is_kept_whoever_has_the_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "_PATIENCE", 0.05)
    journal, turns = Journal(tmp_path, JournalSpec()), trio.Lock()
    made = Output(journal, "web", 1, LogMode.BLOCK, turns)
    async with turns, made.collected():
        os.write(made.stdout, b"one\ntwo\n")
    assert journal.tail("web", 5, run=1) == ["one", "two"]
    journal.close()
