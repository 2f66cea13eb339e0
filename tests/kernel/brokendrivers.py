"""
For each rule of the conformance kit, plugins that break it: what they do, and what the kit has to find.

Each is a class in a file of a `--plugin-dir`, called `broken`, with `HEADER` above.
"""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import dedent, indent
from types import MappingProxyType
from typing import Any

import attrs

from pysuper.testing import (
    CgroupDriverTests,
    HookTests,
    NamespaceDriverTests,
    NetworkDriverTests,
    RootfsDriverTests,
)

__all__ = ["CASES", "HEADER", "Case"]

#: What is in braces is for the test to fill in.
HEADER = '''
import itertools, os, subprocess, time
from contextlib import asynccontextmanager
from pathlib import Path
import attrs, trio
from pysuper.drivers import *
from pysuper.errors import DriverError
from pysuper.spec import Limits
from pysuper.steps import *
from pysuper.testing.machine import PATIENCE
from pysuper_plugins.cgroup.{module} import {cgroup} as _Cgroup
from pysuper_plugins.rootfs.directory import DirectoryRootfs as _Directory

MADE = Path({here!r}) / "made"

class _Namespace(NamespaceDriver):
    """An own host name."""
    namespace = "uts"

    def contribute(self, plan):
        plan.namespace("uts")
        plan.add(Phase.NAMESPACES, SetHostname(hostname="own"))

@attrs.frozen
class _Enters:
    """
    Attributes:
        path: Leads to a namespace.
    """
    path: str

class _Wrapped(Cgroup):
    def __init__(self, real): self.real = real
    def processes(self): return self.real.processes()
    def kill(self): self.real.kill()
    def freeze(self): self.real.freeze()
    def thaw(self): self.real.thaw()
    def statistics(self): return self.real.statistics()
'''


@attrs.frozen(kw_only=True)
class Case:
    """
    Attributes:
        kind: The class of tests that the plugin is given to.
        test: Of the rule that it breaks.
        code: Of the plugin.
        found: What the kit finds, a regular expression.
        argument: Of the test, if it has one.
        given: Attributes of the class of tests; "{tree}" is a root file system, "{path}" leads to a namespace.
    """

    kind: type[Any]
    test: str
    code: str
    found: str
    argument: str | bool | None = None
    given: Mapping[str, Any] = MappingProxyType({})


#: Each kind of tests, and the class that its broken plugins are derived from.
_BASES = {
    CgroupDriverTests: "_Cgroup",
    HookTests: "Hook",
    NamespaceDriverTests: "_Namespace",
    NetworkDriverTests: "NetworkDriver",
    RootfsDriverTests: "_Directory",
}

CASES: list[Case] = []


def broken(
    kind: type[Any],
    test: str,
    body: str,
    found: str,
    argument: str | bool | None = None,
    *,
    above: str = "",
    **given: Any,
) -> None:
    """
    Add a case.

    Args:
        body: Of the plugin's class.
        above: Code before it.
        given: See `Case`.
    """
    lines = indent(f'"""Breaks a rule."""\n{dedent(body)}', "    ")
    code = f"{dedent(above)}\nclass Broken({_BASES[kind]}):\n{lines}\n"
    CASES.append(Case(kind=kind, test=test, code=code, found=found, argument=argument, given=given))


def with_host(test: str, body: str, found: str, argument: str | bool | None = None) -> None:
    """A driver whose host side is this."""
    head = "@asynccontextmanager\nasync def host(self, context):\n"
    broken(NamespaceDriverTests, test, head + indent(dedent(body), "    "), found, argument)


def with_cgroup(test: str, methods: str, found: str, argument: str | None = None) -> None:
    """A driver whose cgroups have these methods."""
    body = """
        @asynccontextmanager
        async def host(self, context):
            async with super().host(context) as cgroup:
                yield _Changed(cgroup)
    """
    above = "class _Changed(_Wrapped):\n" + indent(dedent(methods), "    ")
    broken(CgroupDriverTests, test, body, found, argument, above=above)


# --- what it says of itself ---

CASES.append(
    Case(
        kind=NamespaceDriverTests,
        test="test_is_found_by_its_name",
        code="class Broken(NamespaceDriver): ...\n",
        found="Broken is abstract do: define contribute",
    )
)
CASES.append(
    Case(
        kind=NamespaceDriverTests,
        test="test_says_what_it_does",
        code="class Broken(_Namespace): ...\n",
        found="Broken has no docstring",
    )
)
broken(
    NamespaceDriverTests,
    "test_is_found_by_its_name",
    "api_version = 2",
    "was written for version 2 of the driver interface",
)
broken(
    NamespaceDriverTests,
    "test_is_found_by_its_name",
    "",
    "there is no namespace driver 'brokn'; did you mean 'broken'",
    driver="brokn",
)
broken(
    NamespaceDriverTests,
    "test_documents_every_option",
    "Options = _Options",
    "_Options says nothing of mtu",
    above="""
        @attrs.frozen
        class _Options:
            mtu: int = 1500
    """,
)
broken(NamespaceDriverTests, "test_refuses_an_unknown_option", "Options = dict", "dict is no attrs class")
broken(
    NamespaceDriverTests,
    "test_detect_says_whether_it_works",
    """
    @classmethod
    def detect(cls):
        return Detection(False)
    """,
    "it does not work here, and gives no reason",
)
broken(
    NamespaceDriverTests,
    "test_detect_says_whether_it_works",
    """
    @classmethod
    def detect(cls):
        return True
    """,
    "it returned True",
)
broken(
    NamespaceDriverTests,
    "test_detect_says_whether_it_works",
    """
    @classmethod
    def detect(cls):
        open("/no/such/file")
    """,
    r"detect\(\) raised FileNotFoundError",
)
broken(
    NamespaceDriverTests,
    "test_detect_is_quick",
    """
    @classmethod
    def detect(cls):
        time.sleep(1.1 * PATIENCE)
        return Detection(True)
    """,
    r"it took \d\.\d s",
)
broken(
    NamespaceDriverTests,
    "test_detect_changes_nothing",
    """
    @classmethod
    def detect(cls):
        MADE.touch()
        return Detection(True)
    """,
    r"detect\(\) called .*open\('.*/made'\)",
)

# --- what it decides ---

broken(
    RootfsDriverTests,
    "test_refuses_what_is_wrong",
    """
    def contribute(self, plan):
        plan.add(Phase.ROOTFS, Bind(source=self.options.path, target="/"))
    """,
    r"it takes /.*\.check\d+x",
    driver="broken:{tree}",
)
broken(
    RootfsDriverTests,
    "test_refuses_what_is_wrong",
    """
    def contribute(self, plan):
        os.listdir(self.options.path)
    """,
    r"contribute\(\) raised FileNotFoundError",
    driver="broken:{tree}",
)
broken(
    RootfsDriverTests,
    "test_refuses_what_is_wrong",
    """
    def contribute(self, plan):
        raise DriverError("something is wrong")
    """,
    "it says only: something is wrong",
    driver="broken:{tree}",
)
broken(
    NamespaceDriverTests,
    "test_contribute_changes_nothing",
    """
    def contribute(self, plan):
        MADE.mkdir()
    """,
    r"contribute\(\) called os\.mkdir\('.*/made'\)",
)
broken(
    NamespaceDriverTests,
    "test_contribute_changes_nothing",
    """
    def contribute(self, plan):
        self.descriptor = os.open("/dev/zero", os.O_RDONLY)
    """,
    r"after contribute\(\) there is still the descriptor \d+ -> /dev/zero",
)
broken(
    NamespaceDriverTests,
    "test_contribute_makes_the_same_plan_twice",
    """
    numbers = itertools.count()

    def contribute(self, plan):
        plan.add(Phase.NAMESPACES, SetHostname(hostname=f"h{next(self.numbers)}"))
    """,
    r"-set the host name to h0; \+set the host name to h1",
)
broken(
    NamespaceDriverTests,
    "test_the_plan_survives_the_wire",
    """
    def contribute(self, plan):
        plan.add(Phase.MASKS, RootFlags(flags=["nosuid"]))
    """,
    "it arrives with other lines: none in words, but in types",
)
broken(
    NamespaceDriverTests,
    "test_the_plan_survives_the_wire",
    """
    def contribute(self, plan):
        plan.add(Phase.MASKS, MaskPath(target=Path("/tmp")))
    """,
    "it cannot be sent: .*PosixPath",
)

# --- lives ---

with_host(
    "test_nothing_is_left",
    """
    MADE.mkdir(exist_ok=True)
    yield
    """,
    "after a normal end there is still .*/made",
    "normal",
)
with_host(
    "test_nothing_is_left",
    """
    os.posix_spawn("/bin/sleep", ["sleep", "1000"], {})
    yield
    """,
    r"after a kill there is still the process \d+",
    "killed",
)
with_host(
    "test_nothing_is_left",
    """
    os.open("/dev/zero", os.O_RDONLY)
    yield
    """,
    r"after a start whose command does not exist there is still the descriptor \d+ -> /dev/zero",
    "missing",
)
broken(
    NamespaceDriverTests,
    "test_nothing_is_left",
    """
    def traces(self, context):
        os.system(f"mkdir -p {MADE}")  # which no audit hook sees
        return (Trace("directory", f"{MADE}/below"),)

    @asynccontextmanager
    async def host(self, context):
        os.system(f"mkdir -p {MADE}/below")
        yield
    """,
    "after a command that failed there is still .*/made/below",
    "failed",
)
with_host(
    "test_cancellation_at_every_task_step_leaves_nothing",
    """
    MADE.mkdir()
    await trio.sleep(0)
    try:
        yield
    finally:
        MADE.rmdir()
    """,
    r"after cancellation at task step \d+ there is still .*/made",
)
with_host(
    "test_out_of_descriptors_is_an_error_and_leaves_nothing",
    """
    first = os.open("/dev/zero", os.O_RDONLY)
    second = os.open("/dev/zero", os.O_RDONLY)
    try:
        yield
    finally:
        os.close(first)
        os.close(second)
    """,
    r"after a start with \d+ free descriptors there is still the descriptor \d+ -> /dev/zero",
)
with_host(
    "test_kill_9_of_the_supervisor_leaves_nothing",
    """
    MADE.mkdir()
    try:
        yield
    finally:
        MADE.rmdir()
    """,
    r"a second after a kill at task step \d+ there is still .*/made",
)
with_host(
    "test_kill_9_of_the_supervisor_leaves_nothing",
    """
    with subprocess.Popen(["sleep", "1000"]) as child:
        yield
        child.kill()
    """,
    r"a second after a kill at task step \d+ there is still the process \d+",
)
with_host(
    "test_does_not_block_the_event_loop",
    """
    time.sleep(1.1 * PATIENCE)
    yield
    """,
    r"nothing else ran for \d\.\d s",
)
broken(
    HookTests,
    "test_does_not_block_the_event_loop",
    """
    async def started(self, event):
        time.sleep(1.1 * PATIENCE)
    """,
    r"nothing else ran for \d\.\d s",
)

# --- drivers of all kinds ---

broken(
    NamespaceDriverTests,
    "test_a_container_starts_and_ends",
    """
    def contribute(self, plan):
        plan.add(Phase.LIMITS, WriteFile(path="/proc/no", content="1"))
    """,
    "LaunchError: could not write 1 to /proc/no: ENOENT",
    True,
)
with_host(
    "test_a_container_starts_and_ends",
    """
    [][0]
    yield
    """,
    r"failed in host: IndexError.*broken\.py:\d+, in host\)",
    False,
)
broken(
    NamespaceDriverTests,
    "test_failure_of_every_step_is_a_launch_error",
    """
    seen = False

    def contribute(self, plan):
        super().contribute(plan)
        plan.add(Phase.LIMITS, Barrier(name="late"))

    async def at_barrier(self, name, pid):
        self.seen = True

    @asynccontextmanager
    async def host(self, context):
        yield
        if not self.seen:
            raise ValueError("never seen")
    """,
    "the step 'start a new session.* failed, but the error is DriverError: .*ValueError: never seen",
)
with_host(
    "test_two_containers_at_once_do_not_meet",
    """
    MADE.mkdir()
    try:
        yield
    finally:
        MADE.rmdir()
    """,
    "failed in host: FileExistsError",
)
broken(
    NamespaceDriverTests,
    "test_one_that_is_reusable_serves_again",
    """
    reusable = True

    @asynccontextmanager
    async def host(self, context):
        if hasattr(self, "used"):
            raise ValueError("used before")
        self.used = True
        yield
    """,
    "the second container failed: .*ValueError: used before",
)
broken(
    NamespaceDriverTests,
    "test_what_it_keeps_is_dropped",
    """
    reusable = True

    def traces(self, context):
        return (Trace("directory", str(MADE)),)

    async def keep(self, context):
        MADE.mkdir()
        await trio.sleep(0)
        self.kept = True

    async def drop(self, context):
        if hasattr(self, "kept"):
            MADE.rmdir()
    """,
    r"after cancellation at task step \d+ there is still .*/made",
)
broken(
    NamespaceDriverTests,
    "test_kill_9_leaves_nothing_that_is_kept",
    """
    reusable = True

    async def keep(self, context):
        MADE.mkdir()

    async def drop(self, context):
        MADE.rmdir()
    """,
    r"a second after a kill at task step \d+ there is still .*/made",
)

# --- cgroups ---

for limit, found in {
    "pids_max": "with pids_max = 20 a program has made 200 children",
    "memory_max": r"with memory_max = \d+ a program has used \d+ bytes",
    "cpuset_cpus": r"with cpuset_cpus = \d+ a program may run on \d+ \d+",
    "io_max": r"with rbps = \d+ a program has read \d+ bytes in 0\.\d+ s",
}.items():
    broken(
        CgroupDriverTests,
        "test_a_limit_is_enforced_or_refused",
        """
        def _layout(self, context):
            spec = attrs.evolve(context.spec, limits=Limits(pids_max=-1))
            return super()._layout(attrs.evolve(context, spec=spec))
        """,
        found,
        limit,
    )
broken(
    CgroupDriverTests,
    "test_a_limit_is_enforced_or_refused",
    """
    def contribute(self, plan):
        raise DriverError("cannot")
    """,
    "the error does not name cpu_max: cannot",
    "cpu_max",
)
broken(
    CgroupDriverTests,
    "test_a_limit_is_enforced_or_refused",
    """
    def contribute(self, plan):
        raise DriverError("no memory_max")
    """,
    "it refuses memory_max: no memory_max",
    "memory_max",
    limits=("memory_max",),
)
broken(
    CgroupDriverTests,
    "test_a_limit_is_enforced_or_refused",
    """
    @asynccontextmanager
    async def host(self, context):
        raise DriverError("too late")
        yield
    """,
    r"contribute\(\) accepts pids_max, and the start fails: too late",
    "pids_max",
)
with_cgroup(
    "test_a_limit_is_enforced_or_refused",
    """
    def statistics(self):
        return attrs.evolve(self.real.statistics(), pids_max_hits=0)
    """,
    "a fork was refused, and pids_max_hits is 0",
    "pids_max",
)
broken(
    CgroupDriverTests,
    "test_best_effort_leaves_a_limit_out",
    """
    def contribute(self, plan):
        raise DriverError("no pids_max")
    """,
    "it still refuses pids_max",
    "pids_max",
)
broken(
    CgroupDriverTests,
    "test_best_effort_leaves_a_limit_out",
    """
    def contribute(self, plan):
        if not plan.context.spec.best_effort:
            raise DriverError("no pids_max")
    """,
    r"no warning names pids_max: \[\]",
    "pids_max",
)
broken(
    CgroupDriverTests,
    "test_a_limit_is_promised",
    """
    def contribute(self, plan):
        super().contribute(plan)
        plan._checks.clear()
    """,
    "with memory_max, the checks are the same as without",
    "memory_max",
)
broken(
    CgroupDriverTests,
    "test_joins_before_the_cgroup_namespace_is_made",
    """
    def contribute(self, plan):
        super().contribute(plan)
        plan._cgroup = None
        plan._phases[Phase.CGROUP].clear()
        plan.add(Phase.LIMITS, Barrier(name="join"))
        self.directories = [trace.path for trace in self.traces(plan.context)]

    async def at_barrier(self, name, pid):
        for directory in self.directories:
            Path(directory, "cgroup.procs").write_text(str(pid))
    """,
    "the first process is in .*:/.+",
)
with_cgroup(
    "test_processes_lists_what_is_in_it",
    """
    def processes(self):
        return self.real.processes()[:1]
    """,
    r"in it are \[.*\], and it lists \[\d+\]",
)
with_cgroup(
    "test_kill_reaches_what_forks",
    """
    def kill(self):
        pids = self.processes()
        time.sleep(0.05)
        for pid in pids:
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                pass
    """,
    r"s after kill\(\) there are still the processes \[\d+",
)
with_cgroup(
    "test_kill_reaches_what_is_frozen",
    """
    def kill(self):
        pass
    """,
    r"s after freeze\(\) and kill\(\) there are still the processes \[\d+,",
)
with_cgroup(
    "test_freezes_and_thaws",
    """
    def freeze(self):
        pass
    """,
    r"it used CPU time in 0\.3 s after freeze\(\)",
)
with_cgroup(
    "test_freezes_and_thaws",
    """
    def thaw(self):
        pass

    def kill(self):
        self.real.thaw()
        self.real.kill()
    """,
    r"it does not run after thaw\(\)",
)
with_cgroup(
    "test_statistics_count",
    """
    def statistics(self):
        return attrs.evolve(self.real.statistics(), cpu_user=3e5)
    """,
    r"of 0\.3 s of CPU time it counts 30000",
)
with_cgroup(
    "test_statistics_count",
    """
    def statistics(self):
        return Statistics()
    """,
    "it holds pids_max, but has no pids_current, pids_max_hits",
)
broken(
    CgroupDriverTests,
    "test_limits_cannot_be_changed_from_inside",
    """
    @asynccontextmanager
    async def host(self, context):
        async with super().host(context) as cgroup:
            for trace in self.traces(context):
                for path in Path(trace.path).glob("pids.max"):
                    path.chmod(0o666)
            yield cgroup
    """,
    "after a program has tried to: .*pids.max says 'max', not '20'",
)

# --- root file systems ---

broken(
    RootfsDriverTests,
    "test_shows_what_was_chosen",
    "",
    "/etc/marker holds 'this root, and no other.*', not 'another one'",
    driver="broken:{tree}",
    shows={"/etc/marker": "another one"},
)
broken(
    RootfsDriverTests,
    "test_the_hosts_root_is_gone",
    """
    def contribute(self, plan):
        super().contribute(plan)
        plan.add(Phase.MOUNTS, Bind(source="/", target="/host", recursive=False))
    """,
    "it is mounted at /host",
    driver="broken:{tree}",
)
broken(
    RootfsDriverTests,
    "test_the_hosts_root_is_gone",
    'enter = "chroot"',
    "it enters by chroot, without a warning",
    driver="broken:{tree}",
)
broken(
    RootfsDriverTests,
    "test_writes_vanish_or_stay",
    "",
    "another container at the same time finds it there, and the next one there",
    driver="broken:{tree}",
)
broken(
    RootfsDriverTests,
    "test_files_have_owners_that_the_container_knows",
    """
    def contribute(self, plan):
        plan.add(Phase.ROOTFS, Overlay(source=self.options.path, target="/"))
    """,
    r"belongs to uid 0 of the host, and the container has \d+ to \d+",
    driver="broken:{tree}",
)
broken(
    RootfsDriverTests,
    "test_read_only_is_read_only",
    """
    def contribute(self, plan):
        if plan.context.spec.read_only:
            raise DriverError("cannot be read-only")
        super().contribute(plan)
    """,
    "DriverError: cannot be read-only",
    driver="broken:{tree}",
)
broken(
    RootfsDriverTests,
    "test_volumes_can_be_mounted_over_it",
    """
    def contribute(self, plan):
        super().contribute(plan)
        for mount in plan.context.spec.mounts:
            plan.add(Phase.MASKS, Mount(fstype="tmpfs", target=mount.target, flags=("nosuid", "nodev")))
    """,
    "the container printed .*, not 'of the volume",
    driver="broken:{tree}",
)
broken(
    RootfsDriverTests,
    "test_system_directories_are_there",
    """
    def contribute(self, plan):
        super().contribute(plan)
        flags = ("ro", "nosuid", "nodev", "noexec")
        plan.add(Phase.MASKS, Mount(fstype="tmpfs", target="/sys", flags=flags))
    """,
    "there is no /sys/kernel",
    driver="broken:{tree}",
)

# --- namespaces and networks ---

NOTHING = """
    def contribute(self, plan):
        pass
"""
ENTERS = """
    Options = _Enters

    def contribute(self, plan):
        plan.add(Phase.ROOTFS, EnterNamespace(namespace="{namespace}", path=self.options.path))
"""
ENTERS_UTS, ENTERS_NET = (ENTERS.replace("{namespace}", name) for name in ("uts", "net"))

broken(NamespaceDriverTests, "test_promises_an_own_namespace", NOTHING, r"the checks are \[\]")
broken(
    NamespaceDriverTests,
    "test_all_processes_are_in_its_namespace",
    NOTHING,
    r"the first process is in the host's, uts:\[\d+\]",
)
broken(
    NamespaceDriverTests,
    "test_all_processes_are_in_its_namespace",
    ENTERS_UTS,
    r"a process that joins is in uts:\[\d+\], the container in uts:\[\d+\]",
    options={"path": "{path}"},
)
broken(
    NamespaceDriverTests,
    "test_two_containers_are_in_different_namespaces",
    ENTERS_UTS,
    r"both are in uts:\[\d+\]",
    options={"path": "{path}"},
)
broken(
    NetworkDriverTests,
    "test_is_in_the_declared_namespace",
    'namespace = "joined"\n' + dedent(NOTHING),
    r"it declares 'joined', and is in the host's, net:\[\d+\]",
)
broken(
    NetworkDriverTests,
    "test_two_containers_have_different_networks",
    ENTERS_NET,
    r"both are in net:\[\d+\]",
    options={"path": "{path}"},
)
broken(
    NetworkDriverTests,
    "test_loopback_works",
    ENTERS_NET,
    "ended with 1",
    options={"path": "{path}"},
)

# --- hooks ---

broken(HookTests, "test_declares_what_can_be_acted_on", 'after = "journal"', "after is 'journal'")
broken(
    HookTests,
    "test_declares_what_can_be_acted_on",
    """
    def exited(self, event):
        pass
    """,
    "exited is no coroutine function",
)
broken(
    HookTests,
    "test_takes_whatever_becomes_of_a_container",
    """
    async def exited(self, event):
        event.pid + 1
    """,
    "when it exits with 0: .*failed in exited of .*TypeError",
    "exits",
)
broken(
    HookTests,
    "test_takes_whatever_becomes_of_a_container",
    """
    async def created(self, event):
        self.pids = {event.container: event.pid}

    async def exited(self, event):
        self.pids.pop(event.container)
    """,
    "when its root is missing.*failed in exited",
    "refused",
)
broken(
    HookTests,
    "test_takes_whatever_becomes_of_a_container",
    """
    timeout = 0.1

    async def restarted(self, event):
        await trio.sleep(event.delay + 1)
    """,
    r"when it is started again.*took more than 0\.1 s in restarted",
    "restarted",
)
