"""
An attack, and how it is shown that it would succeed, and does not.

    Attack(program="read_keys", weak=Weak(grant={"security_opt": [["unmask", "ALL"]]}), why="...")

Each is made twice: in a container without the defence, where it has to succeed, so that the test can fail; and in one
with pysuper's defaults, where it must not. Both by root and by an ordinary user. Those that need the same container are
made in one.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest

from machine import PATIENCE
from ordinary import Public

__all__ = ["HERE", "LANES", "PRIVILEGED", "Attack", "Battle", "Weak", "parametrized"]

HERE = Path(__file__).parent
LANES = ("root", "user")
PYTHON = "/usr/bin/python3"


@attrs.frozen(kw_only=True)
class Weak:
    """
    A container, or what it lacks of the defaults.

    Attributes:
        grant: Arguments of `pysuper.privileges.grant`.
        fields: Of the spec.
        mounts: Source and target of each.
        pids_max: A limit, or None.
        without: Steps that are left out of its plan.
        change: Functions of attackrunner.py that change its plan.
        launcher: Code that its launcher executes before it serves.
        inherited: What its launcher has of the caller: `environment`, `session`.
        joins: How many commands are executed in it meanwhile.
        times: How many such containers are started, one after the other.
    """

    grant: Mapping[str, Any] = attrs.field(factory=dict)
    fields: Mapping[str, Any] = attrs.field(factory=dict)
    mounts: tuple[tuple[str, str], ...] = ()
    pids_max: int | None = None
    without: tuple[str, ...] = ()
    change: tuple[str, ...] = ()
    launcher: str = ""
    inherited: tuple[str, ...] = ()
    joins: int = 0
    times: int = 1

    def job(self, attacks: Iterable[str] = ()) -> dict[str, Any]:
        """For attackrunner.py."""
        return attrs.asdict(self) | {"attacks": list(attacks)}


#: What `--privileged` gives, and the cgroup namespace of the host.
PRIVILEGED = Weak(grant={"privileged": True}, fields={"share": ["user", "cgroup"]})


@attrs.frozen(kw_only=True)
class Attack:
    """
    Attributes:
        program: The function of attackprograms.py.
        weak: The container against which it succeeds; or one for each lane, but for those whom the kernel itself
            keeps from it.
        strong: The container against which it must not; what it has beyond the defaults makes the attack stronger. It
            may be one for each lane, too.
        missing: Why it cannot be shown here that it succeeds, or None.
        why: What keeps it off.
    """

    program: str
    weak: Weak | Mapping[str, Weak]
    why: str
    strong: Weak | Mapping[str, Weak] = Weak()
    missing: Callable[[], str | None] = lambda: None

    def strong_for(self, lane: str) -> Weak:
        """The container against which it must not succeed."""
        return self.strong if isinstance(self.strong, Weak) else self.strong.get(lane, Weak())

    def weak_for(self, lane: str) -> Weak | None:
        """The container against which it succeeds; None if the kernel refuses it to this user whatever pysuper does."""
        return self.weak if isinstance(self.weak, Weak) else self.weak.get(lane)


class Battle:
    """All attacks of a module, made by one user: each container once, when the first of its outcomes is asked for."""

    def __init__(self, attacks: Iterable[Attack], lane: str, public: Public | None) -> None:
        self._lane = lane
        self.public = public
        self._outcomes: dict[tuple[str, bool], tuple[bool | str | None, Any]] | None = None
        self._attacks = list(attacks)

    def outcome(self, attack: Attack, *, weak: bool) -> tuple[bool | str | None, Any]:
        """Whether an attack has succeeded, and what it says; neither True nor False is that it was not made."""
        if self._outcomes is None:
            self._outcomes = {}  # a fight that fails is not begun again for each attack
            self._outcomes = self._fight()
        return self._outcomes[attack.program, weak]

    def _fight(self) -> dict[tuple[str, bool], tuple[bool | str | None, Any]]:
        wanted: dict[str, tuple[Weak, bool, list[str]]] = {}
        for attack in self._attacks:
            without = None if attack.missing() else attack.weak_for(self._lane)
            for container, weak in ((without, True), (attack.strong_for(self._lane), False)):
                if container is None:
                    continue
                key = json.dumps([weak, container.job()])
                wanted.setdefault(key, (container, weak, []))[2].append(attack.program)
        jobs = [container.job(names) for container, _, names in wanted.values()]
        told = zip(wanted.values(), self.run(jobs), strict=True)
        return {(name, weak): tuple(said) for (_, weak, _), (once,) in told for name, said in once.items()}

    def run(self, jobs: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
        """What comes of jobs, a list with one outcome a time; see attackrunner.py."""
        asked = json.dumps({"jobs": jobs, "programs": (HERE / "attackprograms.py").read_text()})
        code = (HERE / "attackrunner.py").read_text()
        secret = {"PYSUPER_TEST_SECRET": secrets.token_hex(16)}
        if self.public is not None:
            done = self.public.run("-c", code, user=True, stdin=asked, timeout=60 * PATIENCE, **secret)
        else:
            done = subprocess.run(
                [sys.executable, "-c", code],
                input=asked,
                env=os.environ | secret,
                capture_output=True,
                text=True,
                timeout=60 * PATIENCE,
                check=False,
            )
        assert done.returncode == 0, done.stderr[-3000:]
        found: list[list[dict[str, Any]]] = json.loads(done.stdout)
        return found

    def check(self, attack: Attack) -> None:
        """The attack fails against the defaults, and succeeds without the defence."""
        succeeded, said = self.outcome(attack, weak=False)
        assert succeeded is False, said
        if attack.weak_for(self._lane) is None:
            return
        if (reason := attack.missing()) is not None:
            pytest.skip(f"fails, but would here anyway: {reason}")
        succeeded, said = self.outcome(attack, weak=True)
        assert succeeded is True, said


def parametrized(attacks: Iterable[Attack]) -> pytest.MarkDecorator:
    """Let a test take each of these as `attack`."""
    return pytest.mark.parametrize("attack", attacks, ids=lambda attack: attack.program)


def battles(attacks: Iterable[Attack], request: pytest.FixtureRequest) -> Battle:
    """For a fixture that is parametrized with LANES; of the attacks, those are made that were selected."""
    if os.geteuid() != 0:
        pytest.skip("needs root, which can also be an ordinary user")
    if not os.path.exists(PYTHON):
        pytest.skip(f"there is no {PYTHON}, which containers see too")
    items = [item for item in request.session.items if isinstance(item, pytest.Function)]
    selected = [item.callspec.params.get("attack") for item in items if hasattr(item, "callspec")]
    public = request.getfixturevalue("public") if request.param == "user" else None
    return Battle([attack for attack in attacks if attack in selected], request.param, public)
