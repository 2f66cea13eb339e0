"""
What root does not load: anything that its environment or its current directory points to, or that others could write.
"""

from __future__ import annotations

import os
import site
import stat
import sys
from pathlib import Path

__all__ = ["distrust", "trusted_path"]

#: Where pysuper itself is: whoever could put a plugin there could change pysuper.
_OWN = str(Path(__file__).resolve().parents[1])


def trusted_path() -> list[str]:
    """
    `sys.path`; for root without PYTHONPATH, the current directory, and the user's own site directory.

    The last is where $HOME or $PYTHONUSERBASE say, site(3). What is behind root's own packages was added by their .pth
    files, such as an editable install, and is root's too, wherever it is.
    """
    if os.geteuid() != 0:
        return list(sys.path)
    packages = set(map(_real, site.getsitepackages()))
    refused = {_real(""), *map(_real, os.environ.get("PYTHONPATH", "").split(os.pathsep))} - {_OWN}
    if site.ENABLE_USER_SITE:
        refused.add(_real(site.getusersitepackages()))
    first = next((number for number, entry in enumerate(sys.path) if _real(entry) in packages), len(sys.path))
    return [entry for entry in sys.path[:first] if _real(entry) not in refused] + sys.path[first:]


def _real(path: str) -> str:
    try:
        return os.path.realpath(path or ".")
    except FileNotFoundError:  # in a directory that was removed, where there is nothing to import
        return path


def distrust(path: str) -> str | None:
    """
    Why root should not load a file or directory: somebody else could replace it, or something above it.

    Args:
        path: Without symbolic links.
    """
    for place in (Path(path), *Path(path).parents):
        status = place.stat()
        # In a directory such as /tmp others can add names, but not take root's away: inode(7), S_ISVTX.
        sticky = status.st_mode & stat.S_ISVTX and str(place) != path
        if status.st_uid != 0:
            return f"{place} belongs to uid {status.st_uid}"
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not sticky:
            return f"{place} can be written to by others"
    return None
