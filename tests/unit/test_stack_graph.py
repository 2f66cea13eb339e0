"""Who depends on whom, and which members of a stack are started."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import attrs
import pytest
from hypothesis import given, strategies as st

from pysuper.errors import ConfigError
from pysuper.spec import ContainerSpec
from pysuper.stack.graph import cycle, dependencies, dependents, instance_names, order, select
from pysuper.stack.spec import Condition, MemberSpec, StackSpec


def members(**needs: str) -> dict[str, MemberSpec]:
    """Members by name; the values are the names of those that they depend on."""
    return {
        name: MemberSpec(
            container=ContainerSpec(name=name), depends_on=dict.fromkeys(needed.split(), Condition.STARTED)
        )
        for name, needed in needs.items()
    }


def stack(made: Mapping[str, MemberSpec], **profiles: str) -> StackSpec:
    """A stack of these members, some of them in profiles."""
    chosen = {name: attrs.evolve(m, profiles=tuple(profiles.get(name, "").split())) for name, m in made.items()}
    return StackSpec(path="/demo.toml", members=chosen)


def complaint_about(*arguments: object, **settings: object) -> str:
    """The message when a part of a stack cannot be chosen."""
    with pytest.raises(ConfigError) as caught:
        select(*arguments, **settings)
    return str(caught.value)


@st.composite
def graphs(draw: st.DrawFn, *, cycles: bool) -> dict[str, MemberSpec]:
    """Members in any order, of which each depends on any of those before it, or with `cycles` on any."""
    names = [f"m{number}" for number in range(draw(st.integers(1, 8)))]
    needs = {}
    for number, name in enumerate(names):
        known = names if cycles else names[:number]
        needs[name] = " ".join(draw(st.lists(st.sampled_from(known), unique=True)) if known else [])
    made = members(**needs)
    return {name: made[name] for name in draw(st.permutations(names))}


def test_members_come_after_what_they_depend_on_and_otherwise_as_in_the_file() -> None:
    assert order(members(web="db cache", a="", cache="", db="init", init="", z="")) == (
        *("a", "cache", "init", "db", "web", "z"),
    )


def test_the_order_is_that_of_the_file_where_nothing_depends() -> None:
    assert order(members(c="", a="", b="")) == ("c", "a", "b")


@given(graphs(cycles=False))
def test_the_order_has_everyone_after_those_it_needs(made: dict[str, MemberSpec]) -> None:
    ordered = order(made)
    assert sorted(ordered) == sorted(made)
    for name, member in made.items():
        assert all(ordered.index(needed) < ordered.index(name) for needed in member.depends_on)


@pytest.mark.parametrize(
    ("needs", "expected"),
    [
        ({"a": "b", "b": ""}, None),
        ({"a": "nobody"}, None),
        ({"a": "a"}, ("a", "a")),
        ({"a": "b", "b": "a"}, ("a", "b", "a")),
        ({"x": "a", "a": "b", "b": "c y", "c": "a", "y": ""}, ("a", "b", "c", "a")),
        ({"c": "a", "b": "c", "a": "b"}, ("c", "a", "b", "c")),
    ],
)
def test_a_cycle_is_named_from_its_first_member_on(needs: dict[str, str], expected: Sequence[str] | None) -> None:
    assert cycle(members(**needs)) == expected


@given(graphs(cycles=True))
def test_what_is_called_a_cycle_is_one_and_without_one_there_is_an_order(made: dict[str, MemberSpec]) -> None:
    found = cycle(made)
    if found is None:
        assert len(order(made)) == len(made)
    else:
        assert found[0] == found[-1]
        assert all(after in made[before].depends_on for before, after in itertools.pairwise(found))
        assert len(set(found)) == len(found) - 1


def test_what_depends_and_what_is_depended_on_is_followed_to_the_end() -> None:
    made = members(web="app", app="db", db="", other="db", alone="")
    assert dependencies(made, "web") == {"app", "db"}
    assert dependents(made, "db") == {"app", "web", "other"}
    assert dependents(made, "alone") == dependencies(made, "alone") == frozenset()


@given(graphs(cycles=True))
def test_dependents_are_those_that_have_it_as_a_dependency(made: dict[str, MemberSpec]) -> None:
    for name in made:
        assert dependents(made, name) == {other for other in made if name in dependencies(made, other)}


def test_who_is_no_member_does_not_count() -> None:
    made = members(web="db nobody", db="")
    assert order(made) == ("db", "web")
    assert dependencies(made, "web") == {"db"}
    assert dependents(made, "db") == {"web"}


def test_a_chain_may_be_longer_than_the_stack_of_python() -> None:
    names = [f"m{number}" for number in range(5000)]
    made = members(**dict(zip(names, [*names[1:], ""], strict=True)))
    assert order(made) == tuple(reversed(names))
    assert dependents(made, names[-1]) == set(names[:-1])
    assert cycle(members(**dict(zip(names, [*names[1:], names[0]], strict=True)))) == (*names, names[0])


def test_instances_have_numbers_if_there_are_several() -> None:
    (web,) = members(web="").values()
    assert instance_names(web) == ("web",)
    assert instance_names(attrs.evolve(web, replicas=3)) == ("web-1", "web-2", "web-3")


def test_members_in_profiles_are_left_out_unless_one_is_chosen() -> None:
    demo = stack(members(web="", shell="web", load="shell"), shell="debug", load="load debug")
    assert list(select(demo).members) == ["web"]
    assert list(select(demo, profiles=["debug"]).members) == ["web", "shell", "load"]


def test_one_that_is_named_needs_no_profile_and_brings_what_it_depends_on() -> None:
    demo = stack(members(web="db", db="", other="", shell="web"), shell="debug")
    assert list(select(demo, only=["web"]).members) == ["web", "db"]
    assert list(select(demo, only=["shell"]).members) == ["web", "db", "shell"]


def test_scale_replaces_replicas() -> None:
    demo = stack(members(web="", db="", idle=""))
    chosen = select(demo, scale={"web": 3, "idle": 0})
    assert {name: member.replicas for name, member in chosen.members.items()} == {"web": 3, "db": 1}
    assert chosen.path == demo.path


def test_the_order_of_the_file_is_kept() -> None:
    assert list(select(stack(members(c="b", a="", b=""))).members) == ["c", "a", "b"]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"profiles": ["debgu"]}, "there is no profile 'debgu'; did you mean 'debug'?"),
        ({"only": ["wbe"]}, "there is no container 'wbe'; did you mean 'web'?"),
        ({"scale": {"wbe": 2}}, "there is no container 'wbe'; did you mean 'web'?"),
        ({"scale": {"web": -1}}, "web cannot have -1 instances; give 0 to 1000"),
        ({"scale": {"web": 1001}}, "web cannot have 1001 instances; give 0 to 1000"),
        ({"scale": {"db": 0}}, "web depends on db, which is left out; start more than 0 of db"),
        (
            {"profiles": ["load"]},
            "load depends on shell, which is left out; choose its profile: --profile debug",
        ),
        ({"only": ["load"]}, "load depends on shell, which is left out; choose its profile: --profile debug"),
        ({"scale": {"shell": 2}}, "shell cannot be scaled, since it is left out; choose its profile: --profile debug"),
        ({"only": ["db"], "scale": {"web": 2}}, "web cannot be scaled, since it is left out; name it too"),
        ({"scale": {"web": 0, "db": 0}}, "/demo.toml: no container is left to start; choose a profile, or name one"),
    ],
)
def test_what_cannot_be_chosen_is_said(settings: dict[str, object], expected: str) -> None:
    demo = stack(members(web="db", db="", shell="", load="shell"), shell="debug", load="load")
    assert complaint_about(demo, **settings) == expected


def test_names_of_more_instances_are_checked_again() -> None:
    demo = stack(members(**{"web": "", "web-2": "", "x" * 61: "", "y" * 62: ""}))
    select(demo, scale={"x" * 61: 9})
    assert "web would have an instance 'web-2', which is the name of another" in complaint_about(demo, scale={"web": 2})
    assert "of 64 characters; 63 is the most" in complaint_about(demo, scale={"y" * 62: 2})
