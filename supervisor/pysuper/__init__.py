"""
Structured concurrency for Linux containers.

    record = await pysuper.run(["sh", "-c", "exit 3"], limits=pysuper.Limits(pids_max=20))

    async with pysuper.open_supervisor() as supervisor:
        container = await supervisor.start(pysuper.ContainerSpec(name="web", command=("httpd",)))
        record = await container.wait()

Names are loaded when they are first used: the launcher and `pysuper --help` need few of them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pysuper.container import Container as Container
    from pysuper.errors import (
        CommandNotExecutable as CommandNotExecutable,
        CommandNotFound as CommandNotFound,
        ConfigError as ConfigError,
        DriverError as DriverError,
        LaunchError as LaunchError,
        LimitError as LimitError,
        PysuperError as PysuperError,
        StuckError as StuckError,
    )
    from pysuper.execution import Execution as Execution
    from pysuper.record import ExitRecord as ExitRecord, ExitStatus as ExitStatus
    from pysuper.spec import (
        BindMount as BindMount,
        ContainerSpec as ContainerSpec,
        Device as Device,
        DriverChoice as DriverChoice,
        Limits as Limits,
        Rlimit as Rlimit,
        TmpfsMount as TmpfsMount,
    )
    from pysuper.supervisor import (
        Completed as Completed,
        Supervisor as Supervisor,
        open_supervisor as open_supervisor,
        run as run,
    )
    from pysuper.tracing import Traced as Traced

_HOMES = {
    "pysuper.container": ("Container",),
    "pysuper.errors": (
        "CommandNotExecutable",
        "CommandNotFound",
        "ConfigError",
        "DriverError",
        "LaunchError",
        "LimitError",
        "PysuperError",
        "StuckError",
    ),
    "pysuper.execution": ("Execution",),
    "pysuper.record": ("ExitRecord", "ExitStatus"),
    "pysuper.spec": ("BindMount", "ContainerSpec", "Device", "DriverChoice", "Limits", "Rlimit", "TmpfsMount"),
    "pysuper.supervisor": ("Completed", "Supervisor", "open_supervisor", "run"),
    "pysuper.tracing": ("Traced",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = list(_HOME_OF)
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """For completion and `help`, which would see only what has been used."""
    return sorted({*globals(), *__all__})
