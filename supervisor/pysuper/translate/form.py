"""
What all translations share: a walk through the plan, and a list of what the other tool has no words for.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import ClassVar, Literal

import attrs

from pysuper import steps
from pysuper.errors import one_line
from pysuper.plan import Command, IdMap, Plan
from pysuper.spec import ContainerSpec
from pysuper.steps import Step
from pysuper.translate.promises import Promises

__all__ = ["LINKS", "NODES", "Form", "Translation"]

#: What other tools make in a /dev of its own anyway: devices, and symbolic links with what they say.
NODES = {
    "/dev/null": (1, 3),
    "/dev/zero": (1, 5),
    "/dev/full": (1, 7),
    "/dev/random": (1, 8),
    "/dev/urandom": (1, 9),
    "/dev/tty": (5, 0),
}
LINKS = {
    "/dev/fd": "/proc/self/fd",
    "/dev/stdin": "/proc/self/fd/0",
    "/dev/stdout": "/proc/self/fd/1",
    "/dev/stderr": "/proc/self/fd/2",
    "/dev/ptmx": "pts/ptmx",
}


@attrs.frozen(kw_only=True)
class Translation:
    """
    A container in another tool's words.

    Attributes:
        text: What that tool is given: a script, a command line, or a file.
        missing: What the tool cannot do, or does otherwise, a line each: the step or the promise, and what comes
            nearest to it.
        told: Whether the text has these lines as comments.
    """

    text: str
    missing: tuple[str, ...]
    told: bool


class Form(ABC):
    """
    One tool's words for one plan.

    A subclass has a method for each step that the tool can be told of, called as the step is on the wire. The others
    are in one of two tables, so that none is forgotten.

    Attributes:
        implied: Steps that the tool takes by itself.
        beyond: Steps that it cannot take; why, or what comes nearest.
    """

    implied: ClassVar[frozenset[type[Step]]]
    beyond: ClassVar[Mapping[type[Step], str]]

    def __init__(self, spec: ContainerSpec, plan: Plan) -> None:
        if plan.command is None:
            raise ValueError("a plan without a command is not of a container")
        self.spec = spec
        self.plan = plan
        self.command: Command = plan.command
        self.ids: IdMap | None = plan.holder.ids if plan.holder else plan.ids
        self.promises = Promises.of(plan)
        self._missing: dict[str, list[str]] = {}

    @abstractmethod
    def translate(self) -> Translation:
        """All of it."""

    def take_steps(self) -> None:
        """Translate each step, or note that it cannot be."""
        for step in self.plan.steps:
            if type(step) in self.implied:
                continue
            if (reason := self.beyond.get(type(step))) is not None:
                self.miss(step.describe(), reason)
            else:
                getattr(self, str(steps.to_wire(step)["do"]))(step)

    # --- what is missing ---

    @property
    def missing(self) -> tuple[str, ...]:
        """What has been missed so far, a line each; what is missed for the same reason shares one."""
        return tuple(one_line(f"{'; '.join(subjects)}: {reason}") for reason, subjects in self._missing.items())

    def miss(self, subject: str, reason: str) -> None:
        """Note what the tool cannot do, or does otherwise."""
        subjects = self._missing.setdefault(reason, [])
        if subject not in subjects:
            subjects.append(subject)

    def miss_flags(self, step: Step, flags: Iterable[str], *, had: Iterable[str] = ()) -> None:
        """Note which of the flags of a mount it has not, and which it has too."""
        had, flags = tuple(had), tuple(flags)
        if lacking := [flag for flag in flags if flag not in had]:
            self.miss(step.describe(), f"not {', '.join(lacking)}")
        if more := [flag for flag in had if flag not in flags]:
            self.miss(step.describe(), f"also {', '.join(more)}")

    def miss_image(self, step: steps.Overlay) -> None:
        """Note that there is nothing to show yet."""
        if not os.path.isdir(step.source):
            self.miss(step.describe(), "there is no such directory: the first `pysuper run` of an image unpacks it")

    def miss_cgroup(self, reason: str) -> None:
        """Note that the tool makes no cgroup, so that it keeps no limit of one."""
        if self.plan.cgroup:
            self.miss(f"be born in the cgroup {self.plan.cgroup}", reason)
        for check in self.promises.files:
            self.miss(check.describe(), reason)

    def miss_ids(self, reason: str) -> None:
        """Note that the tool maps ids otherwise."""
        if self.ids:
            lines = ", ".join(f"{inside} is {outside} for {count}" for inside, outside, count in self.ids.uids)
            self.miss(f"ids of its own ({lines})", reason)

    def miss_reservation(self) -> None:
        """Note that nobody keeps the ids for this container alone."""
        if self.ids and self.ids.privileged:
            reason = "another container may get the same: only a running supervisor reserves them"
            self.miss(f"ids that nobody else has, from {self.ids.uids[0][1]} on", reason)

    def miss_init(self, reason: str) -> None:
        """Note that the tool has no init, or another one."""
        if self.command.init:
            self.miss("stay as PID 1, reap orphans and run the command as a child", reason)

    def miss_receipts(self) -> None:
        """Note that the tool is believed."""
        if self.plan.checks:
            self.miss(f"the {len(self.plan.checks)} checks", "nothing is read back before the command is executed")

    # --- what is read from the plan, and from this machine ---

    def numbers(self, step: steps.SetUser) -> tuple[int, int]:
        """
        Uid and gid of a user, for a tool that reads neither /etc/passwd nor /etc/group; notes if these are needed.
        """
        user, _, group = (step.user or "0:0").partition(":")
        if not (user.isdecimal() and group.isdecimal()):
            self.miss(step.describe(), "nobody reads /etc/passwd and /etc/group of the container: give UID:GID")
        return int(user) if user.isdecimal() else 0, int(group) if group.isdecimal() else 0

    def environment(self) -> dict[str, str]:
        """The variables of the command, for a tool that reads no /etc/passwd."""
        if "HOME" in self.command.environment:
            return self.command.environment
        home = "/root" if self.spec.user is None else "/"
        self.miss("HOME of the user", f"nobody reads /etc/passwd of the container: {home}")
        return {"HOME": home} | self.command.environment

    def argv(self) -> tuple[str, ...]:
        """The command, for a tool that does not know the user's login shell."""
        if self.command.argv:
            return self.command.argv
        self.miss("the login shell of the user", "nobody reads /etc/passwd of the container: /bin/sh")
        return ("/bin/sh",)

    def entries(self, directory: str) -> list[tuple[str, str | None]]:
        """
        What is in a directory of the host that is to be the root: names, and what symbolic links say.

        For a tool that cannot make a layer of it: it shows these one by one, and leaves out what is mounted over.
        Empty if it cannot be read, as that of an image which is not unpacked yet.
        """
        covered = {step.target for step in self.plan.steps if isinstance(step, steps.Mount)}
        try:
            found = sorted(os.scandir(directory), key=lambda entry: entry.name)
        except OSError:
            return []
        return [
            (entry.name, os.readlink(entry.path) if entry.is_symlink() else None)
            for entry in found
            if f"/{entry.name}" not in covered
        ]

    @staticmethod
    def kind(target: str) -> Literal["directory", "file"] | None:
        """What a file of this machine's kernel is, as every container sees it; None if there is none."""
        if os.path.isdir(target):
            return "directory"
        return "file" if os.path.exists(target) else None

    def inside(self, options: Mapping[str, str | None]) -> list[str]:
        """
        Options of a file system, for a tool that mounts as the container's root: with ids as that root calls them.

        The plan's are those of host root, who mounts where ids are mapped. What belongs to the mounter is left out.
        """
        found: list[str] = []
        for key, value in options.items():
            if value is None:
                found.append(key)
            elif key not in ("uid", "gid"):
                found.append(f"{key}={value}")
            elif (number := self._inside(key, int(value))) != 0:
                found.append(f"{key}={number}")
        return found

    def _inside(self, key: str, number: int) -> int:
        if self.ids is not None and self.ids.privileged:
            for inside, outside, count in self.ids.uids if key == "uid" else self.ids.gids:
                if outside <= number < outside + count:
                    return number - outside + inside
        return number
