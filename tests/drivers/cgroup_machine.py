"""
What the tests of the cgroup drivers share: facts about this machine, and real processes to limit.

The facts are read here in another way than the drivers read them, so that a driver that overlooks a
controller fails its tests instead of skipping them.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest

from pysuper.drivers import Cgroup, CgroupDriver, Context, NoOptions, PlanBuilder
from pysuper.plan import Command, Plan
from pysuper.spec import ContainerSpec, Limits
from pysuper.steps import JoinCgroup
from pysuper_plugins.cgroup.v1 import V1Cgroup
from pysuper_plugins.cgroup.v2 import V2Cgroup

#: In the name of every directory that these tests make; two test runs do not see each other's.
PREFIX = f"test{os.getpid()}"
MIB = 1 << 20

FORK_BOMB = """
import os
print("ready", flush=True)
while True:
    try:
        os.fork()
    except OSError:
        pass
"""

SOURCES = [str(Path(__file__).parents[2] / root) for root in ("supervisor", "plugins")]

_DRIVERS: dict[str, type[CgroupDriver]] = {"v1": V1Cgroup, "v2": V2Cgroup}
#: Limits and abilities are named as in v2, which has some of them in every cgroup.
_V1_NAMES = {"io": "blkio"}
_V2_ALWAYS = {"freezer", "cpuacct"}

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may make cgroups here")

_numbers = itertools.count()


def each_driver(*controllers: str) -> pytest.MarkDecorator:
    """Run the test for each driver whose hierarchies are mounted here, with these controllers."""
    parameters = []
    for name, driver in _DRIVERS.items():
        reason = _lacking(name, controllers)
        skip = pytest.mark.skipif(bool(reason), reason=reason)
        parameters.append(pytest.param(driver, id=name, marks=skip))
    return pytest.mark.parametrize("driver", parameters)


def only(version: str, *controllers: str) -> pytest.MarkDecorator:
    """Skip the test where one driver has not got these controllers."""
    reason = _lacking(version, controllers)
    return pytest.mark.skipif(bool(reason), reason=reason)


def _lacking(version: str, controllers: tuple[str, ...]) -> str:
    kind = {"v1": "cgroup", "v2": "cgroup2"}[version]
    lines = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    mounts = [(Path(top), options) for _, top, fstype, options, *_ in lines if fstype == kind]
    if version == "v1":
        here = {option for _, options in mounts for option in options.split(",")}
        wanted = {_V1_NAMES.get(name, name) for name in controllers}
    else:
        here = {c for top, _ in mounts for c in (top / "cgroup.controllers").read_text().split()}
        wanted = set(controllers) - _V2_ALWAYS
    if not mounts:
        return f"no cgroup {version} is mounted"
    missing = ", ".join(sorted(wanted - here))
    return f"cgroup {version} has no {missing} here" if missing else ""


def context(*, name: str = "", privileged: bool = True, best_effort: bool = False, **limits: Any) -> Context:
    """A container's context, with an id of its own unless one is named."""
    spec = ContainerSpec(name="test", limits=Limits(**limits), best_effort=best_effort)
    number = name or str(next(_numbers))
    return Context(id=f"{PREFIX}.{number}", spec=spec, privileged=privileged, uid_base=0)


def plan_of(driver: CgroupDriver, context: Context) -> Plan:
    """The plan of a container that has nothing but a cgroup."""
    builder = PlanBuilder(context)
    driver.contribute(builder)
    return builder.build(Command(argv=(), environment={}, working_dir="/", init=False, terminal=False))


def left_behind() -> list[str]:
    """Every cgroup of these tests that exists now, found by looking everywhere."""
    return [f"{path}/{name}" for path, names, _ in os.walk("/sys/fs/cgroup") for name in names if PREFIX in name]


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Every test of the module leaves the machine as it found it."""
    assert left_behind() == []
    yield
    assert left_behind() == []


@attrs.frozen
class Box:
    """A live cgroup, the plan that goes with it, and the processes that were put into it."""

    cgroup: Cgroup
    plan: Plan
    directories: list[str]
    processes: list[subprocess.Popen[str]]

    def spawn(self, code: str, *arguments: str) -> subprocess.Popen[str]:
        """Run Python code in the cgroup."""
        return self.start(sys.executable, "-c", code, *arguments)

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Run a command in the cgroup, which it joins as the launcher's child will."""
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: join(self.plan),  # noqa: PLW1509 - this process has one thread
        )
        self.processes.append(process)
        return process

    def say(self, code: str, *arguments: str) -> str:
        """The first line that the code prints; it may go on running."""
        return first_line(self.spawn(code, *arguments))

    def file(self, name: str) -> Path:
        """A file of the cgroup, in whichever hierarchy has it."""
        paths = [Path(d, name) for d in self.directories if Path(d, name).exists()]
        assert len(paths) == 1
        return paths[0]


def first_line(process: subprocess.Popen[str]) -> str:
    """The next line that a process prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def join(plan: Plan) -> None:
    """Enter the cgroup of a plan."""
    tasks = [step.path for step in plan.steps if isinstance(step, JoinCgroup)]
    for path in [f"{plan.cgroup}/cgroup.procs"] if plan.cgroup else tasks:
        with open(path, "r+") as file:
            file.write("0")


@asynccontextmanager
async def box(driver: type[CgroupDriver], context: Context) -> AsyncIterator[Box]:
    """A live cgroup; its processes are reaped after it, because zombies must not hold it."""
    made = driver(NoOptions())
    plan = plan_of(made, context)
    directories = [trace.path for trace in made.traces(context)]
    processes: list[subprocess.Popen[str]] = []
    try:
        async with made.host(context) as cgroup:
            yield Box(cgroup, plan, directories, processes)
    finally:
        for process in processes:
            with process:
                process.kill()


def run_python(code: str, *, before: str = "") -> subprocess.CompletedProcess[str]:
    """Run Python code in a mount namespace of its own, in which the shell text `before` was run."""
    command = [sys.executable, "-c", code]
    if before:
        shell = ["sh", "-ec", f'{before}\nexec "$@"', "sh"]
        command = ["unshare", "--mount", "--propagation", "private", *shell, *command]
    here = str(Path(__file__).parent)
    path = os.pathsep.join([*SOURCES, here])
    with contextlib.suppress(FileNotFoundError):
        return subprocess.run(
            command,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    pytest.skip("there is no unshare(1)")
