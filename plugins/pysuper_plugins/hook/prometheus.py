"""
Metrics for Prometheus, of what happens to containers: in a text file, at an endpoint, or both.

The file is for node_exporter's textfile collector, and replaced as a whole, so that no reader finds half of it.
Format: https://prometheus.io/docs/instrumenting/exposition_formats/, "Text-based format".
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial

import attrs
import h11
import trio

from pysuper.drivers import Hook, LifecycleEvent
from pysuper.errors import DriverError, describe_errno

__all__ = ["PrometheusHook"]

_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
#: Name without the prefix `pysuper_container_`, type and help.
_METRICS = {
    "up": ("gauge", "Whether its command runs."),
    "ready": ("gauge", "Whether it runs and is ready."),
    "starts_total": ("counter", "Runs that were begun."),
    "restarts_total": ("counter", "Runs after which it was started again."),
    "failures_total": ("counter", "Times that it has failed for good."),
    "exits_total": ("counter", "Runs that have ended, by reason."),
    "oom_kills_total": ("counter", "Processes that were killed at memory_max."),
    "pids_max_hits_total": ("counter", "Forks that were refused at pids_max."),
    "cpu_seconds_total": ("counter", "CPU time of runs that have ended."),
    "memory_peak_bytes": ("gauge", "Memory peak of the last run that has ended."),
    "start_seconds": ("gauge", "From the beginning of the last start until it was ready."),
}


@attrs.frozen(kw_only=True)
class PrometheusOptions:
    """
    Attributes:
        listen: HOST:PORT of the endpoint, whose path is /metrics; None is no endpoint.
        file: Path of the text file; None is no file.
    """

    listen: str | None = None
    file: str | None = None


class PrometheusHook(Hook):
    """`prometheus:HOST:PORT`: starts, exits, restarts, failures, out-of-memory kills and more, for Prometheus."""

    Options = PrometheusOptions
    argument = "listen"

    def __init__(self, options: PrometheusOptions) -> None:
        super().__init__(options)
        if options.listen is None and options.file is None:
            raise DriverError("hook prometheus has nowhere to write to", remedy="set listen, file, or both")
        self._address = None if options.listen is None else _address(options.listen)
        self._containers: Mapping[str, LifecycleEvent | None] = {}
        self._values: dict[str, Counter[tuple[str, str]]] = {}
        self._begun: dict[str, float] = {}

    @asynccontextmanager
    async def host(self, containers: Mapping[str, LifecycleEvent | None]) -> AsyncIterator[None]:
        self._containers = containers
        async with trio.open_nursery() as nursery:
            if self._address is not None:
                name, port = self._address
                try:
                    await nursery.start(partial(trio.serve_tcp, self._answer, port, host=name))
                except* OSError as group:
                    error = group.exceptions[0]
                    reason = describe_errno(error.errno or 0) if isinstance(error, OSError) else str(error)
                    raise DriverError(f"hook prometheus: cannot listen at {self.options.listen}: {reason}") from error
            self._write_file()
            yield
            nursery.cancel_scope.cancel()

    # --- events ---

    async def before_create(self, event: LifecycleEvent) -> None:
        self._begun[event.container] = event.at
        self._add(event, "starts_total")
        self._write_file()

    async def started(self, event: LifecycleEvent) -> None:
        self._set(event, "up", 1)
        self._write_file()

    async def ready(self, event: LifecycleEvent) -> None:
        self._set(event, "ready", 1)
        if (begun := self._begun.pop(event.container, None)) is not None:
            self._set(event, "start_seconds", event.at - begun)
        self._write_file()

    async def exited(self, event: LifecycleEvent) -> None:
        record = event.record
        assert record is not None
        self._set(event, "up", 0)
        self._set(event, "ready", 0)
        self._add(event, "exits_total", 1, f'reason="{_escape(record.reason)}"')
        self._add(event, "oom_kills_total", record.oom_kills or 0)
        self._add(event, "pids_max_hits_total", record.pids_max_hits or 0)
        self._add(event, "cpu_seconds_total", record.user_seconds + record.system_seconds)
        if record.memory_peak is not None:
            self._set(event, "memory_peak_bytes", record.memory_peak)
        self._write_file()

    async def restarted(self, event: LifecycleEvent) -> None:
        self._add(event, "restarts_total")
        self._write_file()

    async def failed(self, event: LifecycleEvent) -> None:
        self._add(event, "failures_total")
        self._write_file()

    def _set(self, event: LifecycleEvent, metric: str, value: float) -> None:
        self._values.setdefault(event.container, Counter())[metric, ""] = value  # type: ignore[assignment]

    def _add(self, event: LifecycleEvent, metric: str, value: float = 1, label: str = "") -> None:
        self._values.setdefault(event.container, Counter())[metric, label] += value  # type: ignore[assignment]

    # --- what is read ---

    def _text(self) -> str:
        """All metrics of the containers that there are; those of others are forgotten, lest they pile up."""
        for gone in self._values.keys() - self._containers.keys():
            del self._values[gone]
        lines = []
        for metric, (kind, description) in _METRICS.items():
            lines += [f"# HELP pysuper_container_{metric} {description}", f"# TYPE pysuper_container_{metric} {kind}"]
            for container, values in sorted(self._values.items()):
                for (name, label), value in sorted(values.items()):
                    if name == metric:
                        labels = ",".join(filter(None, (f'container="{_escape(container)}"', label)))
                        lines.append(f"pysuper_container_{metric}{{{labels}}} {value:.12g}")
        return "\n".join(lines) + "\n"

    def _write_file(self) -> None:
        path = self.options.file
        if path is None:
            return
        temporary = f"{path}.{os.getpid()}.tmp"
        try:
            with open(temporary, "w") as file:
                file.write(self._text())
            os.replace(temporary, path)
        except OSError as error:
            with suppress(OSError):
                os.unlink(temporary)
            raise DriverError(f"hook prometheus: cannot write {path}: {error.strerror}") from error

    async def _answer(self, stream: trio.SocketStream) -> None:
        """One request, and its answer; whoever asks badly, or slowly, is left alone."""
        connection = h11.Connection(h11.SERVER)
        with suppress(trio.BrokenResourceError, h11.RemoteProtocolError), trio.move_on_after(self.timeout):
            while (request := connection.next_event()) is h11.NEED_DATA:
                connection.receive_data(await stream.receive_some(4096))
            if isinstance(request, h11.Request):
                found = request.target.partition(b"?")[0] == b"/metrics" and request.method in {b"GET", b"HEAD"}
                body = self._text().encode() if found else b"see /metrics\n"
                headers = [("Content-Type", _CONTENT_TYPE), ("Content-Length", str(len(body))), ("Connection", "close")]
                answer = h11.Response(status_code=200 if found else 404, headers=headers)
                parts = [answer, *([] if request.method == b"HEAD" else [h11.Data(data=body)]), h11.EndOfMessage()]
                await stream.send_all(b"".join(connection.send(part) or b"" for part in parts))


def _address(text: str) -> tuple[str, int]:
    """`HOST:PORT`; an address of IPv6 is in brackets."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise DriverError(f"hook prometheus: {text!r} is not HOST:PORT", remedy="listen = '127.0.0.1:9464'")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _escape(text: str) -> str:
    """A value of a label."""
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
