"""The checks of a plan as commands of a script; the functions that they call are `script.CHECKS`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pysuper import receipts
from pysuper.receipts import Check
from pysuper.translate.words import quote

__all__ = ["read_back"]


def read_back(checks: Iterable[Check]) -> Iterator[str]:
    """A command for each; they end the script with an error if a promise does not hold."""
    for check in checks:
        if isinstance(check, receipts.ProcessStatus) and check.field in _FILTERS:
            continue  # a script installs none, and says so
        if isinstance(check, receipts.OwnNamespace):
            yield f"own_namespace {check.namespace}\n"
        else:
            yield f"check {quote(check.describe())} {_ACTUAL[type(check)](check)} {_expected(check)}\n"


#: What the status of a process says of seccomp filters, proc(5).
_FILTERS = frozenset({"Seccomp", "Seccomp_filters"})


def _expected(check: Check) -> str:
    if isinstance(check, receipts.SameNamespace):
        return f'"$(readlink {quote(check.path)})"'
    return quote(check.expected())


def _file(check: receipts.FileHolds) -> str:
    path = '"$pid"'.join(map(quote, check.path.split("{pid}")))
    return f'"$(content_of {path})"'


def _flags(check: receipts.MountFlags) -> str:
    target = re.sub(r"[ \t\n\\]", lambda found: f"\\{ord(found[0]):03o}", check.target)
    return f'"$(flags_at {quote(target)} {quote(",".join(check.flags))})"'


#: What the kernel says, by what is promised.
_ACTUAL: dict[type[Check], Callable[[Any], str]] = {
    receipts.SameNamespace: lambda check: f'"$(readlink "/proc/$pid/ns/{check.namespace}")"',
    receipts.ProcessStatus: lambda check: f'"$(status_of {quote(check.field)})"',
    receipts.FileHolds: _file,
    receipts.FileLists: lambda check: f'"$(grep -qx "$pid" {quote(check.path)} && echo listed)"',
    receipts.InCgroup: lambda check: f'"$(cgroup_in {quote(check.hierarchy)})"',
    receipts.ResourceLimit: lambda check: f'"$(limit_of {quote(check.resource)})"',
    receipts.MountFlags: _flags,
    receipts.OldRootGone: lambda check: '"$(roots) root"',
}
