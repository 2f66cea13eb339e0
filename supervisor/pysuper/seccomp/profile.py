"""
What a profile is: rules that say what becomes of a system call.
"""

from __future__ import annotations

import enum
import errno

import attrs

__all__ = ["ALLOW", "ENOSYS", "Action", "Condition", "Operator", "Profile", "Rule", "Verdict"]


class Action(enum.IntEnum):
    """What becomes of a call: SECCOMP_RET_* of seccomp(2)."""

    KILL_PROCESS = 0x80000000
    KILL_THREAD = 0
    TRAP = 0x00030000
    ERRNO = 0x00050000
    TRACE = 0x7FF00000
    LOG = 0x7FFC0000
    ALLOW = 0x7FFF0000


#: The call is made, be it known to somebody or not.
_PERMISSIVE = frozenset({Action.TRACE, Action.LOG, Action.ALLOW})


@attrs.frozen
class Verdict:
    """An action, with what the caller (ERRNO) or the tracer (TRACE) is told: 16 bits."""

    action: Action
    data: int = 0

    @property
    def permissive(self) -> bool:
        """Whether the call is made."""
        return self.action in _PERMISSIVE


ALLOW = Verdict(Action.ALLOW)
#: What a kernel says that does not have the call; callers then do without it.
ENOSYS = Verdict(Action.ERRNO, errno.ENOSYS)


class Operator(enum.Enum):
    """How an argument is compared, as the OCI runtime specification calls it."""

    NE = "SCMP_CMP_NE"
    LT = "SCMP_CMP_LT"
    LE = "SCMP_CMP_LE"
    EQ = "SCMP_CMP_EQ"
    GE = "SCMP_CMP_GE"
    GT = "SCMP_CMP_GT"
    MASKED_EQ = "SCMP_CMP_MASKED_EQ"


@attrs.frozen
class Condition:
    """
    A comparison of an argument, all 64 bits of it and unsigned.

    The kernel itself often takes only the lower 32: a condition on all of them can be got around where it refuses
    (CVE-2019-10063), and misses calls where it allows.

    Attributes:
        index: Of the argument, 0 to 5.
        value: What it is compared with; for MASKED_EQ the bits that count.
        value_two: For MASKED_EQ, what these bits have to be; its others do not count.
    """

    index: int
    operator: Operator
    value: int
    value_two: int = 0


@attrs.frozen
class Rule:
    """What becomes of these calls if all of the conditions hold."""

    names: tuple[str, ...]
    verdict: Verdict
    conditions: tuple[Condition, ...] = ()


@attrs.frozen(kw_only=True, cache_hash=True)
class Profile:
    """
    What becomes of each system call. The first rule that matches decides.

    libseccomp, on which docker and others build, lets a rule without conditions replace all others of its call. Where
    that makes a difference, a rule that somebody wrote has no effect; here it has.

    Attributes:
        default: What becomes of a call that no rule matches.
        rules: In order. Names that an architecture does not have are none of its calls.
        architectures: For which it is made, as uname(2) calls them. A call of another one, such as those of 32-bit
            programs, ends the process: its numbers mean something else.
        unknown: Names in the rules of the file that it was read from that are no system calls, as far as is known.
    """

    default: Verdict
    rules: tuple[Rule, ...]
    architectures: tuple[str, ...]
    unknown: tuple[str, ...] = ()

    @property
    def unheard_of(self) -> Verdict:
        """
        What becomes of calls that are in no table.

        A C library tries what is new, and does without it if there is no such call. Other errors it passes on: EPERM
        broke programs under docker with every new call. runc therefore does as we do here (its patchbpf).
        """
        return self.default if self.default.permissive else ENOSYS
