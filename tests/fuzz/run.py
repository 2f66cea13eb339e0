"""
Fuzz a target, or all of them: `python tests/fuzz/run.py SECONDS [TARGET...]`.

atheris guides the inputs by what they reach. Each target is a process of its own; as root it is made an ordinary user
first, so that nothing that is found does harm. What makes a target fail is left in build/fuzz.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

HERE = Path(__file__).resolve().parent
CORPUS = HERE / "corpus"
FOUND = HERE.parents[1] / "build" / "fuzz"
NOBODY = 65534
#: Seconds for one input, and MiB of memory: more is a finding.
TIMEOUT, MEMORY = 10, 1024
LONGEST = 65536


def main(arguments: list[str]) -> int:
    """Fuzz each for so many seconds; 1 if something was found."""
    if arguments[0] == "--target":
        fuzz(arguments[1], arguments[2:])
    seconds, targets = int(arguments[0]), arguments[1:] or sorted(path.name for path in CORPUS.iterdir())
    found = [campaign(target, seconds) for target in targets]
    return int(any(found))


def campaign(target: str, seconds: int) -> bool:
    """Fuzz one; whether something was found."""
    with tempfile.TemporaryDirectory(prefix=f"fuzz-{target}-") as directory:
        top = Path(directory)
        shutil.copytree(CORPUS / target, top / "corpus")
        (top / "words").write_text(dictionary(target))
        if os.geteuid() == 0:
            for path in (top, *top.rglob("*")):
                os.chown(path, NOBODY, NOBODY)
        options = {
            "max_total_time": seconds,
            "timeout": TIMEOUT,
            "rss_limit_mb": MEMORY,
            "max_len": LONGEST,
            "dict": top / "words",
            "artifact_prefix": top / "found-",
            "print_final_stats": 1,
            "reload": 0,
        }
        command = [sys.executable, __file__, "--target", target, *(f"-{key}={value}" for key, value in options.items())]
        environment = {**os.environ, "TMPDIR": "/dev/shm", "PYTHONPATH": str(HERE.parent)}
        done = subprocess.run(
            [*command, top / "corpus"], stderr=subprocess.PIPE, encoding="latin-1", env=environment, check=False
        )
        print(f"{target}: {report(done.stderr)}, {len(list((top / 'corpus').iterdir()))} inputs", flush=True)
        for path in top.glob("found-*"):
            FOUND.mkdir(parents=True, exist_ok=True)
            print(f"  found: {shutil.copy(path, FOUND / f'{target}-{path.name}')}")
    if done.returncode != 0:
        print(done.stderr[-4000:], flush=True)
    return done.returncode != 0


def dictionary(target: str) -> str:
    """The words of the inputs, and of the schema of files, as libFuzzer reads them: chance would not find them."""
    texts = [path.read_text(encoding="latin-1") for path in (CORPUS / target).iterdir()]
    if target == "toml":
        texts.append((HERE.parents[1] / "supervisor/pysuper/schema.json").read_text())
    words = {word for text in texts for word in re.findall(r"[A-Za-z][A-Za-z0-9_.-]{1,30}", text)}
    return "".join(f'"{word}"\n' for word in sorted(words))


def report(log: str) -> str:
    """What libFuzzer says in a line."""
    coverage = re.findall(r"cov: (\d+)", log)
    executions = re.findall(r"^(?:#|stat::number_of_executed_units: *)(\d+)", log, re.MULTILINE)
    memory = re.findall(r"stat::peak_rss_mb: *(\d+)", log)
    grew = f"coverage {coverage[0]} -> {coverage[-1]}" if coverage else "no coverage"
    return f"{(executions or ['none'])[-1]} executions, {grew}, {(memory or ['?'])[-1]} MiB at most"


def fuzz(target: str, options: list[str]) -> NoReturn:
    """Do it, in this process, which it ends."""
    import atheris

    with atheris.instrument_imports(include=["pysuper", "tomllib", "json"], enable_loader_override=False):
        from fuzz.targets import TARGETS

    harness = TARGETS[target]
    for path in (CORPUS / target).iterdir():  # whatever is imported late, while it can be
        harness(path.read_bytes())
    if os.geteuid() == 0:
        become_nobody()
    atheris.Setup([sys.argv[0], *options], harness)
    atheris.Fuzz()
    raise AssertionError("it ends the process")


def become_nobody() -> None:
    """In a user namespace, where an archive may say what belongs to root."""
    from pysuper.syscalls import CLONE_NEWUSER, PR_SET_DUMPABLE, prctl, unshare

    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    prctl(PR_SET_DUMPABLE, 1)  # /proc/self is ours again, proc(5)
    unshare(CLONE_NEWUSER)
    for name, text in (("setgroups", "deny"), ("uid_map", f"0 {NOBODY} 1"), ("gid_map", f"0 {NOBODY} 1")):
        Path("/proc/self", name).write_text(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
