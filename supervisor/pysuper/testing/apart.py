"""
Supervisors in a process of their own: killed at each of trio's task steps in turn, or run by an ordinary user.

    python -m pysuper.testing.apart < REQUEST      a JSON object, see `main`; so is the answer

For a kill a process forks at each step: the child lives the life of a supervisor and kills itself, the parent looks
what is left. It is the subreaper of whatever the child had started, PR_SET_CHILD_SUBREAPER(2const), so that no process
can hide from it by becoming an orphan.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any

import attrs
import trio

from pysuper import syscalls
from pysuper.discovery import add_directory, registrations
from pysuper.drivers import Driver
from pysuper.errors import PysuperError
from pysuper.planning import make_plan
from pysuper.spec import ContainerSpec, DriverChoice
from pysuper.testing.changes import Changes, watched
from pysuper.testing.faults import act_at
from pysuper.testing.machine import PATIENCE, Snapshot, children
from pysuper.testing.plugin import context_of, contribution, create, load
from pysuper.testing.rules import Broken, NotHere
from pysuper.testing.stage import IDLE, MARK, forget, open_stage, spec_with

__all__ = ["Killed", "Lived", "killed", "lived_as_user"]

#: Seconds that all kills together may take.
_BOUND = 600.0
#: An ordinary user of whom nobody on the machine is likely to know.
_USER = 54321
_PR_SET_CHILD_SUBREAPER = 36
#: What a child says when its container runs, on a line of its own; the others are paths.
_RUNNING = "running"


@attrs.frozen
class Killed:
    """
    Attributes:
        step: At which task step the supervisor was killed.
        left: What was left, and stayed.
    """

    step: int
    left: tuple[str, ...]


@attrs.frozen
class Lived:
    """
    Attributes:
        error: What the user got instead of a container, or None.
        meant: Whether it is an error of pysuper's, or a reason of `detect`; otherwise it is a traceback.
    """

    error: str | None
    meant: bool = True


def killed(kind: str, choice: DriverChoice, keeps: Sequence[str], forgets: Sequence[str], *, pooled: bool) -> Killed:
    """
    Kill a supervisor at each task step, until its container runs, and then; stop when something is left.

    Args:
        kind, choice: Of the driver.
        keeps, forgets: See `PluginTests`.
        pooled: The container comes into a place where another one has been.

    Raises:
        Broken: A supervisor ended before it was killed.
    """
    request = {"do": "kill", "keeps": list(keeps), "forgets": list(forgets), "pooled": pooled}
    answer = _ask(request | _described(kind, choice), user=None)
    if "error" in answer:
        raise Broken(answer["error"], do="see whether its containers start at all")
    return Killed(answer["step"], tuple(answer["left"]))


def lived_as_user(kind: str, choice: DriverChoice) -> Lived:
    """
    Let an ordinary user have a container with the driver.

    Raises:
        NotHere: This interpreter, or the code, is not for other users to see.
    """
    try:
        probe = [sys.executable, "-P", "-c", f"import {__name__}"]
        if _run(probe, "", _USER).returncode != 0:
            raise PermissionError
    except OSError:
        raise NotHere(f"other users cannot run {sys.executable} with this code; run the tests as one of them") from None
    return Lived(**_ask({"do": "live"} | _described(kind, choice), user=_USER))


def _described(kind: str, choice: DriverChoice) -> dict[str, Any]:
    """Also where it is found: PYTHONPATH would not do, since root does not trust it."""
    directories = sorted(
        {os.path.dirname(plugin.owner) for plugin in registrations(f"pysuper.{kind}") if not plugin.version}
    )
    return {"kind": kind, "choice": attrs.asdict(choice), "path": sys.path, "directories": directories}


def _ask(request: dict[str, Any], user: int | None) -> dict[str, Any]:
    done = _run([sys.executable, "-P", "-m", __name__], json.dumps(request), user)
    if done.returncode != 0:
        raise Broken(done.stderr.strip(), do="see the traceback")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _run(command: list[str], text: str, user: int | None) -> subprocess.CompletedProcess[str]:
    other: dict[str, Any] = {} if user is None else {"user": user, "group": user, "extra_groups": [], "cwd": "/"}
    return subprocess.run(
        command,
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=_BOUND * PATIENCE,
        **other,
    )


def main() -> None:
    """Do what standard input asks for, and print what was found."""
    request = json.load(sys.stdin)
    sys.path[:] = request["path"]
    for directory in request["directories"]:
        add_directory(directory)
    kind, choice = request["kind"], DriverChoice(**request["choice"])
    spec = spec_with(kind, choice, ("/bin/sh", "-c", IDLE if request["do"] == "kill" else "exit 0"))
    if request["do"] == "kill":
        hooks = [choice] if kind == "hook" else []
        life = functools.partial(_live_until, spec, hooks, request["pooled"])
        make_plan(spec)  # so that everything is imported before the first fork
        answer = _kill_at_each_step(life, request["keeps"], request["forgets"])
    else:
        answer = attrs.asdict(_live(kind, choice, spec))
    json.dump(answer, sys.stdout)


def _live(kind: str, choice: DriverChoice, spec: ContainerSpec) -> Lived:
    """The whole life of a container. Its driver is asked alone before, since a supervisor excuses what it raises."""

    async def live() -> None:
        async with open_stage(hooks=[choice] if kind == "hook" else []) as stage:
            await stage.run(spec)

    try:
        detection = load(kind, choice).detect()
        if not detection.works:
            return Lived(detection.reason)
        plugin = create(kind, choice)
        if isinstance(plugin, Driver):
            contribution(plugin, context_of(spec))
        trio.run(live)
    except PysuperError as error:
        return Lived(str(error))
    except (Exception, SystemExit):
        return Lived(traceback.format_exc(), meant=False)
    return Lived(None)


#: Lives until it is killed, at a task step; writes to a descriptor what happens.
_Life = Callable[[int, int], Awaitable[None]]


def _kill_at_each_step(life: _Life, keeps: list[str], forgets: list[str]) -> dict[str, Any]:
    syscalls.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    for step in itertools.count(1):
        forget(forgets)
        before = Snapshot.take(MARK)
        status, told = _forked(life, step)
        changes = Changes(made=[line for line in told if line != _RUNNING])
        left = before.left(functools.partial(_left, changes, keeps))
        if os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
            return {"error": f"at task step {step} it ended, before it was killed"}
        changes.clean_up(changes.left(keeps, MARK))
        for pid in children():  # which have been found, and would hold the pipes open that we write to
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if left or _RUNNING in told:
            return {"step": step, "left": left}
    raise AssertionError


def _left(changes: Changes, keeps: list[str]) -> list[str]:
    """What has been made and is left, once what has ended is reaped."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    return changes.left(keeps, MARK)


def _forked(life: _Life, step: int) -> tuple[int, list[str]]:
    """Live in a child until it is killed; its wait status, and what it has said meanwhile."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            trio.run(life, step, write)
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    os.close(write)
    with open(read, errors="surrogateescape") as file:
        told = file.read().splitlines()
    return os.waitpid(pid, 0)[1], told


async def _live_until(spec: ContainerSpec, hooks: list[DriverChoice], pooled: bool, step: int, write: int) -> None:
    """Kill this process at a task step, or when the container runs."""

    def kill() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def tell(line: str) -> None:
        os.write(write, os.fsencode(f"{line}\n"))

    with watched(tell), act_at(step, kill):
        async with open_stage(hooks=hooks) as stage, AsyncExitStack() as stack:
            if pooled:
                start = await stack.enter_async_context(stage.place(spec))
                await (await start()).stop()
                await start()
            else:
                await stage.start(spec)
            tell(_RUNNING)
            kill()


if __name__ == "__main__":
    main()
