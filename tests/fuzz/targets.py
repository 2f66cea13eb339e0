"""
What reads what others have written, each as a function of bytes that raises if something is wrong with the reader.

Refusing is right, with an error of the kind that is promised and a message of printable lines; any other exception, or
something that is touched and must not be, is a finding.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import trio

from pysuper.capabilities import DEFAULT
from pysuper.config import load_stack
from pysuper.document import to_toml
from pysuper.drivers import Launched
from pysuper.errors import ConfigError, PysuperError
from pysuper.phase import Phase
from pysuper.plan import Command, Plan
from pysuper.process import Process
from pysuper.record import exit_status
from pysuper.seccomp.bpf import compile_profile
from pysuper.seccomp.oci import Machine, from_oci
from pysuper.stack.control import Client, ClientGone
from pysuper.stack.notify import NotifySocket
from pysuper.steps import MakeDirectory, Setsid
from pysuper.tables import FileErrors
from pysuper.unpack.errors import UnpackError
from pysuper.unpack.stream import Codecs
from pysuper.unpack.unpacker import Limits, unpack

BLOCK = 512
PLAN = Plan(
    id="fuzz",
    clone=(),
    holder=None,
    ids=None,
    cgroup=None,
    phases={Phase.SESSION: (Setsid(),), Phase.MOUNTS: (MakeDirectory(target="/x"),)},
    command=Command(argv=("true",), environment={}, working_dir="/", init=True, terminal=False),
    checks=(),
    warnings=(),
)
CODECS = Codecs()


def wire(data: bytes) -> None:
    """What a process of a container says to the supervisor, a line a packet: until its command runs, and to its end."""
    trio.run(_wire, data.split(b"\n"))


async def _wire(packets: list[bytes]) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        with suppress(BlockingIOError):  # no more fit
            for packet in packets:
                theirs.send(packet)
        theirs.shutdown(socket.SHUT_WR)
        process = Process(Launched(pid=os.getpid(), pidfd=-1, status=ours), PLAN, "a process")
        try:
            await process.start()
        except PysuperError as error:
            _printable(error)
        process.exited.set()
        await process.ends()
        if process._told is not None:
            exit_status(process._told)
        process.close()


def control(data: bytes) -> None:
    """What a client says to the socket of a stack: a request, and then signals."""
    trio.run(_control, data)


async def _control(data: bytes) -> None:
    ours, theirs = trio.socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours, theirs:
        client = Client(ours)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_send_all, theirs, data)
            try:
                request = await client.request()
                # What comes out can be acted upon: for one thing, it can be given to the kernel.
                for value in request.arguments.get("command", ()):
                    os.fsencode(value)
            except ConfigError as error:
                _printable(error)
            except ClientGone:
                pass
            with trio.CancelScope() as present:
                await client.attend(present)
            nursery.cancel_scope.cancel()


async def _send_all(channel: trio.socket.SocketType, data: bytes) -> None:
    while data:
        data = data[await channel.send(data) :]
    channel.shutdown(socket.SHUT_WR)


def notify(data: bytes) -> None:
    """What a service says at its notify socket, sd_notify(3)."""
    trio.run(_notify, data)


async def _notify(data: bytes) -> None:
    ours, theirs = trio.socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        await theirs.send(data[:8192])
        for name, value in (await NotifySocket("", ours).receive()).items():
            (name + value).encode()


def toml(data: bytes) -> None:
    """A file; what it means can be written down, and means the same then."""
    with tempfile.NamedTemporaryFile(suffix=".toml") as file:
        try:
            stack = load_stack(_written(file.name, data), {"HOME": "/root"})
            text = to_toml(stack)
        except ConfigError as error:
            _printable(error)
            return
        again = load_stack(_written(file.name, text.encode()), {})
        assert again == stack or to_toml(again) == text, text  # nan is not equal to itself


def _written(path: str, data: bytes) -> str:
    Path(path).write_bytes(data)
    return path


def seccomp(data: bytes) -> None:
    """A seccomp profile as docker and OCI have it; it is compiled."""
    try:
        profile = from_oci(data.decode(errors="replace"), DEFAULT, Machine("x86_64", (6, 12)))
        program = compile_profile(profile, "x86_64")
    except ConfigError as error:
        _printable(error)
    else:
        assert 0 < len(program) <= 8 * 4096


def archive(data: bytes) -> None:
    """
    An archive, of which nothing gets out of its directory, and no more into it than may.

    Header blocks get their check sums: to find those by chance takes too long.
    """
    top = Path(tempfile.mkdtemp(prefix="fuzz-archive-"))
    try:
        (top / "outside").mkdir()
        (top / "outside/secret").write_text("secret")
        (top / "dest").mkdir()
        before = _state(top)
        descriptor = os.memfd_create("archive")
        try:
            os.write(descriptor, _mended(data))
            os.lseek(descriptor, 0, os.SEEK_SET)
            try:
                unpack(descriptor, str(top / "dest"), Limits(bytes=2**20, entries=100, depth=16), CODECS)
            except UnpackError as error:
                _printable(error)
        finally:
            os.close(descriptor)
        assert _state(top) == before
        found = [Path(folder, name) for folder, _, files in _walk(top / "dest") for name in files]
        assert len(found) <= 100
        assert sum(path.lstat().st_size for path in found if not path.is_symlink()) <= 2**20
        assert not any(stat.S_ISCHR(path.lstat().st_mode) or stat.S_ISBLK(path.lstat().st_mode) for path in found)
    finally:
        list(_walk(top))
        shutil.rmtree(top)


def _walk(top: Path) -> list[tuple[str, list[str], list[str]]]:
    """As os.walk, also into directories that their owner may not enter."""
    found = []
    top.chmod(0o700)
    for folder, folders, files in os.walk(os.fsencode(top)):
        for name in folders:
            if not os.path.islink(os.path.join(folder, name)):
                os.chmod(os.path.join(folder, name), 0o700)
        found.append((os.fsdecode(folder), list(map(os.fsdecode, folders)), list(map(os.fsdecode, files))))
    return found


def _state(top: Path) -> tuple[object, ...]:
    outside = [top / "outside", top / "outside/secret"]
    about = [(s.st_mode, s.st_uid, s.st_nlink, s.st_mtime_ns) for s in map(os.lstat, outside)]
    return sorted(os.listdir(top)), os.listdir(top / "outside"), (top / "outside/secret").read_text(), about


def _mended(data: bytes) -> bytes:
    blocks = [data[at : at + BLOCK] for at in range(0, len(data), BLOCK)]
    return b"".join(_with_check_sum(block) if block[257:262] == b"ustar" else block for block in blocks)


def _with_check_sum(block: bytes) -> bytes:
    if len(block) < BLOCK:
        return block
    return block[:148] + b"%06o\0 " % (sum(block[:148] + block[156:]) + 8 * 32) + block[156:]


def _printable(error: Exception) -> None:
    text = str(error)
    lines = text.split("\n")
    assert all(line.isprintable() for line in lines), text
    assert len(lines) == 1 or isinstance(error, FileErrors), text
    assert len(text) < 2**20
    text.encode()


TARGETS: Mapping[str, Callable[[bytes], None]] = {
    "archive": archive,
    "control": control,
    "notify": notify,
    "seccomp": seccomp,
    "toml": toml,
    "wire": wire,
}
