#!/usr/bin/env python3
"""Builds the file trees that tests run in, and keeps them in a cache.

As a script it builds those that are absent and prints their paths:

    python3 tests/fixtures_build/rootfs.py [debian] [busybox] [machine]

Everything comes from the package sources of the machine it runs on, through mmdebstrap.
"""

import fcntl
import hashlib
import io
import os
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

SUITE = "bookworm"
DOCUMENTATION = ("/usr/share/doc/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/man/*")

# What the virtual machine has beyond Debian's minbase, and the kernel modules it loads when it boots.
MACHINE_PACKAGES = ("busybox-static", "iproute2", "procps", "python3", "strace", "uidmap", "xz-utils", "zstd")
MACHINE_MODULES = ("virtio_pci", "virtio_blk", "virtio_console", "crc32c_generic", "ext4", "overlay", "loop", "veth")
DISK_SIZE = "4G"  # sparse: room for what tests unpack
MACHINE_CACHE = "var/cache/pysuper-tests"  # PYSUPER_TEST_CACHE of the tests that run inside the machine

# A changed recipe makes new trees: this file's text is part of their address.
RECIPE = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]


class Unavailable(Exception):
    """A tree cannot be made here: a tool is missing, or the package sources do not answer."""


def cache_directory() -> Path:
    """The cache that the tests share between runs and checkouts."""
    if override := os.environ.get("PYSUPER_TEST_CACHE"):
        return Path(override)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pysuper-tests"


def debian_tarball(cache: Path) -> Path:
    """Debian's minbase with busybox, as a container image would hold it: no documentation, no device nodes."""

    def build(target: Path) -> None:
        _mmdebstrap(target, "--include=busybox-static")

    return _cached(cache, "debian.tar.gz", build)


def busybox_tarball(cache: Path) -> Path:
    """The smallest useful tree: a static busybox under all of its names, and the usual directories."""
    return _cached(cache, "busybox.tar", _build_busybox)


def machine_directory(cache: Path) -> Path:
    """What `tests/vm/machine.py` boots: vmlinux, busybox, modules/ (in load order) and root.img."""

    def build(directory: Path) -> None:
        directory.mkdir()
        deb = directory / "linux.deb"
        tarball = directory / "root.tar"
        _mmdebstrap(
            tarball,
            "--include=" + ",".join(MACHINE_PACKAGES),
            '--customize-hook=chroot "$1" useradd --create-home --uid 1000 --shell /bin/bash tester',
            # The kernel is unpacked out here: installed, it would drag in an initramfs for real hardware.
            '--customize-hook=cd "$1/tmp" && export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" &&'
            ' apt-get download "$(apt-cache depends linux-image-amd64 | sed -n "s/.*Depends: //p")" &&'
            " mv linux-image-*.deb linux.deb",
            f"--customize-hook=download /tmp/linux.deb {deb}",
        )
        _unpack_kernel(deb, directory)
        _make_root_disk(tarball, directory / "root.img", [debian_tarball(cache), busybox_tarball(cache)])
        shutil.copy(_busybox(), directory / "busybox")
        deb.unlink()
        tarball.unlink()

    return _cached(cache, "machine", build)


def make_disk(image: Path, tree: Path) -> None:
    """A disk image that holds a copy of `tree`; what its users own, they own there too."""
    _run(["mkfs.ext4", "-q", "-O", "^has_journal", "-E", "root_owner=0:0", "-d", tree, image, DISK_SIZE])


def _cached(cache: Path, name: str, build: Callable[[Path], None]) -> Path:
    """`name` in the cache, after `build` made it if it was absent. Concurrent callers wait for one builder."""
    target = cache / RECIPE / name
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.with_name(f".{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not target.exists():
                with tempfile.TemporaryDirectory(dir=target.parent, prefix=".building-") as scratch:
                    made = Path(scratch, name)
                    build(made)
                    made.rename(target)
    return target


def _run(argv: Sequence[str | Path], *, stdin: bytes = b"") -> bytes:
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"  # mkfs is there, off most users' PATH
    try:
        return subprocess.run(
            argv, input=stdin, capture_output=True, check=True, env={**os.environ, "PATH": path}
        ).stdout
    except FileNotFoundError:
        raise Unavailable(f"{argv[0]} is not installed (see tests/fixtures_build/debs.sh)") from None
    except subprocess.CalledProcessError as error:
        raise Unavailable(f"{argv[0]} failed: {error.stderr.decode(errors='replace')[-1000:]}") from error


def _mmdebstrap(target: Path, *options: str) -> None:
    # What it mounts on the tree is gone when it is, even if it was killed. Without privileges it sees to that itself.
    private = ["unshare", "--mount"] if os.geteuid() == 0 else []
    _run(
        [
            *private,
            "mmdebstrap",
            "--variant=minbase",
            "--skip=output/dev",
            *(f"--dpkgopt=path-exclude={pattern}" for pattern in DOCUMENTATION),
            # Proxies and the like hold for the machine that builds: the last hook takes them out of the tree.
            *(f"--aptopt={option}" for option in _apt_options()),
            *options,
            '--customize-hook=rm -f "$1/etc/apt/apt.conf.d/99mmdebstrap"',
            SUITE,
            target,
            *_apt_sources(),
        ]
    )


def _apt_options() -> list[str]:
    trees = ("Acquire::http", "Acquire::https", "Acquire::Check-Date", "Acquire::Check-Valid-Until")
    return _run(["apt-config", "dump", *trees]).decode().splitlines()


def _apt_sources() -> list[str]:
    """The files that name this machine's mirrors of SUITE; of none, mmdebstrap takes its default mirror."""
    fields = ["--format", "$(SOURCESENTRY)", "Identifier: Packages", "Origin: Debian", f"Codename: {SUITE}"]
    entries = _run(["apt-get", "indextargets", *fields]).decode().splitlines()
    return sorted({entry.rpartition(":")[0] for entry in entries})


def _busybox() -> Path:
    if found := shutil.which("busybox"):
        return Path(found)
    raise Unavailable("busybox is not installed (see tests/fixtures_build/debs.sh)")


def _build_busybox(target: Path) -> None:
    busybox = _busybox()
    with tarfile.open(target, "w") as tar:

        def add(name: str, kind: bytes, mode: int, data: bytes = b"", link: str = "") -> None:
            member = tarfile.TarInfo(name)
            member.type, member.mode, member.size, member.linkname = kind, mode, len(data), link
            tar.addfile(member, io.BytesIO(data))

        for name in ("bin", "dev", "etc", "proc", "root", "sys", "usr"):
            add(name, tarfile.DIRTYPE, 0o755)
        add("tmp", tarfile.DIRTYPE, 0o1777)
        for name, link in (("sbin", "bin"), ("usr/bin", "../bin"), ("usr/sbin", "../bin")):
            add(name, tarfile.SYMTYPE, 0o777, link=link)
        add("bin/busybox", tarfile.REGTYPE, 0o755, busybox.read_bytes())
        for applet in _run([busybox, "--list"]).decode().split():
            if applet != "busybox":
                add(f"bin/{applet}", tarfile.SYMTYPE, 0o777, link="busybox")
        users = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
        add("etc/passwd", tarfile.REGTYPE, 0o644, users)
        add("etc/group", tarfile.REGTYPE, 0o644, b"root:x:0:\nnogroup:x:65534:\n")


def _unpack_kernel(deb: Path, directory: Path) -> None:
    """Take from a linux-image package the kernel itself and the modules that MACHINE_MODULES need."""
    with tempfile.TemporaryDirectory(dir=directory.parent) as scratch:
        _run(["dpkg-deb", "--extract", deb, scratch])
        (image,) = Path(scratch, "boot").glob("vmlinuz-*")
        (directory / "vmlinux").write_bytes(_uncompressed_kernel(image.read_bytes()))
        modules = directory / "modules"
        modules.mkdir()
        available = {path.stem.replace("-", "_"): path for path in Path(scratch, "lib/modules").rglob("*.ko")}
        for position, name in enumerate(_load_order(MACHINE_MODULES, available)):
            shutil.copy(available[name], modules / f"{position:02}-{name}.ko")


def _uncompressed_kernel(image: bytes) -> bytes:
    """The ELF file inside a bzImage: an emulated processor takes seconds to decompress it.

    The fields are those of the kernel's Documentation/arch/x86/boot.rst; Debian compresses with xz.
    """
    setup_sectors = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    size_suffix = 4  # appended to the xz stream, which would take it for garbage
    return _run(["xz", "--decompress", "--stdout"], stdin=image[start : start + length - size_suffix])


def _load_order(wanted: Iterable[str], available: dict[str, Path]) -> list[str]:
    """The modules and all that they depend on, each after its dependencies."""
    order: list[str] = []

    def add(name: str) -> None:
        if name in order:
            return
        for dependencies in re.findall(rb"\0depends=([^\0]*)", available[name].read_bytes()):
            for dependency in filter(None, dependencies.decode().split(",")):
                add(dependency.replace("-", "_"))
        order.append(name)

    for name in wanted:
        add(name)
    return order


def _make_root_disk(tarball: Path, image: Path, fixtures: Iterable[Path]) -> None:
    # Other users' files can only be made by root, which a user namespace makes of anyone who has subordinate ids.
    as_root = [] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--map-auto"]
    script = """
        set -eu
        tarball=$1 image=$2 size=$3 cache=$4; shift 4
        tree=$(mktemp --directory "$image.XXXXXX")
        trap 'rm -rf "$tree"' EXIT
        tar --extract --file "$tarball" --directory "$tree"
        mkdir --parents "$tree/dev" "$tree/$cache"
        cp "$@" "$tree/$cache"
        mkfs.ext4 -q -O ^has_journal -d "$tree" "$image" "$size"
    """
    guest_cache = f"{MACHINE_CACHE}/{RECIPE}"
    _run([*as_root, "sh", "-c", script, "sh", tarball, image, DISK_SIZE, guest_cache, *fixtures])


BUILDERS = {"debian": debian_tarball, "busybox": busybox_tarball, "machine": machine_directory}


def main() -> None:
    trees = sys.argv[1:] or list(BUILDERS)
    if not BUILDERS.keys() >= set(trees):
        sys.exit(__doc__)
    for tree in trees:
        try:
            print(BUILDERS[tree](cache_directory()))
        except Unavailable as reason:
            sys.exit(f"{tree}: {reason}")


if __name__ == "__main__":
    main()
