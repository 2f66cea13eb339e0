"""The end of the `pysuper` command, which does not take the interpreter apart."""

from __future__ import annotations

import subprocess
import sys

import pytest


def ended(before: str, *argv: str) -> tuple[int, str]:
    """The exit status and the output of the command, run after something else in its process."""
    code = f"import atexit, sys, threading, time\n{before}\nfrom pysuper.__main__ import command\ncommand()"
    done = subprocess.run([sys.executable, "-c", code, *argv], stdout=subprocess.PIPE, text=True, check=False)
    return done.returncode, done.stdout


@pytest.mark.parametrize(("argv", "status"), [(["--version"], 0), (["no-such-command"], 2)])
def test_its_status_is_that_of_the_command_line(argv: list[str], status: int) -> None:
    assert ended("", *argv)[0] == status


def test_what_is_registered_for_the_end_is_done_and_its_output_is_not_lost() -> None:
    status, output = ended("atexit.register(print, 'registered')", "--version")
    assert status == 0
    assert output.splitlines()[-1] == "registered"


def test_a_thread_is_waited_for() -> None:
    before = "def work(): time.sleep(0.3); print('worked')\nthreading.Thread(target=work).start()"
    assert ended(before, "--version")[1].splitlines()[-1] == "worked"
