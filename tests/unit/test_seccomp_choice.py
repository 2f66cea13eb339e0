"""Which seccomp profile a container gets: from the command line, from a file, from a program."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import attrs
import pytest
from tomlfiles import errors, write

from bpf import Call, run
from pysuper import steps
from pysuper.config import load, load_stack
from pysuper.document import to_toml
from pysuper.errors import ConfigError
from pysuper.flags import container_parser, make_spec
from pysuper.joining import command_plan
from pysuper.phase import Phase
from pysuper.plan import Plan
from pysuper.planning import make_plan
from pysuper.seccomp.calls import NUMBERS
from pysuper.seccomp.choice import _TO_BE_INIT, _TO_EXECUTE
from pysuper.seccomp.profile import ALLOW
from pysuper.spec import ContainerSpec, DriverChoice
from pysuper.validation import validate

NUMBER = NUMBERS[os.uname().machine]
PLAIN = ContainerSpec(name="box", command=("true",), cgroup=DriverChoice("none"))


def spec_of(*argv: str) -> ContainerSpec:
    """What `pysuper run` makes of these options."""
    spec, _ = make_spec(container_parser("pysuper run", "").parse(argv), interactive=False)
    return spec


def profile(directory: Path, default: str, **actions: list[str]) -> str:
    """The path of a file: calls, by the action."""
    rules = [{"names": names, "action": f"SCMP_ACT_{action}"} for action, names in actions.items()]
    path = directory / "profile.json"
    path.write_text(json.dumps({"defaultAction": f"SCMP_ACT_{default}", "syscalls": rules}))
    return str(path)


@pytest.mark.parametrize(
    ("option", "chosen"),
    [
        ("seccomp=default", "default"),
        ("seccomp=builtin", "default"),
        ("seccomp=unconfined", "unconfined"),
        ("seccomp:unconfined", "unconfined"),
        ("seccomp=profiles/a=b.json", "{}/profiles/a=b.json"),
        ("seccomp=/etc/profile.json", "/etc/profile.json"),
        ("seccomp=./default", "{}/default"),
        ("no-new-privileges", "default"),
        ("no-new-privileges:true", "default"),
    ],
)
def test_options_are_dockers_and_paths_relative_to_who_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, chosen: str
) -> None:
    monkeypatch.chdir("/usr")
    given = spec_of("--security-opt", option)
    assert (given.seccomp, given.no_new_privileges) == (chosen.format("/usr"), True)
    in_file = load(write(tmp_path, f'[container.web]\nsecurity_opt = ["{option}"]'))["web"]
    assert (in_file.seccomp, in_file.no_new_privileges) == (chosen.format(tmp_path), True)


def test_the_last_one_counts_and_privileged_is_unconfined_unless_it_says_otherwise() -> None:
    assert spec_of("--security-opt", "seccomp=unconfined", "--security-opt", "seccomp=default").seccomp == "default"
    assert spec_of("--privileged").seccomp == "unconfined"
    assert spec_of("--privileged", "--security-opt", "seccomp=default").seccomp == "default"


def test_what_is_no_choice_is_an_error(tmp_path: Path) -> None:
    for option in ("seccomp", "seccomp=", "secomp=default"):
        with pytest.raises(ConfigError, match="is not seccomp=default"):
            spec_of("--security-opt", option)
        (line,) = errors(tmp_path, f'[container.web]\nsecurity_opt = "{option}"')
        assert line.startswith(f"2: container.web.security_opt[0]: '{option}' is not seccomp=default")
    with pytest.raises(ConfigError, match="seccomp: 'profile.json' is not an absolute path, nor default or unconfined"):
        validate(attrs.evolve(PLAIN, seccomp="profile.json"))


def test_a_stack_that_is_written_down_has_the_same_profiles(tmp_path: Path) -> None:
    stack = load_stack(write(tmp_path, '[container.a]\nsecurity_opt = ["seccomp=p.json"]\n[container.b]'))
    again = load_stack(write(tmp_path, to_toml(stack)))
    assert [member.container.seccomp for member in again.members.values()] == [f"{tmp_path}/p.json", "default"]


# --- plans ---


def program(plan: Plan) -> bytes:
    """Of the only filter in a plan."""
    (step,) = (step for step in plan.steps if isinstance(step, steps.Seccomp))
    return bytes.fromhex(step.program)


def place(plan: Plan, kind: type[steps.Step]) -> int:
    return [type(step) for step in plan.steps].index(kind)


def test_the_filter_is_the_last_step_also_of_a_command_that_joins() -> None:
    plan = make_plan(attrs.evolve(PLAIN, terminal=True))
    assert isinstance(plan.steps[-1], steps.Seccomp)
    joining = command_plan(plan, ["ls"], terminal=True)
    assert isinstance(joining.steps[-1], steps.Seccomp)
    assert program(joining) == program(plan)


def test_who_may_gain_privileges_is_filtered_before_the_capabilities_go() -> None:
    plan = make_plan(attrs.evolve(PLAIN, no_new_privileges=False))
    assert plan.phases.get(Phase.SECCOMP) is None
    for each in (plan, command_plan(plan, ["ls"])):
        assert place(each, steps.SetUmask) < place(each, steps.Seccomp) < place(each, steps.BoundCapabilities)


def test_nothing_is_done_without_a_profile_and_a_warning_says_so() -> None:
    plan = make_plan(attrs.evolve(PLAIN, seccomp="unconfined"))
    assert not [step for step in plan.steps if isinstance(step, steps.Seccomp)]
    assert not [check for check in plan.checks if "Seccomp" in check.describe()]
    assert [warning for warning in plan.warnings if warning.startswith("seccomp is off")]


def test_capabilities_open_the_calls_that_they_are_for() -> None:
    more = attrs.evolve(PLAIN, capabilities=(*PLAIN.capabilities, "SYS_TIME"))
    call = Call(os.uname().machine, NUMBER["clock_settime"])
    assert run(program(make_plan(PLAIN)), call) != ALLOW
    assert run(program(make_plan(more)), call) == ALLOW


@pytest.mark.parametrize(
    ("changes", "needed"),
    [
        ({"init": False}, ["execve", "sendmsg"]),
        ({"init": True}, ["execve", "sendmsg", "clone", "wait4"]),
        ({"init": False, "terminal": True}, ["execve", "ioctl"]),
        ({"init": False, "no_new_privileges": False}, ["execve", "capset"]),
        ({"init": False, "no_new_privileges": False, "terminal": True}, ["execve", "capset", "dup3"]),
    ],
)
def test_a_profile_that_no_container_could_start_with_is_an_error(
    tmp_path: Path, changes: dict[str, Any], needed: list[str]
) -> None:
    with pytest.raises(ConfigError, match=r"profile.json: refuses .*, which pysuper itself calls") as caught:
        make_plan(attrs.evolve(PLAIN, seccomp=profile(tmp_path, "ERRNO"), **changes))
    refused = str(caught.value).partition("refuses ")[2].partition(", which")[0].split(", ")
    assert set(needed) <= set(refused)
    make_plan(attrs.evolve(PLAIN, seccomp=profile(tmp_path, "ERRNO", ALLOW=refused), **changes))


def test_conditions_and_logging_are_no_refusal_and_tracing_without_a_tracer_is(tmp_path: Path) -> None:
    own = [*_TO_EXECUTE.split(), *_TO_BE_INIT.split()]
    make_plan(attrs.evolve(PLAIN, seccomp=profile(tmp_path, "KILL", LOG=own)))
    for action in ("TRACE", "ERRNO"):
        wanted = attrs.evolve(PLAIN, seccomp=profile(tmp_path, "ALLOW", **{action: ["execve", "socket"]}))
        with pytest.raises(ConfigError, match="refuses execve, which"):
            make_plan(wanted)
    condition = {"index": 0, "op": "SCMP_CMP_EQ", "value": 9}
    rule = {"names": ["kill"], "action": "SCMP_ACT_ERRNO", "args": [condition]}
    path = tmp_path / "conditional.json"
    path.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
    make_plan(attrs.evolve(PLAIN, seccomp=str(path)))
