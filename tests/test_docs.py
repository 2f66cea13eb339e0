"""Every code block of the README, the documentation and the examples, executed in the order in which it is read."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import pysuper
from documents import Session, blocks
from machine import Snapshot
from pysuper import cache, drivers, errors, plan, receipts, steps, testing

ROOT = Path(__file__).resolve().parents[1]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="containers with limits are root's")

DOCUMENTS = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/*/README.md")])

#: Commands that are not typed, and why not.
NOT_TYPED = {
    "make shell": "is a shell on a terminal; that the Makefile has it is tested elsewhere",
    "make test": "is what runs this test",
    "sudo": "changes this machine's cgroups",
    "systemd-run": "needs a systemd of the user's",
    "usermod": "changes this machine's accounts",
}

#: A part of what a command prints, where the document does not show it.
PRINTS = {
    "README.md": {
        "pysuper run --pids-limit 20": "Cannot fork",
        "pysuper run -v": "doc",
        "echo hello": "HELLO",
        "pysuper run -f examples/shell.toml": "shell",
        "pysuper plan": "pivot into the new root",
        "pysuper plugins new": "",
        "pysuper plugins": "pysuper-containers",
        "pysuper doctor": "kernel",
        "pysuper ps": "healthy",
        "pysuper logs": "made by a task",
        "pysuper exec": "12.",
        "pysuper stats": "MEMORY",
        "pysuper why": "something is wrong",
    },
    "examples/cgroup_v1_plugin/README.md": {
        "pysuper plugins": "cgroup     pids-v1",
        "pysuper plan": "pids.max holds '20'",
        "pytest": " passed",
    },
    "examples/git_rootfs_plugin/README.md": {"pysuper run": "/bin/sh", "pytest": " passed"},
    "examples/uptime_namespace_plugin/README.md": {"pytest": " passed"},
    "examples/webhook_hook_plugin/README.md": {"python3": "web failed exited with 1", "pytest": " passed"},
}

#: Between the supervisor and the launcher.
FOR_THE_WIRE = {"CLASSES", "from_wire", "to_wire", "wire_name"}


@pytest.fixture
def session(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Session]:
    """A reader's; it sees nobody else's stacks, and nothing is left of it."""
    before = Snapshot.take()
    made = Session(
        tmp_path,
        prints=PRINTS.get(request.node.callspec.id, {}),
        not_typed=NOT_TYPED,
        variables={"PYSUPER_RUNTIME_DIR": f"{tmp_path}/run", "PYSUPER_STATE_DIR": f"{tmp_path}/state"},
    )
    yield made
    # What is called pysuper.test is that of the tests of drivers, of another run.
    if left := [what for what in before.left() if "pysuper.test" not in what]:
        made.run("pysuper down")
    assert left == []


@pytest.mark.parametrize(
    "module", [pysuper, cache, drivers, errors, plan, receipts, steps, testing], ids=lambda module: module.__name__
)
def test_every_public_name_is_in_the_reference(module: ModuleType) -> None:
    reference = "".join(page.read_text() for page in ROOT.glob("docs/reference/*.rst"))
    documented = set(re.findall(r"^\.\. auto\w+:: (?:pysuper\.\w+\.)?(\w+)", reference, re.MULTILINE))
    assert set(module.__all__) - FOR_THE_WIRE <= documented


def name(document: Path) -> str:
    return str(document.relative_to(ROOT))


@needs_root
@pytest.mark.timeout(900)  # the conformance tests are in some
@pytest.mark.parametrize("document", DOCUMENTS, ids=name)
def test_the_document_does_what_it_says(document: Path, session: Session) -> None:
    furnish(session.directory, document)
    for block in blocks(document.read_text(), name(document)):
        session.follow(block)


def furnish(directory: Path, document: Path) -> None:
    """What a reader has: a clone for the READMEs, an empty directory otherwise."""
    if document.name == "README.md":
        for entry in ROOT.iterdir():
            if entry.name != "examples":
                (directory / entry.name).symlink_to(entry)
        shutil.copytree(ROOT / "examples", directory / "examples", ignore=shutil.ignore_patterns("debian.tar.gz"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```sh\nfalse\n```", "doc.md:1: false\nexits with 1"),
        ("```sh\ntrue  # exits with 3\n```", "exits with 0"),
        ("```sh\necho one\n```\n```text\ntwo\n```", "doc.md:4: other output"),
        ("```python\nraise SystemExit(1)\n```", "exits with 1"),
        ("`a.py`:\n```python\n(\n```", "was never closed"),
        ("`a.toml`:\n```toml\n[container.web]\ncomand = 1\n```", "did you mean 'command'"),
        ("`a.py`:\n```python\ndef f(): ...\n```\nReplace in `a.py`:\n```python\ndef g(): ...\n```", "values to unpack"),
        ("```cobol\n```", "nobody knows how to execute a block in 'cobol'"),
        ("    indented\n", "nobody knows how to execute a block in ''"),
    ],
)
def test_a_block_that_does_not_do_what_it_says_fails(text: str, message: str, session: Session) -> None:
    with pytest.raises((AssertionError, SyntaxError, ValueError)) as caught:
        for block in blocks(text, "doc.md"):
            session.follow(block)
    assert message in str(caught.value)


@pytest.mark.parametrize("readme", list(ROOT.glob("examples/*/README.md")), ids=name)
def test_a_readme_of_an_example_is_one_screen(readme: Path) -> None:
    assert len(readme.read_text().splitlines()) <= 50
