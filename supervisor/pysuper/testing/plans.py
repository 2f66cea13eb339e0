"""
Rules for the part of a driver that only decides: nothing here starts a container.
"""

from __future__ import annotations

from difflib import unified_diff

from pysuper.drivers import Driver
from pysuper.plan import Plan
from pysuper.planning import build_plan, choose_drivers
from pysuper.spec import DriverChoice
from pysuper.testing.interface import InterfaceTests
from pysuper.testing.plugin import as_written, contribution, create_driver, nothing_changed
from pysuper.testing.rules import Broken, require, rule

__all__ = ["PlanTests"]


class PlanTests(InterfaceTests):
    """What drivers of all kinds decide."""

    def create(self) -> Driver:
        """A new instance."""
        return create_driver(self.kind, self.choice)

    def try_out(self, choice: DriverChoice) -> None:
        """Do with another choice what is done before anything is made."""
        driver = create_driver(self.kind, choice)
        with as_written("contribute()"):
            contribution(driver, self.context())

    @rule(
        "contribute() changes nothing on the machine.",
        because="`pysuper plan` calls it to show what a start would do, without any of it being done; and what is made "
        "before `host` is entered is removed by nobody.",
    )
    def test_contribute_changes_nothing(self) -> None:
        self.require_working()
        context, driver = self.context(), self.create()
        with nothing_changed("contribute()"):
            contribution(driver, context)

    @rule(
        "contribute() makes the same plan twice.",
        because="the plan that `pysuper plan` prints has to be the one that is carried out, and the paths in it have "
        "to be those that `host` makes.",
    )
    def test_contribute_makes_the_same_plan_twice(self) -> None:
        self.require_working()
        context = self.context()
        one, two = contribution(self.create(), context), contribution(self.create(), context)
        do = "take what has to be unique from context.id, which no other container of this machine has"
        require(one == two, f"the second plan has other lines: {_difference(one, two)}", do=do)

    @rule(
        "The plan survives its way to the launcher.",
        because="the launcher is another process: a plan goes there as JSON, and what is no tuple, number, string or "
        "mapping of these arrives as something else, or not at all.",
    )
    def test_the_plan_survives_the_wire(self) -> None:
        self.require_working()
        context = self.context()
        plan = build_plan(context, choose_drivers(context.spec))
        do = "give steps and checks the types that their fields have: a tuple for a list, str(path) for a Path"
        try:
            arrived = Plan.from_json(plan.to_json())
        except (TypeError, ValueError) as error:
            raise Broken(f"it cannot be sent: {error}", do=do) from error
        require(arrived == plan, f"it arrives with other lines: {_difference(plan, arrived)}", do=do)


def _difference(one: Plan, two: Plan) -> str:
    lines = list(unified_diff(list(one.describe()), list(two.describe()), n=0, lineterm=""))[2:]
    return "; ".join(line for line in lines if not line.startswith("@@")) or "none in words, but in types"
