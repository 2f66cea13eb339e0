"""`python -m pysuper`, and the `pysuper` command."""

from __future__ import annotations

import sys

from pysuper.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
