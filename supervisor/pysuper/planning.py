"""
Spec to plan: chooses the drivers, asks each what it adds, and adds what every container gets.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping

import attrs

from pysuper import capabilities, landlock, receipts, registry, steps
from pysuper.contexts import Contexts, new_id
from pysuper.drivers import CgroupDriver, Driver, NamespaceDriver, NetworkDriver, RootfsDriver
from pysuper.errors import DriverError
from pysuper.guard import guarded
from pysuper.plan import Command, Context, Phase, Plan, PlanBuilder
from pysuper.seccomp.bpf import compile_profile
from pysuper.seccomp.choice import choose
from pysuper.spec import NAMESPACES, UNCONFINED, BindMount, ContainerSpec, DriverChoice
from pysuper.validation import sysctl_namespace, validate

__all__ = [
    "Drivers",
    "build_plan",
    "choose_drivers",
    "make_plan",
    "terminal_environment",
]

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: Who makes a namespace if nobody else is to.
_STANDARD = {name: DriverChoice(name) for name in NAMESPACES}
#: Where the socket for sd_notify(3) is in a container.
_NOTIFY = "/dev/notify"


@attrs.frozen
class Drivers:
    """The drivers of one container."""

    rootfs: RootfsDriver
    cgroup: CgroupDriver
    network: NetworkDriver
    namespaces: Mapping[str, NamespaceDriver]

    def in_order(self) -> tuple[Driver, ...]:
        """In the order in which their host sides are entered."""
        return (self.rootfs, self.cgroup, self.network, *self.namespaces.values())


def choose_drivers(spec: ContainerSpec) -> Drivers:
    """
    Load the drivers that the spec names.

    Raises:
        DriverError: One cannot be loaded or cannot work here.
    """
    cgroup, reason = spec.cgroup, ""
    if cgroup.name == "auto":
        name, reason = registry.detect_cgroup()
        cgroup = DriverChoice(name, cgroup.options)
        if name == "none" and spec.limits.wanted and not spec.best_effort:
            raise DriverError(f"{', '.join(spec.limits.wanted)} cannot be applied, there is no cgroup: {reason}")
    network = registry.create("pysuper.network", spec.network, NetworkDriver)  # type: ignore[type-abstract]
    shared = spec.share if network.namespace == "own" else spec.share | {"net"}
    namespaces = {name: _namespace_driver(spec, name) for name in NAMESPACES if name not in shared}
    if "pid" in shared and cgroup.name == "none":
        raise DriverError(
            "a container that shares the pid namespace needs a cgroup, by which all of its processes can be killed",
            remedy="use another cgroup driver than none, or an own pid namespace",
        )
    return Drivers(
        rootfs=registry.create("pysuper.rootfs", spec.rootfs, RootfsDriver),  # type: ignore[type-abstract]
        cgroup=registry.create("pysuper.cgroup", cgroup, CgroupDriver),  # type: ignore[type-abstract]
        network=network,
        namespaces=namespaces,
    )


def _namespace_driver(spec: ContainerSpec, namespace: str) -> NamespaceDriver:
    choice = spec.namespaces.get(namespace, _STANDARD[namespace])
    driver = registry.create("pysuper.namespace", choice, NamespaceDriver)  # type: ignore[type-abstract]
    if (made := driver.namespace or choice.name) != namespace:
        raise DriverError(f"{registry.title(driver)} makes a {made} namespace, not a {namespace} namespace")
    return driver


def build_plan(context: Context, drivers: Drivers) -> Plan:
    """
    Ask every driver, and add what is common to all containers.

    Raises:
        PysuperError: The spec asks for what a driver cannot do.
    """
    spec = context.spec
    plan = PlanBuilder(context, drivers.namespaces)
    plan.add(Phase.SESSION, steps.Setsid(), steps.NewSessionKeyring())
    # First of all the id map, which decides how the others do their work.
    ordered = sorted(drivers.namespaces.items(), key=lambda item: item[0] != "user")
    namespaces = [driver for _, driver in ordered]
    for driver in (*namespaces[:1], drivers.rootfs, drivers.cgroup, drivers.network, *namespaces[1:]):
        with guarded(registry.title(driver), "contribute"):
            driver.contribute(plan)
    joined = {"net"} if drivers.network.namespace == "joined" else set()
    shared = [name for name in NAMESPACES if name not in {*drivers.namespaces, *joined}]
    for name in shared:
        plan.warn(f"the {name} namespace is the host's: in that respect the container is no boundary")
    if written := [mount.source for mount in spec.mounts if isinstance(mount, BindMount) and not mount.read_only]:
        plan.warn(f"files of the host can be changed, set-user-id bits too: {', '.join(dict.fromkeys(written))}")
    if spec.notify_socket is not None:
        # In the private /dev, which every container has and nobody else's files are in.
        flags = ("ro", "nosuid", "nodev", "noexec")
        source = os.path.realpath(spec.notify_socket)
        plan.add(Phase.MOUNTS, steps.Bind(source=source, target=_NOTIFY, flags=flags, recursive=False))
    if spec.read_only:
        plan.add(Phase.MASKS, steps.RootFlags(flags=("ro",)))
        plan.check(receipts.MountFlags(target="/", flags=("ro",)))
    if drivers.rootfs.enter == "chroot":
        plan.add(Phase.PIVOT, steps.Chroot())
    else:
        plan.add(Phase.PIVOT, steps.PivotRoot())
        plan.check(receipts.OldRootGone())
    for limit in spec.rlimits:
        plan.add(Phase.LIMITS, steps.SetRlimit(resource=limit.name, soft=limit.soft, hard=limit.hard))
        plan.check(receipts.ResourceLimit(resource=limit.name, soft=limit.soft, hard=limit.hard))
    _add_sysctls(plan, drivers)
    _add_landlock(plan, spec, shared)
    _add_seccomp(plan, spec)
    _add_privileges(plan, spec)
    if spec.terminal:
        rows, columns = spec.terminal_size or (0, 0)
        plan.add(Phase.TERMINAL, steps.OpenTerminal(rows=rows, columns=columns))
    return plan.build(
        Command(
            argv=spec.command,
            environment=_environment(spec),
            working_dir=spec.working_dir,
            init=spec.init,
            terminal=spec.terminal,
        )
    )


def _add_sysctls(plan: PlanBuilder, drivers: Drivers) -> None:
    for name, value in plan.context.spec.sysctls.items():
        namespace = sysctl_namespace(name)
        if namespace not in drivers.namespaces:
            raise DriverError(
                f"the kernel parameter {name} is of the {namespace} namespace, which is not the container's"
            )
        plan.add(Phase.NAMESPACES, steps.SetSysctl(name=name, value=value))


def _add_privileges(plan: PlanBuilder, spec: ContainerSpec) -> None:
    keep = spec.capabilities
    mask = capabilities.mask(keep)
    plan.add(Phase.LIMITS, steps.SetUmask(umask=0o022))
    plan.add(
        Phase.PRIVILEGES,
        steps.BoundCapabilities(keep=keep),
        steps.SetUser(user=spec.user),
        steps.SetCapabilities(keep=keep),
    )
    if added := [name for name in keep if name not in capabilities.DEFAULT]:
        plan.warn(f"capabilities beyond the default: {', '.join(added)}")
    if spec.no_new_privileges:
        plan.add(Phase.PRIVILEGES, steps.NoNewPrivileges())
        plan.check(receipts.ProcessStatus(field="NoNewPrivs", value="1"))
    else:
        plan.warn("execve may gain privileges: set-user-id programs work as such")
    plan.check(
        receipts.ProcessStatus(field="CapBnd", value=f"{mask:016x}"),
        receipts.ProcessStatus(field="CapInh", value=f"{0:016x}"),
        receipts.ProcessStatus(field="CapAmb", value=f"{0:016x}"),
    )
    if spec.user is None:
        plan.check(receipts.ProcessStatus(field="CapEff", value=f"{mask:016x}"))


def _add_landlock(plan: PlanBuilder, spec: ContainerSpec, shared: Collection[str]) -> None:
    if not spec.landlock:
        plan.warn("landlock is off: nothing stands behind what is shared with the host, or let through otherwise")
    elif step := landlock.rules(landlock.version(), spec.capabilities, shared):
        # Before the capabilities go: it takes CAP_SYS_ADMIN, or no_new_privs, which not all have.
        plan.add(Phase.PRIVILEGES, step)


def _add_seccomp(plan: PlanBuilder, spec: ContainerSpec) -> None:
    if spec.seccomp == UNCONFINED:
        plan.warn("seccomp is off: the container may make every system call that the kernel lets its user make")
        return
    profile = choose(spec)
    if profile.unknown:
        plan.warn(f"{spec.seccomp}: no system call, as far as is known, is called {', '.join(profile.unknown)}")
    program = compile_profile(profile, os.uname().machine)
    # Who may gain privileges by execve may filter calls only with CAP_SYS_ADMIN, seccomp(2).
    phase = Phase.SECCOMP if spec.no_new_privileges else Phase.PRIVILEGES
    plan.add(phase, steps.Seccomp(program=program.hex()))
    plan.check(
        receipts.ProcessStatus(field="Seccomp", value="2"),
        # On top of those by which this process is confined itself.
        receipts.ProcessStatus(field="Seccomp_filters", value=str(int(receipts.own_status("Seccomp_filters")) + 1)),
    )


def _environment(spec: ContainerSpec) -> dict[str, str]:
    clean = {"PATH": _PATH, "LANG": os.environ.get("LANG", "C.UTF-8")}
    if spec.notify_socket is not None:
        clean["NOTIFY_SOCKET"] = _NOTIFY
    if spec.terminal:
        clean |= terminal_environment()
    return clean | dict(spec.environment)


def terminal_environment() -> dict[str, str]:
    """What a command on a terminal is told of it."""
    return {"TERM": os.environ.get("TERM", "xterm")}


def make_plan(spec: ContainerSpec) -> Plan:
    """The plan of a container, without starting it; ids and names are examples. Changes nothing."""
    validate(spec)
    contexts = Contexts()
    try:
        return build_plan(contexts.make(new_id(spec), spec), choose_drivers(spec))
    finally:
        contexts.close()
