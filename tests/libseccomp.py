"""The filters of libseccomp, on which docker and podman build, to compare ours with."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from functools import cache

import pytest

from pysuper.seccomp.profile import Condition, Operator, Verdict

#: SCMP_ARCH_* of seccomp.h, and where the numbers of their calls begin.
ARCHITECTURES = {
    "x86_64": (0xC000003E, 0),
    "aarch64": (0xC00000B7, 0),
    "i386": (0x40000003, 0),
    "arm": (0x40000028, 0),
    "arm's own": (0x40000028, 0x0F0000),
    "mips64": (0x80000008, 5000),
    "ppc64le": (0xC0000015, 0),
    "riscv64": (0xC00000F3, 0),
    "s390x": (0x80000016, 0),
}
_MOST_CALLS = 1000
_OPERATORS = {operator: number for number, operator in enumerate(Operator, 1)}

#: A rule of libseccomp: of a call, by its name.
Rule = tuple[str, Verdict, tuple[Condition, ...]]


class _Comparison(ctypes.Structure):
    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


@cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        pytest.skip("libseccomp2 is not installed (see tests/fixtures_build/debs.sh)")
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_syscall_resolve_num_arch.restype = ctypes.c_void_p
    return library


@cache
def names(architecture: str) -> frozenset[str]:
    """Of all calls that an architecture has, as far as the library knows."""
    token, first = ARCHITECTURES[architecture]
    resolve = _library().seccomp_syscall_resolve_num_arch
    found = (resolve(ctypes.c_uint32(token), number) for number in range(first, first + _MOST_CALLS))
    return frozenset(ctypes.string_at(text).decode() for text in found if text)


def compile_rules(architecture: str, default: Verdict, rules: Iterable[Rule]) -> bytes:
    """The program that the library makes."""
    library = _library()
    filter_ = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(default.action | default.data)))
    token = ctypes.c_uint32(ARCHITECTURES[architecture][0])
    if os.uname().machine != architecture:
        _check(library.seccomp_arch_remove(filter_, library.seccomp_arch_native()))
        _check(library.seccomp_arch_add(filter_, token))
    for name, verdict, conditions in rules:
        comparisons = [_Comparison(c.index, _OPERATORS[c.operator], c.value, c.value_two) for c in conditions]
        array = (_Comparison * len(comparisons))(*comparisons)
        number = library.seccomp_syscall_resolve_name(name.encode())
        action = ctypes.c_uint32(verdict.action | verdict.data)
        _check(library.seccomp_rule_add_array(filter_, action, number, len(comparisons), array))
    file = os.memfd_create("filter")
    try:
        _check(library.seccomp_export_bpf(filter_, file))
        return os.pread(file, os.fstat(file).st_size, 0)
    finally:
        os.close(file)
        library.seccomp_release(filter_)


def _check(result: int) -> None:
    if result < 0:
        raise OSError(-result, f"libseccomp: {os.strerror(-result)}")
