"""The output of one run: its pipes."""

from __future__ import annotations

import os
import subprocess
import sys
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


#: The console of a stack that ends in the moment in which a container says its last words.
ENDING = """
import os, sys, trio, trio.testing
from pathlib import Path
from pysuper.stack.console import Console
from pysuper.stack.journal import Journal
from pysuper.stack.spec import JournalSpec

async def main():
    journal = Journal(Path(sys.argv[1]), JournalSpec())
    async with trio.open_nursery() as nursery:
        await nursery.start(Console().show, journal, ["web"])
        await trio.testing.wait_all_tasks_blocked()
        if sys.argv[2] == "gone":
            read, write = os.pipe()
            os.dup2(write, 1)
            os.close(write)
            os.close(read)
        journal.output("web", 1, "stdout", b"last words\\n")
        nursery.cancel_scope.cancel()

trio.run(main)
"""


@pytest.mark.parametrize(("reader", "shown"), [("there", "web | last words\n"), ("gone", "")])
def test_the_last_words_are_shown_if_somebody_reads_them(tmp_path: Path, reader: str, shown: str) -> None:
    program = [sys.executable, "-c", ENDING, tmp_path, reader]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, shown, "")
