"""
What is under test: a driver by its name, as a user chooses it, and what the rules ask of it.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from types import MappingProxyType
from typing import Any, ClassVar

import attrs

from pysuper import registry
from pysuper.drivers import Detection, Driver
from pysuper.errors import PysuperError
from pysuper.plan import Command, Context, Plan, PlanBuilder
from pysuper.planning import is_privileged, new_id
from pysuper.spec import ContainerSpec, DriverChoice
from pysuper.testing.rules import Broken, NotHere
from pysuper.testing.stage import STAGE_BOUND, Stage, forget, nothing_left, open_stage, spec_with

__all__ = ["Subject", "context_of", "contribution", "create"]

#: For plans that are not carried out: ids of the host that are nobody's.
_UID_BASE = 0x20000000
_NO_COMMAND = Command(argv=(), environment={}, working_dir="/", init=False, terminal=False)


class Subject:
    """
    The base of all test classes.

    Attributes:
        driver: As on the command line, NAME[:ARGUMENT]. A fixture of the class may set it, too.
        options: As in the driver's TOML table.
        wrong: What a user may get wrong, and the driver has to refuse: each as `driver`, or a table like `options`.
        keeps: Directories in which it keeps something on purpose when its containers are gone, such as a cache.
        forgets: What of that is removed before containers start, so that they find nothing done already.
    """

    kind: ClassVar[str]
    driver: str
    options: Mapping[str, Any] = MappingProxyType({})
    wrong: Sequence[str | Mapping[str, Any]] = ()
    keeps: Sequence[str] = ()
    forgets: Sequence[str] = ()

    @property
    def title(self) -> str:
        """The driver under test, in words."""
        name = DriverChoice.parse(getattr(self, "driver", "(none)")).name
        return f"the {self.kind} driver {name!r}"

    @property
    def source(self) -> str | None:
        """The file or directory that its code is in, if that is known."""
        try:
            cls = self.load()
        except (PysuperError, Broken):
            return None
        file = inspect.getfile(cls)
        depth = cls.__module__.count(".")
        for _ in range(depth):
            file = os.path.dirname(file)
        return file

    @property
    def group(self) -> str:
        """The entry-point group."""
        return f"pysuper.{self.kind}"

    @property
    def choice(self) -> DriverChoice:
        """What a user writes to have it."""
        if not hasattr(self, "driver"):
            name = type(self).__name__
            raise Broken(f"{name} has no `driver`", do=f'write driver = "NAME" or "NAME:ARGUMENT" in {name}')
        return attrs.evolve(DriverChoice.parse(self.driver), options=dict(self.options))

    @property
    def wrong_choices(self) -> list[DriverChoice]:
        """Those of `wrong`."""
        return [
            DriverChoice.parse(wrong) if isinstance(wrong, str) else DriverChoice(self.choice.name, dict(wrong))
            for wrong in self.wrong
        ]

    def load(self) -> type[Driver]:
        """
        Its class.

        Raises:
            DriverError: There is none of that name.
        """
        cls: type[Driver] = registry.load(self.group, self.choice.name)
        return cls

    def require_working(self) -> None:
        """Raise NotHere, with the driver's reason, if it says that it does not work here."""
        detection: Detection = self.load().detect()
        if not detection.works:
            raise NotHere(f"{self.title} does not work here: {detection.reason}")

    @property
    def has_host_side(self) -> bool:
        """Whether it does something on the host, where things can be left, and waits be interrupted."""
        cls = self.load()
        return any(getattr(cls, name) is not getattr(Driver, name) for name in ("host", "traces", "at_barrier"))

    def require_host_side(self) -> None:
        """Raise NotHere if it has none."""
        if not self.has_host_side:
            raise NotHere(f"{self.title} has no host side: all that it does is data in the plan")

    def spec(self, script: str = "exit 0", **fields: Any) -> ContainerSpec:
        """A container that has it and runs a shell script, unless `fields` has another `command`."""
        command = fields.pop("command", ("/bin/sh", "-c", script))
        return spec_with(self.kind, self.choice, command, **fields)

    def context(self, **fields: Any) -> Context:
        """What it is told of a container that will not be started; `fields` are those of the spec."""
        return context_of(self.spec(**fields))

    def create(self, choice: DriverChoice | None = None) -> Driver:
        """A new instance, or that of another choice."""
        return create(self.kind, choice or self.choice)

    def stage(self, bound: float = STAGE_BOUND) -> AbstractAsyncContextManager[Stage]:
        """See `stage.open_stage`."""
        forget(self.forgets)
        return open_stage(bound)

    def nothing_left(self, after: str) -> AbstractContextManager[None]:
        """See `stage.nothing_left`."""
        return nothing_left(after, self.keeps)


def create(kind: str, choice: DriverChoice) -> Driver:
    """
    A driver with its options.

    Raises:
        DriverError: See `registry.create`.
    """
    group = f"pysuper.{kind}"
    interface: type[Driver] = registry.GROUPS[group]
    return registry.create(group, choice, interface)


def context_of(spec: ContainerSpec) -> Context:
    """What drivers are told of a container that will not be started."""
    return Context(id=new_id(spec), spec=spec, privileged=is_privileged(), uid_base=_UID_BASE)


def contribution(driver: Driver, context: Context) -> Plan:
    """What one driver adds to the plan of a container; whatever it raises passes."""
    plan = PlanBuilder(context)
    # Which the others are told of: the user namespace is always the first to be asked.
    first = PlanBuilder(context)
    create("namespace", DriverChoice("user")).contribute(first)
    plan.ids = first.ids
    driver.contribute(plan)
    return plan.build(_NO_COMMAND)
