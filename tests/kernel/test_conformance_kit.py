"""The conformance kit: what it says of broken drivers, and how it runs at a stranger's."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from brokendrivers import CASES, HEADER, Case

from machine import Snapshot, cgroup_driver
from pysuper import registry, testing
from pysuper.discovery import add_directory
from pysuper.errors import DriverError, PysuperError
from pysuper.spec import DriverChoice
from pysuper.testing.plugin import PluginTests
from pysuper.testing.rules import rule
from pysuper.testing.run import check
from roots import make_busybox

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

ROOT = Path(__file__).resolve().parents[2]
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
    rules = {
        name for kind in KINDS for cls in kind.__mro__ for name, test in vars(cls).items() if hasattr(test, "rule")
    }
    # Which needs an interpreter that another user may run: see the tests of ordinary users.
    rules.discard("test_an_ordinary_user_can_have_it_or_is_told_why_not")
    assert rules == {case.test for case in CASES}


class TestRules(PluginTests):
    """What rules make of what goes wrong in them."""

    kind = "network"
    driver = "none"

    @rule("It ends.", because="nobody waits for ever.")
    async def never(self) -> None:
        with trio.fail_after(0):
            await trio.sleep_forever()

    @rule("It is right.", because="it has to be.")
    def wrong(self) -> None:
        raise KeyError("of the rule itself")

    def test_what_does_not_end_is_the_drivers_fault(self) -> None:
        with pytest.raises(pytest.fail.Exception, match="It ends.(.|\\n)*it did not come to an end in time"):
            self.never()

    def test_a_fault_of_the_rule_is_seen_as_it_is(self) -> None:
        with pytest.raises(KeyError, match="of the rule itself"):
            self.wrong()


# --- at a stranger's ---

FILE = """
from pysuper.discovery import add_directory
from pysuper.testing import NamespaceDriverTests, NetworkDriverTests

add_directory({plugins!r})


class TestGood(NamespaceDriverTests):
    driver = "uts"


class TestBroken(NetworkDriverTests):
    driver = "broken"


class TestWithoutDriver(NetworkDriverTests):
    pass
"""
SILENT = """
from pysuper.drivers import NetworkDriver

class Broken(NetworkDriver):
    def contribute(self, plan):
        [][0]
"""


@pytest.fixture
def stranger(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run pytest in a project that is not pysuper's."""
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins/broken.py").write_text(SILENT)
    (tmp_path / "test_drivers.py").write_text(FILE.format(plugins=str(tmp_path / "plugins")))
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=200)

    return run


@pytest.mark.parametrize(
    "setting",
    ["-p no:trio", "-o trio_mode=true", "-o trio_mode=false", "--assert=plain", "--import-mode=importlib"],
)
def test_it_runs_whatever_pytest_is_set_up_to(stranger, setting: str) -> None:
    result = stranger(*setting.split(), "-q", "-k", "starts_and_ends or says_what")
    assert result.stdout.splitlines()[-1].startswith("6 failed, 3 passed, ")
    assert result.stderr == ""


def test_a_failure_shows_the_rule_and_no_code(stranger) -> None:
    result = stranger("-q", "-k", "Broken and (starts_and_ends or same_plan)")
    assert result.returncode == 1
    assert "IndexError: list index out of range" in result.stdout
    assert "/plugins/broken.py:6, in contribute)" in one_line(result.stdout)
    for noise in ("Traceback", "testing/rules.py", "def test", "All traceback entries are hidden"):
        assert noise not in result.stdout


def test_a_class_without_a_driver_is_told_what_it_lacks(stranger) -> None:
    result = stranger("-q", "-k", "WithoutDriver and says_what_it_does")
    assert 'write driver = "NAME" or "NAME:ARGUMENT" in TestWithoutDriver' in one_line(result.stdout)


def test_the_classes_that_are_imported_are_no_tests(stranger) -> None:
    collected = stranger("--collect-only", "-q").stdout
    assert {line.split("::")[1] for line in collected.splitlines() if "::" in line} == {
        "TestGood",
        "TestBroken",
        "TestWithoutDriver",
    }


def test_two_runs_at_once_do_not_see_each_other(tmp_path: Path) -> None:
    file = tmp_path / "test_cgroup.py"
    name = cgroup_driver()
    file.write_text(
        "from pysuper.testing import CgroupDriverTests\n\n"
        f"class TestCgroup(CgroupDriverTests):\n    driver = {name!r}\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "left", str(file)]
    runs = [subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [run.communicate(timeout=200)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outputs


def test_check_runs_the_tests_of_a_plugin_by_its_name(
    stranger, tmp_path: Path, capfd: pytest.CaptureFixture[str], mended: Path
) -> None:
    assert check("namespace", DriverChoice("uts"), arguments=["-k", "says_what"]) == 0
    assert "test_plugin.py::TestUts::test_says_what_it_does PASSED" in capfd.readouterr().out
    add_directory(str(tmp_path / "plugins"))
    assert check("network", DriverChoice("broken"), arguments=["-k", "says_what"]) == 1
    assert "breaks a rule: It says what it does" in capfd.readouterr().out


def test_check_passes_argument_and_options_on(mended: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tree = make_busybox(mended / "tree")
    choice = DriverChoice("dir", argument=str(tree), distribution="pysuper-containers")
    assert check("rootfs", choice, arguments=["-k", "is_wrong or owners"]) == 0
    assert "2 passed" in capfd.readouterr().out
    choice = DriverChoice("prometheus", options={"file": str(mended / "metrics")})
    assert check("hook", choice, arguments=["-k", "declares"]) == 0


def test_check_says_what_it_cannot_do(mended: Path) -> None:
    with pytest.raises(DriverError, match="no rootfs driver 'durr'; there are|did you mean"):
        check("rootfs", DriverChoice("durr"))
    with pytest.raises(PysuperError, match="no tests for the kind launcher; there are for cgroup, hook"):
        check("launcher", DriverChoice("python"))


def test_check_without_pytest_names_the_extra(tmp_path: Path) -> None:
    for package in Path(pytest.__file__).parents[1].iterdir():
        if "pytest" not in package.name:
            (tmp_path / package.name).symlink_to(package)
    code = f"""
        import sys
        sys.path[:] = [path for path in sys.path if "site-packages" not in path]
        sys.path += [{str(tmp_path)!r}, *{[str(ROOT / name) for name in ("supervisor", "plugins")]}]
        from pysuper.errors import PysuperError
        from pysuper.spec import DriverChoice
        from pysuper.testing.run import check
        try:
            check("namespace", DriverChoice("uts"))
        except PysuperError as error:
            print(error)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "to check a plugin takes pytest; pip install pysuper-containers[testing]\n"
