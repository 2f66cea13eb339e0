"""`python -m pysuper`, and the `pysuper` command."""

from __future__ import annotations

import atexit
import gc
import os
import sys
import threading
from contextlib import suppress
from typing import NoReturn

from pysuper.cli import main

__all__ = ["command"]


def command() -> NoReturn:
    """
    Run the command line, and end.

    Python would free every object of every module first, which takes a sixth of the time of `pysuper run`. It does if
    there is a thread to wait for.
    """
    # Imports make tens of thousands of objects, and no garbage, for which Python would look dozens of times.
    gc.set_threshold(50_000)
    status = main()
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        sys.exit(status)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


if __name__ == "__main__":
    command()
