"""Seccomp profiles in JSON files, as docker and the OCI runtime specification have them."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from bpf import Call, run
from pysuper import capabilities
from pysuper.errors import ConfigError
from pysuper.seccomp.bpf import compile_profile
from pysuper.seccomp.calls import NUMBERS
from pysuper.seccomp.oci import Machine, from_oci, read_profile
from pysuper.seccomp.profile import ALLOW, ENOSYS, Action, Condition, Operator, Profile, Rule, Verdict

MACHINE = Machine("x86_64", (6, 12))
EPERM = Verdict(Action.ERRNO, errno.EPERM)

#: A file with all that docker's has, and what the specification has on top of that.
FULL = """
{
    "defaultAction": "SCMP_ACT_ERRNO",
    "defaultErrnoRet": 38,
    "defaultErrno": "ENOSYS",
    "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
                {"architecture": "SCMP_ARCH_RISCV64", "subArchitectures": null}],
    "flags": ["SECCOMP_FILTER_FLAG_TSYNC"],
    "syscalls": [
        {"names": ["read", "write"], "action": "SCMP_ACT_ALLOW", "args": null, "comment": "", "includes": {}},
        {"name": "close", "action": "SCMP_ACT_ALLOW", "args": []},
        {"names": ["reboot"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_BOOT"]}},
        {"names": ["reboot"], "action": "SCMP_ACT_KILL", "excludes": {"caps": ["CAP_SYS_BOOT", "CAP_KILL"]}},
        {"names": ["arch_prctl"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["amd64", "x32"]}},
        {"names": ["brk"], "action": "SCMP_ACT_ALLOW", "excludes": {"arches": ["arm64"]}},
        {"names": ["ptrace"], "action": "SCMP_ACT_LOG", "includes": {"minKernel": "4.8"}},
        {"names": ["statmount"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "6.20"}},
        {"names": ["kill"], "action": "SCMP_ACT_ERRNO", "errnoRet": 3, "errno": "ESRCH",
         "args": [{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": 9, "op": "SCMP_CMP_NE"}]},
        {"names": ["clone"], "action": "SCMP_ACT_ALLOW",
         "args": [{"index": 0, "value": 2114060288, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]},
        {"names": ["lseek"], "action": "SCMP_ACT_TRACE", "errnoRet": 65535,
         "args": [{"index": 1, "value": 18446744073709551615, "op": "SCMP_CMP_EQ"},
                  {"index": 1, "value": 5, "op": "SCMP_CMP_LT"}]},
        {"names": ["waitpid", "new_call"], "action": "SCMP_ACT_ALLOW"}
    ]
}
"""


def test_a_file_with_everything_in_it() -> None:
    profile = from_oci(FULL, (*capabilities.DEFAULT, "SYS_BOOT"), MACHINE)
    assert profile == Profile(
        default=ENOSYS,
        architectures=("x86_64",),
        rules=(
            Rule(("read", "write"), ALLOW),
            Rule(("close",), ALLOW),
            Rule(("reboot",), ALLOW),
            Rule(("arch_prctl",), ALLOW),
            Rule(("brk",), ALLOW),
            Rule(("ptrace",), Verdict(Action.LOG)),
            Rule(
                ("kill",),
                Verdict(Action.ERRNO, errno.ESRCH),
                (Condition(0, Operator.EQ, 1), Condition(1, Operator.NE, 9)),
            ),
            Rule(("clone",), ALLOW, (Condition(0, Operator.MASKED_EQ, 0x7E020000, 0),)),
            Rule(("lseek",), Verdict(Action.TRACE, 65535), (Condition(1, Operator.EQ, 2**64 - 1),)),
            Rule(("lseek",), Verdict(Action.TRACE, 65535), (Condition(1, Operator.LT, 5),)),
            Rule(("waitpid", "new_call"), ALLOW),
        ),
        unknown=("new_call",),
    )


def names(profile: Profile) -> set[str]:
    return {name for rule in profile.rules for name in rule.names}


def test_rules_depend_on_the_capabilities_the_architecture_and_the_kernel() -> None:
    here = names(from_oci(FULL, (), MACHINE))
    assert Rule(("reboot",), Verdict(Action.KILL_THREAD)) in from_oci(FULL, (), MACHINE).rules
    assert here - names(from_oci(FULL, ("KILL",), MACHINE)) == {"reboot"}
    assert here - names(from_oci(FULL, (), Machine("aarch64", (6, 12)))) == {"arch_prctl", "brk"}
    assert here - names(from_oci(FULL, (), Machine("x86_64", (4, 7)))) == {"ptrace"}
    assert names(from_oci(FULL, (), Machine("x86_64", (10, 0)))) - here == {"statmount"}


def profile_of(*rules: dict[str, Any], **fields: Any) -> str:
    return json.dumps({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": rules, **fields})


def rule(*names: str, action: str = "SCMP_ACT_ALLOW", **fields: Any) -> dict[str, Any]:
    return {"names": names, "action": action, **fields}


def argument(**fields: Any) -> dict[str, Any]:
    return rule("read", args=[{"index": 0, "op": "SCMP_CMP_EQ", "value": 1, **fields}])


@pytest.mark.parametrize(
    ("text", "complaints"),
    [
        ("", ["1: Expecting value"]),
        ('{"defaultAction":\n}', ["2: Expecting value"]),
        ("[" * 100_000, [" nested too deeply"]),
        ("[]", [" [] is not a table"]),
        ("{}", [" needs defaultAction"]),
        (
            profile_of(defaultAction="SCMP_ALLOW"),
            [" defaultAction: 'SCMP_ALLOW' is not an action; did you mean 'SCMP_ACT_ALLOW'"],
        ),
        (profile_of(defaultAction="SCMP_ACT_NOTIFY"), [" defaultAction: SCMP_ACT_NOTIFY needs an agent"]),
        (profile_of(defaultAction="SCMP_ACT_KILL", defaultErrnoRet=1), [" SCMP_ACT_KILL_THREAD has no errno"]),
        (profile_of(architectures=[], archMap=[]), [" has architectures and archMap"]),
        (profile_of(sycalls=[]), [" sycalls: there is no such key; did you mean 'syscalls'?"]),
        (profile_of(flags=["SECCOMP_FILTER_FLAG_LOG"]), [" flags[0]: 'SECCOMP_FILTER_FLAG_LOG' is not supported"]),
        (profile_of(listenerPath="/run/agent"), [" listenerPath: nobody is notified"]),
        (profile_of({"action": "SCMP_ACT_ALLOW"}), [" syscalls[0]: needs one of name, names"]),
        (profile_of(rule("read", name="read")), [" syscalls[0]: has name and names"]),
        (profile_of(rule("read", arg=[])), [" syscalls[0].arg: there is no such key; did you mean 'args'?"]),
        (profile_of(rule("read", errnoRet=1)), [" syscalls[0]: SCMP_ACT_ALLOW has no errno"]),
        (profile_of(rule("a", action="SCMP_ACT_ERRNO", errnoRet=4096)), [" syscalls[0]: 4096 is not an errno"]),
        (profile_of(argument(index=6)), [" syscalls[0].args[0].index: 6 is not a whole number from 0 to 5"]),
        (profile_of(argument(value=-1)), [" syscalls[0].args[0].value: -1 is not"]),
        (profile_of(argument(valueTwo=2**64)), [" syscalls[0].args[0].valueTwo: 18446744073709551616 is not"]),
        (profile_of(argument(op="EQ")), [" syscalls[0].args[0].op: 'EQ' is not an operator"]),
        (
            profile_of(rule("read"), rule("read", includes={"caps": ["CAP_ADMIN"], "minKernel": "new"})),
            [
                " syscalls[1].includes.caps[0]: there is no capability 'CAP_ADMIN'; did you mean 'SYS_ADMIN'",
                " syscalls[1].includes.minKernel: 'new' is not a version of Linux, such as 4.8",
            ],
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_place(tmp_path: Path, text: str, complaints: list[str]) -> None:
    path = tmp_path / "profile.json"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_profile(str(path), (), MACHINE)
    lines = str(caught.value).split("\n")
    assert [line[: len(str(path)) + 1 + len(c)] for line, c in zip(lines, complaints, strict=True)] == [
        f"{path}:{complaint}" for complaint in complaints
    ]


@pytest.mark.parametrize("content", [None, b"\xff", b" " * (2**20 + 1)])
def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "profile.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match="profile.json: (No such file|not UTF-8|has more than)"):
        read_profile(str(path), (), MACHINE)


def test_a_misspelt_call_is_an_error_where_it_would_be_let_through() -> None:
    misspelt = rule("unshar", action="SCMP_ACT_ERRNO")
    with pytest.raises(ConfigError, match=r"syscalls\[0\]: there is no system call 'unshar'.*did you mean 'unshare'"):
        from_oci(profile_of(misspelt, defaultAction="SCMP_ACT_ALLOW"), (), MACHINE)
    assert from_oci(profile_of(misspelt), (), MACHINE).unknown == ("unshar",)
    elsewhere = rule("vm86", action="SCMP_ACT_ERRNO")
    assert from_oci(profile_of(elsewhere, defaultAction="SCMP_ACT_ALLOW"), (), MACHINE).unknown == ()


def verdicts(text: str, calls: Iterable[tuple[str, tuple[int, ...]]]) -> list[Verdict]:
    program = compile_profile(from_oci(text, (), MACHINE), "x86_64")
    return [run(program, Call("x86_64", NUMBERS["x86_64"][name], arguments)) for name, arguments in calls]


def test_the_first_rule_that_matches_decides() -> None:
    refused = rule("ioctl", action="SCMP_ACT_ERRNO", args=[{"index": 1, "op": "SCMP_CMP_EQ", "value": 0x5412}])
    calls = [("ioctl", (0, 0x5412)), ("ioctl", (0, 1))]
    assert verdicts(profile_of(refused, rule("ioctl")), calls) == [EPERM, ALLOW]
    assert verdicts(profile_of(rule("ioctl"), refused), calls) == [ALLOW, ALLOW]


def test_several_conditions_of_one_argument_are_alternatives_as_for_docker() -> None:
    outside = [{"index": 0, "op": "SCMP_CMP_LT", "value": 5}, {"index": 0, "op": "SCMP_CMP_GT", "value": 9}]
    calls = [("read", (4,)), ("read", (7,)), ("read", (10,))]
    assert verdicts(profile_of(rule("read", args=outside)), calls) == [ALLOW, EPERM, ALLOW]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.data())
def test_whatever_is_in_a_file_becomes_a_profile_or_an_error(data: st.DataObject) -> None:
    document = json.loads(FULL)
    place: Any = document
    while isinstance(place, dict | list) and place:
        parent, key = place, data.draw(st.sampled_from(list(place) if isinstance(place, dict) else range(len(place))))
        place = place[key]
        if data.draw(st.booleans()):
            break
    parent[key] = data.draw(JSON)
    try:
        compile_profile(from_oci(json.dumps(document), (), MACHINE), "x86_64")
    except ConfigError as error:
        assert str(error).isprintable() or "\n" in str(error)
