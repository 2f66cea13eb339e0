"""The driver with real repositories and containers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

import pysuper
from pysuper.errors import DriverError
from pysuper.testing import RootfsDriverTests
from pysuper_git_rootfs import CHECKOUTS, GitRootfs

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not GitRootfs.detect().works or not os.path.exists("/bin/busybox"),
    reason="needs root, git, and a static busybox",
)


def cached() -> set[str]:
    """What is in the cache, names with a dot included."""
    return set(os.listdir(CHECKOUTS.path)) if CHECKOUTS.path.exists() else set()


@pytest.fixture(autouse=True)
def cache() -> Iterator[set[str]]:
    """What was cached before the test; what it has added is removed again."""
    before = cached()
    yield before
    left = unfinished(before)
    for name in cached() - before:
        path = CHECKOUTS.path / name
        path.unlink() if path.is_symlink() else shutil.rmtree(path)
    assert left == []


def unfinished(before: set[str]) -> list[str]:
    """What is not finished; other programs, and other tests, may have their own."""
    return [name for name in cached() - before if name.startswith(".")]


@attrs.frozen
class Repository:
    """A repository with a shell in it."""

    path: Path

    def git(self, *arguments: str) -> str:
        me = ("-c", "user.name=me", "-c", "user.email=me@example.org")
        command = ["git", "-C", str(self.path), *me, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    def commit(self, name: str, content: str) -> str:
        (self.path / name).write_text(content)
        self.git("add", ".")
        self.git("commit", "--quiet", "--message", f"{name}: {content}")
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = Repository(tmp_path / "repository")
    (made.path / "bin").mkdir(parents=True)
    made.git("init", "--quiet", "--initial-branch=main")
    shutil.copy("/bin/busybox", made.path / "bin/sh")
    made.commit("file", "one")
    return made


def spec(repository: Repository, command: str = "true", **options: Any) -> pysuper.ContainerSpec:
    rootfs = pysuper.DriverChoice("git", options, argument=str(repository.path))
    return pysuper.ContainerSpec(name="git-test", command=("/bin/sh", "-c", command), rootfs=rootfs)


async def output(repository: Repository, command: str, **options: Any) -> str:
    """Of a command in a container with this root."""
    wanted = spec(repository, command, **options)
    done = await pysuper.run(wanted.command, rootfs=wanted.rootfs, capture_stdout=True)
    assert done.stdout is not None
    return done.stdout.decode()


@pytest.fixture
async def supervisor() -> AsyncIterator[pysuper.Supervisor]:
    async with pysuper.open_supervisor() as running:
        yield running


class TestGitRootfs(RootfsDriverTests):
    """What every rootfs driver has to keep."""

    @pytest.fixture(autouse=True)
    def _chosen(self, repository: Repository) -> None:
        self.driver = f"git:{repository.path}"
        self.shows = {"/file": "one"}
        self.keeps = [str(CHECKOUTS.path.parent)]


async def test_a_container_sees_what_is_committed_and_nothing_else(repository: Repository) -> None:
    (repository.path / "file").write_text("not committed")
    (repository.path / "more").write_text("not committed")
    found = (await output(repository, "cat /file; echo; ls -A /")).split()
    assert found == ["one", "bin", "dev", "file", "proc", "sys"]


async def test_everything_belongs_to_the_containers_root(repository: Repository) -> None:
    assert await output(repository, "stat -c '%u %g %a' / /bin /bin/sh /file") == "0 0 755\n" * 3 + "0 0 644\n"


async def test_writes_vanish(repository: Repository) -> None:
    assert await output(repository, "echo two > /file; cat /file") == "two\n"
    assert await output(repository, "cat /file") == "one"
    assert (repository.path / "file").read_text() == "one"


async def test_a_commit_is_checked_out_once(repository: Repository, cache: set[str]) -> None:
    await output(repository, "true")
    (name,) = cached() - cache
    made = (CHECKOUTS.path / name).stat()
    await output(repository, "true")
    assert cached() - cache == {name}
    assert (CHECKOUTS.path / name).stat() == made


async def test_a_new_commit_is_seen(repository: Repository) -> None:
    assert await output(repository, "cat /file") == "one"
    repository.commit("file", "two")
    assert await output(repository, "cat /file") == "two"


async def test_a_revision_is_whatever_git_knows(repository: Repository) -> None:
    first = repository.git("rev-parse", "HEAD")
    repository.git("tag", "--annotate", "--message=first", "v1")
    repository.commit("file", "two")
    for revision in (first, first[:8], "v1", "main~1", "main@{1}"):
        assert await output(repository, "cat /file", revision=revision) == "one"


async def test_a_bare_repository_will_do(repository: Repository, tmp_path: Path) -> None:
    repository.git("clone", "--quiet", "--mirror", ".", str(tmp_path / "mirror.git"))
    assert await output(Repository(tmp_path / "mirror.git"), "cat /file") == "one"


async def test_a_repository_of_another_user_will_do(repository: Repository) -> None:
    for directory, _, files in os.walk(repository.path):
        for path in (directory, *(f"{directory}/{name}" for name in files)):
            os.chown(path, 4321, 4321)
    repository.path.chmod(0o700)
    assert await output(repository, "stat -c '%u' /file") == "0\n"


async def test_what_a_repository_makes_git_run_is_confined(repository: Repository, tmp_path: Path) -> None:
    """A filter writes where it can, and shows who it is."""
    owned = tmp_path / "owned"
    (repository.path / "filter").write_text(f"touch {owned} /run/repository/owned; cat /proc/self/uid_map")
    repository.commit(".gitattributes", "file filter=evil\n")
    repository.git("config", "filter.evil.smudge", "sh /run/repository/filter")
    inside, outside, count = (await output(repository, "cat /file")).split()
    assert (inside, count) == ("0", "65536")
    assert outside != "0"
    assert not owned.exists()
    assert not (repository.path / "owned").exists()


async def test_hooks_do_not_run(repository: Repository) -> None:
    hook = repository.path / ".git/hooks/post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\ntouch /run/checkout/hooked\n")
    hook.chmod(0o755)
    assert "hooked" not in await output(repository, "ls /")


async def test_another_repository_answers_for_itself(repository: Repository, tmp_path: Path) -> None:
    """It has a commit of the same hash, and something else in its place."""
    await output(repository, "true")
    copy = Repository(tmp_path / "copy")
    shutil.copytree(repository.path, copy.path)
    copy.git("config", "filter.evil.smudge", "echo forged")
    (copy.path / ".git/info/attributes").write_text("file filter=evil\n")
    assert await output(copy, "cat /file") == "forged\n"
    assert await output(repository, "cat /file") == "one"


@pytest.mark.parametrize(
    ("revision", "message"),
    [
        ("no-such-branch", r"git:.*/repository: fatal: Needed a single revision"),
        ("--path-format=relative", r"fatal: Needed a single revision"),
        ("HEAD:file", r"fatal: Needed a single revision"),
        ("", r"fatal: Needed a single revision"),
    ],
)
async def test_a_wrong_revision_is_an_error(
    supervisor: pysuper.Supervisor, repository: Repository, revision: str, message: str
) -> None:
    with pytest.raises(DriverError, match=message):
        await supervisor.start(spec(repository, revision=revision))


async def test_what_is_no_repository_is_an_error(supervisor: pysuper.Supervisor, tmp_path: Path) -> None:
    with pytest.raises(DriverError, match=r"/missing is no directory; name a git repository"):
        await supervisor.start(spec(Repository(tmp_path / "missing")))
    with pytest.raises(DriverError, match="not a git repository"):
        await supervisor.start(spec(Repository(tmp_path)))


async def test_a_supervisor_that_is_killed_leaves_nothing(repository: Repository, cache: set[str]) -> None:
    command = [sys.executable, "-m", "pysuper", "run", "--rootfs", f"git:{repository.path}", "sleep", "100"]
    process = await trio.lowlevel.open_process(command, stdin=subprocess.DEVNULL)
    with trio.fail_after(30):
        while not list(CHECKOUTS.path.glob(".view-*")):
            await trio.sleep(0.001)
        process.kill()
        await process.wait()
        while unfinished(cache):
            await trio.sleep(0.001)


async def test_a_cancelled_start_leaves_nothing(
    repository: Repository, supervisor: pysuper.Supervisor, cache: set[str]
) -> None:
    for what in (".partial-*", ".view-*"):
        with trio.fail_after(30), trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(supervisor.start, spec(repository, "exec sleep 100"))
                while not list(CHECKOUTS.path.glob(what)):
                    await trio.sleep(0.001)
                scope.cancel()
        if what == ".partial-*":
            assert unfinished(cache) == []
