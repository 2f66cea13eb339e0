"""
`pysuper why`: the post-mortems of a stack, while it runs and afterwards.

With names, each run of these containers: how it ended, who or what ended it, what it had used of what it may, its last
words, and what followed. Without, a line for each failure. Last of all comes the first domino: what the last of these
failures goes back to.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from pysuper.errors import one_line
from pysuper.show import columns, duration, size
from pysuper.stack.commands.options import client_parser, find_project, print_json
from pysuper.stack.history import End, History, read_history

__all__ = ["why"]

_HEADER = ("TIME", "CONTAINER", "AFTER", "WHAT", "WHY")
_INDENT = "  "
#: Of the words before the colon, as in a form.
_LABEL = 9
#: What ended it, where that follows from how it ended.
_ENDED_BY = {
    "oom": "the kernel, at its memory limit",
    "timeout": "its timeout",
    "unhealthy": "its health check",
    "not-ready": "its readiness check",
    "start-failed": "nobody; it did not start",
    "stuck": "the kernel, which does not let go of it",
}
#: What the kernel sends to a process that has done something impossible; signal(7).
_FAULTS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT, signal.SIGTRAP, signal.SIGSYS}
#: What exit codes mean by convention.
_SHELL = {126: "a shell found the command, but could not execute it", 127: "a shell did not find the command"}


def why(argv: Sequence[str], prog: str, summary: str) -> int:
    """The command."""
    parser = client_parser(
        prog, f"{summary} With names, every run of these containers; without, what has failed in the stack."
    )
    arguments = parser.parse(argv, intermixed=True)
    project = find_project(arguments)
    history = read_history(project.state)
    ends = history.of(arguments.rest)
    if not arguments.rest:
        ends = [end for end in ends if end.failed]
    last = next((end for end in reversed(ends) if end.failed), None)
    chain = [] if last is None else history.chain(last)
    if arguments.json:
        print_json(
            {"ends": [_plain(history, end) for end in ends], "dominoes": [_plain(history, end) for end in chain]}
        )
        return 0
    if not ends:
        names = ", ".join(arguments.rest)
        print(f"no run of {names} has ended yet" if names else f"nothing has failed in the stack {project.name}")
    elif arguments.rest:
        for end in ends:
            print(*_report(history, end), "", sep="\n")
    else:
        print(*columns([_HEADER, *(_row(history, end) for end in ends)]), "", sep="\n")
    if chain:
        print(*_dominoes(chain), sep="\n")
    return 0


def _plain(history: History, end: End) -> dict[str, Any]:
    """An end as JSON has it: its record, and what it hangs together with."""
    chain = history.chain(end)
    return {
        **end.record,
        "failed": end.failed,
        "then": end.then,
        "first_domino": _name(chain[0]),
        "effects": [_name(effect) for effect in history.effects(end)],
    }


def _name(end: End) -> dict[str, Any]:
    return {"container": end.container, "run": end.run if end.ran else None}


def _dominoes(chain: Sequence[End]) -> Iterator[str]:
    first, *others = chain
    yield one_line(f"First domino: {first.title}: {first.summary}")
    for end in others:
        yield one_line(f"{_INDENT}then {end.title}: {end.summary}")


# --- a line for each ---


def _row(history: History, end: End) -> tuple[str, ...]:
    chain = history.chain(end)
    return (
        _time(end.record["time"]),
        end.title,
        duration(end.record["record"]["wall_seconds"]) if end.ran else "-",
        end.summary,
        f"because of {chain[-2].title}" if len(chain) > 1 else _last_words(end),
    )


def _last_words(end: End) -> str:
    """Why, as far as that is to be seen in a line."""
    log = end.record.get("log") or [""]
    return str(end.record.get("detail") or (log[-1] and f"said: {log[-1]}"))


# --- all about one ---


def _report(history: History, end: End) -> list[str]:
    """What is known of an end, in lines."""
    lines = [f"{end.title}: {end.summary}"]
    for label, texts in _facts(history, end):
        for number, text in enumerate(texts):
            lines.append(f"{_INDENT}{'' if number else label:{_LABEL}} {text}")
    return [one_line(line) for line in lines]


def _facts(history: History, end: End) -> Iterator[tuple[str, Sequence[str]]]:
    """What is said of it, one thing each, in the order in which one would ask."""
    yield "when", [_when(end)]
    yield "ended by", [_ended_by(history, end)]
    if detail := end.record.get("detail"):
        yield "detail", [detail]
    if end.ran:
        result, limits = end.record["record"], end.record["limits"]
        yield "perhaps", _meaning(result)
        yield "memory", _memory(result, limits)
        yield "processes", _processes(result, limits)
        yield "cpu", [_cpu(result, limits)]
        yield "said", [f"| {text}" for text in end.record["log"]]
    yield "then", _then(history, end)


def _when(end: End) -> str:
    if not end.ran:
        return _time(end.record["time"])
    return f"{_time(end.record['time'])}, after {duration(end.record['record']['wall_seconds'])}"


def _ended_by(history: History, end: End) -> str:
    because = end.because
    match because.get("by"):
        case "operator":
            return f"the operator ({because['who']})"
        case "reload":
            return "a reload: it has changed in the file, or is not there any more"
        case "stack" if "container" not in because:
            return "the end of the stack"
        case None:
            return _ended_alone(end.record["record"])
    cause = f"{because['container']}, run {because['run']}" if because.get("run") else because["container"]
    how = {
        "dependency": "which it depends on",
        "strategy": "by the stack's strategy",
        "stack": "with which the stack ends",
    }
    chain = history.chain(end)
    summary = f": {chain[-2].summary}" if len(chain) > 1 else ""
    return f"{cause}, {how.get(because['by'], because['by'])}{summary}"


def _ended_alone(result: Mapping[str, Any]) -> str:
    if result["reason"] != "signaled":
        return _ENDED_BY.get(result["reason"], "itself")
    if result["signal"] in _FAULTS:
        return "itself: that is a fault of the program"
    if result["signal"] == signal.SIGKILL:
        return "a signal that pysuper did not send: from somebody else, or because the machine was out of memory"
    return "a signal that pysuper did not send"


def _meaning(result: Mapping[str, Any]) -> list[str]:
    """What an exit code says to who knows shells."""
    code = result["exit_code"] if result["reason"] == "exited" else None
    if code in _SHELL:
        return [_SHELL[code]]
    if code is not None and code - 128 in iter(signal.Signals):
        return [f"a shell whose command was ended by {signal.Signals(code - 128).name}"]
    return []


def _memory(result: Mapping[str, Any], limits: Mapping[str, Any]) -> list[str]:
    peak, limit, kills = result["memory_peak"], limits.get("memory_max"), result["oom_kills"]
    if peak is None:
        return []
    share = f" of {size(limit)} ({peak / limit:.0%})" if limit else ", without a limit"
    killed = f"; {_count(kills, 'process', 'processes')} killed for it" if kills else ""
    return [f"{size(peak)} at most{share}{killed}"]


def _processes(result: Mapping[str, Any], limits: Mapping[str, Any]) -> list[str]:
    limit, hits = limits.get("pids_max"), result["pids_max_hits"]
    allowed = f"{limit} allowed" if limit and limit > 0 else ""
    refused = f"{_count(hits, 'fork', 'forks')} refused" if hits else ""
    return [", ".join(filter(None, (allowed, refused)))] if allowed or refused else []


def _cpu(result: Mapping[str, Any], limits: Mapping[str, Any]) -> str:
    seconds = result["user_seconds"] + result["system_seconds"]
    limit = f", {limits['cpu_max']:g} cores allowed" if limits.get("cpu_max") else ""
    share = f" ({seconds / result['wall_seconds']:.0%} of a core)" if result["wall_seconds"] else ""
    return f"{duration(seconds)}{share}{limit}"


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


def _then(history: History, end: End) -> list[str]:
    """What followed: for itself, and for others."""
    found = [] if end.then is None else [_next(end, end.then)]
    found += [f"{effect.title}: {effect.summary}" for effect in history.effects(end)]
    return found


def _next(end: End, then: Mapping[str, Any]) -> str:
    match then:
        case {"kind": "restarting", "delay": delay}:
            return f"restarted after {duration(delay)}"
        case {"kind": "waiting" | "starting"}:
            return "started again"
        case {"kind": "scheduled"}:
            return "it runs again when it is due"
        case {"kind": "completed"}:
            return "its work is done"
    detail = then.get("detail")
    # A detail that says how it ended would say it a second time.
    return "it stays down" + (f": {detail}" if detail and detail not in (end.summary, end.record.get("detail")) else "")


def _time(text: str) -> str:
    """The time of a record, as the clock on the wall has it."""
    return f"{datetime.fromisoformat(text).astimezone():%Y-%m-%d %H:%M:%S}"
