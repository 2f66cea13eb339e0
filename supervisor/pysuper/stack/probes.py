"""
Asks a container whether it works: by a connection, an HTTP request, a command.

Connections are made from inside the container's network namespace, by a socket that was opened there.
"""

from __future__ import annotations

import ipaddress
import os
import socket

import h11
import trio

from pysuper.container import Container
from pysuper.errors import PysuperError, describe_errno
from pysuper.stack.spec import (
    CommandProbe,
    DescriptorProbe,
    HealthCheck,
    HttpProbe,
    LogProbe,
    NotifyProbe,
    Readiness,
    TcpProbe,
)

__all__ = ["check_health", "wait_until_ready"]

_CHUNK = 65536
#: Bytes of a failed command's output that are kept to explain it.
_EXPLANATION = 1024


class ProbeFailed(Exception):
    """It does not work; the message says what was seen."""


async def wait_until_ready(readiness: Readiness, container: Container, told: trio.Event) -> str | None:
    """
    Wait until a container is ready, for as long as it may take.

    Args:
        told: Set when the container has said so, for the probes that listen instead of ask.

    Returns:
        None, or why it is not, in words.
    """
    probe, seen = readiness.probe, ""
    with trio.move_on_after(readiness.timeout):
        if isinstance(probe, NotifyProbe | DescriptorProbe | LogProbe):
            await told.wait()
            return None
        while (failure := await _failure(probe, container, readiness.timeout / 2)) is not None:
            seen = f": {failure}"
            await trio.sleep(readiness.interval)
        return None
    return f"not ready after {readiness.timeout:g} s{seen}"


async def check_health(check: HealthCheck, container: Container) -> str | None:
    """One health check: None, or what is wrong, in words."""
    return await _failure(check.probe, container, check.timeout)


async def _failure(probe: TcpProbe | HttpProbe | CommandProbe, container: Container, patience: float) -> str | None:
    """Try once: None, or what is wrong, in words."""
    with trio.move_on_after(patience):
        try:
            await _attempt(probe, container)
        except ProbeFailed as failure:
            return str(failure)
        return None
    return f"no answer in {patience:g} s"


async def _attempt(probe: TcpProbe | HttpProbe | CommandProbe, container: Container) -> None:
    """
    Try once.

    Raises:
        ProbeFailed: The container answered wrongly, or not.
    """
    try:
        match probe:
            case TcpProbe():
                (await _connect(container, probe.host, probe.port)).close()
            case HttpProbe():
                await _get(container, probe)
            case CommandProbe():
                await _execute(container, probe.command)
    except PysuperError as error:
        raise ProbeFailed(str(error)) from error


async def _connect(container: Container, host: str, port: int) -> trio.socket.SocketType:
    try:
        address = ipaddress.ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError:
        raise ProbeFailed(f"{host} is no address, such as 127.0.0.1") from None
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    channel = await container.open_socket(family)
    try:
        await channel.connect((str(address), port))
    except BaseException as error:
        channel.close()
        if isinstance(error, OSError):
            raise ProbeFailed(f"{host} port {port}: {describe_errno(error.errno or 0)}") from error
        raise
    return channel


async def _get(container: Container, probe: HttpProbe) -> None:
    """One request by HTTP/1.1; only the status of the answer counts."""
    with await _connect(container, probe.host, probe.port) as channel:
        connection = h11.Connection(h11.CLIENT)
        host = f"[{probe.host}]" if ":" in probe.host else probe.host  # RFC 3986, 3.2.2
        headers = [("Host", f"{host}:{probe.port}"), ("User-Agent", "pysuper"), ("Connection", "close")]
        request = connection.send(h11.Request(method="GET", target=probe.path, headers=headers)) or b""
        request += connection.send(h11.EndOfMessage()) or b""
        try:
            await trio.SocketStream(channel).send_all(request)
            while (event := connection.next_event()) is h11.NEED_DATA or isinstance(event, h11.InformationalResponse):
                if event is h11.NEED_DATA:
                    connection.receive_data(await channel.recv(_CHUNK))
        except (OSError, trio.BrokenResourceError, h11.RemoteProtocolError) as error:
            raise ProbeFailed(f"GET {probe.path}: {error}") from error
    if not isinstance(event, h11.Response) or not 200 <= event.status_code < 400:
        answer = f"status {event.status_code}" if isinstance(event, h11.Response) else "no answer"
        raise ProbeFailed(f"GET {probe.path}: {answer}")


async def _execute(container: Container, command: tuple[str, ...]) -> None:
    read, write = os.pipe()
    async with trio.lowlevel.FdStream(read) as output:
        try:
            executed = container.execute(command, stdout=write, stderr=write)
            async with executed as execution:
                os.close(write)
                write = -1
                status = await execution.wait()
        finally:
            if write != -1:
                os.close(write)
        if status.status != 0:
            said = ""
            # Without waiting: what it left behind may hold the pipe open.
            with trio.move_on_after(0.1):
                said = (await output.receive_some(_EXPLANATION)).decode(errors="replace").strip()
            raise ProbeFailed(f"{command[0]}: exit status {status.status}" + (f": {said}" if said else ""))
