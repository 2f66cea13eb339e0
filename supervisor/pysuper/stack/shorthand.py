"""
The short forms in a stack's file: `8080`, `http://127.0.0.1/health`, `["CMD", "true"]`, `*/5 * * * *`.

Every function raises ValueError with one line.
"""

from __future__ import annotations

import re
import warnings
from datetime import datetime
from typing import Any

from cronsim import CronSim, CronSimError

from pysuper.stack.spec import CommandProbe, HttpProbe, LogProbe, TcpProbe
from pysuper.units import parse_whole, shown

__all__ = [
    "HTTP",
    "MAX_PORT",
    "TCP",
    "format_http",
    "format_tcp",
    "parse_cron",
    "parse_http",
    "parse_log",
    "parse_tcp",
    "parse_test",
]

_HOST = r"\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253}"
# With nothing that ECMA-262's expressions do not have, since JSON Schema shows them too.
TCP = rf"(?:({_HOST}):)?([0-9]{{1,5}})"
#: What a request may have in its first line, and no fragment, which is never sent.
HTTP = rf'http://({_HOST})(?::([0-9]{{1,5}}))?([/?][!"$-~]*)?'
MAX_PORT = 2**16 - 1
#: Characters; nobody writes more, and there are expressions that are slow to read.
_MAX_PATTERN = 4096


def parse_tcp(value: str | int) -> TcpProbe:
    """`PORT` or `HOST:PORT`; an IPv6 address is in brackets."""
    found = re.fullmatch(TCP, value.strip()) if isinstance(value, str) else None
    if isinstance(value, str) and found is None:
        raise ValueError(f"{shown(value)} is not a port or HOST:PORT, such as 8080 or 127.0.0.1:8080")
    if found is None:
        return TcpProbe(port=parse_whole(value, 1, MAX_PORT))
    port = parse_whole(found[2], 1, MAX_PORT)
    return TcpProbe(port=port, host=_bare(found[1])) if found[1] else TcpProbe(port=port)


def format_tcp(probe: TcpProbe) -> str:
    """The text of which `parse_tcp` makes this probe."""
    return f"{_bracketed(probe.host)}:{probe.port}"


def parse_http(text: str) -> HttpProbe:
    """`http://HOST[:PORT][/PATH]`."""
    found = re.fullmatch(HTTP, text.strip())
    if found is None:
        raise ValueError(f"{shown(text)} is not a URL that can be asked, such as http://127.0.0.1:8080/health")
    host, port, path = found.groups(default="")
    return HttpProbe(
        host=_bare(host),
        port=parse_whole(port or "80", 1, MAX_PORT),
        path=path if path.startswith("/") else f"/{path}",
    )


def format_http(probe: HttpProbe) -> str:
    """The text of which `parse_http` makes this probe."""
    return f"http://{_bracketed(probe.host)}:{probe.port}{probe.path}"


def _bare(host: str) -> str:
    return host.removeprefix("[").removesuffix("]")


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def parse_test(value: str | list[str]) -> CommandProbe:
    """Compose's `test`: a line for the shell, `["CMD-SHELL", LINE]`, or `["CMD", PROGRAM, ARGUMENT...]`."""
    match value:
        case str() as line:
            return CommandProbe(command=("sh", "-c", line))
        case ["CMD-SHELL", line]:
            return CommandProbe(command=("sh", "-c", line))
        case ["CMD", _, *_]:
            return CommandProbe(command=tuple(value[1:]))
    raise ValueError(f'{shown(value)} is not a command for the shell, ["CMD-SHELL", COMMAND] or ["CMD", PROGRAM, ...]')


def parse_log(text: str) -> LogProbe:
    """A regular expression, as Python has them; it is searched for in bytes."""
    if len(text) > _MAX_PATTERN:
        raise ValueError(f"the regular expression has {len(text)} characters; {_MAX_PATTERN} is the most")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # what may mean something else in the next Python
            re.compile(text.encode())
    except (re.error, ValueError, OverflowError, RecursionError, Warning) as error:
        raise ValueError(f"{shown(text)} is not a regular expression: {error}") from error
    return LogProbe(pattern=text)


def parse_cron(text: str) -> str:
    """A cron expression of five fields that is due some day."""
    example = 'a cron expression of five fields, such as "*/5 * * * *"'
    try:
        if len(text.split()) != 5:
            raise ValueError("there are five fields")
        due: Any = next(CronSim(text, datetime.now()), None)
    except (CronSimError, ValueError) as error:
        raise ValueError(f"{shown(text)} is not {example}: {error}") from error
    if due is None:
        raise ValueError(f"{shown(text)} is never due")
    return text
