"""What every network driver has to keep, and what this one is for."""

from __future__ import annotations

import pytest

import pysuper
from pysuper.errors import DriverError
from pysuper.testing import NetworkDriverTests


class TestSkeleton(NetworkDriverTests):
    driver = "skeleton"
    wrong = ("skeleton:x", "skeleton:-1", "skeleton:1025")


# CHANGE: what your driver is for.
async def first_port(**options: int) -> bytes | None:
    network = pysuper.DriverChoice("skeleton", options)
    command = ["cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start"]
    return (await pysuper.run(command, network=network, capture_stdout=True)).stdout


async def test_ports_from_a_chosen_one_on_are_for_everybody() -> None:
    assert await first_port() == b"0\n"
    assert await first_port(first_port=80) == b"80\n"


async def test_what_is_no_port_is_an_error() -> None:
    with pytest.raises(DriverError, match="1025 is no port below 1024"):
        await first_port(first_port=1025)
