"""A virtual machine whose cgroup tree is version 2 alone: Debian's kernel and userland under qemu.

It runs one shell command, with this repository and the virtual environment in place, and is thrown away. By hand:

    .venv/bin/python tests/vm/machine.py -- pytest tests/kernel

The processor is emulated, because KVM is rare where tests run: expect Python to be twenty times slower than outside.
"""

import argparse
import compileall
import os
import platform
import select
import shlex
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
import time
import warnings
import weakref
from pathlib import Path
from typing import IO, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # for when this is run as a script
from fixtures_build.rootfs import MACHINE_CACHE, Unavailable, cache_directory, machine_directory, make_disk

HERE = Path(__file__).resolve().parent
KERNEL_ARGUMENTS = (
    "console=ttyS0 quiet"
    " panic=-1"  # reboot at once, which -no-reboot makes an exit
    " cgroup_no_v1=all"
    " mitigations=off cryptomgr.notests"  # both cost much when emulated
)


class Result(NamedTuple):
    exit_code: int
    output: str


class Machine:
    """Boots afresh for each command; what commands write to disks is dropped.

    The guest sees copies of `repo` and of the virtual environment around `site_packages`, made when the Machine is.
    They are disks because sharing them by 9p adds two seconds to each start of an emulated Python.
    """

    def __init__(self, cache: Path, repo: Path, site_packages: Path) -> None:
        """Raises Unavailable if there is nothing to boot. The first one for a cache takes minutes to build."""
        if platform.machine() != "x86_64" or not shutil.which("qemu-system-x86_64"):
            raise Unavailable("this needs an x86-64 machine with qemu-system-x86_64")
        self._repo = repo.resolve()
        self._venv = site_packages.absolute().parents[2]  # not resolved: scripts name it as it was made
        if not (self._venv / "pyvenv.cfg").exists():
            raise Unavailable(f"{site_packages} is not in a virtual environment")
        self._boot = machine_directory(cache)
        self._disks = Path(tempfile.mkdtemp(prefix="pysuper-machine-"))
        weakref.finalize(self, shutil.rmtree, self._disks, ignore_errors=True)
        with tempfile.TemporaryDirectory() as copy:
            hidden = shutil.ignore_patterns(".*", "__pycache__")
            shutil.copytree(self._repo, copy, symlinks=True, ignore=hidden, dirs_exist_ok=True)
            compileall.compile_dir(copy, quiet=2, stripdir=copy, prependdir=str(self._repo))
            make_disk(self._disks / "repo.img", Path(copy))
        make_disk(self._disks / "venv.img", self._venv)

    def run(
        self, command: str, timeout: float, *, silence: float | None = None, echo: IO[bytes] | None = None
    ) -> Result:
        """Run a shell command as root in the repository; copy its output to `echo` as it comes.

        An emulated machine rarely, but now and then, stands still, its clock included. One that has said nothing for
        `silence` seconds is booted once more.

        Raises TimeoutError, or RuntimeError if the machine ends without having finished the command.
        """
        deadline = time.monotonic() + timeout
        if silence is not None:
            try:
                return self._boot_and_run(command, deadline, silence, echo)
            except TimeoutError as standstill:
                if time.monotonic() >= deadline:
                    raise
                warnings.warn(f"booted once more: {standstill}", stacklevel=2)
        return self._boot_and_run(command, deadline, timeout, echo)

    def _boot_and_run(self, command: str, deadline: float, silence: float, echo: IO[bytes] | None) -> Result:
        with tempfile.TemporaryDirectory() as scratch:
            initramfs, console, status = (Path(scratch, name) for name in ("initramfs", "console", "status"))
            initramfs.write_bytes(self._initramfs(command))
            argv = self._qemu(initramfs, console, status)
            with (
                console.open("wb") as errors,
                subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors) as qemu,
            ):
                try:
                    assert qemu.stdout is not None
                    output, ended = _read(qemu.stdout, deadline, silence, echo)
                finally:
                    qemu.kill()  # nothing to save: it has powered off, or it must
            if ended and (code := status.read_text() if status.exists() else ""):
                return Result(int(code), output)
            report = f"command's output:\n{output[-2000:]}\nconsole:\n{console.read_text(errors='replace')[-2000:]}"
            if not ended:
                raise TimeoutError(f"the machine did not finish in time, or said nothing for {silence:g} s\n{report}")
            raise RuntimeError(f"the machine stopped without an exit code\n{report}")

    def _qemu(self, initramfs: Path, console: Path, status: Path) -> list[str | Path]:
        disks = (self._boot / "root.img", self._disks / "repo.img", self._disks / "venv.img")
        return [
            *("setpriv", "--pdeathsig", "KILL"),  # outlives no test run, however that ends
            *("qemu-system-x86_64", "-nodefaults", "-no-reboot", "-display", "none"),
            *("-machine", "q35", "-accel", "tcg", "-cpu", "max", "-smp", "2", "-m", "2G"),
            *("-kernel", self._boot / "vmlinux", "-initrd", initramfs, "-append", KERNEL_ARGUMENTS),
            *(arg for disk in disks for arg in ("-drive", f"file={disk},if=virtio,format=raw,snapshot=on")),
            *("-chardev", f"file,id=console,path={console},append=on", "-serial", "chardev:console"),
            *("-chardev", "file,id=output,path=/dev/stdout", "-chardev", f"file,id=status,path={status}"),
            *("-device", "virtio-serial-pci"),
            *("-device", "virtserialport,nr=1,chardev=output", "-device", "virtserialport,nr=2,chardev=status"),
        ]

    def _initramfs(self, command: str) -> bytes:
        settings = {
            "REPOSITORY": self._repo,
            "VENV": self._venv,
            "PYSUPER_TEST_CACHE": Path("/", MACHINE_CACHE),
        }
        archive = _Cpio()
        for directory in ("bin", "dev", "modules"):
            archive.add(directory, stat.S_IFDIR | 0o755)
        archive.add("bin/busybox", stat.S_IFREG | 0o755, (self._boot / "busybox").read_bytes())
        for applet in ("cp", "insmod", "mkdir", "mount", "sh", "switch_root"):
            archive.add(f"bin/{applet}", stat.S_IFLNK | 0o777, b"busybox")
        for module in sorted((self._boot / "modules").iterdir()):
            archive.add(f"modules/{module.name}", stat.S_IFREG | 0o644, module.read_bytes())
        archive.add("init", stat.S_IFREG | 0o755, (HERE / "initramfs.sh").read_bytes())
        archive.add("guest.sh", stat.S_IFREG | 0o755, (HERE / "guest.sh").read_bytes())
        assignments = "".join(f"{name}={shlex.quote(str(value))}\n" for name, value in settings.items())
        archive.add("settings.sh", stat.S_IFREG | 0o644, assignments.encode())
        archive.add("command.sh", stat.S_IFREG | 0o644, command.encode() + b"\n")
        return archive.finish()


class _Cpio:
    """The archive format the kernel unpacks (its Documentation/driver-api/early-userspace/buffer-format.rst)."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._inodes = 0

    def add(self, name: str, mode: int, data: bytes = b"") -> None:
        self._inodes += 1
        path = name.encode() + b"\0"
        uid = gid = mtime = major = minor = rmajor = rminor = check = 0
        links = 1
        fields = (self._inodes, mode, uid, gid, links, mtime, len(data), major, minor, rmajor, rminor, len(path), check)
        self._data += b"070701" + b"".join(b"%08x" % field for field in fields) + path
        self._align()
        self._data += data
        self._align()

    def finish(self) -> bytes:
        self.add("TRAILER!!!", 0)
        return bytes(self._data)

    def _align(self) -> None:
        self._data += bytes(-len(self._data) % 4)


def _read(pipe: IO[bytes], deadline: float, silence: float, echo: IO[bytes] | None) -> tuple[str, bool]:
    """What came out of `pipe` before the deadline, or before it was silent so long; and whether that was all of it."""
    output = bytearray()
    ended = False
    while not ended and select.select([pipe], [], [], min(silence, max(0, deadline - time.monotonic())))[0]:
        data = os.read(pipe.fileno(), 65536)
        ended = not data
        output += data
        if echo:
            echo.write(data)
            echo.flush()
    return output.decode(errors="replace"), ended


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timeout", type=float, default=3600, help="in seconds")
    parser.add_argument("command", nargs="+", help="one shell command line, or a program and its arguments")
    options = parser.parse_args()
    command = options.command[0] if len(options.command) == 1 else shlex.join(options.command)
    machine = Machine(cache_directory(), HERE.parents[1], Path(sysconfig.get_path("purelib")))
    return machine.run(command, options.timeout, echo=sys.stdout.buffer).exit_code


if __name__ == "__main__":
    sys.exit(main())
