"""
Which profile a container has, and whether it can be started with it.
"""

from __future__ import annotations

from collections.abc import Iterator

from pysuper.errors import ConfigError
from pysuper.seccomp.calls import NUMBERS
from pysuper.seccomp.default import default_profile
from pysuper.seccomp.profile import Action, Profile
from pysuper.spec import DEFAULT_SECCOMP, ContainerSpec

__all__ = ["choose"]

# What `pysuper.launcher.child` still does when the filter is in force, and the interpreter for it.
_TO_EXECUTE = "brk chdir execve exit_group mmap munmap newfstatat prctl recvmsg rt_sigaction rt_sigprocmask sendmsg"
_TO_BE_INIT = """
    clone close getpid gettid ioctl kill lseek openat pipe2 read rt_sigtimedwait set_robust_list setsid wait4 write
"""
_TO_HAVE_A_TERMINAL = "ioctl"
# If it is in force earlier, since execve may gain privileges.
_TO_CHANGE_USER = "capset close geteuid ioctl lseek mremap openat read setgroups setresgid setresuid"
_TO_OPEN_A_TERMINAL = "dup2 dup3"


def choose(spec: ContainerSpec) -> Profile:
    """
    The profile of a container that is not unconfined.

    Raises:
        ConfigError: The file cannot be read, is wrong, or refuses calls without which no container starts.
    """
    if spec.seccomp == DEFAULT_SECCOMP:
        return default_profile(spec.capabilities)

    from pysuper.seccomp.oci import Machine, read_profile  # the default is no file

    machine = Machine.this()
    profile = read_profile(spec.seccomp, spec.capabilities, machine)
    needed = [name for name in _needed(spec) if name in NUMBERS[machine.architecture]]
    if refused := [name for name in dict.fromkeys(needed) if not _may_allow(profile, name)]:
        raise ConfigError(
            f"{spec.seccomp}: refuses {', '.join(refused)}, which pysuper itself calls when the filter is in force",
            remedy="allow that, too" + (", or do without an init" if spec.init else ""),
        )
    return profile


def _needed(spec: ContainerSpec) -> Iterator[str]:
    yield from _TO_EXECUTE.split()
    if spec.init:
        yield from _TO_BE_INIT.split()
    if spec.terminal:
        yield from _TO_HAVE_A_TERMINAL.split()
    if not spec.no_new_privileges:
        yield from _TO_CHANGE_USER.split()
        if spec.terminal:
            yield from _TO_OPEN_A_TERMINAL.split()


def _may_allow(profile: Profile, name: str) -> bool:
    """Whether a call is allowed, at least with some arguments."""
    verdicts = [profile.default]
    for rule in reversed(profile.rules):
        if name in rule.names:
            verdicts = [rule.verdict, *(verdicts if rule.conditions else ())]
    return any(verdict.action in (Action.ALLOW, Action.LOG) for verdict in verdicts)
