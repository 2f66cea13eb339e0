"""Classic BPF as the kernel runs it over a system call, for tests of the programs; net/core/filter.c of the kernel."""

from __future__ import annotations

import operator
import struct
from collections.abc import Callable

import attrs

from pysuper.seccomp.bpf import INSTRUCTION
from pysuper.seccomp.profile import Action, Verdict

#: AUDIT_ARCH_*
AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7, "i386": 0x40000003, "arm": 0x40000028}

_JUMPS: dict[int, Callable[[int, int], object]] = {
    0x15: operator.eq,
    0x25: operator.gt,
    0x35: operator.ge,
    0x45: operator.and_,
}


@attrs.frozen
class Call:
    """A system call, as struct seccomp_data has it."""

    architecture: str
    number: int
    arguments: tuple[int, ...] = ()

    def pack(self) -> bytes:
        """What a filter is given."""
        padded = (*self.arguments, 0, 0, 0, 0, 0, 0)[:6]
        return struct.pack("<IIQ6Q", self.number, AUDIT[self.architecture], 0, *padded)


def run(program: bytes, call: Call) -> Verdict:
    """What a program says about a call."""
    data = call.pack()
    instructions = list(INSTRUCTION.iter_unpack(program))
    place = accumulator = 0
    while True:
        code, true, false, value = instructions[place]
        place += 1
        match code:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, value)
            case 0x54:
                accumulator &= value
            case 0x05:
                place += value
            case 0x06:
                return Verdict(Action(value & 0xFFFF0000), value & 0xFFFF)
            case _:
                place += true if _JUMPS[code](accumulator, value) else false
