"""
Starts the containers that are attacked from inside, with or without a defence, as the user that this runs as.

Run as `python3 -c TEXT`, with a JSON object on standard input: `programs`, the text of attackprograms.py; `jobs`, each
of them `attackcore.Weak.job()`. It prints what came of each job, a list with one outcome a time, as JSON.

What is taken away is taken away here and nowhere else: a step of the plan, a line of the launcher. What is left of
pysuper is what is installed.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import secrets
import socket
import stat
import sys
import tempfile
import termios

import attrs
import trio

import pysuper
from pysuper import steps, supervisor
from pysuper.launcher import client, python
from pysuper.phase import Phase
from pysuper.privileges import grant

PYTHON = "/usr/bin/python3"
KEYCTL = {"x86_64": (250, 248), "aarch64": (219, 217)}[os.uname().machine]
OPENAT = {"x86_64": 257, "aarch64": 56}[os.uname().machine]
SECRET = os.environ["PYSUPER_TEST_SECRET"]


# --- what is taken away ---


def leak_a_directory(plan):
    """A descriptor of the host's root is open when the container is entered, and stays open."""
    leak = steps.Syscall(number=OPENAT, arguments=(-100, "/", os.O_DIRECTORY), purpose="leak")
    return _with_phase(plan, Phase.SESSION, (*plan.phases[Phase.SESSION], leak))


def allow_devices(plan):
    """Mounts do not forbid devices."""
    return _without_word(plan, Phase.MOUNTS, steps.Bind, "flags", "nodev")


def pass_environment(plan):
    """The command has the environment of whoever has started pysuper."""
    return attrs.evolve(plan, command=attrs.evolve(plan.command, environment=plan.command.environment | os.environ))


def only_chroot(plan):
    """The old root stays mounted."""
    return _with_phase(plan, Phase.PIVOT, (steps.Chroot(),))


def unlock_mounts(plan):
    """The mount namespace stays that of whoever has made the mounts."""
    return _without_word(plan, Phase.IDENTITY, steps.Unshare, "namespaces", "mnt")


def promise_nothing(plan):
    """There are no receipts."""
    return attrs.evolve(plan, checks=())


def _without_word(plan, phase, kind, attribute, word):
    """Every step of a kind in a phase lacks the word in an attribute that is a tuple of words."""
    changed = [
        attrs.evolve(step, **{attribute: tuple(w for w in getattr(step, attribute) if w != word)})
        if isinstance(step, kind)
        else step
        for step in plan.phases[phase]
    ]
    return _with_phase(plan, phase, tuple(changed))


def _with_phase(plan, phase, changed):
    return attrs.evolve(plan, phases={**plan.phases, phase: changed}, checks=())


def _without(plan, names):
    phases = {
        phase: tuple(step for step in done if type(step).__name__ not in names) for phase, done in plan.phases.items()
    }
    # What is not done is not promised either.
    return attrs.evolve(plan, phases=phases, checks=())


@contextlib.contextmanager
def weakened(job):
    """While the block lasts, plans and launchers are made without what the job says."""
    kept = supervisor.build_plan, python._PROGRAM, client.os

    def build(context, drivers):
        plan = kept[0](context, drivers)
        if job["without"]:
            plan = _without(plan, job["without"])
        for name in job["change"]:
            plan = globals()[name](plan)
        return plan

    class Os:
        """The module `os`, which lets launchers inherit what they otherwise have new."""

        def __getattr__(self, name):
            return getattr(os, name)

        @staticmethod
        def posix_spawn(path, arguments, environment, *, setsid, **more):
            if "environment" in job["inherited"]:
                environment = os.environ
            return os.posix_spawn(
                path, arguments, environment, setsid=setsid and "session" not in job["inherited"], **more
            )

    prelude = "import sys; sys.path.insert(0, sys.argv[1])\n"
    supervisor.build_plan = build
    python._PROGRAM = f"{prelude}{job['launcher']}\n{kept[1]}"
    client.os = Os()
    try:
        yield
    finally:
        supervisor.build_plan, python._PROGRAM, client.os = kept


# --- what there is to be had ---


@contextlib.contextmanager
def treasures():
    """
    What no container was given: a socket, a key, a terminal, a secret in the environment.

    The secret in the environment is there already. Yields what an attack may know of it all.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    keyctl, add_key = KEYCTL
    libc.syscall(keyctl, 1, None)  # KEYCTL_JOIN_SESSION_KEYRING: a new one, which the test run has not
    key = f"pysuper-test-{secrets.token_hex(4)}"
    if libc.syscall(add_key, b"user", key.encode(), b"of the host", 11, -3) < 0:
        key = ""
    root = os.stat("/")
    name = f"pysuper-test-{secrets.token_hex(4)}"
    with socket.socket(socket.AF_UNIX) as listener, tempfile.TemporaryDirectory() as volume:
        if os.geteuid() == 0:  # an ordinary user can make none, and have none made
            os.mknod(f"{volume}/kmsg", stat.S_IFCHR | 0o666, os.makedev(1, 11))
        listener.bind("\0" + name)
        listener.listen(64)
        yield {
            "abstract": name,
            "cgroup2": options_of_cgroup2(),
            "key": key,
            "keyctl": keyctl,
            "root": [root.st_dev, root.st_ino],
            "secret": SECRET,
            "volume": volume,
        }


def options_of_cgroup2():
    """How the tree of cgroup v2 is mounted, but for what every mount has."""
    with open("/proc/self/mounts") as file:
        mounts = [line.split() for line in file]
    options = next((fields[3].split(",") for fields in mounts if fields[2] == "cgroup2"), [])
    return ",".join(
        option for option in options if option.startswith(("nsdelegate", "favordynmods", "memory_", "pids_"))
    )


def open_terminal():
    """A terminal that controls this process, and so would control what does not leave its session."""
    os.setsid()
    _master, slave = os.openpty()  # which stays open, since this process is ended when it is closed
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    return slave


def typed(slave):
    """Whether somebody has typed a line into a terminal."""
    os.set_blocking(slave, False)
    try:
        return bool(os.read(slave, 100))
    except BlockingIOError:
        return False
    finally:
        os.set_blocking(slave, True)


# --- the containers ---


def spec_of(job, command, volume):
    mounts = tuple(
        pysuper.BindMount(source=volume if source == "VOLUME" else source, target=target)
        for source, target in job["mounts"]
    )
    fields = {key: frozenset(value) if key == "share" else value for key, value in job["fields"].items()}
    for driver in ("cgroup", "network", "rootfs"):
        if driver in fields:
            fields[driver] = pysuper.DriverChoice.parse(fields[driver])
    if job["pids_max"]:
        fields["limits"] = pysuper.Limits(pids_max=job["pids_max"])
    spec = pysuper.ContainerSpec(name="box", command=command, mounts=mounts, stop_timeout=0.1, **fields)
    options = {**job["grant"], "security_opt": [tuple(option) for option in job["grant"].get("security_opt", [])]}
    return grant(spec, **options)


async def read_all(descriptor):
    async with trio.lowlevel.FdStream(descriptor) as stream:
        return b"".join([chunk async for chunk in stream]).decode()


async def perform(running, job, programs, given, slave):
    """
    What comes of each attack of a job: whether it has succeeded, and what it says.

    None is that it could not be made, "refused" that its container was not started.
    """
    joins = job["joins"]
    argument = json.dumps([job["attacks"], given | {"ready": 2, "joins": joins}])
    command = (PYTHON, "-I", "-S", "-c", programs, argument)
    read, write = os.pipe()
    ready, tell = os.pipe()
    try:
        container = await running.start(
            spec_of(job, command, given["volume"]), stdin=slave, stdout=write, stderr=tell if joins else None
        )
    except pysuper.PysuperError as error:
        os.close(read)
        os.close(ready)
        return {name: ["refused", f"{type(error).__name__}: {error}"] for name in job["attacks"]}
    finally:
        os.close(write)
        os.close(tell)
    async with trio.lowlevel.FdStream(ready) as said:
        if joins:
            assert await said.receive_some() == b"ready\n"
        with contextlib.suppress(pysuper.LaunchError):  # it ends when it has got something
            for _ in range(joins):
                async with container.execute(["sleep", "0.03"]) as execution:
                    await execution.wait()
        outcome = json.loads(await read_all(read))
    await container.wait()
    if "push_into_terminal" in outcome and typed(slave) != outcome["push_into_terminal"][0]:
        outcome["push_into_terminal"] = [None, "the terminal knows otherwise"]
    return outcome


async def main():
    asked = json.load(sys.stdin)
    slave = open_terminal()
    outcomes = []
    with treasures() as given:
        for job in asked["jobs"]:
            with weakened(job):
                # What the launcher does itself can only be taken away from the one in Python.
                launcher = "python" if job["launcher"] else None
                async with pysuper.open_supervisor(warn=lambda _line: None, launcher=launcher) as running:
                    told = [await perform(running, job, asked["programs"], given, slave) for _ in range(job["times"])]
            outcomes.append(told)
    print(json.dumps(outcomes))


trio.run(main)
