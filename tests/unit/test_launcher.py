"""The launcher process is sealed: it imports nothing, and keeps nothing that it was not given."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from pysuper import registry, steps
from pysuper.drivers import Trace
from pysuper.errors import DriverError
from pysuper.launcher import native, python, wire
from pysuper.launcher.client import CONTROL, ProcessLauncher, reap
from pysuper.launcher.native import NativeLauncher
from pysuper.launcher.python import PythonLauncher

needs_native = pytest.mark.skipif(
    not NativeLauncher.detect().works, reason=f"the native launcher: {NativeLauncher.detect().reason}"
)
launchers = pytest.mark.parametrize("launcher", [PythonLauncher, pytest.param(NativeLauncher, marks=needs_native)])

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


@launchers
async def test_the_launcher_has_no_environment_and_no_descriptor_of_ours(
    launcher: type[ProcessLauncher], monkeypatch
) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    leaked = os.open("/", os.O_RDONLY)
    os.set_inheritable(leaked, True)
    control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        pid = launcher()._spawn(theirs.fileno())
    pidfd = os.pidfd_open(pid)
    try:
        while b"pysuper-launcher" not in Path(f"/proc/{pid}/cmdline").read_bytes():
            assert os.path.exists(f"/proc/{pid}")
        if os.geteuid() == 0:
            assert Path(f"/proc/{pid}/environ").read_bytes() == b""
            descriptors = {int(name): os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")}
            assert set(descriptors) - set(range(CONTROL + 1)) <= {CONTROL + 1}  # its poll
            # Where a command may have descriptors of its own, there is nothing that would have to make way.
            assert {descriptors[number] for number in range(3, CONTROL)} == {"/dev/null"}
        assert os.stat(f"/proc/{pid}/fd").st_uid == 0  # root's, whoever runs it: it is not dumpable
    finally:
        control.close()
        await reap(pid, pidfd)
        os.close(pidfd)
        os.close(leaked)


@pytest.mark.parametrize("packet", [b"{", b"\xff", b"[1]", b"7", b"[" * 60_000, b'{"pid": 1' + b"x" * 70_000])
def test_a_packet_that_is_no_message_is_an_empty_one(packet: bytes) -> None:
    assert wire.decode(packet) == {}
    assert wire.decode(b"") is None


@launchers
async def test_a_launcher_is_told_of_traces_in_packets_that_it_takes(
    launcher: type[ProcessLauncher], tmp_path: Path
) -> None:
    traces = [Trace("directory", str(tmp_path / f"{number:0200}")) for number in range(1000)]
    assert len(wire.encode({"remember": [(trace.kind, trace.path) for trace in traces]})) > 2 * wire.MAX_PACKET
    async with trio.open_nursery() as nursery:
        running = launcher()
        await nursery.start(running.serve)
        await running.remember(*traces)
        for trace in traces:
            Path(trace.path).mkdir()
        await running.forget(*traces[500:])
        nursery.cancel_scope.cancel()  # as if the supervisor had died before these were removed
    assert sorted(str(path) for path in tmp_path.iterdir()) == [trace.path for trace in traces[500:]]


@needs_native
def test_every_step_is_executed_natively_with_the_same_fields_in_the_same_order() -> None:
    told = subprocess.run([native._PROGRAM, "--steps"], capture_output=True, text=True, check=True).stdout
    assert told.splitlines() == [native.signature(step) for step in native._CODES]
    assert set(native._CODES) == set(steps.CLASSES.values())


def test_a_program_older_than_its_sources_is_not_used(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(native, "_SOURCES", tmp_path)
    monkeypatch.setattr(native, "_PROGRAM", tmp_path / "program")
    assert "not built" in NativeLauncher.detect().reason
    (tmp_path / "program").touch(0o755)
    assert NativeLauncher.detect().works
    (tmp_path / "main.c").touch()
    os.utime(tmp_path / "main.c", (2**32, 2**32))
    assert "older than its sources" in NativeLauncher.detect().reason
    (tmp_path / "main.c").unlink()
    (tmp_path / "program").chmod(0o644)
    assert "cannot be executed" in NativeLauncher.detect().reason


def test_without_the_native_launcher_the_one_in_python_takes_its_place(tmp_path: Path, monkeypatch) -> None:
    registry.forget()
    try:
        monkeypatch.setattr(native, "_PROGRAM", tmp_path / "none")
        launcher, why = registry.load_launcher()
        assert launcher is PythonLauncher
        assert "the launcher 'native' of pysuper-containers" in why
        assert "not built" in why
        with pytest.raises(DriverError, match="native.* cannot work here: it is not built"):
            registry.load_launcher("native")
    finally:
        registry.forget()
    assert registry.load_launcher("python") == (PythonLauncher, "")
    with pytest.raises(DriverError, match="there is no launcher 'rust'"):
        registry.load_launcher("rust")
