"""Writing to files of the kernel; among them the id maps of a user namespace, user_namespaces(7)."""

from __future__ import annotations

import os
from typing import Any

__all__ = ["write_file", "write_id_maps"]


def write_id_maps(process: int | str, ids: dict[str, Any]) -> None:
    """
    Write uid_map and gid_map.

    Args:
        process: The first one in the namespace: a pid, or `self`.
        ids: As `pysuper.plan.IdMap` is on the wire.
    """
    if not ids["privileged"]:
        write_file(f"/proc/{process}/setgroups", "deny")
    for name in ("uid_map", "gid_map"):
        lines = ids[name.removesuffix("_map") + "s"]
        write_file(f"/proc/{process}/{name}", "".join(f"{inside} {outside} {n}\n" for inside, outside, n in lines))


def write_file(path: str, content: str) -> None:
    """Write in one go to a file that exists; never create one."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, content.encode())
    except OSError as error:
        raise OSError(error.errno, f"{path}: {error.strerror}") from None
    finally:
        os.close(descriptor)
