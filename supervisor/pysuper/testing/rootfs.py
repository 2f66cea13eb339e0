"""
Rules for drivers of root file systems. The one under test has to hold /bin/sh.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import cast

import attrs
import trio

from pysuper import receipts
from pysuper.container import Container
from pysuper.contexts import is_privileged
from pysuper.drivers import RootfsDriver
from pysuper.spec import BindMount, DriverChoice, TmpfsMount
from pysuper.testing.driver import DriverTests
from pysuper.testing.rules import NotHere, require, rule
from pysuper.testing.stage import IDLE, MARK, Stage

__all__ = ["RootfsDriverTests"]

_SYSTEM = ("/proc/self/status", "/proc/sys", "/dev/null", "/dev/fd/0", "/dev/pts", "/dev/shm", "/sys/kernel")
#: What the rules make in a root, by way of a container.
_FILE, _VOLUME, _SCRATCH = f"/{MARK}-file", f"/{MARK}-volume", f"/{MARK}-scratch"


class RootfsDriverTests(DriverTests):
    """
    What holds for drivers of the group pysuper.rootfs: a container sees the root that was chosen, and nothing else.

    Attributes:
        shows: What files of the container hold, by their absolute paths; to tell the chosen root from another one.
        writes_stay: Whether the next container sees what one has written, as it does in a directory of the host's.
    """

    kind = "rootfs"
    shows: Mapping[str, str] = MappingProxyType({})
    writes_stay: bool = False

    @property
    def wrong_choices(self) -> list[DriverChoice]:
        """Those of `wrong`; if the argument is a path, also one that does not exist, and a device's."""
        path = self.choice.argument
        derived = [f"{path}.{MARK}", os.devnull] if path is not None and path.startswith("/") else []
        return [*super().wrong_choices, *(attrs.evolve(self.choice, argument=wrong) for wrong in derived)]

    @rule(
        "The container sees the root that was chosen.",
        because="a container that runs on another root, such as the host's, works on files that are not its own.",
    )
    async def test_shows_what_was_chosen(self) -> None:
        self.require_working()
        if not self.shows:
            raise NotHere("`shows` of the test's class names no file to look for")
        async with self.stage() as stage:
            for path, content in self.shows.items():
                script = 'while IFS= read -r line; do printf "%s\\\\n" "$line"; done; printf "%s" "$line"'
                found = await stage.output(self.spec(f"{{ {script}; }} < '{path}'"))
                do = "mount it at target '/', in Phase.ROOTFS"
                require(found == content, f"{path} holds {found!r}, not {content!r}", do=do)

    @rule(
        "The host's root cannot be reached.",
        because="a path that leads back makes every file of the host a file of the container. With chroot that cannot "
        "be promised, and the user is warned.",
    )
    async def test_the_hosts_root_is_gone(self) -> None:
        self.require_working()
        async with self.stage() as stage:
            container = await stage.start(self.spec(IDLE, init=False))
            mounts = _mounts(container.pid)
        if cast("type[RootfsDriver]", self.load()).enter == "chroot":
            require(
                container.warnings, "it enters by chroot, without a warning", do="plan.warn() that it is no boundary"
            )
        else:
            gone = receipts.OldRootGone().describe()
            do = 'leave it to enter = "pivot_root", and add no Chroot of your own'
            require(any(r.promise == gone for r in container.receipts), "nobody looked for the old root", do=do)
        host = _mounts(os.getpid())["/"]
        shown = [point for point, root in mounts.items() if root == host]
        require(not shown, f"it is mounted at {', '.join(shown)}", do="bind only the directories that are needed")

    @rule(
        "What one container writes, the next one does not see; or else the test's class says writes_stay = True.",
        because="users rely on it either way: for a clean root in each run, or for files that are kept.",
    )
    async def test_writes_vanish_or_stay(self) -> None:
        self.require_working()
        look = f"if [ -e {_FILE} ]; then echo there; else echo absent; fi"
        async with self.stage() as stage, self._removing(stage):
            await self._require_writable(stage)
            writer = await stage.start(self.spec(f": > {_FILE}; {IDLE}", init=False))
            await _made(writer)
            meanwhile = await stage.output(self.spec(look))
            writer.kill()
            await writer.wait()
            afterwards = await stage.output(self.spec(look))
        seen = f"another container at the same time finds it {meanwhile.strip()}, and the next one {afterwards.strip()}"
        expected = "there\n" if self.writes_stay else "absent\n"
        do = "give each container a writable layer of its own, or say writes_stay = True in the test's class"
        require(meanwhile == afterwards == expected, f"of a file that one has made: {seen}", do=do)

    @rule(
        "Files belong to users that the container knows, and new ones to its root.",
        because="with owners that are not mapped, root in the container can neither change nor remove its own files, "
        "and set-user-id programs belong to nobody.",
    )
    async def test_files_have_owners_that_the_container_knows(self) -> None:
        self.require_working()
        if not is_privileged():
            raise NotHere("an ordinary user has one id to give, so that other owners are nobody to the container")
        async with self.stage() as stage, self._removing(stage):
            await self._require_writable(stage)
            container = await stage.start(self.spec(f": > {_FILE}; {IDLE}", init=False))
            await _made(container)
            first, count = _uids(container.pid)
            owners = {path: os.lstat(f"/proc/{container.pid}/root{path}").st_uid for path in ("/.", "/bin/sh", _FILE)}
        do = (
            "pass idmap=plan.idmap to Bind and Overlay; plan.host_uid() says who the container's root is for the others"
        )
        for path, uid in owners.items():
            last = first + count - 1
            found = f"{path.rstrip('.')} belongs to uid {uid} of the host, and the container has {first} to {last}"
            require(first <= uid <= last, found, do=do)
        require(owners[_FILE] == first, f"what it makes belongs to {owners[_FILE]}, and its root is {first}", do=do)

    @rule(
        "With read_only, nothing can be written.",
        because="--read-only is a promise, and a receipt only looks at the mount's flag.",
    )
    async def test_read_only_is_read_only(self) -> None:
        self.require_working()
        script = f"if (: > {_FILE}) 2>/dev/null; then echo written; else echo refused; fi"
        async with self.stage() as stage, self._removing(stage):
            found = await stage.output(self.spec(script, read_only=True))
        require(found == "refused\n", "a file could be made", do="let the root be one mount, at target '/'")

    @rule(
        "Volumes and temporary file systems can be mounted over it.",
        because="what users bring along is mounted after the root, at any path, also at one that is not there yet.",
    )
    async def test_volumes_can_be_mounted_over_it(self) -> None:
        self.require_working()
        with tempfile.TemporaryDirectory(prefix=MARK) as source:
            os.chmod(source, 0o755)
            Path(source, "file").write_text("of the volume\n")
            mounts = (BindMount(source=source, target=_VOLUME), TmpfsMount(target=_SCRATCH))
            script = f"read line < {_VOLUME}/file; echo $line; : > {_SCRATCH}/file && echo scratched"
            async with self.stage() as stage, self._removing(stage):
                await self._require_writable(stage)
                found = await stage.output(self.spec(script, mounts=mounts))
        expected = "of the volume\nscratched\n"
        do = "mount the root in Phase.ROOTFS, and what else there is in Phase.MOUNTS"
        require(found == expected, f"the container printed {found!r}, not {expected!r}", do=do)

    @rule(
        "/proc, /dev and /sys are there.",
        because="nearly every program needs one of them; they come from the driver `mnt`, and have to be mounted over "
        "whatever the root holds at these paths.",
    )
    async def test_system_directories_are_there(self) -> None:
        self.require_working()
        script = f"for path in {' '.join(_SYSTEM)}; do [ -e $path ] || echo $path; done"
        async with self.stage() as stage:
            missing = (await stage.output(self.spec(script))).split()
        require(not missing, f"there is no {', '.join(missing)}", do="mount nothing over them")

    async def _require_writable(self, stage: Stage) -> None:
        found = await stage.output(self.spec(f"if (: > {_FILE}) 2>/dev/null; then echo writable; fi"))
        if not found:
            raise NotHere("its root cannot be written to")
        await self._remove(stage)

    @asynccontextmanager
    async def _removing(self, stage: Stage) -> AsyncIterator[None]:
        """Remove what the block has made in the root, if it stays there."""
        try:
            yield
        finally:
            await self._remove(stage)

    async def _remove(self, stage: Stage) -> None:
        container = await stage.start(self.spec(IDLE, init=False))
        for path in (_FILE, _VOLUME, _SCRATCH):
            found = Path(f"/proc/{container.pid}/root{path}")
            with suppress(FileNotFoundError):
                (found.rmdir if found.is_dir() else found.unlink)()
        container.kill()
        await container.wait()


async def _made(container: Container) -> None:
    """Wait until the container has made its file."""
    while not os.path.lexists(f"/proc/{container.pid}/root{_FILE}"):
        await trio.sleep(0.01)


def _mounts(pid: int) -> dict[str, tuple[str, str]]:
    """The device and the directory in it that each mount point shows to a process, proc_pid_mountinfo(5)."""
    lines = Path(f"/proc/{pid}/mountinfo").read_text(errors="surrogateescape").split("\n")
    return {fields[4]: (fields[2], fields[3]) for fields in (line.split(" ") for line in lines if line)}


def _uids(pid: int) -> tuple[int, int]:
    """The first id of the host that a process's user namespace has, and how many there are; user_namespaces(7)."""
    _, first, count = Path(f"/proc/{pid}/uid_map").read_text().split()[:3]
    return int(first), int(count)
