"""
A script that makes a container: the commands of its two halves, and how they become one text.
"""

from __future__ import annotations

import attrs

from pysuper.plan import NamespaceHolder, Plan
from pysuper.steps import Step
from pysuper.translate import shell
from pysuper.translate.promises import Promises
from pysuper.translate.read_back import read_back
from pysuper.translate.words import NEWLINE, comments, quote

__all__ = ["UNSHARE", "Chain", "Script", "call", "comment"]

#: The options of unshare(1) and nsenter(1).
UNSHARE = {
    "mnt": "--mount",
    "pid": "--pid",
    "net": "--net",
    "uts": "--uts",
    "ipc": "--ipc",
    "user": "--user",
    "cgroup": "--cgroup",
    "time": "--time",
}
_WIDTH = 110
#: What is written for a newline, where `NEWLINE` has to come before.
_NEWLINE = '"$nl"'


def comment(step: Step) -> str:
    """What a step does, as a line of comment."""
    return comments([step.describe()])


def call(function: str, *words: str) -> str:
    """A call of a function with these words."""
    return " ".join([function, *map(quote, words)])


@attrs.define
class Chain:
    """
    Programs that execute each other, and what is said of them.

    Attributes:
        said: Lines of comment.
        programs: Options by program, in the order in which these are executed; written as they are.
    """

    said: list[str] = attrs.field(factory=list)
    programs: dict[str, list[str]] = attrs.field(factory=dict)

    def add(self, step: Step, program: str | None = None, *options: str) -> None:
        """Say what a step does, and let a program do it; None is one that does it anyway."""
        self.said.append(comment(step))
        if program is not None:
            self.programs.setdefault(program, []).extend(options)

    def lines(self) -> list[str]:
        """A line for each program, or for each of its options if that is too long."""
        found: list[str] = []
        for program, options in self.programs.items():
            line = " ".join([program, *options])
            found += [line] if len(line) <= _WIDTH else [program, *(f"    {option}" for option in options)]
        return found


@attrs.define(kw_only=True)
class Script:
    """
    What the steps of a plan have become.

    Attributes:
        plan: The plan.
        promises: What it promises of its cgroup.
        above: The programs that execute the half in the container.
        propagation: Of the mounts of its mount namespace.
        inside: The commands of that half, with a newline each.
        joins: The same, of how it joins its cgroups.
        below: The programs that it executes then; at last they execute the shell that waits.
        umask: Of that shell.
        copied: Whether its mount namespace becomes a copy, in which everything is locked, mount_namespaces(7).
        pivoted: What is said when the old root is taken away.
    """

    plan: Plan
    promises: Promises
    above: Chain = attrs.field(factory=Chain)
    propagation: str = "unchanged"
    inside: list[str] = attrs.field(factory=list)
    joins: list[str] = attrs.field(factory=list)
    below: Chain = attrs.field(factory=Chain)
    umask: int = 0o022
    copied: bool = False
    pivoted: str = ""

    @property
    def user(self) -> int | None:
        """The one user that can run it, if that is not root."""
        return self.plan.ids.uids[0][1] if self.plan.ids else None

    def text(self, header: str) -> str:
        """All of it, with these comments at the top."""
        host, end = "".join([*self._host(), *self._launch()]), "".join(self._wait())
        container = "".join(self._container())
        defined = [NEWLINE if _NEWLINE in half else "" for half in (host + end, container)]
        return f"#!/bin/sh\n{header}{defined[0]}{host}{defined[1]}{container}CONTAINER\n{end}"

    def _host(self) -> list[str]:
        """What is outside of the container, and is made first."""
        directories = self.promises.directories
        made = [f"make_cgroup {quote(path)}\n" for path in directories]
        written = [f"write {quote(path)} {quote(value)}\n" for path, value in self.promises.writes()]
        return [
            shell.HOST,
            shell.WRITE + shell.CGROUPS if directories else "",
            shell.CHECKS if self.plan.checks else "",
            f'\n[ "$(id -u)" = {self.user or 0} ] || fail "only the user {self.user or 0} can run this"\n',
            shell.CLEAN_UP,
            *(["\n# The cgroups, and their limits.\n", *made, *self._delegate(), *written] if directories else []),
            *(self._hold(self.plan.holder) if self.plan.holder else []),
            shell.PIPES,
        ]

    def _delegate(self) -> list[str]:
        """On v2 the cgroup above has to give its controllers, cgroup-v2.rst, "Enabling and Disabling"."""
        if self.plan.cgroup is None:
            return []
        parent = quote(self.plan.cgroup.rpartition("/")[0])
        return [f"write {parent}/cgroup.subtree_control +{name}\n" for name in self.promises.controllers]

    def _hold(self, holder: NamespaceHolder) -> list[str]:
        options = " ".join(UNSHARE[name] for name in holder.namespaces)
        lines = [
            "\n",
            comments([next(iter(self.plan.describe()))]),
            f"unshare {options} setpriv --pdeathsig KILL sleep infinity &\n",
            "holder=$!\n",
            'until [ "$(readlink "/proc/$holder/ns/user")" != "$(readlink /proc/$$/ns/user)" ]; do sleep 0.01; done\n',
        ]
        for name, ids in (("uid_map", holder.ids.uids), ("gid_map", holder.ids.gids)):
            text = "".join(f"{inside} {outside} {count}\\n" for inside, outside, count in ids)
            lines.append(f"printf '{text}' > \"/proc/$holder/{name}\"\n")
        return lines

    def _launch(self) -> list[str]:
        """From the host's half to the container's."""
        command = self.plan.command
        assert command is not None
        options = [UNSHARE[name] for name in self.plan.clone]
        if "user" in self.plan.clone:
            options.append("--map-root-user")
        if self.plan.ids and self.plan.ids.helped:
            options.append("--map-auto")
        chain = [
            "env --default-signal=INT,QUIT",  # which a shell ignores in what it does not wait for
            *self.above.lines(),
            " ".join(["unshare", *options, "--fork", f"--propagation {self.propagation}"]),
        ]
        described = [line for line in self.plan.describe() if line.startswith(("clone", "be born"))]
        return [
            "\n" + comments(list(self.plan.describe())[-1:]),
            call("set", "--", *command.argv) + "\n",
            "\n" + comments(described),
            *self.above.said,
            *(f"{line} \\\n    " for line in chain),
            'sh /dev/fd/9 "$box" "${holder-}" "$@" <&3 3<&- 4<&- 7>&- 9<< \'CONTAINER\' &\n',
        ]

    def _container(self) -> list[str]:
        """The half in the container."""
        command = self.plan.command
        assert command is not None
        ids = self.plan.holder.ids if self.plan.holder else None
        used = "".join(self.inside)
        environment = [f"{name}={value}" for name, value in command.environment.items()]
        chain = [
            *self.below.lines(),
            "env -i",
            *([] if "HOME" in command.environment else ['    HOME="$home"']),
            *(f"    {quote(variable)}" for variable in environment),
        ]
        joins = self.joins or ([f"echo 0 > {quote(self.plan.cgroup)}/cgroup.procs\n"] if self.plan.cgroup else [])
        return [
            shell.CONTAINER,
            shell.own(*((ids.uids[0][1], ids.gids[0][1]) if ids else (0, 0))),
            shell.WRITE if "\nwrite " in used else "",
            shell.MOUNTS,
            shell.LAYER if "\nlayer " in used else "",
            shell.ACCOUNT if "\naccount " in used else "",
            shell.GROUPS if "\ngroups " in used else "",
            "\n",
            *self.inside,
            *([] if command.argv else ['set -- "$shell"\n']),
            *(["\n# Only now, so that what has built the container does not count.\n", *joins] if joins else []),
            "\n",
            *self.below.said,
            f"umask {self.umask:03o}\n",
            "exec \\\n    ",
            *(f"{line} \\\n    " for line in chain),
            f"/bin/sh -c '\n{shell.WAIT}{shell.INIT if command.init else shell.EXECUTE}' ",
            f'sh "$pid" {quote(command.working_dir)} "$@"\n',
        ]

    def _wait(self) -> list[str]:
        """The rest of the host's half."""
        namespaces = '--preserve-credentials --user="/proc/$pid/ns/user" ' if self.user is not None else ""
        return [
            shell.READY,
            "\n",
            self.pivoted,
            f'in_its_mounts() {{ nsenter {namespaces}--mount="/proc/$pid/ns/mnt" "$@"; }}\n',
            shell.COPIED if self.copied else "",
            shell.PIVOT,
            "\n# What was promised is in force, or the command is not executed.\n" if self.plan.checks else "",
            *read_back(self.plan.checks),
            shell.GO,
        ]
