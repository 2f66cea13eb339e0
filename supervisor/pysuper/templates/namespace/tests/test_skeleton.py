"""What every namespace driver has to keep, and what this one is for."""

from __future__ import annotations

import pytest

import pysuper
from pysuper.errors import DriverError
from pysuper.testing import NamespaceDriverTests


class TestSkeleton(NamespaceDriverTests):
    driver = "skeleton:example.org"


# CHANGE: what your driver is for.
async def hostname(domain: str) -> bytes | None:
    namespaces = {"uts": pysuper.DriverChoice("skeleton", argument=domain)}
    return (await pysuper.run(["hostname"], name="web", namespaces=namespaces, capture_stdout=True)).stdout


async def test_the_host_name_has_a_domain() -> None:
    assert await hostname("example.org") == b"web.example.org\n"


async def test_a_domain_that_is_too_long_is_an_error() -> None:
    with pytest.raises(DriverError, match="64 characters are the most"):
        await hostname("x" * 64)
