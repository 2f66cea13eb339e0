"""What an archive may cost: bytes, entries, memory, time; one line says what was too much, and nothing is left."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import os
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

import pysuper
from pysuper.supervisor import Supervisor
from pysuper_plugins.rootfs import tar

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

IMAGES = Path("/var/cache/pysuper/images")
MIB = 1024**2


def file(name: str, data: bytes = b"") -> bytes:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    return info.tobuf() + data + bytes(-len(data) % 512)


def hole(name: str, size: int) -> bytes:
    """A sparse file without data, as GNU tar writes it with --sparse --sparse-version=0.1."""
    info = tarfile.TarInfo("GNUSparseFile.0/x")
    info.pax_headers = {"GNU.sparse.name": name, "GNU.sparse.size": str(size), "GNU.sparse.map": ""}
    return info.tobuf(tarfile.PAX_FORMAT)


@pytest.fixture
def name() -> str:
    """Of the container; other test runs on this machine use the same cache."""
    return f"bounds{os.getpid()}"


@pytest.fixture
def images(tmp_path: Path, name: str) -> Iterator[None]:
    """Nothing of the archive is in the cache afterwards."""
    yield
    content = (tmp_path / "a.tar").read_bytes()
    status = (tmp_path / "a.tar").stat()
    # With size and times: an inode may have been that of another archive, which has left a link.
    link = f".of-{status.st_dev}-{status.st_ino}-{status.st_size}-{status.st_mtime_ns}-{status.st_ctime_ns}"
    left = (f".partial-{name}.", link, hashlib.sha256(content).hexdigest())
    assert not [found for found in os.listdir(IMAGES) if found.startswith(left)]


@pytest.fixture
def start(supervisor: Supervisor, spec: Callable[..., pysuper.ContainerSpec], tmp_path: Path, name: str) -> Any:
    async def start(*members: bytes, compress: Callable[[bytes], bytes] = bytes, **options: Any) -> pysuper.Container:
        salt = file("salt", os.urandom(16))  # or the cache would have it from another run
        (tmp_path / "a.tar").write_bytes(compress(b"".join((salt, *members, bytes(1024)))))
        options["path"] = str(tmp_path / "a.tar")
        return await supervisor.start(spec(name=name, rootfs=pysuper.DriverChoice("tar", options)))

    return start


BOMBS: dict[str, tuple[list[bytes], dict[str, Any], str]] = {
    "zeros": (
        [file("x/bomb", bytes(64 * MIB))],
        {"max_size": "1M", "compress": gzip.compress},
        "to more than 1048576 bytes",
    ),
    "in all": (
        [file("a", bytes(600_000)), file("x/bomb", bytes(600_000))],
        {"max_size": "1M"},
        "to more than 1048576 bytes",
    ),
    "hole": ([hole("x/bomb", 2**40)], {}, "to more than 17179869184 bytes"),
    "entries": ([*(file(f"{i}") for i in range(9)), file("x/bomb")], {"max_entries": 10}, "more than 10 entries"),
}


@pytest.mark.usefixtures("images")
@pytest.mark.parametrize("bomb", BOMBS)
async def test_a_bomb_is_refused_in_one_line(start, tmp_path: Path, bomb: str) -> None:
    members, options, limit = BOMBS[bomb]
    with pytest.raises(pysuper.DriverError) as caught:
        await start(*members, **options)
    said = str(caught.value)
    assert said.startswith(f"rootfs {tmp_path}/a.tar: x/bomb: the archive ")
    assert limit in said
    assert "set max_size or max_entries higher" in said
    assert said.isprintable()


async def test_the_same_archive_is_taken_with_a_higher_limit(start) -> None:
    """As the remedy says; then it fails for what it is, which is no root file system."""
    with pytest.raises(pysuper.CommandNotFound, match="sh"):
        await start(*BOMBS["in all"][0], max_size="2M")


@pytest.mark.usefixtures("images")
async def test_memory_is_bounded(start, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive whose decompression takes 65 MiB, by a process that may have 32."""
    monkeypatch.setattr(tar, "_MEMORY", 32 * MIB)
    with pytest.raises(pysuper.DriverError, match=r"a\.tar: .* takes more memory than there is; if you trust it"):
        await start(compress=partial(lzma.compress, preset=9))


@pytest.mark.usefixtures("images")
async def test_time_is_bounded(start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar, "_TIME", 0.0)
    with pytest.raises(pysuper.DriverError, match=r"a\.tar: .* takes more than 0 s; unpack it into a directory"):
        await start()


@pytest.mark.usefixtures("images")
async def test_an_archive_that_changes_meanwhile_is_not_kept(start, tmp_path: Path, monkeypatch) -> None:
    sandbox = Supervisor._sandbox

    async def changing(self: Supervisor, spec: pysuper.ContainerSpec, *, stdin: int) -> tuple[int, str, str]:
        done = await sandbox(self, spec, stdin=stdin)
        with (tmp_path / "a.tar").open("ab") as file:
            file.write(b"x")
        return done

    monkeypatch.setattr(Supervisor, "_sandbox", changing)
    with pytest.raises(pysuper.DriverError, match="changed while it was read; try again"):
        await start()


async def test_what_the_process_says_is_bounded(supervisor, spec) -> None:
    """If the archive has got the better of it, it may say anything."""
    flood = spec("head -c 3000000 /dev/zero; head -c 3000000 /dev/zero >&2; exit 7")
    with open(os.devnull) as null:
        status, *said = await supervisor._sandbox(flood, stdin=null.fileno())
    assert (status, *map(len, said)) == (7, MIB, MIB)


async def test_a_large_archive_is_read_beside_everything_else(supervisor, spec, tmp_path: Path) -> None:
    """It would take an hour to read; the loop goes on, and a cancellation ends the reading."""
    with (tmp_path / "a.tar").open("wb") as file:
        file.truncate(2**40)
    wanted = spec(rootfs=pysuper.DriverChoice("tar", argument=str(tmp_path / "a.tar")))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervisor.start, wanted)
        while trio.to_thread.current_default_thread_limiter().borrowed_tokens == 0:
            await trio.sleep(0.001)
        container = await supervisor.start(spec("true", name="other"))
        assert (await container.wait()).status == 0
        nursery.cancel_scope.cancel()
    assert trio.to_thread.current_default_thread_limiter().borrowed_tokens == 0


def test_a_plan_reads_nothing_of_the_archive(tmp_path: Path, spec) -> None:
    from pysuper.plan import Context
    from pysuper.planning import build_plan, choose_drivers

    with (tmp_path / "a.tar").open("wb") as file:
        file.truncate(2**40)
    wanted = spec(rootfs=pysuper.DriverChoice("tar", argument=str(tmp_path / "a.tar")))
    context = Context(id="box", spec=wanted, privileged=True, uid_base=100_000)
    plan = build_plan(context, choose_drivers(wanted))
    assert str(IMAGES) in "\n".join(line.text for line in plan.lines())


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda _: None], ids=["fifo", "directory", "NUL"])
async def test_what_is_no_file_is_refused_at_once(
    supervisor, spec, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "a.tar")
    path = str(tmp_path / "a.tar") if os.listdir(tmp_path) else "a\0b"
    with pytest.raises(pysuper.DriverError, match="not a regular file|NUL character"):
        await supervisor.start(spec(rootfs=pysuper.DriverChoice("tar", argument=path)))
