"""
The native launcher: the program in `native/`, which was compiled when pysuper was installed.

It does and says the same as the Python launcher. Its requests have the form that is read fastest in C:

    packet      verb, and what belongs to it: "L" a plan, "M" nothing (the plan is a file), "A" nothing (adopt),
                "R" and "F" traces (remember, forget)
    text        its length in bytes (32 bits), itself, NUL; of an optional text that is None the length is 2**32 - 1
    texts       how many (32 bits), each of them
    integer     64 bits
    flag        a byte
    step        the position of its name among those of all steps (a byte), its fields in order

All of it in the byte order of the machine, and without padding.
"""

from __future__ import annotations

import functools
import operator
import os
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from pysuper import steps
from pysuper.drivers import Detection
from pysuper.errors import LaunchError
from pysuper.launcher import wire
from pysuper.launcher.client import CONTROL, ProcessLauncher, spawn
from pysuper.launcher.program import safe_program
from pysuper.plan import IdMap, Plan

_SOURCES = Path(__file__).with_name("native")
_PROGRAM = _SOURCES / "pysuper-launcher"
#: As long as its title, which it takes once it is sealed.
_ITS_NAME = "pysuper-starting"
_REMEDY = "install pysuper as root, or use the Python launcher"

_NONE = b"\xff\xff\xff\xff"
_LENGTH = struct.Struct("=I").pack
_INTEGER = struct.Struct("=Q").pack
_FLAG = (b"\0", b"\1")


class NativeLauncher(ProcessLauncher):
    """A small program in C as the launcher process, and as the init of containers."""

    @classmethod
    def detect(cls) -> Detection:
        """See `Launcher.detect`."""
        try:
            built = _PROGRAM.stat().st_mtime
        except OSError:
            return Detection(False, "it is not built: there was no C compiler when pysuper was installed, or it failed")
        # Where they are installed with it, they are being worked on.
        if any(source.stat().st_mtime > built for source in _SOURCES.glob("*.[ch]")):
            return Detection(False, "it is older than its sources: install pysuper again")
        if not os.access(_PROGRAM, os.X_OK):
            return Detection(False, f"{_PROGRAM} cannot be executed")
        return Detection(True)

    def _spawn(self, control: int) -> int:
        try:
            with safe_program(str(_PROGRAM), _REMEDY) as (program, environment):
                return spawn(program, [_ITS_NAME, str(CONTROL)], environment, control)
        except OSError as error:
            message = f"could not execute {_PROGRAM}: {error.strerror}"
            raise LaunchError(message, errno=error.errno, remedy=_REMEDY) from error

    def _encode(self, message: dict[str, Any]) -> bytes:
        if "adopt" in message:
            return b"A"
        ((verb, traces),) = message.items()
        parts = [b"R" if verb == "remember" else b"F", _LENGTH(len(traces))]
        for kind, path in traces:
            parts += (_text(kind), _text(path))
        return b"".join(parts)

    def _encode_plan(self, plan: Plan, files: Sequence[int], namespaces: Sequence[str]) -> tuple[bytes, bytes | None]:
        content = plan.once(("encoded", *files, *namespaces), lambda: encode(plan, files, namespaces))
        return (b"L" + content, None) if len(content) < wire.MAX_PACKET else (b"M", content)


# --- a plan in bytes ---


def encode(plan: Plan, files: Sequence[int], namespaces: Sequence[str]) -> bytes:
    """A plan, and what descriptors come with it: numbers of files, kinds of namespaces."""
    parts = [_LENGTH(len(files)), *map(_integer, files), _texts(namespaces), _texts(plan.clone)]
    if plan.holder is None:
        parts.append(b"\0")
    else:
        parts += (b"\1", _texts(plan.holder.namespaces), _ids(plan.holder.ids))
    parts.append(b"\0" if plan.ids is None else b"\1" + _ids(plan.ids))
    parts += (_optional(plan.cgroup), _FLAG[plan.trace])
    command = plan.command
    if command is None:
        parts.append(b"\0")
    else:
        environment = [f"{name}={value}" for name, value in command.environment.items()]
        parts += (b"\1", _texts(command.argv), _texts(environment), _text(command.working_dir))
        parts += (_FLAG[command.init], _FLAG[command.terminal])
    parts.append(_LENGTH(len(plan.steps)))
    parts += [_CODES[type(step)](step) for step in plan.steps]
    return b"".join(parts)


@functools.lru_cache(4096)
def _text(value: str) -> bytes:  # of which nearly all are in the next plan, too
    encoded = value.encode("utf-8", "surrogateescape")  # as os.fsencode does where the locale is UTF-8
    return b"%b%b\0" % (_LENGTH(len(encoded)), encoded)


def _optional(value: str | None) -> bytes:
    return _NONE if value is None else _text(value)


def _texts(values: Iterable[str]) -> bytes:
    encoded = [_text(value) for value in values]
    return _LENGTH(len(encoded)) + b"".join(encoded)


def _integer(value: int) -> bytes:
    return _INTEGER(value & 0xFFFF_FFFF_FFFF_FFFF)


def _flag(value: bool) -> bytes:
    return _FLAG[value]


def _arguments(values: Iterable[int | str]) -> bytes:
    encoded = [b"\1" + _text(value) if isinstance(value, str) else b"\0" + _integer(value) for value in values]
    return _LENGTH(len(encoded)) + b"".join(encoded)


def _options(values: Mapping[str, str | None]) -> bytes:
    return _LENGTH(len(values)) + b"".join(_text(key) + _optional(value) for key, value in values.items())


def _ids(ids: IdMap) -> bytes:
    parts = [_FLAG[ids.privileged], _FLAG[ids.helped]]
    for lines in (ids.uids, ids.gids):
        parts.append(_LENGTH(len(lines)))
        parts += [_integer(number) for line in lines for number in line]
    return b"".join(parts)


#: What a field is for C, and how it is written, by its type.
_ENCODERS: dict[str, tuple[str, Callable[[Any], bytes]]] = {
    "str": ("text", _text),
    "str | None": ("optional", _optional),
    "int": ("integer", _integer),
    "bool": ("flag", _flag),
    "tuple[str, ...]": ("texts", _texts),
    "tuple[int | str, ...]": ("arguments", _arguments),
    "Mapping[str, str | None]": ("options", _options),
}


def signature(step: type[steps.Step]) -> str:
    """The name of a step and its fields, as `pysuper-launcher --steps` prints them."""
    fields = [f"{field.name}:{_ENCODERS[str(field.type)][0]}" for field in attrs.fields(step)]
    return " ".join([steps.wire_name(step), *fields])


def _encoder(number: int, step: type[steps.Step]) -> Callable[[Any], bytes]:
    """What writes steps of a class, of which there are sixty in a plan."""
    code, fields = bytes([number]), attrs.fields(step)
    encoders = [_ENCODERS[str(field.type)][1] for field in fields]
    if not fields:
        return lambda step: code
    values = operator.attrgetter(*(field.name for field in fields))
    if len(fields) == 1:
        return lambda step: code + encoders[0](values(step))
    return lambda step: code + b"".join([encode(value) for encode, value in zip(encoders, values(step), strict=True)])


_CODES = {
    step: _encoder(number, step) for number, step in enumerate(sorted(steps.CLASSES.values(), key=steps.wire_name))
}
