"""Plugins that block, in a program of their own: the test runner has a use of its own for SIGALRM."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

HEADER = """
    import os, signal, threading, time
    import trio
    from pysuper import guard
    from pysuper.errors import DriverError

    guard.BLOCKED = 0.2
"""


def run(program: str) -> str:
    code = textwrap.dedent(HEADER) + textwrap.dedent(program)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30)
    assert result.stderr == ""
    return result.stdout


@pytest.mark.parametrize(
    "block", ["time.sleep(60)", "os.read(os.pipe()[0], 1)", "threading.Event().wait()", "[0 for _ in iter(int, 1)]"]
)
def test_a_call_that_blocks_is_interrupted_and_named(block: str) -> None:
    said = run(f"""
        try:
            with guard.guarded("the hook 'slow' of slow 1.0", "import"):
                {block}
        except DriverError as error:
            print(error)
    """)
    assert said.startswith("the hook 'slow' of slow 1.0 blocked for 0.2 s in import, and everything else with it; ")


def test_a_call_that_blocks_between_two_waits_is_interrupted() -> None:
    said = run("""
        async def plugin():
            await trio.sleep(0.4)  # which is no blocking
            print("waited")
            time.sleep(60)

        async def main():
            try:
                await guard.called("the hook 'slow'", "started", plugin())
            except DriverError as error:
                print(error)
            await trio.sleep(0.4)  # and nothing comes after that

        trio.run(main)
    """)
    assert said.splitlines()[0] == "waited"
    assert "blocked for 0.2 s in started" in said.splitlines()[1]


def test_a_plugin_cannot_catch_it() -> None:
    said = run("""
        def plugin():
            try:
                time.sleep(60)
            except Exception:
                print("caught")

        try:
            with guard.guarded("it", "detect"):
                plugin()
        except DriverError as error:
            print("blocked" in str(error))
    """)
    assert said == "True\n"


def test_a_program_keeps_its_own_alarm() -> None:
    said = run("""
        signal.signal(signal.SIGALRM, lambda *_: print("mine"))
        signal.setitimer(signal.ITIMER_REAL, 0.4)
        with guard.guarded("it", "detect"):
            time.sleep(0.6)
        print("not interrupted")
    """)
    assert said == "mine\nnot interrupted\n"


def test_what_a_call_waits_for_can_be_cancelled_and_fail() -> None:
    said = run("""
        async def plugin():
            try:
                await trio.sleep_forever()
            finally:
                print("cleaned up")

        async def fails():
            await trio.lowlevel.checkpoint()
            raise ValueError("boom")

        async def main():
            with trio.move_on_after(0.1) as scope:
                await guard.called("it", "host", plugin())
            print(scope.cancelled_caught)
            try:
                await guard.called("it", "host", fails())
            except DriverError as error:
                print(error)

        trio.run(main)
    """)
    assert said.splitlines()[:2] == ["cleaned up", "True"]
    assert said.splitlines()[2].startswith("it failed in host: ValueError: boom; ")
