"""What all tests share: that several of them can run at once on one machine."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from quarters import quarters

# Where a shell runs the tests in the background, these are ignored, also by what the tests send them to.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGQUIT, signal.SIG_DFL)

# How long an example takes says what else the machine does.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")

#: These take minutes each. Workers take one file after the other: the short ones go into the gaps.
_FIRST = (
    "test_pure_v2.py",
    "test_docs.py",
    "test_conformance_users.py",
    "test_conformance.py",
    "test_conformance_kit.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {name: rank for rank, name in enumerate(_FIRST)}
    items.sort(key=lambda item: ranks.get(Path(item.path).name, len(_FIRST)))


@pytest.fixture(autouse=True, scope="session")
def own_quarters() -> Iterator[None]:
    """Containers of two test runs on one machine are kept apart."""
    with quarters():
        yield
