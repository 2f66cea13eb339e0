"""Profiles say what becomes of a system call, and the programs made of them say the same, call for call."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

import libseccomp
from bpf import Call, run
from pysuper import capabilities, syscalls
from pysuper.errors import ConfigError
from pysuper.seccomp.bpf import INSTRUCTION, compile_profile
from pysuper.seccomp.calls import ELSEWHERE, NUMBERS
from pysuper.seccomp.default import default_profile
from pysuper.seccomp.profile import ALLOW, ENOSYS, Action, Condition, Operator, Profile, Rule, Verdict

KILLED = Verdict(Action.KILL_PROCESS)
REFUSED = Verdict(Action.ERRNO, errno.EPERM)
both_architectures = pytest.mark.parametrize("architecture", NUMBERS)


def holds(condition: Condition, arguments: tuple[int, ...]) -> bool:
    """What a condition says, in Python."""
    argument, value = arguments[condition.index], condition.value
    return {
        Operator.NE: argument != value,
        Operator.LT: argument < value,
        Operator.LE: argument <= value,
        Operator.EQ: argument == value,
        Operator.GE: argument >= value,
        Operator.GT: argument > value,
        Operator.MASKED_EQ: argument & value == condition.value_two & value,
    }[condition.operator]


def decide(profile: Profile, call: Call) -> Verdict:
    """What a profile says, in Python."""
    if call.architecture not in profile.architectures:
        return KILLED
    name = {number: name for name, number in NUMBERS[call.architecture].items()}.get(call.number)
    if name is None:
        return ENOSYS if call.number >= 1 << 30 and call.architecture == "x86_64" else profile.unheard_of
    for rule in profile.rules:
        if name in rule.names and all(holds(condition, call.arguments) for condition in rule.conditions):
            return rule.verdict
    return profile.default


# --- the tables ---


def header(*places: str) -> str:
    """A header of the kernel, if it is installed."""
    for place in places:
        if Path("/usr/include", place).exists():
            return Path("/usr/include", place).read_text()
    pytest.skip("the kernel's headers are not installed")


def test_calls_of_x86_64_have_the_numbers_of_the_kernels_header() -> None:
    text = header("x86_64-linux-gnu/asm/unistd_64.h", "asm/unistd_64.h")
    found = {name: int(number) for name, number in re.findall(r"#define __NR_(\w+) (\d+)", text)}
    assert len(found) > 300
    assert found.items() <= NUMBERS["x86_64"].items()


def test_calls_of_aarch64_have_the_numbers_of_the_kernels_header() -> None:
    text = header("asm-generic/unistd.h")
    # Calls that differ between 32 and 64 bits get their names in a second step.
    renamed = dict(re.findall(r"#define __NR_(\w+) __NR3264_(\w+)", text.partition("__BITS_PER_LONG == 64 &&")[2]))
    by_width = {short: long for long, short in reversed(renamed.items())}
    numbers = re.findall(r"#define __NR(3264)?_(\w+) (\d+)", text)
    found = {by_width.get(name, name) if prefix else name: int(number) for prefix, name, number in numbers}
    for name in ("arch_specific_syscall", "syscalls", "sync_file_range2"):
        found.pop(name)
    in_64_bits = {name: number for name, number in found.items() if name not in ELSEWHERE}
    assert len(in_64_bits) > 300
    assert in_64_bits.items() <= NUMBERS["aarch64"].items()


@both_architectures
def test_no_number_is_given_twice(architecture: str) -> None:
    assert len(set(NUMBERS[architecture].values())) == len(NUMBERS[architecture])
    assert not ELSEWHERE & NUMBERS[architecture].keys()


def test_every_call_that_libseccomp_knows_is_known() -> None:
    for architecture in libseccomp.ARCHITECTURES:
        assert libseccomp.names(architecture) <= ELSEWHERE.union(*NUMBERS.values()), architecture


def test_the_numbers_by_which_we_make_calls_are_those_of_the_table() -> None:
    assert syscalls._NR.items() <= NUMBERS[os.uname().machine].items()


# --- programs ---

NAMES = sorted(NUMBERS["x86_64"].keys() & NUMBERS["aarch64"].keys())[:12]
EDGES = st.sampled_from([0, 1, 5, 2**31, 2**32 - 1, 2**32, 2**32 + 5, 2**63, 2**64 - 1])
VALUES = EDGES | st.integers(0, 2**64 - 1)
VERDICTS = st.one_of(
    st.builds(Verdict, st.sampled_from([a for a in Action if a is not Action.ERRNO])),
    st.builds(Verdict, st.just(Action.ERRNO), st.integers(0, 4095)),
    st.builds(Verdict, st.just(Action.TRACE), st.integers(0, 0xFFFF)),
)
CONDITIONS = st.builds(Condition, st.integers(0, 2), st.sampled_from(Operator), VALUES, VALUES)
RULES = st.builds(
    Rule,
    st.lists(st.sampled_from(NAMES), min_size=1, max_size=4).map(tuple),
    VERDICTS,
    st.lists(CONDITIONS, max_size=3).map(tuple),
)
PROFILES = st.builds(
    Profile, default=VERDICTS, rules=st.lists(RULES, max_size=30).map(tuple), architectures=st.just(tuple(NUMBERS))
)


@st.composite
def calls(draw: st.DrawFn, profile: Profile) -> Call:
    """A call with arguments at the edges of what the profile's conditions ask for."""
    architecture = draw(st.sampled_from([*NUMBERS, "i386"]))
    numbers = [NUMBERS[architecture][name] for name in NAMES] if architecture in NUMBERS else [0, 5]
    number = draw(st.sampled_from([*numbers, 400, 600, 1 << 30, (1 << 30) + 1, 2**32 - 1]))
    near = {
        (value + step) % 2**64
        for rule in profile.rules
        for condition in rule.conditions
        for value in (condition.value, condition.value_two)
        for step in (-1, 0, 1, 2**32)
    }
    values = st.sampled_from(sorted(near)) | VALUES if near else VALUES
    return Call(architecture, number, tuple(draw(st.lists(values, min_size=3, max_size=3))))


@given(st.data())
def test_a_program_decides_as_its_profile_says(data: st.DataObject) -> None:
    profile = data.draw(PROFILES)
    for _ in range(8):
        call = data.draw(calls(profile))
        program = compile_profile(profile, call.architecture if call.architecture in NUMBERS else "x86_64")
        assert run(program, call) == decide(profile, call)


def one_condition_each(names: Iterable[str]) -> Profile:
    """A profile in which no two calls are alike."""
    rules = (
        Rule(
            (name,),
            Verdict(Action.ERRNO, 1000 + place),
            (Condition(place % 6, list(Operator)[place % 7], place << 32 | place, ~place % 2**64),),
        )
        for place, name in enumerate(names)
    )
    return Profile(default=REFUSED, rules=tuple(rules), architectures=tuple(NUMBERS))


@both_architectures
def test_programs_may_be_longer_than_a_jump_of_bpf(architecture: str) -> None:
    profile = one_condition_each(sorted(NUMBERS[architecture]))
    program = compile_profile(profile, architecture)
    assert len(program) > 4 * 255 * INSTRUCTION.size
    for rule in profile.rules:
        (condition,) = rule.conditions
        for value in (condition.value, condition.value_two, condition.value + 1, 0, 2**64 - 1):
            call = Call(architecture, NUMBERS[architecture][rule.names[0]], (value,) * 6)
            assert run(program, call) == decide(profile, call)


def test_programs_may_have_any_length() -> None:
    numbers = NUMBERS["x86_64"]
    for length in range(200):
        profile = one_condition_each(list(numbers)[:length])
        program = compile_profile(profile, "x86_64")
        for number in {0, length - 1, length} & set(numbers.values()):
            call = Call("x86_64", number, (0,) * 6)
            assert run(program, call) == decide(profile, call)


def test_a_profile_that_is_too_long_for_the_kernel_is_an_error() -> None:
    rules = tuple(Rule(("read",), ALLOW, (Condition(0, Operator.GT, number << 20),)) for number in range(1000))
    profile = Profile(default=KILLED, rules=rules, architectures=("x86_64",))
    with pytest.raises(ConfigError, match="5[0-9]{3} instructions, of which a kernel takes 4096"):
        compile_profile(profile, "x86_64")


def test_a_profile_that_was_read_for_another_architecture_is_an_error() -> None:
    profile = Profile(default=ALLOW, rules=(), architectures=("x86_64",))
    with pytest.raises(ConfigError, match="for x86_64, not for aarch64"):
        compile_profile(profile, "aarch64")


def test_a_list_of_what_is_refused_is_not_got_around_by_x32() -> None:
    profile = Profile(default=ALLOW, rules=(Rule(("open",), REFUSED),), architectures=tuple(NUMBERS))
    program = compile_profile(profile, "x86_64")
    assert run(program, Call("x86_64", 2)) == REFUSED
    assert run(program, Call("x86_64", 1 << 30 | 2)) == ENOSYS
    assert run(program, Call("x86_64", 400)) == ALLOW


# --- the default profile ---

PROFILE = default_profile(capabilities.DEFAULT)
#: Calls whose arguments it looks at.
CONDITIONAL = {name for rule in PROFILE.rules if rule.conditions for name in rule.names}
#: What no container is allowed, whatever capabilities it keeps.
NEVER = """
    add_key keyctl request_key
    io_uring_enter io_uring_register io_uring_setup userfaultfd
    kexec_file_load kexec_load swapoff swapon
    migrate_pages move_pages modify_ldt
    _sysctl afs_syscall create_module epoll_ctl_old epoll_wait_old get_kernel_syms get_thread_area getpmsg nfsservctl
    putpmsg query_module security set_thread_area sysfs tuxcall uselib ustat vserver
"""
#: What a container is allowed that keeps the right capability.
SOMETIMES = """
    acct bpf chroot clock_settime delete_module fanotify_init finit_module fsconfig fsmount fsopen fspick get_mempolicy
    init_module ioperm iopl kcmp listns lookup_dcookie lsm_get_self_attr lsm_list_modules lsm_set_self_attr mbind mount
    mount_setattr move_mount open_by_handle_at open_tree open_tree_attr perf_event_open pidfd_getfd pivot_root
    process_madvise process_vm_readv process_vm_writev quotactl quotactl_fd reboot set_mempolicy set_mempolicy_home_node
    setdomainname sethostname setns settimeofday syslog umount2 vhangup
"""


def verdict(call: str, *arguments: int, kept: tuple[str, ...] = capabilities.DEFAULT) -> Verdict:
    """Of the default profile; the same on both architectures."""
    verdicts = {
        run(compile_profile(default_profile(kept), architecture), Call(architecture, numbers[call], arguments))
        for architecture, numbers in NUMBERS.items()
        if call in numbers
    }
    (only,) = verdicts
    return only


def test_somebody_has_decided_about_every_call() -> None:
    known = set().union(*NUMBERS.values())
    assert {call for call in known - CONDITIONAL if verdict(call) == REFUSED} == {*NEVER.split(), *SOMETIMES.split()}
    assert {call for call in known if verdict(call, kept=capabilities.NAMES) == REFUSED} == set(NEVER.split())


def test_calls_that_are_in_no_table_seem_not_to_be_there() -> None:
    for architecture, numbers in NUMBERS.items():
        for number in (max(numbers.values()) + 1, 400, 2**31, 2**32 - 1):
            assert number not in numbers.values()
            assert run(compile_profile(PROFILE, architecture), Call(architecture, number)) == ENOSYS


@pytest.mark.parametrize(
    ("capability", "call"),
    [("SYS_ADMIN", "mount"), ("SYS_TIME", "clock_settime"), ("SYS_MODULE", "init_module"), ("BPF", "bpf")],
)
def test_a_capability_that_is_kept_is_of_use(capability: str, call: str) -> None:
    assert verdict(call) == REFUSED
    assert verdict(call, kept=(*capabilities.DEFAULT, capability)) == ALLOW


FORK = 0x01200011  # CLONE_CHILD_SETTID, CLONE_CHILD_CLEARTID, SIGCHLD
THREAD = 0x003D0F00  # as the C library makes one


def test_new_processes_and_threads_are_allowed_and_new_namespaces_are_not() -> None:
    assert verdict("clone", FORK) == verdict("clone", THREAD) == ALLOW
    for flag in syscalls.NAMESPACE_FLAGS.values():
        if flag != syscalls.CLONE_NEWTIME:  # which means a signal to clone
            assert verdict("clone", FORK | flag) == verdict("clone", flag | 0xFFFFFFFF << 32) == REFUSED
        assert verdict("unshare", flag) == verdict("unshare", flag | 1 << 63) == REFUSED
    assert verdict("unshare", 0x600) == ALLOW  # CLONE_FS, CLONE_FILES
    assert verdict("clone3") == ENOSYS
    assert verdict("clone", 0x10000000, kept=("SYS_ADMIN",)) == verdict("clone3", kept=("SYS_ADMIN",)) == ALLOW


def test_sockets_are_of_families_that_containers_use() -> None:
    allowed = {family for family in range(64) if verdict("socket", family) == ALLOW}
    assert allowed == {1, 2, 10, 16, 17}
    # The kernel takes 32 bits of it.
    assert verdict("socket", 2 | 1 << 32) == ALLOW
    for alg_and_vsock in (38, 40, 38 | 1 << 32, 40 | 1 << 63):
        assert verdict("socket", alg_and_vsock) == verdict("socketpair", alg_and_vsock)
        assert verdict("socket", alg_and_vsock) == Verdict(Action.ERRNO, errno.EAFNOSUPPORT)


def test_nobody_types_into_a_terminal_for_somebody_else() -> None:
    for request in (0x5412, 0x541C):  # TIOCSTI, TIOCLINUX
        assert verdict("ioctl", 0, request) == verdict("ioctl", 0, request | 0xABCD << 32) == REFUSED
    assert verdict("ioctl", 0x5412, 0x5413) == ALLOW  # TIOCGWINSZ


def test_personalities_that_help_exploits_are_refused() -> None:
    assert verdict("personality", 0) == verdict("personality", 2**32 - 1) == verdict("personality", 2**64 - 1) == ALLOW
    for persona in (0x0040000, 0x0400000, 0x0100000):  # ADDR_NO_RANDOMIZE, READ_IMPLIES_EXEC, MMAP_PAGE_ZERO
        assert verdict("personality", persona) == verdict("personality", persona | 8) == REFUSED


def test_programs_of_other_architectures_are_ended() -> None:
    for architecture, other in product(NUMBERS, ["i386", "arm", *NUMBERS]):
        if architecture != other:
            assert run(compile_profile(PROFILE, architecture), Call(other, 1)) == KILLED
    x32 = 1 << 30
    assert run(compile_profile(PROFILE, "x86_64"), Call("x86_64", x32)) == ENOSYS


def libseccomps(profile: Profile, architecture: str) -> Iterator[tuple[set[str], bytes]]:
    """
    Programs of libseccomp that together are the profile, each with the calls it is about.

    There a rule without conditions replaces all that have some; so a call that has both kinds gets a program of its
    own, of which the former is the default.
    """
    rules = {
        name: [(rule.verdict, rule.conditions) for rule in profile.rules if name in rule.names]
        for name in NUMBERS[architecture].keys() & libseccomp.names(architecture) & libseccomp.names(os.uname().machine)
    }
    alone = {name for name, own in rules.items() if own and own[0][1] and not own[-1][1]}
    shared = [(name, *rule) for name in rules.keys() - alone for rule in rules[name]]
    yield rules.keys() - alone, libseccomp.compile_rules(architecture, profile.default, shared)
    for name in alone:
        *conditional, (default, _) = rules[name]
        own = [(name, *rule) for rule in conditional]
        yield {name}, libseccomp.compile_rules(architecture, default, own)


@both_architectures
@pytest.mark.parametrize("kept", [capabilities.DEFAULT, ("SYS_ADMIN",), ()], ids=["default", "admin", "none"])
def test_the_default_profile_decides_as_libseccomp_does(architecture: str, kept: tuple[str, ...]) -> None:
    profile = default_profile(kept)
    program = compile_profile(profile, architecture)
    values = {c.value_two | high << 32 for rule in profile.rules for c in rule.conditions for high in (0, 1)}
    values |= {1 << bit for bit in range(64)} | {0, FORK, THREAD, 2**32 - 1, 2**64 - 1, *range(46)}
    compared = set()
    for names, theirs in libseccomps(profile, architecture):
        compared |= names
        for name in names:
            for value in values if name in CONDITIONAL else {0, 2**64 - 1}:
                for arguments in ((value, 0), (0, value), (value, value)):
                    call = Call(architecture, NUMBERS[architecture][name], arguments)
                    assert run(program, call) == run(theirs, call), (name, arguments)
    assert len(compared) > 290
