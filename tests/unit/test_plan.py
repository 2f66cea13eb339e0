"""Plans and steps are data: they survive the wire, and every step can be executed and described."""

from __future__ import annotations

import inspect

import attrs
import pytest
from hypothesis import given, strategies as st

from pysuper import steps
from pysuper.launcher.execute import Executor
from pysuper.plan import Plan
from pysuper.planning import make_plan
from pysuper.spec import BindMount, ContainerSpec, DriverChoice, TmpfsMount

ALL_STEPS = steps.Step.__subclasses__()

#: A value for every type that a field of a step has.
VALUES = {
    "str": st.text(),
    "str | None": st.none() | st.text(),
    "int": st.integers(-(2**63), 2**63 - 1),
    "int | None": st.none() | st.integers(0, 2**32),
    "bool": st.booleans(),
    "tuple[str, ...]": st.lists(st.text()).map(tuple),
    "tuple[int | str, ...]": st.lists(st.integers() | st.text()).map(tuple),
    "Mapping[str, str | None]": st.dictionaries(st.text(), st.none() | st.text()),
}


@pytest.mark.parametrize("cls", ALL_STEPS, ids=lambda cls: cls.__name__)
def test_every_step_is_exported_described_and_has_a_man_page(cls: type[steps.Step]) -> None:
    assert cls.__name__ in steps.__all__
    assert cls.__doc__
    assert cls.man
    assert cls.describe is not steps.Step.describe


@pytest.mark.parametrize("cls", ALL_STEPS, ids=lambda cls: cls.__name__)
def test_every_step_has_a_method_that_executes_it_with_the_same_fields(cls: type[steps.Step]) -> None:
    name = steps._wire_name(cls)
    parameters = list(inspect.signature(getattr(Executor, name)).parameters)
    assert parameters[1:] == [field.name for field in attrs.fields(cls)]


@given(st.data())
@pytest.mark.parametrize("cls", ALL_STEPS, ids=lambda cls: cls.__name__)
def test_every_step_survives_the_wire(cls: type[steps.Step], data: st.DataObject) -> None:
    fields = {field.name: data.draw(VALUES[str(field.type)]) for field in attrs.fields(cls)}
    step = cls(**fields)
    assert steps.from_wire(steps.to_wire(step)) == step
    assert step.describe()


def spec(**fields: object) -> ContainerSpec:
    defaults: dict[str, object] = {"name": "box", "command": ("true",), "cgroup": DriverChoice("none")}
    return ContainerSpec(**(defaults | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wanted",
    [
        spec(),
        spec(share=frozenset({"user", "net"})),
        spec(terminal=True, read_only=True, user="nobody"),
        spec(mounts=(BindMount(source="/usr", target="/data", read_only=True), TmpfsMount(target="/scratch"))),
        spec(command=(), environment={"WEIRD": "\udcff\n"}, working_dir="/tmp"),
    ],
)
def test_a_plan_survives_the_wire(wanted: ContainerSpec) -> None:
    plan = make_plan(wanted)
    assert Plan.from_json(plan.to_json()) == plan


def test_the_root_is_entered_after_every_mount_and_before_the_identity_changes() -> None:
    kinds = [type(step) for step in make_plan(spec(read_only=True)).steps]
    pivot = kinds.index(steps.PivotRoot)
    mounts = (steps.Mount, steps.Bind, steps.Overlay, steps.MaskPath, steps.ReadOnlyPath, steps.RootFlags, steps.Mknod)
    assert all(number < pivot for number, kind in enumerate(kinds) if kind in mounts)
    after = (steps.SetUser, steps.BoundCapabilities, steps.SetCapabilities, steps.NoNewPrivileges, steps.BecomeRoot)
    assert all(number > pivot for number, kind in enumerate(kinds) if kind in after)


def test_planning_changes_nothing_and_names_no_two_containers_alike() -> None:
    one, two = make_plan(spec()), make_plan(spec())
    assert one.id != two.id
