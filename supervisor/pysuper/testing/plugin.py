"""
What is under test: a driver or hook by its name, as a user chooses it, and what the rules ask of it.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from types import MappingProxyType
from typing import Any, ClassVar

import attrs

from pysuper import registry
from pysuper.contexts import is_privileged, new_id
from pysuper.discovery import Registration
from pysuper.drivers import GROUPS, Detection, Driver, Plugin
from pysuper.errors import PysuperError
from pysuper.plan import Command, Context, Plan, PlanBuilder
from pysuper.spec import ContainerSpec, DriverChoice
from pysuper.testing.changes import watched
from pysuper.testing.machine import Snapshot
from pysuper.testing.rules import Broken, NotHere, require
from pysuper.testing.stage import MARK, STAGE_BOUND, Stage, forget, nothing_left, open_stage, spec_with

__all__ = [
    "PluginTests",
    "as_written",
    "context_of",
    "contribution",
    "create",
    "create_driver",
    "load",
    "nothing_changed",
]

#: For plans that are not carried out: ids of the host that are nobody's.
_UID_BASE = 0x20000000
_NO_COMMAND = Command(argv=(), environment={}, working_dir="/", init=False, terminal=False)


class PluginTests:
    """
    The base of all test classes.

    Attributes:
        driver: As on the command line, NAME[:ARGUMENT]. A fixture of the class may set it, too.
        options: As in the driver's TOML table.
        wrong: What a user may get wrong, and the driver has to refuse: each as `driver`, or a table like `options`.
        distribution: Whose it has to be, where several distributions have one of that name.
        keeps: Directories in which it keeps something on purpose when its containers are gone, such as a cache. What is
            named after a container has to go, even there.
        forgets: What of that is removed before containers start, so that they find nothing done already.
        warned: What the supervisor of the last stage had to say.
    """

    kind: ClassVar[str]
    driver: str
    options: Mapping[str, Any] = MappingProxyType({})
    wrong: Sequence[str | Mapping[str, Any]] = ()
    distribution: str | None = None
    keeps: Sequence[str] = ()
    forgets: Sequence[str] = ()
    warned: list[str]

    @property
    def title(self) -> str:
        """The plugin under test, in words."""
        try:
            return self.registration.title
        except (PysuperError, Broken):
            return type(self).__name__

    @property
    def source(self) -> str | None:
        """The file or directory that its code is in, if that is known."""
        try:
            cls = self.load()
        except (PysuperError, Broken):
            return None
        file = inspect.getfile(cls)
        for _ in range(cls.__module__.count(".")):
            file = os.path.dirname(file)
        return file

    @property
    def registration(self) -> Registration:
        """
        How it is registered.

        Raises:
            DriverError: There is none of that name.
        """
        return registry.find(f"pysuper.{self.kind}", self.choice.name, self.choice.distribution)

    @property
    def choice(self) -> DriverChoice:
        """What a user writes to have it."""
        if not hasattr(self, "driver"):
            name = type(self).__name__
            raise Broken(f"{name} has no `driver`", do=f'write driver = "NAME" or "NAME:ARGUMENT" in {name}')
        return attrs.evolve(DriverChoice.parse(self.driver), options=dict(self.options), distribution=self.distribution)

    @property
    def wrong_choices(self) -> list[DriverChoice]:
        """Those of `wrong`."""
        choices = []
        for wrong in self.wrong:
            given = DriverChoice.parse(wrong) if isinstance(wrong, str) else DriverChoice("", dict(wrong))
            choices.append(attrs.evolve(given, name=self.choice.name, distribution=self.distribution))
        return choices

    def load(self) -> type[Plugin]:
        """
        Its class.

        Raises:
            DriverError: There is none of that name, or it cannot be loaded.
        """
        return load(self.kind, self.choice)

    def require_working(self) -> None:
        """Raise NotHere, with the driver's reason, if it says that it does not work here."""
        detection: Detection = self.load().detect()
        if not detection.works:
            raise NotHere(f"{self.title} does not work here: {detection.reason}")

    def spec(self, script: str = "exit 0", **fields: Any) -> ContainerSpec:
        """A container that has it and runs a shell script, unless `fields` has another `command`."""
        command = fields.pop("command", ("/bin/sh", "-c", script))
        return spec_with(self.kind, self.choice, command, **fields)

    def context(self, **fields: Any) -> Context:
        """What it is told of a container that will not be started; `fields` are those of the spec."""
        return context_of(self.spec(**fields))

    def stage(self, bound: float = STAGE_BOUND) -> AbstractAsyncContextManager[Stage]:
        """See `stage.open_stage`; the stage has the hook, if it is one that is under test."""
        forget(self.forgets)
        self.warned = []
        return open_stage(bound, hooks=[self.choice] if self.kind == "hook" else [], warn=self.warned.append)

    def nothing_left(self, after: str) -> AbstractAsyncContextManager[None]:
        """See `stage.nothing_left`."""
        return nothing_left(after, self.keeps)


def load(kind: str, choice: DriverChoice) -> type[Plugin]:
    """
    The class of a plugin.

    Raises:
        DriverError: See `registry.load`.
    """
    cls: type[Plugin] = registry.load(f"pysuper.{kind}", choice.name, choice.distribution)
    return cls


def create(kind: str, choice: DriverChoice) -> Plugin:
    """
    A plugin with its options.

    Raises:
        DriverError: See `registry.create`.
    """
    group = f"pysuper.{kind}"
    interface: type[Plugin] = GROUPS[group]
    return registry.create(group, choice, interface)


def create_driver(kind: str, choice: DriverChoice) -> Driver:
    """The same of a driver."""
    created = create(kind, choice)
    assert isinstance(created, Driver)
    return created


def context_of(spec: ContainerSpec) -> Context:
    """What drivers are told of a container that will not be started."""
    return Context(id=new_id(spec), spec=spec, privileged=is_privileged(), uid_base=_UID_BASE)


def contribution(driver: Driver, context: Context) -> Plan:
    """What one driver adds to the plan of a container; whatever it raises passes."""
    plan = PlanBuilder(context)
    # Which the others are told of: the user namespace is always the first to be asked.
    first = PlanBuilder(context)
    create_driver("namespace", DriverChoice("user")).contribute(first)
    plan.ids = first.ids
    driver.contribute(plan)
    return plan.build(_NO_COMMAND)


@contextmanager
def nothing_changed(method: str) -> Iterator[None]:
    """What is called here changes nothing on the machine; raises Broken."""
    before = Snapshot.take(MARK)
    do = f"let {method} only read; what is to be made is made in `host`, and in the plan's steps"
    with watched() as changes:
        yield
    require(not changes.calls, f"{method} called {', '.join(changes.calls)}", do=do)
    left = before.left()
    require(not left, f"after {method} there is still {', '.join(left)}", do=do)


@contextmanager
def as_written(method: str) -> Iterator[None]:
    """What is called here raises nothing but PysuperError; raises Broken otherwise."""
    try:
        yield
    except (PysuperError, Broken):
        raise
    except (Exception, SystemExit) as error:
        raise Broken(
            f"{method} raised {type(error).__name__}: {error}",
            do="catch it, and raise a DriverError `from` it that names the object, the reason and a remedy",
        ) from error
