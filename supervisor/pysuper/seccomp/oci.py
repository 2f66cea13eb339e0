"""
Reads profiles from JSON files: those of the OCI runtime specification, and docker's, which have more.

Sources: runtime-spec, config-linux.md, "Seccomp"; for what docker and runc make of a file, github.com/moby/profiles,
seccomp/seccomp_linux.go, and github.com/opencontainers/runc, libcontainer/seccomp.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import attrs

from pysuper.capabilities import NAMES as CAPABILITIES
from pysuper.errors import ConfigError
from pysuper.seccomp.calls import ELSEWHERE, NUMBERS
from pysuper.seccomp.profile import Action, Condition, Operator, Profile, Rule, Verdict
from pysuper.shorthand import did_you_mean
from pysuper.tables import FileErrors, Invalid, Key, Parser, list_of, string, table
from pysuper.units import parse_whole, shown, shown_path

__all__ = ["Machine", "from_oci", "read_profile"]

#: Characters of a file; docker's has 15,000.
_MOST_TEXT = 2**20
#: MAX_ERRNO of linux/err.h, and what is left of the return value of a filter.
_MAX_ERRNO, _MAX_DATA = 4095, 0xFFFF

_ACTIONS = {"SCMP_ACT_KILL": Action.KILL_THREAD, **{f"SCMP_ACT_{action.name}": action for action in Action}}
_NOTIFY = "SCMP_ACT_NOTIFY"
_OPERATORS = {operator.value: operator for operator in Operator}
_CALLS = ELSEWHERE.union(*NUMBERS.values())
#: What docker calls an architecture in `arches`: as Go does.
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
#: Flags that are not needed: this process has one thread, nobody is notified, and the mitigation that SPEC_ALLOW turns
#: off is off since Linux 5.16, unless the administrator wants it on.
_IDLE_FLAGS = tuple(f"SECCOMP_FILTER_FLAG_{name}" for name in ("TSYNC", "SPEC_ALLOW", "WAIT_KILLABLE_RECV"))


@attrs.frozen
class Machine:
    """For which a file is read, since rules may depend on it: the architecture as uname(2) calls it, and Linux 6.12."""

    architecture: str
    kernel: tuple[int, int]

    @classmethod
    def this(cls) -> Machine:
        """On which this process runs."""
        system = os.uname()
        return cls(system.machine, _version(system.release))


def read_profile(path: str, capabilities: tuple[str, ...], machine: Machine) -> Profile:
    """
    The profile in a file; see `from_oci`.

    Raises:
        ConfigError: It cannot be read, or is wrong.
    """
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(_MOST_TEXT + 1)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8: {error.reason} at byte {error.start}") from error
    if len(text) > _MOST_TEXT:
        raise ConfigError(f"{path}: has more than {_MOST_TEXT} characters")
    return from_oci(text, capabilities, machine, source=path)


def from_oci(text: str, capabilities: tuple[str, ...], machine: Machine, *, source: str = "profile") -> Profile:
    """
    The profile that a JSON text describes.

    Args:
        capabilities: That the container keeps, without `CAP_`.
        source: Where the text is from, for messages.

    Raises:
        FileErrors: All that is wrong, each with its place.
    """
    try:
        # To Go, whose files these are, null is the same as nothing.
        document = json.loads(text, object_hook=lambda fields: {k: v for k, v in fields.items() if v is not None})
        return _profile(_DOCUMENT(document), capabilities, machine)
    except json.JSONDecodeError as error:
        raise FileErrors([f"{source}:{error.lineno}: {error.msg}"]) from error
    except RecursionError:
        raise FileErrors([f"{source}: nested too deeply"]) from None
    except ValueError as error:
        raise FileErrors([f"{source}: {error}"]) from error
    except Invalid as invalid:
        errors = (f"{shown_path(keys)}: {what}" if keys else what for keys, what in invalid.errors)
        raise FileErrors(f"{source}: {error}" for error in errors) from None


@attrs.frozen(kw_only=True)
class _Circumstances:
    """What `includes` and `excludes` of docker's files are about."""

    caps: tuple[str, ...] = ()
    arches: tuple[str, ...] = ()
    min_kernel: tuple[int, int] | None = None

    def hold(self, capabilities: tuple[str, ...], machine: Machine) -> Iterator[bool]:
        """Whether each of them does."""
        for capability in self.caps:
            yield capability in capabilities
        if self.arches:
            yield _ARCHITECTURES[machine.architecture] in self.arches
        if self.min_kernel is not None:
            yield machine.kernel >= self.min_kernel


@attrs.frozen(kw_only=True)
class _Entry:
    """One of `syscalls`."""

    names: tuple[str, ...]
    verdict: Verdict
    conditions: tuple[Condition, ...] = ()
    includes: _Circumstances = _Circumstances()
    excludes: _Circumstances = _Circumstances()

    def applies(self, capabilities: tuple[str, ...], machine: Machine) -> bool:
        """Whether it is meant for this container on this machine."""
        included = all(self.includes.hold(capabilities, machine))
        return included and not any(self.excludes.hold(capabilities, machine))

    def rules(self) -> Iterator[Rule]:
        """What it says. runc takes conditions for alternatives if there are several of one argument."""
        indexes = [condition.index for condition in self.conditions]
        if len(set(indexes)) == len(indexes):
            yield Rule(self.names, self.verdict, self.conditions)
        else:
            yield from (Rule(self.names, self.verdict, (condition,)) for condition in self.conditions)


def _profile(document: Mapping[str, Any], capabilities: tuple[str, ...], machine: Machine) -> Profile:
    default: Verdict = document["default"]
    rules: list[Rule] = []
    unknown: dict[str, None] = {}
    for place, entry in enumerate(document.get("syscalls", ())):
        if entry.applies(capabilities, machine):
            missing = [name for name in entry.names if name not in _CALLS]
            if missing and default.permissive and not entry.verdict.permissive:
                known = did_you_mean(missing[0], _CALLS)
                what = f"there is no system call {shown(missing[0])} that could be refused; {known}"
                raise Invalid([(("syscalls", place), what)])
            unknown |= dict.fromkeys(missing)
            rules += entry.rules()
    return Profile(default=default, rules=tuple(rules), architectures=(machine.architecture,), unknown=tuple(unknown))


# --- values ---


def _word_of(words: Mapping[str, Any], description: str) -> Parser:
    def read(value: Any) -> Any:
        if value not in words:
            raise ValueError(f"{shown(value)} is not {description}; {did_you_mean(value, words)}")
        return words[value]

    return string.then(read)


def _number(most: int) -> Parser:
    return Parser(lambda value: parse_whole(value, 0, most), {"type": "integer", "minimum": 0, "maximum": most})


def _version(text: str) -> tuple[int, int]:
    found = re.match(r"([0-9]{1,5})\.([0-9]{1,5})", text)
    if not found:
        raise ValueError(f"{shown(text)} is not a version of Linux, such as 4.8")
    return int(found[1]), int(found[2])


def _action(name: str) -> Action:
    if name == _NOTIFY:
        raise ValueError(f"{name} needs an agent that is notified, and there is none; use SCMP_ACT_ERRNO")
    action: Action = _word_of(_ACTIONS, "an action")(name)
    return action


def _verdict(action: Action, number: int | None) -> Verdict:
    if action not in (Action.ERRNO, Action.TRACE):
        if number is not None:
            raise ValueError(f"SCMP_ACT_{action.name} has no errno")
        return Verdict(action)
    if action is Action.ERRNO and number is not None and number > _MAX_ERRNO:
        raise ValueError(f"{number} is not an errno: {_MAX_ERRNO} is the highest")
    return Verdict(action, errno.EPERM if number is None else number)


def _flag(name: str) -> str:
    if name not in _IDLE_FLAGS:
        raise ValueError(f"{shown(name)} is not supported")
    return name


def _agent(_: Any) -> Any:
    raise ValueError("nobody is notified of calls here")


def _capability(name: str) -> str:
    bare = name.removeprefix("CAP_")
    if bare not in CAPABILITIES:
        raise ValueError(f"there is no capability {shown(name)}; {did_you_mean(bare, CAPABILITIES)}")
    return bare


# --- objects ---


def _object(parsers: Mapping[str, Parser], **rules: Iterable[str]) -> Parser:
    """Without explanations, since no schema is made of it; keys in which people explain something are known, too."""
    known = {**parsers, "comment": string}
    return table({name: Key(parse, doc="") for name, parse in known.items()}, **rules)


def _condition(given: Mapping[str, Any]) -> Condition:
    return Condition(given["index"], given["op"], given["value"], given.get("valueTwo", 0))


def _circumstances(given: Mapping[str, Any]) -> _Circumstances:
    return _Circumstances(
        caps=tuple(given.get("caps", ())),
        arches=tuple(given.get("arches", ())),
        min_kernel=given.get("minKernel"),
    )


def _entry(given: Mapping[str, Any]) -> _Entry:
    return _Entry(
        names=(given["name"],) if "name" in given else tuple(given["names"]),
        verdict=_verdict(given["action"], given.get("errnoRet")),
        conditions=tuple(given.get("args", ())),
        **{key: given[key] for key in ("includes", "excludes") if key in given},
    )


def _document(given: Mapping[str, Any]) -> Mapping[str, Any]:
    if "architectures" in given and "archMap" in given:
        raise ValueError("has architectures and archMap, of which there can be only one")
    return {**given, "default": _verdict(given["defaultAction"], given.get("defaultErrnoRet"))}


_STRINGS = list_of(string, "a list of strings")
_ACTION = string.then(_action)
_CONDITION = _object(
    {
        "index": _number(5),
        "op": _word_of(_OPERATORS, "an operator"),
        "value": _number(2**64 - 1),
        "valueTwo": _number(2**64 - 1),
    },
    required=("index", "op", "value"),
).then(_condition)
_CIRCUMSTANCES = _object(
    {
        "arches": _STRINGS,
        "caps": list_of(string.then(_capability), "a list of capabilities"),
        "minKernel": string.then(_version),
    }
).then(_circumstances)
_ENTRY = _object(
    {
        "action": _ACTION,
        "args": list_of(_CONDITION, "a list of conditions"),
        "errno": string,  # containers-common says with it what errnoRet is
        "errnoRet": _number(_MAX_DATA),
        "excludes": _CIRCUMSTANCES,
        "includes": _CIRCUMSTANCES,
        "name": string,
        "names": _STRINGS,
    },
    required=("action",),
    one_of=("name", "names"),
).then(_entry)
_DOCUMENT = _object(
    {
        # What other architectures may do is for them to say: their programs do not run under our filters.
        "archMap": list_of(_object({"architecture": string, "subArchitectures": _STRINGS}), "a list of architectures"),
        "architectures": _STRINGS,
        "defaultAction": _ACTION,
        "defaultErrno": string,
        "defaultErrnoRet": _number(_MAX_DATA),
        "flags": list_of(string.then(_flag), "a list of flags"),
        "listenerMetadata": string.then(_agent),
        "listenerPath": string.then(_agent),
        "syscalls": list_of(_ENTRY, "a list of rules"),
    },
    required=("defaultAction",),
).then(_document)
