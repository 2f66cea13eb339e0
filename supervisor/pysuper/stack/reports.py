"""
What a supervisor tells of an instance, for JSON: `ps`, `stats` and `inspect` show it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Set
from typing import Any

import attrs

from pysuper.stack.instance import Instance

__all__ = ["details", "status", "usage"]


def status(instance: Instance) -> dict[str, Any]:
    """
    Where it is in its life.

    `healthy` is null where nobody has found out, `since` are the seconds in this state, `status` is what it says of
    itself (STATUS= of sd_notify(3)), and `last_exit` is how the last run ended, in words.
    """
    return {
        "name": instance.name,
        "member": instance.member.name,
        "kind": instance.member.kind,
        "state": instance.state,
        "paused": instance.paused,
        "healthy": instance.healthy,
        "run": instance.run,
        "restarts": instance.restarts,
        "pid": None if instance.container is None else instance.container.pid,
        "since": time.monotonic() - instance.since,
        "detail": instance.detail,
        "status": instance.status,
        "last_exit": None if instance.record is None else instance.record.describe(),
    }


def usage(instance: Instance) -> dict[str, Any]:
    """
    What it has used so far: `drivers.Statistics`, null without a container; `at` is when, in seconds.

    `limits` are what was asked for.
    """
    container = instance.container
    return {
        "name": instance.name,
        "state": instance.state,
        "run": instance.run,
        "restarts": instance.restarts,
        "at": time.monotonic(),
        "statistics": None if container is None else attrs.asdict(container.statistics()),
        "limits": plain(instance.member.container.limits),
    }


def details(instance: Instance) -> dict[str, Any]:
    """All that is known: what was asked for, what was done for it, and what of that was found in force."""
    container = instance.container
    return {
        **status(instance),
        "labels": plain(instance.member.labels),
        "spares": instance.spares,
        "spec": plain(instance.member),
        "plan": [] if container is None else list(container.plan.describe()),
        "warnings": [] if container is None else list(container.warnings),
        "receipts": plain(() if container is None else container.receipts),
        "last_record": None if instance.record is None else instance.record.to_dict(),
    }


def plain(value: Any) -> Any:
    """Specs as JSON has them; one that is a choice between several kinds says which in `type`."""
    if attrs.has(type(value)):
        fields = {field.name: plain(getattr(value, field.name)) for field in attrs.fields(type(value))}
        return {"type": type(value).__name__, **fields}
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, Set):
        return sorted(map(plain, value))
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value
