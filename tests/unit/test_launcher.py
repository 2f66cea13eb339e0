"""The launcher process is sealed: it imports nothing, and keeps nothing that it was not given."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from pysuper.drivers import Trace
from pysuper.launcher import python, wire
from pysuper.launcher.client import CONTROL, reap
from pysuper.launcher.python import PythonLauncher

SEALED = """
import sys
sys.path.insert(0, sys.argv[1])
from pysuper.launcher import server
server._seal()
try:
    import colorsys
except ImportError:
    print("refused")
"""


def test_nothing_is_imported_once_the_launcher_is_sealed() -> None:
    command = [sys.executable, "-I", "-S", "-c", SEALED, python._SOURCE_ROOT]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "refused\n"
    open_one = SEALED.replace("server._seal()", "")
    assert (
        subprocess.run([*command[:4], open_one, command[-1]], capture_output=True, text=True, check=True).stdout == ""
    )


async def test_the_launcher_has_no_environment_and_no_descriptor_of_ours(monkeypatch) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    leaked = os.open("/", os.O_RDONLY)
    os.set_inheritable(leaked, True)
    control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        pid = PythonLauncher()._spawn(theirs.fileno())
    pidfd = os.pidfd_open(pid)
    try:
        while b"pysuper-launcher" not in Path(f"/proc/{pid}/cmdline").read_bytes():
            assert os.path.exists(f"/proc/{pid}")
        if os.geteuid() == 0:
            assert Path(f"/proc/{pid}/environ").read_bytes() == b""
            descriptors = {int(name): os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")}
            assert set(descriptors) == set(range(CONTROL + 1))
            # Where a command may have descriptors of its own, there is nothing that would have to make way.
            assert {descriptors[number] for number in range(3, CONTROL)} == {"/dev/null"}
        assert os.stat(f"/proc/{pid}/fd").st_uid == 0  # root's, whoever runs it: it is not dumpable
    finally:
        control.close()
        await reap(pidfd)
        os.close(pidfd)
        os.close(leaked)


@pytest.mark.parametrize("packet", [b"{", b"\xff", b"[1]", b"7", b"[" * 60_000, b'{"pid": 1' + b"x" * 70_000])
def test_a_packet_that_is_no_message_is_an_empty_one(packet: bytes) -> None:
    assert wire.decode(packet) == {}
    assert wire.decode(b"") is None


async def test_a_launcher_is_told_of_traces_in_packets_that_it_takes(tmp_path: Path) -> None:
    traces = [Trace("directory", str(tmp_path / f"{number:0200}")) for number in range(1000)]
    assert len(wire.encode({"remember": [(trace.kind, trace.path) for trace in traces]})) > 2 * wire.MAX_PACKET
    async with trio.open_nursery() as nursery:
        launcher = PythonLauncher()
        await nursery.start(launcher.serve)
        await launcher.remember(*traces)
        for trace in traces:
            Path(trace.path).mkdir()
        await launcher.forget(*traces[500:])
        nursery.cancel_scope.cancel()  # as if the supervisor had died before these were removed
    assert sorted(str(path) for path in tmp_path.iterdir()) == [trace.path for trace in traces[500:]]
