"""
More ids for the containers of an ordinary user: those of /etc/subuid and /etc/subgid, subuid(5).

A container's root is the user, as with a single id, so that the user's files are root's inside. Its other ids, 1 to
65,535, are a *slice* of what the user was given: ids that no account of the machine has. The kernel lets only root map
these, so newuidmap(1) and newgidmap(1) do it, which are set-user-ID, and let each user map what is his.

Each container has a slice that no other has, as long as there are enough; after that they share. Which slice it is
depends on the container's name, so that its files in a volume still are its own when it comes back. A slice is taken
as a block of host ids is (`pysuper.ids`), by an abstract unix socket with its name.
"""

from __future__ import annotations

import os
import pwd
import socket
import stat
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import attrs
import trio

from pysuper.errors import DriverError, one_line
from pysuper.ids import reserve
from pysuper.trust import distrust

__all__ = ["COUNT", "NoSubIds", "SubIdRanges", "SubIds", "SubIdsRefused", "find", "map_ids"]

#: Ids of a slice: with root, all that a user of a distribution's files expects.
COUNT = 65535

#: Where the helpers are looked for, whatever $PATH says; the last is NixOS's place for set-user-ID programs.
_PLACES = ("/usr/bin", "/bin", "/usr/local/bin", "/run/wrappers/bin")
_HELPERS = {"uid": "newuidmap", "gid": "newgidmap"}
#: Seconds that a helper may take; it may have to ask a directory service who the user is.
_PATIENCE = 10.0
_ONE = "--userns one does without"


@attrs.frozen
class SubIds:
    """
    A slice: `COUNT` users and as many groups of the host.

    Attributes:
        uid, gid: The first ones.
    """

    uid: int
    gid: int


class NoSubIds(DriverError):
    """
    An ordinary user has one id only, and why.

    Attributes:
        meant: Whether more were configured, so that something is wrong.
    """

    def __init__(self, message: str, *, remedy: str, meant: bool) -> None:
        super().__init__(message, remedy=remedy)
        self.meant = meant


class SubIdsRefused(NoSubIds):
    """The helpers did not map what the files give; with one id a container can be started all the same."""

    def __init__(self, message: str, *, remedy: str) -> None:
        super().__init__(message, remedy=remedy, meant=True)


def find() -> tuple[SubIds, ...]:
    """
    The slices that this user has, at least one; changes nothing.

    Raises:
        NoSubIds: There is none, or something that it takes to map it is missing.
    """
    user = os.geteuid()
    try:
        name = pwd.getpwuid(user).pw_name
    except KeyError:
        raise NoSubIds(
            f"uid {user} has no name in /etc/passwd, and newuidmap needs one", remedy=_ONE, meant=False
        ) from None
    slices = {kind: _slices(kind, name, user) for kind in _HELPERS}
    for kind in _HELPERS:
        _helper(kind)
    if _no_new_privileges():
        raise NoSubIds(
            "newuidmap cannot gain the privileges that it needs: this process has no_new_privs",
            remedy="start pysuper outside of a sandbox, or of a service with NoNewPrivileges=yes",
            meant=True,
        )
    return tuple(SubIds(uid, gid) for uid, gid in zip(slices["uid"], slices["gid"], strict=False))


def _slices(kind: str, name: str, user: int) -> list[int]:
    """The first ids of the slices in /etc/subuid or /etc/subgid."""
    path = f"/etc/sub{kind}"
    ranges = list(_ranges(path, (name, str(user))))
    remedy = f"usermod --add-sub{kind}s 100000-165535 {name}, with ids that nobody has"
    if not ranges:
        raise NoSubIds(f"{path} gives {name} no ids", remedy=remedy, meant=_given(name, user))
    found = [first for start, count in ranges for first in range(start, start + count - COUNT + 1, COUNT)]
    if not found:
        largest = max(count for _, count in ranges)
        raise NoSubIds(f"{path} gives {name} {largest} ids in a row, not {COUNT}", remedy=remedy, meant=True)
    mapped = [first for first in found if _is_mapped(kind, first)]
    if not mapped:
        raise NoSubIds(
            f"the ids that {path} gives {name} do not exist in this user namespace",
            remedy="give the container that pysuper runs in more ids",
            meant=True,
        )
    return mapped


def _given(name: str, user: int) -> bool:
    return any(list(_ranges(f"/etc/sub{kind}", (name, str(user)))) for kind in _HELPERS)


def _ranges(path: str, owners: Sequence[str]) -> Iterator[tuple[int, int]]:
    """`(first, count)` of each line `OWNER:FIRST:COUNT`, subuid(5)."""
    try:
        lines = Path(path).read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        fields = line.split(":")
        if len(fields) == 3 and fields[0] in owners and fields[1].isdecimal() and fields[2].isdecimal():
            yield int(fields[1]), int(fields[2])


def _is_mapped(kind: str, first: int) -> bool:
    """Whether a slice exists in the user namespace of this process, which is the initial one, or a container's."""
    lines = [tuple(map(int, line.split())) for line in Path(f"/proc/self/{kind}_map").read_text().splitlines()]
    return any(inside <= first and first + COUNT <= inside + count for inside, _, count in lines)


def _helper(kind: str) -> str:
    """
    The path of newuidmap or newgidmap, without symbolic links.

    Raises:
        NoSubIds: It is missing, others could replace it, or it has not the privileges that it needs.
    """
    name = _HELPERS[kind]
    path = next((f"{place}/{name}" for place in _PLACES if os.path.exists(f"{place}/{name}")), None)
    if path is None:
        remedy = "install it: the package is called uidmap, shadow-utils or shadow"
        raise NoSubIds(f"{name} is not in {', '.join(_PLACES)}", remedy=remedy, meant=True)
    real = os.path.realpath(path)
    if why := distrust(real):
        raise NoSubIds(f"{path} is not to be trusted: {why}", remedy="install it again", meant=True)
    if not _is_privileged(real, f"cap_set{kind}"):
        remedy = f"chmod u+s {real}, or setcap cap_set{kind}+ep {real}"
        raise NoSubIds(f"{path} is neither set-user-ID root nor has it the capability", remedy=remedy, meant=True)
    if os.statvfs(real).f_flag & os.ST_NOSUID:
        raise NoSubIds(f"{path} is on a file system that is mounted nosuid", remedy=_ONE, meant=True)
    return real


def _is_privileged(path: str, capability: str) -> bool:
    """By its mode, or (not looking which) by file capabilities, capabilities(7)."""
    status = os.stat(path)
    return bool(status.st_mode & stat.S_ISUID and status.st_uid == 0) or "security.capability" in os.listxattr(path)


def _no_new_privileges() -> bool:
    return "NoNewPrivs:\t1" in Path("/proc/self/status").read_text()


class SubIdRanges:
    """The slices that one supervisor has. `allocate` and `release`; `close` gives all of them back."""

    def __init__(self) -> None:
        self._found: tuple[SubIds, ...] = ()
        self._refused: NoSubIds | None = None
        self._users: Counter[SubIds] = Counter()
        self._locks: dict[SubIds, socket.socket] = {}

    def allocate(self, name: str) -> SubIds | NoSubIds:
        """A slice for a container of that name, or why there is none."""
        if self._refused is not None:
            return self._refused
        try:
            self._found = self._found or find()
        except NoSubIds as error:
            return error
        preferred = zlib.crc32(name.encode()) % len(self._found)
        candidates = self._found[preferred:] + self._found[:preferred]
        taken = next(filter(self._reserve, candidates), candidates[0])
        self._users[taken] += 1
        return taken

    def _reserve(self, candidate: SubIds) -> bool:
        """Whether nobody had it."""
        if self._users[candidate]:
            return False
        if lock := reserve(f"pysuper-subids-{candidate.uid}"):
            self._locks[candidate] = lock
        return lock is not None

    def refuse(self, reason: NoSubIds) -> None:
        """Have none from here on."""
        self._refused = reason

    def release(self, taken: SubIds | NoSubIds) -> None:
        """Give back what `allocate` has given; nothing of the container may run any more."""
        if isinstance(taken, NoSubIds):
            return
        self._users[taken] -= 1
        if not self._users[taken] and (lock := self._locks.pop(taken, None)):
            lock.close()

    def close(self) -> None:
        """Give all of them back."""
        while self._locks:
            self._locks.popitem()[1].close()


async def map_ids(pid: int, uids: Sequence[tuple[int, int, int]], gids: Sequence[tuple[int, int, int]]) -> None:
    """
    Write the id maps of a process that has none yet, by the helpers.

    Args:
        uids, gids: The lines, as in `IdMap`.

    Raises:
        SubIdsRefused: They did not do it.
    """
    for kind, lines in (("uid", uids), ("gid", gids)):
        helper = _helper(kind)
        text = [" ".join(map(str, line)) for line in lines]
        try:
            with trio.fail_after(_PATIENCE):
                # Without our environment, which is none of its business.
                done = await trio.run_process(
                    [helper, str(pid), *" ".join(text).split()],
                    capture_stdout=True,
                    capture_stderr=True,
                    check=False,
                    env={},
                    cwd="/",
                )
        except trio.TooSlowError:
            raise SubIdsRefused(f"{helper} took more than {_PATIENCE:g} s", remedy=_ONE) from None
        except OSError as error:
            raise DriverError(f"could not execute {helper}: {error.strerror}", remedy=_ONE) from error
        said = one_line(done.stderr.decode(errors="replace").strip())
        if done.returncode != 0:
            raise SubIdsRefused(f"{helper} failed: {said or f'status {done.returncode}'}", remedy=_ONE)
        if [" ".join(line.split()) for line in Path(f"/proc/{pid}/{kind}_map").read_text().splitlines()] != text:
            raise SubIdsRefused(f"{helper} did not map what it was told to{said and f': {said}'}", remedy=_ONE)
