"""Which Landlock rules a container gets, and how they are told to the kernel."""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path
from typing import Any

import pytest

from pysuper import syscalls
from pysuper.landlock import rules, version
from pysuper.spec import ContainerSpec
from pysuper.steps import Landlock

DEFAULT = ContainerSpec(name="box").capabilities
NODES = ("make_char", "make_block")
HEADER = Path("/usr/include/linux/landlock.h")


@pytest.mark.parametrize(
    ("kernel", "shared", "expected"),
    [
        (0, (), None),  # none, or switched off
        (1, (), None),  # Linux 5.13: no file could be moved to another directory
        (2, (), Landlock(deny=NODES)),
        (5, ("net", "pid"), Landlock(deny=NODES)),
        (6, (), Landlock(deny=NODES)),
        (6, ("net",), Landlock(deny=NODES, scope=("abstract_unix_socket",))),
        (7, ("user", "pid"), Landlock(deny=NODES, scope=("signal",))),
        (99, ("pid", "net"), Landlock(deny=NODES, scope=("abstract_unix_socket", "signal"))),
    ],
)
def test_what_a_kernel_knows_and_is_needed(kernel: int, shared: tuple[str, ...], expected: Landlock | None) -> None:
    assert rules(kernel, DEFAULT, shared) == expected


def test_what_a_container_may_do_is_not_refused() -> None:
    assert rules(7, (*DEFAULT, "MKNOD"), ()) == Landlock()
    assert rules(7, (*DEFAULT, "SYS_ADMIN"), ("net",)) is None


def test_a_step_says_what_it_refuses() -> None:
    assert Landlock().describe() == "refuse itself changes of mounts (Landlock)"
    assert Landlock(deny=("make_char",), scope=("signal",)).describe() == (
        "refuse itself changes of mounts, make_char, and outside of the container signal (Landlock)"
    )


def test_the_structures_are_those_of_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(syscalls, "_call", lambda *arguments: calls.append(arguments) or 3)
    syscalls.landlock_create_ruleset(files=1 << 13, scopes=2)
    syscalls.landlock_allow_beneath(3, 5, 1 << 13)
    (_, attributes, size, flags), (_, ruleset, kind, rule, no_flags) = calls
    # struct landlock_ruleset_attr: handled_access_fs, handled_access_net, scoped
    assert (struct.unpack("<QQQ", attributes), size, flags) == ((1 << 13, 0, 2), 24, 0)
    # struct landlock_path_beneath_attr, packed: allowed_access, parent_fd
    assert (ruleset, kind, struct.unpack("<Qi", rule), no_flags) == (3, 1, (1 << 13, 5), 0)


@pytest.mark.skipif(not HEADER.exists(), reason=f"there is no {HEADER}")
def test_the_numbers_are_those_of_the_kernel() -> None:
    text = HEADER.read_text()
    names = {f"ACCESS_FS_{name.upper()}": bit for name, bit in syscalls.LANDLOCK_ACCESS_FS.items()}
    if "LANDLOCK_SCOPE_SIGNAL" in text:
        names |= {f"SCOPE_{name.upper()}": bit for name, bit in syscalls.LANDLOCK_SCOPES.items()}
    for name, bit in names.items():
        (shift,) = re.findall(rf"define LANDLOCK_{name}\s+\(1ULL << (\d+)\)", text)
        assert 1 << int(shift) == bit


def test_a_ruleset_is_a_descriptor_that_is_closed_on_exec() -> None:
    if version() < 2:
        pytest.skip("this kernel has no Landlock")
    ruleset = syscalls.landlock_create_ruleset(files=syscalls.LANDLOCK_ACCESS_FS["refer"], scopes=0)
    assert not os.get_inheritable(ruleset)
    os.close(ruleset)
