"""Plugins that a test defines, registered as if a distribution or a `--plugin-dir` had brought them."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from pysuper import discovery, registry
from pysuper.drivers import GROUPS
from pysuper.spec import DriverChoice

__all__ = ["Register", "register"]

Register = Callable[..., DriverChoice]


@pytest.fixture
def register() -> Iterator[Register]:
    """Register a class under a name; afterwards it is forgotten."""
    module = ModuleType("plugins_of_a_test")
    sys.modules[module.__name__] = module

    def register(name: str, plugin: type[Any], distribution: str = "third-party") -> DriverChoice:
        group = next(group for group, interface in GROUPS.items() if issubclass(plugin, interface))
        attribute = f"{distribution}_{name}".replace("-", "_")
        setattr(module, attribute, plugin)
        point = importlib.metadata.EntryPoint(name, f"{module.__name__}:{attribute}", group)
        discovery._add(
            discovery.Registration(group=group, name=name, owner=distribution, version="1.0", entry_point=point)
        )
        return DriverChoice(name)

    yield register
    registry.forget()
