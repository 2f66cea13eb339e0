"""
Compiles a profile to the program that seccomp(2) takes: classic BPF, which runs before every system call.

    architecture?  --other-->  end the process
         |
    binary search over the numbers of the calls  -->  the verdict, or conditions of arguments  -->  a verdict

The search takes as many comparisons as the logarithm of the number of its ranges; the kernel runs it only for calls
whose arguments matter, or that are not allowed: of the others it keeps a bitmap (since Linux 5.11).

Sources: Documentation/userspace-api/seccomp_filter.rst, Documentation/networking/filter.rst, linux/filter.h.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache

from pysuper.errors import ConfigError
from pysuper.seccomp.calls import NUMBERS
from pysuper.seccomp.profile import ENOSYS, Action, Condition, Operator, Profile, Rule, Verdict

__all__ = ["INSTRUCTION", "compile_profile"]

#: struct sock_filter: code, jt, jf, k. Both architectures are little-endian.
INSTRUCTION = struct.Struct("<HBBI")
#: BPF_MAXINSNS
_MOST_INSTRUCTIONS = 4096
#: AUDIT_ARCH_* of linux/audit.h: the ELF machine, 64 bits, little-endian.
_AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
#: __X32_SYSCALL_BIT: calls of x32 programs have the architecture of x86_64, and numbers from here on.
_X32 = 0x40000000

# Offsets in struct seccomp_data.
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16

_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
_JUMP = 0x05  # BPF_JMP | BPF_JA
_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_ABOVE = 0x25  # BPF_JMP | BPF_JGT | BPF_K
_FROM = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K
#: The farthest that a comparison can jump.
_FAR = 255

_LOW = 0xFFFFFFFF


@lru_cache
def compile_profile(profile: Profile, architecture: str) -> bytes:
    """
    The program of a profile: an array of struct sock_filter.

    Args:
        architecture: As uname(2) calls it.

    Raises:
        ConfigError: The program is too long for the kernel, or the profile is not made for this architecture.
    """
    if architecture not in profile.architectures:
        raise ConfigError(f"the seccomp profile is for {' and '.join(profile.architectures)}, not for {architecture}")
    program = _Program()
    calls = _calls(program, profile, NUMBERS[architecture])
    ranges = _ranges(calls, program.verdict(profile.unheard_of))
    if architecture == "x86_64":
        # Other calls than these numbers say to a profile: as on a kernel without x32, there are none.
        ranges.append((_X32, program.verdict(ENOSYS)))
    search = program.load(_NUMBER, _search(program, ranges))
    other = program.verdict(Verdict(Action.KILL_PROCESS))
    program.load(_ARCHITECTURE, program.compare(_EQUAL, _AUDIT[architecture], search, other))
    if len(program) > _MOST_INSTRUCTIONS:
        raise ConfigError(
            f"the seccomp profile needs {len(program)} instructions, of which a kernel takes {_MOST_INSTRUCTIONS}",
            remedy="use fewer conditions",
        )
    return program.assemble()


#: A place in a program: the number of instructions that follow it.
_Label = int


class _Program:
    """
    A program, written from its end to its beginning.

    BPF only jumps forward: whatever an instruction leads to is there already, and can be shared.
    """

    def __init__(self) -> None:
        self._backwards: list[tuple[int, int, int, int]] = []
        self._labels: dict[tuple[int, ...], _Label] = {}
        self._copies: dict[_Label, _Label] = {}

    def __len__(self) -> int:
        return len(self._backwards)

    def assemble(self) -> bytes:
        """As the kernel takes it."""
        return b"".join(INSTRUCTION.pack(*instruction) for instruction in reversed(self._backwards))

    def verdict(self, verdict: Verdict) -> _Label:
        """Return this."""
        return self._shared(_RETURN, verdict.action | verdict.data)

    def load(self, offset: int, then: _Label) -> _Label:
        """Load a word of struct seccomp_data."""
        return self._shared(_LOAD, offset, then)

    def mask(self, bits: int, then: _Label) -> _Label:
        """Keep only these bits of the word."""
        return self._shared(_AND, bits, then)

    def compare(self, how: int, value: int, true: _Label, false: _Label) -> _Label:
        """Compare the word with a value."""
        return true if true == false else self._shared(how, value, true, false)

    def _shared(self, code: int, value: int, *targets: _Label) -> _Label:
        """The instruction, if there is one like it that leads to the same places; otherwise a new one."""
        key = (code, value, *targets)
        if key not in self._labels:
            self._labels[key] = self._new(code, value, *targets)
        return self._labels[key]

    def _new(self, code: int, value: int, *targets: _Label) -> _Label:
        if len(targets) == 2:
            # What brings the second target near moves the first one away, by one.
            true = self._near(targets[0], _FAR - 1)
            false = self._near(targets[1], _FAR)
            return self._write(code, value, len(self) - true - 1, len(self) - false - 1)
        for then in targets:
            self._near(then, 0)
        return self._write(code, value)

    def _near(self, label: _Label, most: int) -> _Label:
        """The label, or that of an instruction which does the same, with at most so many instructions in between."""
        for place in (label, self._copies.get(label, label)):
            if len(self) - place - 1 <= most:
                return place
        code, _, _, value = self._backwards[label]
        if code == _RETURN:  # once more is as long as a jump to it, and shorter to run
            self._copies[label] = self._write(_RETURN, value)
        else:
            self._copies[label] = self._write(_JUMP, len(self) - label - 1)
        return self._copies[label]

    def _write(self, code: int, value: int, true: int = 0, false: int = 0) -> _Label:
        self._backwards.append((code, true, false, value))
        return len(self) - 1


def _calls(program: _Program, profile: Profile, numbers: Mapping[str, int]) -> dict[int, _Label]:
    """Where each call leads to, by its number."""
    rules: dict[str, list[Rule]] = {}
    for rule in profile.rules:
        for name in rule.names:
            rules.setdefault(name, []).append(rule)
    default = program.verdict(profile.default)
    return {number: _first_match(program, rules.get(name, ()), default) for name, number in numbers.items()}


def _first_match(program: _Program, rules: Sequence[Rule], otherwise: _Label) -> _Label:
    last = next((place for place, rule in enumerate(rules, 1) if not rule.conditions), len(rules))
    for rule in reversed(rules[:last]):
        matched = program.verdict(rule.verdict)
        for condition in reversed(rule.conditions):
            matched = _condition(program, condition, matched, otherwise)
        otherwise = matched
    return otherwise


def _condition(program: _Program, condition: Condition, true: _Label, false: _Label) -> _Label:
    value, place = condition.value, _ARGUMENTS + 8 * condition.index
    if condition.operator in (Operator.NE, Operator.LE, Operator.LT):  # which others are the opposite of
        true, false = false, true
    match condition.operator:
        case Operator.MASKED_EQ:
            return _equal(program, place, value, condition.value_two, true, false)
        case Operator.EQ | Operator.NE:
            return _equal(program, place, ~0, value, true, false)
        case Operator.GT | Operator.LE:
            return _greater(program, place, _ABOVE, value, true, false)
        case Operator.GE | Operator.LT:
            return _greater(program, place, _FROM, value, true, false)


def _equal(program: _Program, place: int, bits: int, value: int, true: _Label, false: _Label) -> _Label:
    """Compare these bits of a 64-bit argument, of which BPF sees 32 at a time."""
    for at, shift in ((place, 0), (place + 4, 32)):
        mask = bits >> shift & _LOW
        if mask:
            compare = program.compare(_EQUAL, value >> shift & mask, true, false)
            true = program.load(at, compare if mask == _LOW else program.mask(mask, compare))
    return true


def _greater(program: _Program, place: int, how: int, value: int, true: _Label, false: _Label) -> _Label:
    """Compare a 64-bit argument: its upper half, and if that is equal the lower one."""
    low = program.load(place, program.compare(how, value & _LOW, true, false))
    same = program.compare(_EQUAL, value >> 32, low, false)
    return program.load(place + 4, program.compare(_ABOVE, value >> 32, true, same))


def _ranges(labels: Mapping[int, _Label], otherwise: _Label) -> list[tuple[int, _Label]]:
    """Numbers that lead to the same place: the first of each row, in order."""
    ranges: list[tuple[int, _Label]] = []
    for number in range(max(labels) + 2):
        label = labels.get(number, otherwise)
        if not ranges or ranges[-1][1] != label:
            ranges.append((number, label))
    return ranges


def _search(program: _Program, ranges: Sequence[tuple[int, _Label]]) -> _Label:
    """Find the row that a number is in, by halves."""
    if len(ranges) == 1:
        return ranges[0][1]
    middle = len(ranges) // 2
    above = _search(program, ranges[middle:])
    below = _search(program, ranges[:middle])
    return program.compare(_FROM, ranges[middle][0], above, below)
