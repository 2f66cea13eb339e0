"""What the tests of attacks share: a clean machine before and after, users, stacks, and who attacks."""

from __future__ import annotations

import pytest
from attackcore import LANES, Battle, battles

from machine import nothing_is_left as nothing_is_left  # noqa: PLC0414 - fixtures
from ordinary import home as home, public as public  # noqa: PLC0414
from stackfiles import stacks as stacks, up as up  # noqa: PLC0414


@pytest.fixture(scope="module", params=LANES)
def battle(request: pytest.FixtureRequest) -> Battle:
    """All that a module has in `ATTACKS`, if it has that, in each lane."""
    return battles(getattr(request.module, "ATTACKS", []), request)
