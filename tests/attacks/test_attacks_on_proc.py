"""Attacks through /proc: on the programs of pysuper that are beside a container's, and on what the kernel tells."""

from __future__ import annotations

import os
import shutil

import attrs
import pytest
from attackcore import PRIVILEGED, Attack, Battle, Weak, parametrized

from machine import PATIENCE
from ordinary import USER, Public

#: Whoever has the user and the capabilities of a process may look into it, if it is dumpable; ptrace(2).
DUMPABLE = """
from pysuper import syscalls
_prctl = syscalls.prctl
syscalls.prctl = lambda option, *rest: _prctl(option, *(rest if option != syscalls.PR_SET_DUMPABLE else [1]))
"""
UNMASKED = Weak(grant={"security_opt": [["unmask", "ALL"]]})
TRACER = {"cap_add": ["SYS_PTRACE"]}

ATTACKS = [
    Attack(
        program="open_program_of_init",
        weak=Weak(launcher=DUMPABLE),
        why="CVE-2019-5736: launcher, init, and what joins are not dumpable",
    ),
    Attack(program="look_into_init", weak=Weak(launcher=DUMPABLE), why="the same, for what they have open"),
    Attack(
        program="overwrite_program_of_init",
        weak={"root": PRIVILEGED},
        why="CVE-2019-5736: root of a container is nobody outside, and the program belongs to root",
    ),
    Attack(
        program="watch_for_joining",
        weak=Weak(launcher=DUMPABLE, grant=TRACER, joins=10),
        strong=Weak(grant=TRACER, joins=10),
        why="CVE-2016-9962: what joins is not dumpable before it is the command",
    ),
    Attack(
        program="read_environment_of_init",
        weak=Weak(launcher=DUMPABLE, inherited=("environment",)),
        strong=Weak(launcher=DUMPABLE),
        why="the launcher has no environment that its children could inherit",
    ),
    Attack(
        program="read_environment_of_all",
        weak={"root": Weak(grant={"privileged": True}, fields={"share": ["user", "pid"]})},
        why="processes outside are in another pid namespace, and of another user",
    ),
    Attack(
        program="read_own_environment",
        weak=Weak(change=("pass_environment",)),
        why="the environment of a command is made of what it was given",
    ),
    Attack(
        program="use_leaked_directory",
        weak=Weak(change=("leak_a_directory",)),
        why="CVE-2024-21626: nothing but descriptors 0 to 2 is open",
    ),
    Attack(
        program="be_in_leaked_directory",
        weak=Weak(change=("leak_a_directory",), fields={"working_dir": "/proc/self/fd/3"}),
        strong=Weak(fields={"working_dir": "/proc/self/fd/3"}),
        why="CVE-2024-21626: the same, for the directory that a command begins in",
    ),
    Attack(program="read_keys", weak={"root": PRIVILEGED, "user": UNMASKED}, why="/proc/keys is masked"),
    Attack(program="read_interrupts", weak=UNMASKED, why="/proc/interrupts is masked"),
    Attack(program="read_timer_list", weak={"root": PRIVILEGED}, why="/proc/timer_list is masked, and host root's"),
    Attack(
        program="read_kcore",
        weak={"root": PRIVILEGED},
        missing=lambda: None if os.path.exists("/proc/kcore") else "this kernel has no /proc/kcore",
        why="/proc/kcore is masked, and for CAP_SYS_RAWIO",
    ),
]


@parametrized(ATTACKS)
def test_it_succeeds_without_the_defence_and_fails_with_it(battle: Battle, attack: Attack) -> None:
    battle.check(attack)


@pytest.mark.parametrize("command", ["program", "interpreter of a script"])
def test_a_command_that_is_the_launcher_cannot_change_the_interpreter_of_a_user(public: Public, command: str) -> None:
    """
    CVE-2019-5736, of an ordinary user: the container's root is the user, who may own what executes the launcher.

    It is being executed, so that nobody can write to it; its mode shows who could otherwise.
    """
    own = public.home / "python"
    shutil.copy(public.python, own)
    os.chown(own, USER, USER)
    script = public.home / "script"
    script.write_text("#!/proc/self/exe -IS\nimport os; os.chmod('/proc/self/exe', 0o700)\n")
    script.chmod(0o755)
    inside = ["/proc/self/exe", "-IS", "/script"] if command == "program" else ["/script"]
    modes = {}
    for defence in (False, True):
        own.chmod(0o755)
        # The interpreter of a script as it is run here is that of the launcher, which has to be one.
        code = "from pysuper import registry; registry._LAUNCHER_PREFERENCE = ('python',)\n"
        code += "" if defence else "from pysuper.launcher import program; program._is_ours = lambda path: False\n"
        code += "import sys; from pysuper.cli import main; sys.exit(main(sys.argv[1:]))"
        done = attrs.evolve(public, python=str(own)).run(
            "-c", code, "run", "-v", f"{script}:/script:ro", "--", *inside, user=True, timeout=60 * PATIENCE
        )
        assert done.returncode == 0, done.stderr
        modes[defence] = own.stat().st_mode & 0o777
    assert modes == {False: 0o700, True: 0o755}
