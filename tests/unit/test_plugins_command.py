"""`pysuper plugins`: what it lists and shows, and the packages that it begins."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs
import pytest

from pysuper import cli, registry, scaffold
from pysuper.drivers import GROUPS, Detection, Hook, NamespaceDriver, NetworkDriver, RootfsDriver
from registered import Register, register as register  # noqa: PLC0414 - a fixture

Run = Callable[..., str]
Fail = Callable[..., tuple[int, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Give a command that succeeds; its output."""

    def run(*argv: str) -> str:
        status = cli.main(["plugins", *argv])
        output, errors = capsys.readouterr()
        assert (status, errors) == (0, "")
        return output

    return run


@pytest.fixture
def fail(capsys: pytest.CaptureFixture[str]) -> Fail:
    """Give a command that fails; its exit status, and the line that it says."""

    def fail(*argv: str) -> tuple[int, str]:
        status = cli.main(["plugins", *argv])
        output, errors = capsys.readouterr()
        assert output == ""
        (line,) = errors.splitlines()
        return status, line.removeprefix("pysuper: ")

    return fail


# --- list ---


def test_list_is_what_there_is_without_a_word(run: Run) -> None:
    assert run("list") == run()
    assert run().splitlines()[0].split() == ["GROUP", "NAME", "DISTRIBUTION", "VERSION", "WORKS", "HERE"]


def test_the_list_says_why_a_plugin_does_not_work_here(run: Run, register: Register) -> None:
    register("bridge", bridge(detect=classmethod(lambda cls: Detection(False, "no bridge module"))))
    (line,) = [line for line in run().splitlines() if "bridge" in line]
    assert line.split(maxsplit=4) == ["network", "bridge", "third-party", "1.0", "no: no bridge module"]


# --- show ---


@attrs.frozen
class Options:
    """
    What a bridge has.

    Attributes:
        name: Which
            one.
        mtu, queues: Of each
            packet.
        note: Whatever: also a colon.
        tags: Words.

    Raises:
        nothing: This is another section.
    """

    name: str
    mtu: int = 1500
    queues: int | None = None
    note: str = 'a "b"'
    tags: Sequence[str] = attrs.field(factory=lambda: ["x", "y"])
    silent: bool = False


def bridge(**attributes: object) -> type[NetworkDriver]:
    doc = "A bridge\n    of the host's.\n\n    More than that need not be said."
    given = {
        "__module__": __name__,
        "__doc__": doc,
        "contribute": lambda self, plan: None,
        "Options": Options,
        "argument": "name",
    }
    return type("Bridge", (NetworkDriver,), {**given, **attributes})


def test_a_page_has_all_that_there_is_to_say(run: Run, register: Register) -> None:
    register("bridge", bridge())
    assert run("show", "bridge").splitlines() == [
        "network driver 'bridge' of third-party 1.0",
        "A bridge of the host's.",
        "",
        "  works here  yes",
        "  interface   version 1",
        "  class       test_plugins_command:Bridge",
        f"  file        {__file__}",
        "",
        "Options:",
        "  name (str; needed)",
        "    Which one.",
        "  mtu (int; default: 1500)",
        "    Of each packet.",
        "  queues (int | None; default: not set)",
        "    Of each packet.",
        '  note (str; default: "a \\"b\\"")',
        "    Whatever: also a colon.",
        '  tags (Sequence[str]; default: ["x", "y"])',
        "    Words.",
        "  silent (bool; default: false)",
        "",
        "On the command line:",
        "  pysuper run --network bridge:NAME -- COMMAND",
        "",
        "In a file:",
        "  [container.NAME]",
        '  network = "bridge:NAME"',
        '  # or: network = { driver = "bridge", name = ..., mtu = 1500, note = "a \\"b\\"", tags = ["x", "y"], '
        "silent = false }",
    ]


def test_what_needs_more_than_an_argument_has_no_short_form(run: Run, register: Register) -> None:
    two = attrs.make_class("Two", {"name": attrs.field(type=str), "size": attrs.field(type=int)}, frozen=True)
    register("two", bridge(Options=two))
    page = run("show", "two")
    assert "On the command line" not in page
    assert page.splitlines()[-1] == '  network = { driver = "two", name = ..., size = ... }'


def test_a_namespace_driver_is_shown_for_its_namespace(run: Run, register: Register) -> None:
    driver = type("Other", (NamespaceDriver,), {"namespace": "time", "contribute": lambda self, plan: None})
    register("other", driver)
    assert run("show", "other").splitlines()[-6:] == [
        "On the command line:",
        "  pysuper run --namespace time=other -- COMMAND",
        "",
        "In a file:",
        "  [container.NAME.namespaces]",
        '  time = "other"',
    ]
    assert "Every container has it" in run("show", "namespace/time")


def test_a_hook_has_a_table_of_its_own(run: Run, register: Register) -> None:
    register("teller", type("Teller", (Hook,), {"Options": Options, "argument": "name", "__doc__": None}))
    lines = run("show", "teller").splitlines()
    assert lines[:2] == ["hook 'teller' of third-party 1.0", ""]
    assert "  pysuper run --hook teller:NAME -- COMMAND" in lines
    assert lines[lines.index("  [hook.teller]") + 1] == "  name = ..."


def test_limits_are_beside_a_cgroup_driver(run: Run) -> None:
    assert run("show", "v1").splitlines()[-2:] == ["  [container.NAME.cgroup]", '  driver = "v1"']


@pytest.mark.parametrize(
    "name", [f"{plugin.kind}/{plugin.name}" for group in GROUPS for plugin in registry.registrations(group)]
)
def test_every_built_in_plugin_has_a_page_and_docs_of_all_its_options(run: Run, name: str) -> None:
    lines = run("show", name).splitlines()
    assert lines[1]
    for number, line in enumerate(lines):
        if line.startswith("  ") and ("; needed)" in line or "; default: " in line):
            assert lines[number + 1].startswith("    "), line


def test_hostile_text_in_a_docstring_stays_on_its_line(run: Run, register: Register) -> None:
    register("bridge", bridge(__doc__="A \x1b[31m bridge."))
    assert "A \\x1b[31m bridge." in run("show", "bridge")


def test_a_name_of_several_kinds_is_an_error_that_names_them(fail: Fail, register: Register) -> None:
    register("bridge", bridge())
    register("bridge", type("Other", (RootfsDriver,), {"contribute": lambda self, plan: None}), distribution="others")
    assert fail("show", "bridge") == (
        2,
        "'bridge' is the name of the rootfs driver 'bridge' of others 1.0 and the network driver 'bridge' of "
        "third-party 1.0; write rootfs/bridge or network/bridge",
    )


def test_a_kind_decides_between_several(run: Run, register: Register) -> None:
    register("bridge", bridge())
    register("bridge", type("Other", (RootfsDriver,), {"contribute": lambda self, plan: None}), distribution="others")
    assert run("show", "network/bridge").startswith("network driver 'bridge'")
    assert run("show", "rootfs/bridge").startswith("rootfs driver 'bridge'")


def test_a_name_of_several_distributions_names_them(fail: Fail, register: Register) -> None:
    register("bridge", bridge())
    register("bridge", bridge(), distribution="others")
    status, line = fail("show", "bridge")
    assert status == 125
    assert "is registered by others 1.0 and third-party 1.0" in line


def test_a_plugin_that_cannot_be_loaded_says_why(fail: Fail, register: Register) -> None:
    register("bridge", bridge(api_version=99))
    status, line = fail("show", "bridge")
    assert (status, "version 99" in line) == (125, True)


@pytest.mark.parametrize("command", ["show", "check"])
def test_a_name_that_nobody_has_is_answered_with_a_near_one(fail: Fail, command: str) -> None:
    assert fail(command, "chrot") == (125, "there is no plugin 'chrot'; did you mean 'chroot'?")
    assert fail(command, "rootfs/chrot") == (125, "there is no rootfs driver 'chrot'; did you mean 'chroot'?")


def test_a_file_of_a_plugin_directory_is_shown_too(run: Run, tmp_path: Path) -> None:
    (tmp_path / "my_bridge.py").write_text(
        "from pysuper.drivers import NetworkDriver\n"
        "class Bridge(NetworkDriver):\n    'Mine.'\n    def contribute(self, plan): ...\n"
    )
    try:
        lines = run("show", "my-bridge", "--plugin-dir", str(tmp_path)).splitlines()
        assert lines[:2] == [f"network driver 'my-bridge' of {tmp_path}/my_bridge.py", "Mine."]
        assert f"  file        {tmp_path}/my_bridge.py" in lines
    finally:
        registry.forget()


# --- check ---


def test_a_plugin_is_checked_by_the_conformance_tests(tmp_path: Path) -> None:
    (made := tmp_path / "made").mkdir()
    (plugins := tmp_path / "plugins").mkdir()
    (plugins / "bad.py").write_text(
        "import tempfile\nfrom pysuper.drivers import NetworkDriver\n"
        "class Bad(NetworkDriver):\n    'Loopback.'\n"
        f"    def contribute(self, plan): tempfile.mkdtemp(dir={str(made)!r})\n"
    )
    command = ["-m", "pysuper", "plugins", "--plugin-dir", str(plugins), "check", "network/bad"]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"the network driver 'bad' of {plugins}/bad.py breaks a rule" in done.stdout
    assert " passed" in done.stdout


# --- new ---


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, and it is empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


@pytest.mark.parametrize("kind", scaffold.KINDS)
def test_a_new_package_has_its_name_everywhere(run: Run, here: Path, kind: str) -> None:
    output = run("new", kind, "two-words")
    assert files(here) == [
        "two-words/README.md",
        "two-words/pyproject.toml",
        "two-words/tests/test_two_words.py",
        "two-words/two_words.py",
    ]
    for name in files(here):
        text = (here / name).read_text()
        assert "two" in text.lower()
        assert "skeleton" not in text.lower()
        assert "KIND" not in text
    for name in files(here):
        assert Path(name).name in output


def test_there_is_a_template_of_every_kind_that_has_conformance_tests() -> None:
    assert {f"pysuper.{kind}" for kind in scaffold.KINDS} == GROUPS.keys() - {"pysuper.launcher"}


@pytest.mark.parametrize("kind", scaffold.KINDS)
def test_names_that_mean_something_elsewhere_will_do(run: Run, here: Path, kind: str) -> None:
    """In the module of the new package, where classes of that name may be imported."""
    names = ["hook", "plan-builder", "context", "driver-error", "no", "overlay", "live", "x1"]
    for name in names:
        run("new", kind, name)
    program = "\n".join(
        f"import sys; sys.path.insert(0, {str(path.parent)!r}); import {path.stem}" for path in here.glob("*/*.py")
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)
    assert len(program.splitlines()) == len(names)


@pytest.mark.parametrize(
    "name",
    [
        *("", "a-", "a--b", "a_b", "A", "1a", "a b", "a/b", "../a", "a.b", "a\n", "-a", "pysuper.x", "x" * 41),
        "\N{LATIN SMALL LETTER E WITH ACUTE}",
    ],
)
def test_a_name_that_will_not_do_is_an_error(fail: Fail, here: Path, name: str) -> None:
    status, line = fail("new", "cgroup", "--", name)
    assert status == 2
    assert "is no name for a plugin; use lower-case letters, digits and single dashes" in line
    assert files(here) == []


def test_a_name_that_is_taken_is_an_error(fail: Fail, here: Path) -> None:
    assert fail("new", "rootfs", "tar") == (
        2,
        "pysuper-containers 0.1.0 has a rootfs plugin 'tar' already; choose another name",
    )
    assert files(here) == []


@pytest.mark.parametrize("name", ["json", "trio", "pytest", "pysuper", "class", "sys"])
def test_a_name_that_would_hide_a_module_is_an_error(fail: Fail, here: Path, name: str) -> None:
    assert fail("new", "rootfs", name) == (
        2,
        f"{name!r} means something else in Python; choose a name of two words",
    )
    assert files(here) == []


def test_a_directory_beside_it_hides_nothing(run: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "two_words").mkdir()
    monkeypatch.syspath_prepend(str(here))
    run("new", "hook", "two-words")


def test_a_kind_without_template_is_an_error(fail: Fail, here: Path) -> None:
    status, line = fail("new", "cgruop", "x")
    assert (status, line) == (2, "there is no template for a plugin of the kind 'cgruop'; did you mean 'cgroup'?")
    assert fail("new", "launcher", "x")[0] == 2


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch, lambda path: path.symlink_to("/nowhere")])
def test_nothing_is_overwritten(fail: Fail, here: Path, make: Callable[[Path], None]) -> None:
    make(here / "mine")
    status, line = fail("new", "hook", "mine")
    assert (status, line) == (2, f"{here}/mine exists already; choose another name, or another directory")
    assert files(here) in ([], ["mine"])


def test_what_cannot_be_written_leaves_nothing(here: Path) -> None:
    """No file may have more than a KiB."""
    script = f"ulimit -f 1; exec {sys.executable} -m pysuper plugins new cgroup mine"
    done = subprocess.run(["bash", "-c", script], cwd=here, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr == f"pysuper: could not write {here}/mine: EFBIG (File too large)\n"
    assert os.listdir(here) == []
