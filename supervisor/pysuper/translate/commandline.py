"""What the forms share that are a command line: an option after the other, with comments above."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from pysuper.plan import Plan
from pysuper.spec import ContainerSpec
from pysuper.translate.form import Form, Translation
from pysuper.translate.words import NEWLINE, command, comments

__all__ = ["CommandLine"]


class CommandLine(Form):
    """
    A program, its options in the order in which they were added, and the container's command.

    Attributes:
        program: What is called.
    """

    program: ClassVar[str]

    def __init__(self, spec: ContainerSpec, plan: Plan) -> None:
        super().__init__(spec, plan)
        self._options: list[tuple[str, ...]] = []

    def add(self, *words: str) -> None:
        """Add an option, with its values."""
        self._options.append(words)

    def line(self, first: Iterable[tuple[str, ...]], argv: Iterable[str]) -> Translation:
        """
        All of it.

        Args:
            first: Options that come before all others.
            argv: The container's command.
        """
        line = command([(self.program,), *first, *self._options, ("--", *argv)])
        header = [f"The container {self.spec.name}, in the words of {self.program}."]
        header += ["", "What pysuper does, and this does not, or does otherwise:"]
        header += [f"- {line}" for line in self.missing]
        newline = NEWLINE if '"$nl"' in line else ""
        return Translation(text=comments(header) + newline + line, missing=self.missing, told=True)
