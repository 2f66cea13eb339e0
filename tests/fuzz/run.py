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

HERE = Path(__file__).resolve().parent
FOUND = HERE.parents[1] / "build" / "fuzz"
NOBODY = 65534
#: Seconds for one input, and MiB of memory: more is a finding.
TIMEOUT, MEMORY = 10, 1024
LONGEST = 65536


def main(arguments: list[str]) -> int:
    """Fuzz each for so many seconds; 1 if something was found."""
    if arguments[0] == "--target":
        fuzz(arguments[1], arguments[2:])
        return 0
    from fuzz.targets import TARGETS

    seconds, wanted = int(arguments[0]), arguments[1:] or list(TARGETS)
    results = [campaign(target, seconds) for target in wanted]
    return int(any(results))


def campaign(target: str, seconds: int) -> bool:
    """Fuzz one; whether something was found."""
    with tempfile.TemporaryDirectory(prefix=f"fuzz-{target}-") as directory:
        corpus = Path(directory, "corpus")
        shutil.copytree(HERE / "corpus" / target, corpus)
        for path in (Path(directory), corpus, *corpus.iterdir()):
            if os.geteuid() == 0:
                os.chown(path, NOBODY, NOBODY)
        options = [
            *(f"-max_total_time={seconds}", f"-timeout={TIMEOUT}", f"-rss_limit_mb={MEMORY}", f"-max_len={LONGEST}"),
            *("-print_final_stats=1", f"-artifact_prefix={directory}/found-", "-reload=0", str(corpus)),
        ]
        command = [sys.executable, __file__, "--target", target, *options]
        environment = {**os.environ, "TMPDIR": "/dev/shm", "PYTHONPATH": str(HERE.parent)}
        done = subprocess.run(command, stderr=subprocess.PIPE, encoding="latin-1", env=environment, check=False)
        findings = list(Path(directory).glob("found-*"))
        for path in findings:
            FOUND.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, FOUND / f"{target}-{path.name}")
        grown = len(list(corpus.iterdir()))
    print(f"{target}: {report(done.stderr)}, {grown} inputs, exit {done.returncode}", flush=True)
    if done.returncode != 0:
        print(done.stderr[-4000:])
        print(*(f"  {FOUND}/{target}-{path.name}" for path in findings), sep="\n")
    return done.returncode != 0


def report(log: str) -> str:
    """What libFuzzer says in a line."""
    coverage = re.findall(r"cov: (\d+)", log)
    executions = re.findall(r"^(?:#|stat::number_of_executed_units: *)(\d+)", log, re.MULTILINE)
    memory = re.findall(r"stat::peak_rss_mb: *(\d+)", log)
    grew = f"coverage {coverage[0]} -> {coverage[-1]}" if coverage else "no coverage"
    return f"{(executions or ['none'])[-1]} executions, {grew}, {(memory or ['?'])[-1]} MiB at most"


def fuzz(target: str, options: list[str]) -> None:
    """Do it, in this process, which it ends."""
    import atheris

    with atheris.instrument_imports(include=["pysuper", "tomllib", "json"], enable_loader_override=False):
        from fuzz.targets import TARGETS

    harness = TARGETS[target]
    for path in (HERE / "corpus" / target).iterdir():  # whatever is imported late, while it can be
        harness(path.read_bytes())
    if os.geteuid() == 0:
        become_nobody()
    atheris.Setup([sys.argv[0], *options], harness)
    atheris.Fuzz()


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
