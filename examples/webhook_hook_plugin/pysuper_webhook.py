"""
The hook `webhook`: posts what happens to containers to a URL, as JSON.

    pysuper run --hook webhook:https://ops.example.org/containers -- make test

It has none of the methods that a start waits for, so that a slow server holds up no container. What cannot be told is
told again, twice, and then it is a warning. So a server may be told of an event twice: it is the same if its `id` and
`kind` are.
"""

from __future__ import annotations

import json
import re
import ssl
from pathlib import Path
from urllib.parse import urlsplit

import attrs
import h11
import trio

from pysuper.drivers import Hook, LifecycleEvent
from pysuper.errors import DriverError, describe_errno

#: Seconds that an attempt may take, and before the second and the third.
ATTEMPT = 3.0
PAUSES = (0.25, 0.5)
#: Connections at a time.
CONNECTIONS = 8
#: Statuses below 500 that may be others a little later, RFC 9110 and RFC 6585.
LATER = {408, 425, 429}
PORTS = {"http": 80, "https": 443}
LOCAL = {"localhost", "127.0.0.1", "::1"}


@attrs.frozen
class WebhookOptions:
    """
    Attributes:
        url: Where to: http or https.
        token_file: A file with a token, which is sent as `Authorization: Bearer TOKEN`. It is read each time, so that
            it can be replaced.
    """

    url: str
    token_file: str | None = None


class WebhookHook(Hook):
    """`webhook:URL`: what happens to containers is posted there, as JSON."""

    Options = WebhookOptions
    argument = "url"
    timeout = 10.0

    def __init__(self, options: WebhookOptions) -> None:
        super().__init__(options)
        try:
            url = urlsplit(options.url)
            host, port = url.hostname, url.port or PORTS[url.scheme]
        except (KeyError, ValueError):
            host = None
        if host is None or not re.fullmatch("[!-~]+", options.url):
            remedy = "write one such as https://ops.example.org/told"
            raise DriverError(f"hook webhook: {options.url!r} is no URL of a web server", remedy=remedy)
        if url.username is not None:  # who sees the URL sees the password, and so it is not said again
            raise DriverError(f"hook webhook: a user name in the URL for {host}", remedy="use token_file")
        if options.token_file is not None and url.scheme == "http" and host not in LOCAL:
            raise DriverError(
                f"hook webhook: the token in {options.token_file} must not be sent in the clear", remedy="use https"
            )
        self._address = (host, port)
        self._tls = ssl.create_default_context() if url.scheme == "https" else None
        # The rest of a URL is a secret with some services, and in no message.
        self._server = f"{url.scheme}://{url.netloc}"
        self._target = (url.path or "/") + (f"?{url.query}" if url.query else "")
        self._headers = [("Host", url.netloc), ("Content-Type", "application/json"), ("Connection", "close")]
        self._turns = trio.CapacityLimiter(CONNECTIONS)
        self._authorization()  # a token that is missing is an error now, and not a warning later

    async def _post(self, event: LifecycleEvent) -> None:
        """Tell the server, which may take three attempts."""
        body = json.dumps(event.to_dict()).encode()
        problem = ""
        for pause in (*PAUSES, 0.0):
            try:
                with trio.fail_after(ATTEMPT):
                    async with self._turns:
                        status = await self._request(body)
            except trio.TooSlowError:
                problem = f"has not answered within {ATTEMPT:g} s"
            except (OSError, trio.BrokenResourceError, h11.RemoteProtocolError) as error:
                problem = f"cannot be told: {_reason(error)}"
            else:
                if 200 <= status < 300:
                    return
                problem = f"answers with status {status}"
                if status < 500 and status not in LATER:
                    break
            await trio.sleep(pause)
        raise DriverError(f"hook webhook: {self._server} {problem}")

    #: What it is told of.
    started = ready = exited = stopped = restarted = failed = _post

    async def _request(self, body: bytes) -> int:
        """The status with which the server answers, RFC 9112; no more of it is read, and no redirection followed."""
        headers = [*self._headers, *self._authorization(), ("Content-Length", str(len(body)))]
        connection = h11.Connection(h11.CLIENT)
        parts = (
            connection.send(h11.Request(method="POST", target=self._target, headers=headers)),
            connection.send(h11.Data(data=body)),
            connection.send(h11.EndOfMessage()),
        )
        stream = await self._connect()
        try:
            await stream.send_all(b"".join(part or b"" for part in parts))
            while True:
                event = connection.next_event()
                if isinstance(event, h11.Response):
                    return event.status_code
                if event is h11.NEED_DATA:
                    connection.receive_data(bytes(await stream.receive_some()))
        finally:
            await trio.aclose_forcefully(stream)

    async def _connect(self) -> trio.abc.Stream:
        if self._tls is None:
            return await trio.open_tcp_stream(*self._address)
        return await trio.open_ssl_over_tcp_stream(*self._address, ssl_context=self._tls, https_compatible=True)

    def _authorization(self) -> list[tuple[str, str]]:
        """The header with the token, if there is one."""
        path = self.options.token_file
        if path is None:
            return []
        try:
            token = Path(path).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            why = describe_errno(error.errno or 0) if isinstance(error, OSError) else "it is no text"
            raise DriverError(f"hook webhook: cannot read the token in {path}: {why}") from error
        if not re.fullmatch("[!-~]+", token):
            raise DriverError(f"hook webhook: there is no token in {path}", remedy="write it there, on a line")
        return [("Authorization", f"Bearer {token}")]


def _reason(error: BaseException) -> str:
    """What is behind an error; trio raises one for all the addresses that it has tried."""
    while cause := error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error.__cause__:
        error = cause
    return str(error) or type(error).__name__
