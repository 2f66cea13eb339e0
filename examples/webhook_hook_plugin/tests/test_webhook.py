"""The hook with real containers, and a server that does what the test wants."""

from __future__ import annotations

import json
import shutil
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import h11
import pytest
import trio

import pysuper
import pysuper_webhook
from pysuper.errors import DriverError
from pysuper.testing import HookTests

TOLD = ["started", "ready", "exited", "stopped"]


@attrs.define
class Server:
    """
    A server on this machine.

    Attributes:
        answers: The statuses of the next answers; 204 when there are no more. None is none until `released`.
        headers: Of its answers.
        told: Called with each event.
        requests: What it was sent.
        bodies: The events in it.
    """

    port: int
    answers: list[int | None] = attrs.field(factory=list)
    released: trio.Event = attrs.field(factory=trio.Event)
    headers: list[tuple[str, str]] = attrs.field(factory=list)
    told: Callable[[dict[str, Any]], object] = lambda event: None
    requests: list[h11.Request] = attrs.field(factory=list)
    bodies: list[dict[str, Any]] = attrs.field(factory=list)

    def url(self, scheme: str = "http") -> str:
        return f"{scheme}://localhost:{self.port}/hooks/secret?a=b"

    @property
    def kinds(self) -> list[str]:
        return [body["kind"] for body in self.bodies]

    async def serve(self, stream: trio.abc.Stream) -> None:
        """Answer one request."""
        connection, body = h11.Connection(h11.SERVER), b""
        async with stream:
            try:
                while not isinstance(event := connection.next_event(), h11.EndOfMessage):
                    if isinstance(event, h11.ConnectionClosed):
                        return
                    if event is h11.NEED_DATA:
                        connection.receive_data(bytes(await stream.receive_some()))
                    elif isinstance(event, h11.Request):
                        self.requests.append(event)
                    elif isinstance(event, h11.Data):
                        body += event.data
            except (h11.RemoteProtocolError, trio.BrokenResourceError):
                return  # it has thought better of it
            self.bodies.append(json.loads(body))
            self.told(self.bodies[-1])
            answer = self.answers.pop(0) if self.answers else 204
            if answer is None:
                await self.released.wait()
            status = connection.send(h11.Response(status_code=answer or 204, headers=self.headers))
            await stream.send_all(status or b"")


@pytest.fixture
async def server(nursery: trio.Nursery) -> Server:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    made = Server(listener.socket.getsockname()[1])
    nursery.start_soon(partial(trio.serve_listeners, made.serve, [listener]))
    return made


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is told again is told again at once."""
    monkeypatch.setattr(pysuper_webhook, "PAUSES", (0.01, 0.01))


Run = Callable[..., Any]


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def run(warnings: list[str]) -> Run:
    """Run a container that is told of to a URL."""

    async def run(url: str, script: str = "true", **options: Any) -> None:
        choice = pysuper.DriverChoice("webhook", options, argument=url)
        async with pysuper.open_supervisor(hooks=[choice], warn=warnings.append) as supervisor:
            spec = pysuper.ContainerSpec(name="web", command=("sh", "-c", script))
            await (await supervisor.start(spec)).wait()

    return run


async def test_a_server_is_told_in_order(server: Server, run: Run, warnings: list[str]) -> None:
    await run(server.url(), "exit 3")
    assert server.kinds == ["started", "ready", "exited", "failed"]
    assert {(body["container"], body["id"]) for body in server.bodies} == {("web", server.bodies[0]["id"])}
    assert server.bodies[2]["record"]["exit_code"] == 3
    assert server.bodies[3]["detail"] == "exited with 3"
    assert warnings == []


async def test_it_is_an_ordinary_request(server: Server, run: Run) -> None:
    await run(server.url())
    request = server.requests[0]
    headers = dict(request.headers)
    assert (request.method, request.target) == (b"POST", b"/hooks/secret?a=b")
    assert headers[b"host"] == f"localhost:{server.port}".encode()
    assert headers[b"content-type"] == b"application/json"
    assert b"authorization" not in headers


@pytest.mark.parametrize("answer", [500, 503, 429])
async def test_what_may_work_later_is_told_again(server: Server, run: Run, warnings: list[str], answer: int) -> None:
    server.answers = [answer, answer]
    await run(server.url())
    assert server.kinds == ["started", "started", *TOLD]
    assert warnings == []


async def test_after_three_attempts_it_is_a_warning(server: Server, run: Run, warnings: list[str]) -> None:
    server.answers = [500, 500, 500]
    await run(server.url())
    assert server.kinds == ["started", "started", *TOLD]
    assert warnings == [f"hook webhook: http://localhost:{server.port} answers with status 500"]


@pytest.mark.parametrize("answer", [400, 404, 301])
async def test_what_will_not_work_is_not_told_again(server: Server, run: Run, warnings: list[str], answer: int) -> None:
    server.answers = [answer]
    server.headers = [("Location", f"http://localhost:{server.port}/elsewhere")]
    await run(server.url())
    assert server.kinds == TOLD
    assert {request.target for request in server.requests} == {b"/hooks/secret?a=b"}
    assert warnings == [f"hook webhook: http://localhost:{server.port} answers with status {answer}"]


async def test_a_server_that_does_not_answer_holds_up_nobody(server: Server, warnings: list[str]) -> None:
    """The container runs to its end while the first request is not answered."""
    server.answers = [None]
    hook = pysuper.DriverChoice("webhook", argument=server.url())
    async with pysuper.open_supervisor(hooks=[hook], warn=warnings.append) as supervisor:
        container = await supervisor.start(pysuper.ContainerSpec(name="web", command=("true",)))
        await container.wait()
        assert server.kinds in ([], ["started"])
        server.released.set()
    assert server.kinds == TOLD
    assert warnings == []


async def test_attempts_are_bounded(
    server: Server, run: Run, warnings: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pysuper_webhook, "ATTEMPT", 0.2)
    server.answers = [None, None, None]
    await run(server.url())
    assert warnings == [f"hook webhook: http://localhost:{server.port} has not answered within 0.2 s"]


async def test_no_server_is_a_warning(run: Run, warnings: list[str]) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    await run(f"http://127.0.0.1:{port}/secret")
    why = f"[Errno 111] Error connecting to ('127.0.0.1', {port}): Connection refused"
    assert warnings == [f"hook webhook: http://127.0.0.1:{port} cannot be told: {why}"] * 4


async def test_no_http_server_is_a_warning(nursery: trio.Nursery, run: Run, warnings: list[str]) -> None:
    async def answer(stream: trio.SocketStream) -> None:
        await stream.send_all(b"220 this is no web server\r\n\r\n")
        await stream.aclose()

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(trio.serve_listeners, answer, [listener])
    await run(f"http://127.0.0.1:{listener.socket.getsockname()[1]}/")
    assert len(warnings) == 4
    assert "cannot be told: " in warnings[0]


async def test_connections_are_bounded(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pysuper_webhook, "ATTEMPT", 60.0)
    monkeypatch.setattr(pysuper_webhook.WebhookHook, "timeout", 60.0)
    server.answers = [None] * 12
    hook = pysuper.DriverChoice("webhook", argument=server.url())
    async with pysuper.open_supervisor(hooks=[hook]) as supervisor:
        for number in range(12):
            await supervisor.start(pysuper.ContainerSpec(name=f"web-{number}", command=("sleep", "100")))
        with trio.fail_after(30):
            while len(server.bodies) < 8:
                await trio.sleep(0.01)
        await trio.sleep(0.1)
        assert len(server.bodies) == 8
        server.released.set()
    assert len(server.bodies) == 12 * len(TOLD)


#: A server that takes whatever it is told, in a process of its own: its descriptors are nobody else's.
LISTENER = """
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Listener(BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *arguments):
        pass

server = ThreadingHTTPServer(("127.0.0.1", 0), Listener)
print(server.server_port, flush=True)
server.serve_forever()
"""


class TestWebhook(HookTests):
    """What every hook has to keep."""

    wrong = ("webhook:ops.example.org", {"url": "http://ops.example.org/", "token_file": "/etc/hostname"})

    @pytest.fixture(autouse=True)
    def _chosen(self) -> Iterator[None]:
        with subprocess.Popen([sys.executable, "-c", LISTENER], stdout=subprocess.PIPE, text=True) as listener:
            assert listener.stdout is not None
            self.driver = f"webhook:http://127.0.0.1:{listener.stdout.readline().strip()}/"
            yield
            listener.kill()


# --- the token ---


async def test_a_token_is_sent_and_read_anew_each_time(server: Server, run: Run, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("first\n")
    server.told = lambda event: (tmp_path / "token").write_text("second\n")
    await run(server.url(), token_file=str(tmp_path / "token"))
    sent = [dict(request.headers)[b"authorization"] for request in server.requests]
    assert (sent[0], sent[-1]) == (b"Bearer first", b"Bearer second")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"cannot read the token in .*/token: ENOENT \(No such file or directory\)"),
        (b"", r"there is no token in .*/token; write it there"),
        (b"two words", r"there is no token"),
        (b"a\r\nX-Evil: b", r"there is no token"),
        (b"\xff\xfe", r"it is no text"),
    ],
)
async def test_a_token_that_is_none_is_an_error_at_once(
    server: Server, run: Run, tmp_path: Path, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "token").write_bytes(content)
    with pytest.raises(DriverError, match=message):
        await run(server.url(), token_file=str(tmp_path / "token"))
    assert server.requests == []


async def test_a_token_is_not_sent_in_the_clear(run: Run, tmp_path: Path) -> None:
    with pytest.raises(DriverError, match="must not be sent in the clear; use https"):
        await run("http://ops.example.org/", token_file=str(tmp_path / "token"))


# --- https ---


@pytest.fixture
async def secure(nursery: trio.Nursery, tmp_path: Path) -> Server:
    """A server with a certificate of an authority that nobody knows."""
    if shutil.which("openssl") is None:
        pytest.skip("makes a certificate with openssl")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", "key.pem", "-out", "certificate.pem"]
    await trio.run_process(command, cwd=tmp_path, capture_stderr=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "certificate.pem", tmp_path / "key.pem")
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    made = Server(listener.socket.getsockname()[1])

    async def serve(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError):  # the client does not trust it
            await made.serve(trio.SSLStream(stream, context, server_side=True, https_compatible=True))

    nursery.start_soon(trio.serve_listeners, serve, [listener])
    return made


async def test_a_certificate_of_a_known_authority_is_accepted(
    secure: Server, run: Run, warnings: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("secret")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "certificate.pem"))
    await run(secure.url("https"), token_file=str(tmp_path / "token"))
    assert (secure.kinds, warnings) == (TOLD, [])
    assert dict(secure.requests[0].headers)[b"authorization"] == b"Bearer secret"


async def test_nothing_is_sent_to_an_unknown_authority(secure: Server, run: Run, warnings: list[str]) -> None:
    await run(secure.url("https"))
    assert secure.requests == []
    assert len(warnings) == 4
    assert "certificate verify failed" in warnings[0]


# --- the URL ---


@pytest.mark.parametrize(
    "url",
    [
        *("", "ops.example.org", "ftp://ops.example.org/", "http://", "https:///x", "http://h:port/", "http://[::1/"),
        *("http://h/a b", "http://h/\n", "http://h/\N{SNOWMAN}"),
    ],
)
async def test_what_is_no_url_is_an_error(run: Run, url: str) -> None:
    with pytest.raises(DriverError, match=r"is no URL of a web server; write one such as https://") as caught:
        await run(url)
    assert repr(url) in str(caught.value)


@pytest.mark.parametrize("url", ["http://user:password@h/", "http://user@h/", "http://@h/"])
async def test_a_user_in_the_url_is_an_error_that_does_not_show_it(run: Run, url: str) -> None:
    with pytest.raises(DriverError, match=r"a user name in the URL for h; use token_file$"):
        await run(url)
