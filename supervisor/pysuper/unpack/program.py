"""The program: an archive on stdin, a directory as argument; see the package."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

import pysuper.unpack
from pysuper.unpack.errors import LimitExceeded, UnpackError
from pysuper.unpack.stream import Codecs
from pysuper.unpack.unpacker import Limits, unpack


def main(arguments: Sequence[str]) -> int:
    """Run the program and return its exit code."""
    default = Limits()
    parser = argparse.ArgumentParser(prog="unpack", description=(pysuper.unpack.__doc__ or "").partition("\n")[0])
    parser.add_argument("--max-bytes", type=int, default=default.bytes, metavar="N")
    parser.add_argument("--max-entries", type=int, default=default.entries, metavar="N")
    parser.add_argument("--max-depth", type=int, default=default.depth, metavar="N")
    parser.add_argument("dest", metavar="DEST")
    options = parser.parse_args(arguments)
    limits = Limits(options.max_bytes, options.max_entries, options.max_depth)
    try:
        report = unpack(0, options.dest, limits, Codecs())
    except UnpackError as error:
        return _failed(error)
    except MemoryError:
        return _failed(LimitExceeded("to unpack the archive takes more memory than there is"))
    print(json.dumps(report))
    return 0


def _failed(error: UnpackError) -> int:
    print(f"unpack: {error}", file=sys.stderr)
    return error.exit_code
