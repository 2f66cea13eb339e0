"""
A project is one stack that runs, or has run, and its two directories.

    /run/pysuper/NAME        lock, control, hosts, notify/        as long as it runs
    /var/lib/pysuper/NAME    the journal, and the post-mortems

Without root they are in $XDG_RUNTIME_DIR/pysuper (or /tmp/pysuper-UID) and ~/.local/state/pysuper. PYSUPER_RUNTIME_DIR
and PYSUPER_STATE_DIR are used instead of /run/pysuper and /var/lib/pysuper, if they are set.

Who writes there gives orders to the supervisor, or to its clients. So a directory is used only if it is none of
somebody else's making, and nobody else can write in it.

That a project runs is a flock(2), which ends with its supervisor, however that ends.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from pysuper.errors import AlreadyRunning, ConfigError, PysuperError

__all__ = ["Project", "find", "running"]

#: A name has the characters of a container's, and as many at most. `validation` has them too, but imports attrs.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
#: Characters of a file's name that are kept: with "-" and the hash, 63.
_MAX_STEM = 54
#: How often, and how many seconds apart, a lock is tried: a client that asks who runs holds it for a moment.
_ATTEMPTS = 10
_PAUSE = 0.02
_ELSEWHERE = "set PYSUPER_RUNTIME_DIR and PYSUPER_STATE_DIR to directories of yours"


class Project(NamedTuple):
    """
    Attributes:
        runtime, state: Its directories; they need not exist.
        file: Of the stack, absolute; None if only the name is known.
    """

    name: str
    runtime: Path
    state: Path
    file: str | None

    @classmethod
    def of(cls, *, file: str | None = None, name: str | None = None) -> Project:
        """
        The project of a file, one of the two at least; its directories are not looked at.

        Args:
            name: None is made from the file's path, through all symbolic links.

        Raises:
            ConfigError: It is no name.
        """
        path = None if file is None else os.path.realpath(file)
        if name is None:
            assert path is not None
            name = _name_of(path)
        elif not _NAME.fullmatch(name):
            rule = "1 to 63 letters, digits and _.-, the first a letter or digit"
            raise ConfigError(f"the name of a project must be {rule}; not {name[:80]!r}")
        return cls(name, _runtime_base() / name, _state_base() / name, path)

    @property
    def control(self) -> Path:
        """The socket at which the supervisor takes orders."""
        return self.runtime / "control"

    @property
    def hosts(self) -> Path:
        """The containers' /etc/hosts."""
        return self.runtime / "hosts"

    @property
    def notify(self) -> Path:
        """The directory of the sockets at which containers report."""
        return self.runtime / "notify"

    @property
    def _lock(self) -> Path:
        return self.runtime / "lock"

    def is_running(self) -> bool:
        """Whether it has a supervisor."""
        try:
            descriptor = os.open(self._lock, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            # Shared: two clients that ask at the same time do not take each other for a supervisor.
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    @contextmanager
    def lock(self) -> Iterator[None]:
        """
        Make the directories and hold the project; on exit remove the runtime directory.

        What a supervisor that was killed has left in it is removed first.

        Raises:
            AlreadyRunning: Somebody else holds it.
            PysuperError: A directory cannot be made, or is not safe.
        """
        _make(self.state)
        descriptor = self._acquire()
        try:
            for directory in (self.state, self.runtime):
                directory.chmod(0o700)
            self._clear()
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, os.fsencode(f"{os.getpid()}\n{self.file or ''}\n"), 0)
            self.notify.mkdir(mode=0o700)
            yield
        finally:
            self._clear()
            # The lock goes last: whoever finds none may make the directory anew.
            with suppress(OSError):
                self._lock.unlink()
                self.runtime.rmdir()
            os.close(descriptor)

    def _acquire(self) -> int:
        """The descriptor of the lock, held."""
        for _ in range(_ATTEMPTS):
            with suppress(FileNotFoundError):  # its last holder has just removed it
                _make(self.runtime)
                descriptor = self._try_lock()
                if descriptor is not None:
                    return descriptor
            time.sleep(_PAUSE)
        pid, _file = self._holder()
        raise AlreadyRunning(
            f"the project {self.name} is running already; pid {pid} is its supervisor",
            remedy="`pysuper down` ends it, `pysuper reload` lets it read its file again",
        )

    def _try_lock(self) -> int | None:
        """The descriptor of the lock, held; None if somebody else holds it, or has removed it."""
        try:
            descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise PysuperError(f"could not open {self._lock}: {error.strerror}") from error
        with suppress(BlockingIOError, FileNotFoundError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # One that was removed after it had been opened is found by nobody else.
            if os.path.samestat(os.fstat(descriptor), os.stat(self._lock)):
                return descriptor
        os.close(descriptor)
        return None

    def _holder(self) -> tuple[str, str | None]:
        """The pid and the file of its supervisor, as that has written them."""
        try:
            pid, _, file = os.fsdecode(self._lock.read_bytes()).partition("\n")
        except OSError:
            pid, file = "", ""
        return pid or "unknown", file.removesuffix("\n") or None

    def _clear(self) -> None:
        """Remove everything from the runtime directory, except for the lock."""
        import shutil

        with suppress(OSError):
            for entry in os.scandir(self.runtime):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                elif entry.name != "lock":
                    os.unlink(entry.path)


def running() -> list[Project]:
    """This user's projects that have a supervisor."""
    found = [project for project in _projects(_runtime_base()) if project.is_running()]
    return [project._replace(file=project._holder()[1]) for project in found]


def find(*, file: str | None = None, name: str | None = None, past: bool = False) -> Project:
    """
    The project that a client means; the only one that runs, if it says neither a file nor a name.

    Args:
        past: Take one that does not run as well; the one used last, if none runs.

    Raises:
        ConfigError: There is none, or more than one.
    """
    known = {project.name: project for project in running()}
    old = {project.name: project for project in _projects(_state_base())} if past else {}
    if file is not None or name is not None:
        return _pick(Project.of(file=file, name=name), old | known, "known" if past else "running")
    if not known and old:
        return max(old.values(), key=_last_used)
    if len(known) > 1:
        choice = ", ".join(f"{p.name} ({p.file})" if p.file else p.name for p in known.values())
        raise ConfigError("several projects are running", remedy=f"--project one of {choice}")
    if not known:
        raise ConfigError("no project is running", remedy="`pysuper up FILE` starts one")
    return next(iter(known.values()))


def _pick(wanted: Project, known: dict[str, Project], how: str) -> Project:
    if wanted.name in known:
        return known[wanted.name]
    of_file = [project for project in known.values() if project.file is not None and project.file == wanted.file]
    if of_file:  # which runs under another name, given by --project
        return of_file[0]

    from pysuper.shorthand import did_you_mean

    of = "" if wanted.file is None else f" of {wanted.file}"
    raise ConfigError(f"no project {wanted.name}{of} is {how}", remedy=did_you_mean(wanted.name, known))


def _projects(base: Path) -> list[Project]:
    """Those that have a directory there."""
    try:
        _check(base)
    except FileNotFoundError:
        return []
    names = (entry.name for entry in os.scandir(base) if entry.is_dir(follow_symlinks=False))
    return [Project.of(name=name) for name in sorted(names) if _NAME.fullmatch(name)]


def _last_used(project: Project) -> float:
    """When something was written to its files, as seconds since the epoch."""
    return max((entry.stat().st_mtime for entry in os.scandir(project.state)), default=0.0)


def _name_of(path: str) -> str:
    stem = re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(path).stem).lstrip("_.-")[:_MAX_STEM]
    return f"{stem or 'stack'}-{hashlib.sha256(os.fsencode(path)).hexdigest()[:8]}"


def _runtime_base() -> Path:
    if given := os.environ.get("PYSUPER_RUNTIME_DIR"):
        return Path(os.path.abspath(given))
    if os.geteuid() == 0:
        return Path("/run/pysuper")
    given = _absolute("XDG_RUNTIME_DIR")
    return Path(given, "pysuper") if given else Path(f"/tmp/pysuper-{os.geteuid()}")


def _state_base() -> Path:
    if given := os.environ.get("PYSUPER_STATE_DIR"):
        return Path(os.path.abspath(given))
    if os.geteuid() == 0:
        return Path("/var/lib/pysuper")
    return Path(_absolute("XDG_STATE_HOME") or os.path.expanduser("~/.local/state"), "pysuper")


def _absolute(variable: str) -> str | None:
    """Its value, if that is an absolute path: others are to be ignored, XDG Base Directory Specification."""
    value = os.environ.get(variable, "")
    return value if os.path.isabs(value) else None


def _make(directory: Path) -> None:
    """
    Make a project's directory, and the one above it for all of them; both are checked.

    Raises:
        PysuperError: It cannot be done, or one that was there is not safe.
    """
    for path in (directory.parent, directory):
        try:
            _mkdir(path)
        except OSError as error:
            raise PysuperError(f"could not make {path}: {error.strerror}", remedy=_ELSEWHERE) from error
        _check(path)


def _mkdir(path: Path) -> None:
    """Make a directory, and those above it, for nobody else; `os.makedirs` leaves these to the umask."""
    if not os.path.lexists(path):
        _mkdir(path.parent)
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)


def _check(directory: Path) -> None:
    """
    See that a directory is one, is ours, and that nobody else can write in it.

    Raises:
        FileNotFoundError: There is nothing.
        PysuperError: It is not safe.
    """
    try:
        descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        raise
    except OSError as error:
        why = "no directory, or a symbolic link" if error.errno == errno.ENOTDIR else error.strerror
        raise PysuperError(f"could not use {directory}: {why}", remedy=_ELSEWHERE) from error
    try:
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if status.st_uid != os.geteuid():
        raise PysuperError(f"{directory} belongs to the user id {status.st_uid}", remedy=_ELSEWHERE)
    if status.st_mode & 0o022:
        mode = f"{status.st_mode & 0o777:04o}"
        raise PysuperError(f"others can write in {directory}, its mode is {mode}", remedy=f"chmod go-w {directory}")
