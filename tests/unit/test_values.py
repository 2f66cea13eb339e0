"""Values whose methods attrs does not write are what attrs would make of them."""

from __future__ import annotations

import attrs
import pytest

from pysuper.receipts import Check, FileHolds, ProcessStatus, Receipt
from pysuper.steps import Barrier, MakeDirectory, NoNewPrivileges, SetHostname, Setsid, Step
from pysuper.values import Value

VALUES = (
    SetHostname(hostname="web"),
    Setsid(),
    MakeDirectory(target="/a b", mode=0o755),
    FileHolds(path="/sys/{pid}", content="20"),
    Receipt(promise="p", source="/s", expected="1", actual="1"),
)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_value_is_shown_as_attrs_shows_it(value: Value) -> None:
    names = [a.name for a in attrs.fields(type(value))]
    twin = attrs.make_class(type(value).__name__, names, frozen=True)
    assert repr(twin(*(getattr(value, name) for name in names))) == repr(value)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_value_is_equal_to_its_copy_and_to_nothing_else(value: Value) -> None:
    copy = attrs.evolve(value)
    assert copy is not value
    assert copy == value
    assert hash(copy) == hash(value)
    assert [value] == [other for other in VALUES if other == value]
    assert value != attrs.astuple(value)


def test_equal_fields_of_another_class_are_another_value() -> None:
    assert Setsid() != NoNewPrivileges()
    assert len({Setsid(), NoNewPrivileges(), Setsid()}) == 2
    assert SetHostname(hostname="a") != Barrier(name="a")


def test_a_value_is_frozen_and_takes_its_fields_by_name() -> None:
    step = SetHostname(hostname="web")
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        step.hostname = "other"  # type: ignore[misc]
    with pytest.raises(TypeError, match="positional"):
        SetHostname("web")  # type: ignore[misc]
    assert not hasattr(step, "__dict__")


def test_a_value_can_be_a_key() -> None:
    seen = {ProcessStatus(field="Seccomp", value="2"): "kept"}
    assert seen[ProcessStatus(field="Seccomp", value="2")] == "kept"


@pytest.mark.parametrize("cls", [*Step.__subclasses__(), *Check.__subclasses__()], ids=lambda cls: cls.__name__)
def test_no_class_of_steps_or_checks_has_these_methods_for_itself(cls: type[Value]) -> None:
    assert {"__repr__", "__eq__", "__hash__"}.isdisjoint(vars(cls)), "make it with `value`"
