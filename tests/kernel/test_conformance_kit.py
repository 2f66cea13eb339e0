"""The conformance kit: it says of each broken driver which rule it breaks, why the rule exists, and what was found."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from brokendrivers import CASES, HEADER, Case

from machine import Snapshot, cgroup_driver
from pysuper import registry, testing
from pysuper.discovery import add_directory
from pysuper.testing.rules import rules_of
from roots import make_busybox

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

KINDS = [getattr(testing, name) for name in testing.__all__]


@pytest.fixture
def mended(tmp_path: Path) -> Iterator[Path]:
    """A directory; what broken drivers leave is removed, and they are forgotten."""
    before = Snapshot.take()
    yield tmp_path
    registry.forget()
    after = Snapshot.take()
    for pid in after.children - before.children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    for descriptor in after.descriptors.keys() - before.descriptors.keys():
        os.close(descriptor)


@pytest.fixture
def holder() -> Iterator[str]:
    """A process in namespaces of its own; what leads to them."""
    with subprocess.Popen(["unshare", "--net", "--uts", "sleep", "1000"]) as process:
        while os.readlink(f"/proc/{process.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
            pass
        yield f"/proc/{process.pid}/ns/"
        process.kill()


@pytest.fixture
def fail(mended: Path, holder: str) -> Callable[[Case], str]:
    """The message with which the kit's test of a rule fails."""

    def fail(case: Case) -> str:
        plugins = mended / "plugins"
        plugins.mkdir()
        version = cgroup_driver()
        header = HEADER.format(module=version, cgroup=f"{version.upper()}Cgroup", here=str(mended))
        (plugins / "broken.py").write_text(header + case.code)
        add_directory(str(plugins))
        tree = make_busybox(mended / "tree")
        (tree / "etc/marker").write_text("this root, and no other\n")
        namespace = holder + ("net" if case.kind.kind == "network" else "uts")
        given = filled({"driver": "broken", **case.given}, tree=str(tree), path=namespace)
        tests = type("TestBroken", (case.kind,), given)()
        with pytest.raises(pytest.fail.Exception) as failure:
            getattr(tests, case.test)(*([] if case.argument is None else [case.argument]))
        return str(failure.value)

    return fail


def filled(given: Any, **values: str) -> Any:
    """The same, with what is in braces replaced."""
    if isinstance(given, dict):
        return {key: filled(value, **values) for key, value in given.items()}
    return given.format(**values) if isinstance(given, str) else given


def one_line(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("case", CASES, ids=[f"{case.test}-{number}" for number, case in enumerate(CASES)])
def test_a_broken_driver_is_told_the_rule_and_its_reason(fail: Callable[[Case], str], case: Case) -> None:
    message = one_line(fail(case))
    rule = getattr(case.kind, case.test).rule
    kind = case.kind.kind if case.kind.kind == "hook" else f"{case.kind.kind} driver"
    assert f"{kind} 'broken' of " in message or case.given.get("driver") == "brokn"
    assert one_line(f"breaks a rule: {rule.sentence} why: {rule.because} found:") in message
    assert re.search(case.found, message)
    assert " do: " in message


def test_every_rule_has_a_driver_that_breaks_it() -> None:
    rules = {name for kind in KINDS for name, _ in rules_of(kind)}
    # Which needs an interpreter that another user may run: see the tests of ordinary users.
    rules.discard("test_an_ordinary_user_can_have_it_or_is_told_why_not")
    assert rules == {case.test for case in CASES}
