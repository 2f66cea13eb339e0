"""
One command in a container, once: the whole time, the time to its first instruction, and from its last one to knowledge.
"""

from __future__ import annotations

import sys

import attrs

from bench.measure import Failed, rotated, run
from bench.ours import Ours
from bench.peers import System
from bench.rig import Rig

__all__ = ["API", "ATTRS", "PACKAGES", "POOL", "TRIO", "WARM", "Samples", "oneshot"]

#: What a spare of a pool is called in tables; it has an init.
WARM = "pysuper, warm spare"
#: What containers that a pool starts are called, from spares or not; they have an init.
POOL = "pysuper, pool"
#: How the Python API is called in tables, by whether there is an init.
API = {True: "pysuper, Python API", False: "pysuper, Python API, no init"}
#: What plain processes are called that trio starts, as it does by itself.
TRIO = "plain process, by trio"
#: Programs that import what pysuper is made of, in part or all of it, and end: no program is faster that does.
ATTRS, PACKAGES = _IMPORTS = ("python3, import attrs", "python3, import attrs, trio, stevedore.driver")


@attrs.define
class Samples:
    """
    Seconds of each run of one system.

    Attributes:
        total: Of /bin/true, from the start of the program until it is known to have ended.
        first: From there to the first instruction of a command.
        notice: From the last instruction of that command until its end is known, with all that follows from it. This
            and `first` are empty of what runs no command.
        exit: Until its end is known to pysuper, or to the floor, before they have cleaned up.
    """

    total: list[float] = attrs.field(factory=list)
    first: list[float] = attrs.field(factory=list)
    notice: list[float] = attrs.field(factory=list)
    exit: list[float] = attrs.field(factory=list)

    @property
    def spent(self) -> float:
        """About the seconds that these have taken."""
        return 2 * sum(self.total)


def oneshot(rig: Rig, systems: list[System], rounds: int, patience: float) -> tuple[dict[str, Samples], dict[str, str]]:
    """
    Every system in turn, again and again.

    Args:
        rounds: How often each is run.
        patience: Seconds after which a slow one is not run any more, after three times.

    Returns:
        The samples, and which system failed, with the reason.
    """
    peers = {system.name: system for system in systems}
    samples = {name: Samples() for name in [*peers, *_IMPORTS, *API.values(), WARM]}
    left_out: dict[str, str] = {}
    with Ours(rig.root) as ours:
        ours.ask("ready")
        for turn in range(rounds):
            for name in rotated(list(samples), turn):
                sample = samples[name]
                if turn >= 3 and sample.spent > patience:
                    continue
                if name in peers:
                    try:
                        _once(rig, peers[name], sample)
                    except Failed as error:
                        left_out[name] = str(error)
                        del samples[name]
                elif name in _IMPORTS:
                    sample.total.append(_import(name.removeprefix("python3, ")))
                else:
                    init, warm = name != API[False], name == WARM
                    for figure, values in ours.ask("once", count=1, init=init, warm=warm).items():
                        getattr(sample, figure).extend(values)
    return samples, left_out


def _import(statement: str) -> float:
    """Seconds, without those in which Python would collect garbage and take itself apart."""
    whole = run([sys.executable, "-c", f"import gc, os; gc.disable(); {statement}; os._exit(0)"])
    return (whole.known - whole.began) / 1e9


def _once(rig: Rig, system: System, sample: Samples) -> None:
    whole = run(system.command(rig, ["/bin/true"]))
    sample.total.append((whole.known - whole.began) / 1e9)
    argv = system.command(rig, ["/bin/stamp", "last"])
    stamped = run([argv[0], "--known", *argv[1:]] if argv[0] == rig.floor else argv)
    sample.first.append((stamped.stamps["first"] - stamped.began) / 1e9)
    sample.notice.append((stamped.known - stamped.stamps["last"]) / 1e9)
    if "known" in stamped.stamps:
        sample.exit.append((stamped.stamps["known"] - stamped.stamps["last"]) / 1e9)
