"""
Which Landlock rules a container has, as far as this kernel knows them; landlock(7).

A second wall, of the kernel's own: it stands where a namespace is shared, a filter is off, or a bug lets a process of
the container become more than it is to be. It refuses

- every change of mounts, in user namespaces made inside too, which the kernel refuses to whoever has rules about files;
- device nodes, whoever makes them;
- looking into and tracing processes that are not of the container, which it refuses to whoever has any rules;
- in namespaces that are the host's, abstract unix sockets (CVE-2020-15257) and signals to others.

What is refused beneath a directory cannot be told from what is allowed in it: a rule for "/", which who makes files
there needs, is one for /proc/sys, too. So nothing here repeats what read-only and masked mounts do.
"""

from __future__ import annotations

from collections.abc import Collection

from pysuper import syscalls
from pysuper.steps import Landlock

__all__ = ["NEEDED", "rules", "version"]

#: The first version of the interface with which files can still be moved between directories, and that with scopes;
#: Documentation/userspace-api/landlock.rst, "Previous limitations".
NEEDED, _SCOPE = 2, 6
#: What stays the container's own business as long as the namespace is its own.
_SCOPES = {"net": "abstract_unix_socket", "pid": "signal"}
#: `mknod` of these; a container that keeps MKNOD is to make them.
_NODES = ("make_char", "make_block")


def version() -> int:
    """Of the kernel's interface; 0 if it has none, or is not let use it."""
    try:
        return syscalls.landlock_version()
    except OSError:
        return 0


def rules(kernel: int, capabilities: Collection[str], shared: Collection[str]) -> Landlock | None:
    """
    What a container gets; None is nothing.

    Args:
        kernel: The `version`.
        capabilities: That the container keeps: with SYS_ADMIN it is to mount, which no rules about files let it.
        shared: Namespaces that are the host's.
    """
    if kernel < NEEDED or "SYS_ADMIN" in capabilities:
        return None
    return Landlock(
        deny=() if "MKNOD" in capabilities else _NODES,
        scope=tuple(scope for name, scope in _SCOPES.items() if name in shared) if kernel >= _SCOPE else (),
    )
