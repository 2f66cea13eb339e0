"""
What protects this machine from a container: which of it a plan promises, and what each guards against.

A protection is in force once the receipts of such a plan have been taken: then the command was not run without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import attrs

from pysuper import receipts, steps
from pysuper.capabilities import DEFAULT, mask
from pysuper.plan import Plan

__all__ = ["PROTECTIONS", "Protection", "protections"]


_DEFAULT_MASK = mask(DEFAULT)


class _Promises:
    """
    A plan, and what is asked of it for one protection after the other.

    Attributes:
        plan: It.
        steps, checks: Those that it has, by their kind.
        status: What it promises of proc_pid_status(5), by field.
        read_only: Mount points that it promises to be so.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.steps = _by_kind(plan.steps)
        self.checks = _by_kind(plan.checks)
        self.status = {check.field: check.value for check in self.checks.get(receipts.ProcessStatus, ())}
        self.read_only = {check.target for check in self.checks.get(receipts.MountFlags, ()) if "ro" in check.flags}


def _by_kind(things: Iterable[Any]) -> dict[type, list[Any]]:
    found: dict[type, list[Any]] = {}
    for thing in things:
        found.setdefault(type(thing), []).append(thing)
    return found


@attrs.frozen(kw_only=True)
class Protection:
    """
    One thing that stands between a container and this machine.

    Attributes:
        name: Short.
        guards: What it guards against.
        promised: Whether a plan has it.
    """

    name: str
    guards: str
    promised: Callable[[_Promises], bool]


def _namespace(name: str) -> Callable[[_Promises], bool]:
    return lambda promises: name in promises.plan.namespaces


def _step(kind: type[steps.Step]) -> Callable[[_Promises], bool]:
    return lambda promises: kind in promises.steps


def _status(field: str, value: str) -> Callable[[_Promises], bool]:
    return lambda promises: promises.status.get(field) == value


def _read_only(target: str) -> Callable[[_Promises], bool]:
    return lambda promises: target in promises.read_only


def _few_capabilities(promises: _Promises) -> bool:
    bound = promises.status.get("CapBnd")
    return bound is not None and not int(bound, 16) & ~_DEFAULT_MASK


def _locked(promises: _Promises) -> bool:
    """Copied into another user namespace, or, without root, made by somebody who has only that."""
    copied = any("mnt" in step.namespaces for step in promises.steps.get(steps.Unshare, ()))
    return copied or bool(promises.plan.ids)


def _several_ids(promises: _Promises) -> bool:
    holder, ids = promises.plan.holder, promises.plan.ids
    ids = holder.ids if holder else ids
    return ids is not None and sum(count for _, _, count in ids.uids) > 1


def _few_processes(promises: _Promises) -> bool:
    files = promises.checks.get(receipts.FileHolds, ())
    return any(file.path.endswith("/pids.max") and file.content != "max" for file in files)


def _few_descriptors(promises: _Promises) -> bool:
    limits = promises.checks.get(receipts.ResourceLimit, ())
    return any(limit.resource == "nofile" and limit.hard != -1 for limit in limits)


def _no_devices_of_the_host(promises: _Promises) -> bool:
    """None beside those of the private /dev."""
    warned = any("devices of the host" in warning for warning in promises.plan.warnings)
    return steps.Mount in promises.steps and not warned


#: In the order in which an attacker would meet them.
PROTECTIONS: tuple[Protection, ...] = (
    Protection(
        name="seccomp",
        guards="system calls that few programs need and many kernel bugs are in: new mounts, bpf, io_uring, keyrings, "
        "userfaultfd, user namespaces; TIOCSTI (CVE-2017-5226)",
        promised=_status("Seccomp", "2"),
    ),
    Protection(
        name="landlock",
        guards="mounts and device nodes, whatever else gives way; looking into processes outside, and, where the "
        "network or the pids are shared, their abstract sockets (CVE-2020-15257) and signals to them",
        promised=_step(steps.Landlock),
    ),
    Protection(
        name="capabilities",
        guards="what only root may do: of 41 capabilities its root has nine",
        promised=_few_capabilities,
    ),
    Protection(
        name="no_new_privs",
        guards="set-user-id programs, by which its users would become its root",
        promised=_status("NoNewPrivs", "1"),
    ),
    Protection(
        name="user namespace",
        guards="its root being this machine's: core_pattern and sysctls (CVE-2022-0811), release_agent "
        "(CVE-2022-0492), overwriting what executes it (CVE-2019-5736), files of others",
        promised=_namespace("user"),
    ),
    Protection(
        name="several ids",
        guards="services in it being its root: with one id, whoever gets hold of a service has all of the container",
        promised=_several_ids,
    ),
    Protection(
        name="mnt namespace",
        guards="mounts that this machine would see, and those that it has",
        promised=_namespace("mnt"),
    ),
    Protection(
        name="pivot_root",
        guards="ways back to this machine's root: the double chroot, paths through open directories",
        promised=lambda promises: receipts.OldRootGone in promises.checks,
    ),
    Protection(
        name="locked mounts",
        guards="undoing from inside what was masked or made read-only, even with CAP_SYS_ADMIN",
        promised=_locked,
    ),
    Protection(
        name="masked /proc",
        guards="files that tell of this machine, such as kcore, keys and timer_list",
        promised=_step(steps.MaskPath),
    ),
    Protection(
        name="read-only /proc/sys",
        guards="kernel parameters, sysrq-trigger",
        promised=_read_only("/proc/sys"),
    ),
    Protection(
        name="read-only /sys",
        guards="device and kernel settings",
        promised=_read_only("/sys"),
    ),
    Protection(
        name="private /dev",
        guards="disks, memory, consoles and other devices of this machine",
        promised=_no_devices_of_the_host,
    ),
    Protection(
        name="pid namespace",
        guards="seeing, signalling and tracing processes outside; what it leaves running when it ends",
        promised=_namespace("pid"),
    ),
    Protection(
        name="net namespace",
        guards="this machine's ports and services on loopback, its abstract sockets (CVE-2020-15257)",
        promised=_namespace("net"),
    ),
    Protection(
        name="ipc namespace",
        guards="shared memory, semaphores and message queues of others",
        promised=_namespace("ipc"),
    ),
    Protection(
        name="cgroup namespace",
        guards="seeing where its cgroup is, and what is beside it",
        promised=_namespace("cgroup"),
    ),
    Protection(
        name="uts namespace",
        guards="renaming this machine",
        promised=_namespace("uts"),
    ),
    Protection(
        name="session",
        guards="input into the caller's terminal, signals of its Ctrl-C",
        promised=_step(steps.Setsid),
    ),
    Protection(
        name="session keyring",
        guards="the caller's keys",
        promised=_step(steps.NewSessionKeyring),
    ),
    Protection(
        name="pids limit",
        guards="fork bombs",
        promised=_few_processes,
    ),
    Protection(
        name="descriptor limit",
        guards="filling this machine's table of open files",
        promised=_few_descriptors,
    ),
)


def protections(plan: Plan) -> tuple[str, ...]:
    """The names of those that a plan promises."""
    promises = _Promises(plan)
    return tuple(protection.name for protection in PROTECTIONS if protection.promised(promises))
