"""
The phases of a plan: the order in which a container has to be built, and why it is this one.

All of it runs in one process, cloned by the launcher, which is host root until IDENTITY: it can mount what a user
namespace could not, and nothing of the container runs before it has given that up.
"""

from __future__ import annotations

import enum

__all__ = ["Phase"]


class Phase(enum.IntEnum):
    """
    When a step runs: the order in which a container has to be built.

    Attributes:
        reason: What happens in it, and why not before or after.
    """

    reason: str

    def __new__(cls, number: int, reason: str) -> Phase:
        phase = int.__new__(cls, number)
        phase._value_ = number
        phase.reason = reason
        return phase

    SESSION = 0, "leave what is the caller's, before anything is made"
    CGROUP = 1, "join, before the cgroup namespace makes this cgroup its root"
    NAMESPACES = 2, "enter those that the user namespace owns, and set them up, before /sys shows them"
    ROOTFS = 3, 'the new root, at "/", before anything is mounted in it'
    MOUNTS = 4, "/proc, /sys, /dev and what the user mounts, while the host's files are in reach"
    MASKS = 5, "what must not be seen or written, after everything that could be mounted over it"
    PIVOT = 6, "into the new root, once it is complete"
    IDENTITY = 7, "into the user namespace, after all that takes host root; a copy of the mounts locks them"
    LIMITS = 8, "resource limits and umask, which are for the command, and could hinder the set-up"
    PRIVILEGES = 9, "Landlock, capabilities, the user, no_new_privs, once nothing needs more"
    TERMINAL = 10, "opened by the final user, so that it owns it"
    SECCOMP = 11, "last, since the set-up needs system calls that the command must not make"
