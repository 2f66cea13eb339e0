"""Bytes between the user's descriptors and a container's, over real pseudo-terminals and pipes."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import termios
import tty
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import attrs
import pytest
import trio
import trio.lowlevel

from pysuper import terminal
from pysuper.terminal import Pipes, relay_terminal


def open_files() -> list[str]:
    return os.listdir("/proc/self/fd")


@attrs.frozen
class Ends:
    """
    Both ends of a pseudo-terminal or pipe: what `write` takes, `read` gives.

    Attributes:
        master, slave: As in pty(7).
    """

    master: int
    slave: int

    async def read(self, fd: int, until: Callable[[bytes], bool]) -> bytes:
        """Read until the condition holds, or the end."""
        data = b""
        while not until(data):
            await trio.lowlevel.wait_readable(fd)
            try:
                more = os.read(fd, 65536)
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                return data
            if not more:
                return data
            data += more
        return data


@pytest.fixture
async def keep() -> AsyncIterator[Callable[[int], int]]:
    """
    Takes a descriptor, which is closed when the test is over, and gives it back.

    A relay that is cancelled leaves threads behind that read and write by number. One that is late
    must not come upon the same number in the next test, and take what that one waits for.
    """
    kept: list[int] = []

    def register(fd: int) -> int:
        kept.append(fd)
        return fd

    yield register
    with trio.fail_after(30):
        while trio.to_thread.current_default_thread_limiter().borrowed_tokens:
            await trio.sleep(0.001)
    for fd in kept:
        with suppress(OSError):
            os.close(fd)


@pytest.fixture
def make_terminal(keep: Callable[[int], int]) -> Callable[[], Ends]:
    """Pseudo-terminals."""
    return lambda: Ends(*map(keep, os.openpty()))


@pytest.fixture
def null(keep: Callable[[int], int]) -> int:
    """What a user has as descriptors 0 to 2 who neither types nor looks."""
    return keep(os.open(os.devnull, os.O_RDWR))


@pytest.fixture
def user(make_terminal: Callable[[], Ends]) -> Ends:
    """The user's terminal; the slave is what pysuper has as descriptors 0 to 2."""
    return make_terminal()


@pytest.fixture
def inner(make_terminal: Callable[[], Ends]) -> Ends:
    """The container's terminal, without echo and with nothing changed in its output."""
    ends = make_terminal()
    modes = termios.tcgetattr(ends.slave)
    modes[1] &= ~termios.OPOST
    modes[3] &= ~termios.ECHO
    termios.tcsetattr(ends.slave, termios.TCSANOW, modes)
    return ends


@pytest.fixture
def pipe(keep: Callable[[int], int]) -> Ends:
    """A pipe, as `Ends(write end, read end)`."""
    read, write = map(keep, os.pipe())
    return Ends(write, read)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an end of file a drain would take longer than the test."""
    monkeypatch.setattr(terminal, "_PATIENCE", 60.0)


def never() -> None:
    pytest.fail("the user's side has not gone")


def has(wanted: bytes) -> Callable[[bytes], bool]:
    return lambda data: wanted in data


async def test_what_the_user_types_arrives_key_by_key(user: Ends, inner: Ends) -> None:
    tty.setraw(inner.slave)
    async with relay_terminal(inner.master, never, stdio=(user.slave,) * 3):
        os.write(user.master, b"a\x03\x04\x1a\r")
        assert await inner.read(inner.slave, has(b"\r")) == b"a\x03\x04\x1a\r"


async def test_output_arrives_as_it_was_written(user: Ends, inner: Ends) -> None:
    async with relay_terminal(inner.master, never, stdio=(user.slave,) * 3):
        os.write(inner.slave, b"\x1b[31mred\r\nend")
        assert await user.read(user.master, has(b"end")) == b"\x1b[31mred\r\nend"


@pytest.mark.parametrize("how", ["ends", "raises", "is cancelled"])
async def test_the_terminal_is_put_back_however_it_ends(user: Ends, inner: Ends, how: str) -> None:
    before = termios.tcgetattr(user.slave)
    with trio.CancelScope() as scope, suppress(ExceptionGroup):
        async with relay_terminal(inner.master, never, stdio=(user.slave,) * 3):
            assert not termios.tcgetattr(user.slave)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)
            if how == "raises":
                raise ValueError
            if how == "is cancelled":
                scope.cancel()
                await trio.sleep_forever()
    assert termios.tcgetattr(user.slave) == before


async def test_the_size_is_the_users_also_after_a_change(user: Ends, inner: Ends) -> None:
    termios.tcsetwinsize(user.slave, (33, 99))
    async with relay_terminal(inner.master, never, stdio=(user.slave,) * 3):
        assert termios.tcgetwinsize(inner.slave) == (33, 99)
        termios.tcsetwinsize(user.slave, (20, 50))
        os.kill(os.getpid(), signal.SIGWINCH)
        with trio.fail_after(10):
            while termios.tcgetwinsize(inner.slave) != (20, 50):
                await trio.sleep(0.01)


@pytest.mark.parametrize("text", [b"line\n", b"no end of line", b""])
async def test_the_end_of_a_pipe_is_an_end_of_file_in_the_terminal(
    user: Ends, inner: Ends, pipe: Ends, text: bytes
) -> None:
    os.write(pipe.master, text)
    os.close(pipe.master)
    async with relay_terminal(inner.master, never, stdio=(pipe.slave, user.slave, user.slave)):
        with trio.fail_after(10):
            assert await inner.read(inner.slave, lambda _: False) == text


async def test_an_end_of_file_is_seen_by_everyone_who_reads(user: Ends, inner: Ends, pipe: Ends) -> None:
    os.close(pipe.master)
    async with relay_terminal(inner.master, never, stdio=(pipe.slave, user.slave, user.slave)):
        for _ in range(3):
            with trio.fail_after(10):
                assert await inner.read(inner.slave, lambda _: False) == b""


async def test_a_regular_file_can_be_stdin(
    user: Ends, inner: Ends, keep: Callable[[int], int], tmp_path: os.PathLike[str]
) -> None:
    path = os.path.join(tmp_path, "input")
    with open(path, "wb") as file:
        file.write(b"from a file\n")
    fd = keep(os.open(path, os.O_RDONLY))
    async with relay_terminal(inner.master, never, stdio=(fd, user.slave, user.slave)):
        with trio.fail_after(10):
            assert await inner.read(inner.slave, has(b"\n")) == b"from a file\n"


async def test_all_output_arrives_even_if_it_is_read_slowly_after_the_end(inner: Ends, pipe: Ends, null: int) -> None:
    """A pipe holds 64 KiB, and a terminal some more: the rest has to wait for the reader, not for the clock."""
    written = b"x" * 300_000 + b"end"

    def write() -> None:
        rest = memoryview(written)
        while rest:
            rest = rest[os.write(inner.slave, rest) :]
        os.close(inner.slave)

    received = b""

    async def read_slowly() -> None:
        nonlocal received
        await trio.sleep(2.5)
        received = await inner.read(pipe.slave, has(b"end"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read_slowly)
        async with relay_terminal(inner.master, never, stdio=(null, pipe.master, pipe.master)) as relay:
            nursery.start_soon(trio.to_thread.run_sync, write)
            await trio.sleep(0.2)
            with trio.fail_after(30):
                await relay.drain()
    assert received == written


async def test_a_drain_ends_at_once_when_nobody_has_the_terminal_open(user: Ends, inner: Ends, patient: None) -> None:
    async with relay_terminal(inner.master, never, stdio=(user.slave,) * 3) as relay:
        os.write(inner.slave, b"last words")
        os.close(inner.slave)
        with trio.fail_after(30):
            await relay.drain()
    assert await user.read(user.master, has(b"words")) == b"last words"


async def test_a_drain_does_not_wait_for_a_process_that_stays(
    user: Ends, inner: Ends, autojump_clock: trio.testing.MockClock
) -> None:
    async with relay_terminal(inner.master, never, stdio=(user.slave,) * 3) as relay:
        await trio.sleep(1)
        with trio.fail_after(2):
            await relay.drain()


async def test_a_drain_does_not_wait_for_a_process_that_never_stops_writing(inner: Ends, null: int) -> None:
    def write() -> None:
        with suppress(OSError):
            while True:
                os.write(inner.slave, b"y\n" * 1000)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: trio.to_thread.run_sync(write, abandon_on_cancel=True))
        async with relay_terminal(inner.master, never, stdio=(null, null, null)) as relay:
            with trio.fail_after(30):
                await relay.drain()
        termios.tcflush(inner.master, termios.TCIOFLUSH)
        os.close(inner.master)  # the writer gets EIO


async def test_a_reader_that_has_gone_hangs_up(inner: Ends, pipe: Ends, null: int) -> None:
    hung_up = trio.Event()
    os.close(pipe.slave)
    async with relay_terminal(inner.master, hung_up.set, stdio=(null, pipe.master, pipe.master)):
        os.write(inner.slave, b"y\n")
        with trio.fail_after(10):
            await hung_up.wait()


async def test_the_users_descriptors_stay_in_blocking_mode(user: Ends, inner: Ends) -> None:
    async with relay_terminal(inner.master, never, stdio=(user.slave,) * 3) as relay:
        os.write(inner.slave, b"x")
        await user.read(user.master, has(b"x"))
        assert not fcntl.fcntl(user.slave, fcntl.F_GETFL) & os.O_NONBLOCK
        os.close(inner.slave)
        await relay.drain()
    with Pipes((user.slave,) * 3) as pipes:
        async with pipes.relay():
            await trio.lowlevel.checkpoint()
            assert not fcntl.fcntl(user.slave, fcntl.F_GETFL) & os.O_NONBLOCK


async def test_a_terminal_in_non_blocking_mode_gets_all_of_it(user: Ends) -> None:
    """Some program before us may have set it; then a write may take a part only."""
    os.set_blocking(user.slave, False)
    written = b"x" * 60_000 + b"end"
    with Pipes((user.slave,) * 3) as pipes:
        os.write(pipes.given[1], written)
        async with pipes.relay():
            await trio.sleep(0.2)  # until the terminal has no more room
            with trio.fail_after(30):
                assert await user.read(user.master, has(b"end")) == written


async def test_nothing_stays_open(user: Ends, inner: Ends) -> None:
    async with trio.open_nursery():  # epoll of the pool of threads, and the like
        await trio.to_thread.run_sync(open_files)
    before = open_files()
    async with relay_terminal(inner.master, never, stdio=(user.slave,) * 3):
        await trio.lowlevel.checkpoint()
    with Pipes((user.slave,) * 3) as pipes:
        assert len(open_files()) == len(before) + 4
        async with pipes.relay():
            await trio.lowlevel.checkpoint()
    with Pipes((user.slave,) * 3):
        pass
    assert open_files() == before


async def test_what_is_no_terminal_is_given_as_it_is(user: Ends, pipe: Ends) -> None:
    with Pipes((pipe.slave, pipe.master, pipe.master)) as pipes:
        assert pipes.given == [pipe.slave, pipe.master, pipe.master]
    with Pipes((user.slave, pipe.master, user.slave)) as pipes:
        assert not any(os.isatty(fd) for fd in pipes.given)
        assert pipes.given[1] == pipe.master


async def test_a_terminal_is_replaced_by_pipes_that_carry_the_bytes(user: Ends, patient: None) -> None:
    with Pipes((user.slave,) * 3) as pipes:
        stdin, stdout, stderr = (os.dup(fd) for fd in pipes.given)  # as the container has them
        async with pipes.relay() as relay:
            os.write(stdout, b"out ")
            os.write(stderr, b"err ")
            os.write(stdout, b"out again")
            assert await user.read(user.master, has(b"again")) == b"out err out again"
            os.write(user.master, b"typed\n\x04")
            with trio.fail_after(10):
                assert await user.read(stdin, lambda _: False) == b"typed\n"
            os.write(stdout, b"!")
            os.close(stdout)
            os.close(stderr)
            with trio.fail_after(30):
                await relay.drain()
            assert (await user.read(user.master, has(b"!"))).endswith(b"!")
        os.close(stdin)


async def test_a_command_that_writes_to_a_reader_that_has_gone_is_told(
    make_terminal: Callable[[], Ends], user: Ends
) -> None:
    with Pipes((user.slave,) * 3) as pipes:
        stdout = os.dup(pipes.given[1])
        async with pipes.relay():
            os.close(user.master)  # the terminal hangs up: EIO
            with trio.fail_after(10), pytest.raises(BrokenPipeError):
                while True:
                    os.write(stdout, b"x")
                    await trio.sleep(0.01)
        os.close(stdout)


IN_BACKGROUND = """
import os, sys, time
from pysuper.screen import is_interactive, raw_mode
import termios
print("foreground", is_interactive(), flush=True)
with raw_mode(0):
    saved = termios.tcgetattr(0)
    child = os.fork()
    if child:
        sys.exit(os.waitpid(child, 0)[1])
    os.setpgid(0, 0)
    print("background", is_interactive(), flush=True)
print("modes", "kept" if termios.tcgetattr(0) == saved else "changed", flush=True)
os._exit(0)
"""


def test_in_the_background_the_terminal_is_the_shells() -> None:
    """The new session's terminal is pysuper's; its child leaves the foreground, as after Ctrl-Z and bg."""
    master, slave = os.openpty()
    command = f"exec setsid --ctty --wait {sys.executable} -c '{IN_BACKGROUND}'"
    with subprocess.Popen(["sh", "-c", command], stdin=slave, stdout=slave, stderr=slave) as process:
        os.close(slave)
        output = b""
        with suppress(OSError):
            while more := os.read(master, 4096):
                output += more
        os.close(master)
    text = output.decode().replace("\r", "")
    assert text.split("\n")[:3] == ["foreground True", "background False", "modes kept"]
    assert process.returncode == 0
