"""Plans and steps are data: they survive the wire, and every step can be executed and described."""

from __future__ import annotations

import inspect

import attrs
import pytest
from hypothesis import given, strategies as st

from pysuper import receipts, steps
from pysuper.joining import command_plan, socket_plan
from pysuper.launcher.execute import Executor
from pysuper.plan import Command, Context, Phase, Plan, PlanBuilder
from pysuper.planning import build_plan, choose_drivers, make_plan
from pysuper.spec import NAMESPACES, BindMount, ContainerSpec, DriverChoice, Rlimit, TmpfsMount

# Not __subclasses__(), which also has the classes that attrs has replaced, until they are collected.
ALL_STEPS = list(steps.CLASSES.values())

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
    name = steps.wire_name(cls)
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


def test_steps_are_in_the_order_of_phases_and_inside_of_a_phase_as_they_were_added() -> None:
    builder = PlanBuilder(Context(id="box.1", spec=spec(), privileged=True, uid_base=1 << 29))
    builder.add(Phase.LIMITS, steps.SetUmask(umask=2))
    builder.add(Phase.SESSION, steps.Setsid())
    builder.add(Phase.LIMITS, steps.SetUmask(umask=1))
    plan = builder.build(Command(argv=("true",), environment={}, working_dir="/", init=True, terminal=False))
    assert plan.phases == {
        Phase.SESSION: (steps.Setsid(),),
        Phase.LIMITS: (steps.SetUmask(umask=2), steps.SetUmask(umask=1)),
    }
    assert plan.steps == (steps.Setsid(), steps.SetUmask(umask=2), steps.SetUmask(umask=1))


def test_planning_changes_nothing_and_names_no_two_containers_alike() -> None:
    one, two = make_plan(spec()), make_plan(spec())
    assert one.id != two.id


# --- plans of processes that join ---

#: A container that has some of everything.
FULL = spec(
    terminal=True,
    read_only=True,
    rlimits=(Rlimit("nofile", 64, 64),),
    environment={"ONE": "1"},
    working_dir="/usr",
    mounts=(TmpfsMount(target="/scratch"),),
)


def plan_of(wanted: ContainerSpec, *, privileged: bool) -> Plan:
    context = Context(id="box.1", spec=wanted, privileged=privileged, uid_base=1 << 29)
    return build_plan(context, choose_drivers(wanted))


@pytest.mark.parametrize("privileged", [True, False])
def test_plans_that_join_survive_the_wire_and_are_described(privileged: bool) -> None:
    plan = plan_of(FULL, privileged=privileged)
    for joining in (command_plan(plan, ["ls"], terminal=True, user="ada"), socket_plan(plan, 2, 1)):
        assert Plan.from_json(joining.to_json()) == joining
        assert list(joining.describe())


def test_a_process_that_joins_a_traced_container_is_not_traced() -> None:
    plan = attrs.evolve(plan_of(FULL, privileged=True), trace=True)
    assert Plan.from_json(plan.to_json()) == plan
    assert not command_plan(plan, ["ls"]).trace
    assert not socket_plan(plan, 2, 1).trace


def test_what_was_done_to_the_first_process_is_done_again_and_nothing_to_the_container() -> None:
    plan = plan_of(FULL, privileged=True)
    kinds = [type(step) for step in command_plan(plan, ["ls"]).steps]
    entered = [steps.JoinNamespace] * len(NAMESPACES)
    assert kinds == [
        *(steps.Setsid, steps.NewSessionKeyring),
        *entered,
        *(steps.BecomeRoot, steps.Fork, steps.SetRlimit, steps.SetUmask, steps.Landlock),
        *(steps.BoundCapabilities, steps.SetUser, steps.SetCapabilities, steps.NoNewPrivileges, steps.Seccomp),
    ]
    own = [step for step in plan.steps if step.repeated != "never"]
    assert [step for step in command_plan(plan, ["ls"]).steps if step.repeated != "never"] == own


def test_cgroups_are_joined_before_the_namespaces_hide_them() -> None:
    plan = plan_of(FULL, privileged=True)
    cgroups = (steps.JoinCgroup(path="/sys/fs/cgroup/pids/box/tasks"),)
    v1 = command_plan(attrs.evolve(plan, phases={**plan.phases, Phase.CGROUP: cgroups}), ["ls"])
    assert v1.steps.index(cgroups[0]) < min(n for n, s in enumerate(v1.steps) if isinstance(s, steps.JoinNamespace))
    v2 = attrs.evolve(plan, cgroup="/sys/fs/cgroup/box")
    assert command_plan(v2, ["ls"]).cgroup == v2.cgroup
    assert socket_plan(v2, 2, 1).cgroup is None


@pytest.mark.parametrize(("privileged", "place"), [(True, -1), (False, 0)])
def test_the_user_namespace_is_entered_when_it_gives_and_not_when_it_takes(privileged: bool, place: int) -> None:
    plan = plan_of(FULL, privileged=privileged)
    joining = command_plan(plan, ["ls"]).steps
    assert [step.namespace for step in joining if isinstance(step, steps.JoinNamespace)][place] == "user"
    assert (steps.BecomeRoot() in joining) == privileged
    needed = [step.namespace for step in socket_plan(plan, 2, 1).steps if isinstance(step, steps.JoinNamespace)]
    assert needed == (["net"] if privileged else ["user", "net"])


def test_shared_namespaces_are_not_entered_and_a_shared_pid_namespace_needs_no_fork() -> None:
    shared = frozenset({"net", "user"})
    plan = plan_of(attrs.evolve(FULL, share=shared), privileged=True)
    joined = {step.namespace for step in command_plan(plan, ["ls"]).steps if isinstance(step, steps.JoinNamespace)}
    assert joined == set(plan.namespaces) == set(NAMESPACES) - shared
    hostpid = attrs.evolve(plan, checks=tuple(c for c in plan.checks if c != receipts.OwnNamespace(namespace="pid")))
    assert steps.Fork() not in command_plan(hostpid, ["ls"]).steps


def test_a_command_has_what_the_first_one_has_but_for_what_is_asked() -> None:
    plan = plan_of(FULL, privileged=True)
    same = command_plan(plan, ["ls"]).command
    assert same is not None
    assert plan.command is not None
    assert same == attrs.evolve(plan.command, argv=("ls",), init=False, terminal=False)
    other = command_plan(plan, [], environment={"ONE": "one", "TWO": "2"}, working_dir="/", terminal=True).command
    assert other is not None
    assert other.environment.items() >= {"ONE": "one", "TWO": "2"}.items()
    assert (other.argv, other.working_dir, other.terminal) == ((), "/", True)
    terminal = command_plan(plan, [], terminal=True, terminal_size=(33, 99)).phases[Phase.TERMINAL]
    assert terminal == (steps.OpenTerminal(rows=33, columns=99),)


def test_promises_about_processes_are_kept_for_the_user_who_executes() -> None:
    plan = plan_of(FULL, privileged=True)
    about_processes = tuple(check for check in plan.checks if check.of_process)
    assert {type(check) for check in about_processes} == {receipts.ProcessStatus, receipts.ResourceLimit}
    assert command_plan(plan, ["ls"]).checks == about_processes
    other = command_plan(plan, ["ls"], user="ada")
    assert [check.field for check in set(about_processes) - set(other.checks)] == ["CapEff"]  # type: ignore[attr-defined]
    assert steps.SetUser(user="ada") in other.steps
    assert steps.SetUser(user=None) not in other.steps
