"""Root file systems: what the container sees, and what its writes do to the host."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import trio

import pysuper

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

ROOTS = ["host", "dir", "chroot", "tar"]


@pytest.fixture(scope="session")
def archive(busybox: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("archive") / "busybox.tar.gz"
    with tarfile.open(path, "w:gz") as file:
        file.add(busybox, ".")
    return path


@pytest.fixture(params=ROOTS)
def rootfs(request, own_busybox, archive) -> pysuper.DriverChoice:
    argument = {"host": None, "tar": str(archive)}.get(request.param, str(own_busybox))
    return pysuper.DriverChoice(request.param, argument=argument)


async def test_files_of_root_belong_to_the_containers_root(output, rootfs) -> None:
    script = "stat -c '%u %g' / /etc/passwd /bin/. /dev /dev/null /tmp; touch /made && stat -c '%u %g' /made"
    assert set((await output(script, rootfs=rootfs)).splitlines()) == {"0 0"}


async def test_host_writes_vanish(output) -> None:
    script = "echo x > /etc/motd.pysuper && rm -f /etc/hostname && cat /etc/motd.pysuper"
    before = sorted(os.listdir("/etc"))
    assert await output(script) == "x\n"
    assert before == sorted(os.listdir("/etc"))


@pytest.mark.skipif(not os.path.exists("/dev/loop-control"), reason="needs loop devices")
def test_host_shows_partitions_of_its_own_copy_on_write(tmp_path) -> None:
    """In a mount namespace of the test's own, where /srv is a disk."""
    image = tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(20 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    inside = "cat /srv/file; echo changed > /srv/file; cat /srv/file; stat -c %u /srv/file"
    script = f"""
        mount -o loop {image} /srv && echo original > /srv/file &&
        {sys.executable} -m pysuper run -- sh -c '{inside}' && cat /srv/file
    """
    command = ["unshare", "--mount", "sh", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
    assert done.stdout.split() == ["original", "changed", "0", "original"]


async def test_host_hides_homes_and_temporary_files(output, tmp_path) -> None:
    assert str(tmp_path).startswith("/tmp/")
    assert (await output("ls -A /home /root /tmp /run")).split() == ["/home:", "/root:", "/run:", "/tmp:"]


async def test_dir_keeps_what_is_written_with_sensible_owners(output, own_busybox) -> None:
    rootfs = pysuper.DriverChoice("dir", argument=str(own_busybox))
    await output("echo kept > /file; chown 1000:1000 /file", rootfs=rootfs)
    assert (own_busybox / "file").read_text() == "kept\n"
    assert (own_busybox / "file").stat().st_uid == 1000


async def test_tar_is_unpacked_once_and_runs_do_not_see_each_others_writes(output, archive) -> None:
    rootfs = pysuper.DriverChoice("tar", argument=str(archive))
    assert await output("ls /made || echo none; echo x > /made; ls /made", rootfs=rootfs) == "none\n/made\n"
    images = set(os.listdir("/var/cache/pysuper/images"))
    assert await output("ls /made || echo none", rootfs=rootfs) == "none\n"
    assert images == set(os.listdir("/var/cache/pysuper/images"))
    assert not [name for name in images if name.startswith(".partial")]


@pytest.mark.parametrize("compress", ["", "gzip", "bzip2", "xz", "zstd"])
async def test_tar_takes_every_compression(output, busybox, tmp_path, compress) -> None:
    archive = tmp_path / "a.tar"
    (marker := tmp_path / "marker").write_text(compress)
    flags = [f"--use-compress-program={compress}"] if compress else []
    subprocess.run(["tar", *flags, "-cf", archive, "-C", busybox, ".", "-C", marker.parent, "marker"], check=True)
    rootfs = pysuper.DriverChoice("tar", argument=str(archive))
    assert await output("cat /marker", rootfs=rootfs) == compress


async def test_a_changed_archive_is_unpacked_again(output, busybox, tmp_path) -> None:
    archive = tmp_path / "a.tar"
    for content in ("one", "two"):
        (tmp_path / "version").write_text(content)
        subprocess.run(["tar", "-cf", archive, "-C", busybox, ".", "-C", tmp_path, "version"], check=True)
        assert await output("cat /version", rootfs=pysuper.DriverChoice("tar", argument=str(archive))) == content


async def test_a_hostile_archive_is_refused_and_leaves_nothing(supervisor, spec, tmp_path) -> None:
    (tmp_path / "evil").write_text("owned")
    subprocess.run(
        ["tar", "-cPf", tmp_path / "a.tar", "-C", tmp_path, "--transform=s,^,../../../,", "evil"], check=True
    )
    with pytest.raises(pysuper.DriverError, match="evil"):
        await supervisor.start(spec(rootfs=pysuper.DriverChoice("tar", argument=str(tmp_path / "a.tar"))))
    assert not [name for name in os.listdir("/var/cache/pysuper/images") if name.startswith(".partial")]


async def test_an_unpacking_that_is_cancelled_leaves_nothing(supervisor, spec, busybox, tmp_path) -> None:
    subprocess.run(["tar", "-cf", tmp_path / "a.tar", "-C", busybox, ".", "-C", "/", str(tmp_path)[1:]], check=True)
    images = Path("/var/cache/pysuper/images")
    with trio.fail_after(30), trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            wanted = spec(rootfs=pysuper.DriverChoice("tar", argument=str(tmp_path / "a.tar")))
            nursery.start_soon(supervisor.start, wanted)
            while not list(images.glob(".partial-box.*")):
                await trio.sleep(0.001)
            scope.cancel()
    assert not list(images.glob(".partial-box.*"))


@pytest.mark.parametrize("content", [b"", b"this is no archive", bytes(range(256)) * 40, b"\x1f\x8b\x08\x00garbage"])
async def test_what_is_no_archive_is_an_error(supervisor, spec, tmp_path, content) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(pysuper.DriverError, match="a.tar"):
        await supervisor.start(spec(rootfs=pysuper.DriverChoice("tar", argument=str(tmp_path / "a.tar"))))


@pytest.mark.parametrize("kind", ["dir", "chroot"])
@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir(), lambda p: p.write_text("a file")])
async def test_a_bad_directory_is_an_error_before_anything_is_cloned(supervisor, spec, tmp_path, kind, make) -> None:
    make(tmp_path / "root")
    with pytest.raises(pysuper.DriverError, match="root"):
        await supervisor.start(spec(rootfs=pysuper.DriverChoice(kind, argument=str(tmp_path / "root"))))


async def test_a_missing_archive_is_an_error(supervisor, spec) -> None:
    with pytest.raises(pysuper.DriverError, match="No such file"):
        await supervisor.start(spec(rootfs=pysuper.DriverChoice("tar", argument="/no/such.tar")))


async def test_an_unknown_driver_is_answered_with_a_near_one(supervisor, spec) -> None:
    with pytest.raises(pysuper.DriverError, match="did you mean 'chroot'"):
        await supervisor.start(spec(rootfs=pysuper.DriverChoice("chrot", argument="/")))


async def test_read_only_is_read_only(output, rootfs) -> None:
    script = "touch /x 2>/dev/null || echo refused; touch /tmp/x 2>/dev/null || echo refused"
    found = (await output(script, rootfs=rootfs, read_only=True)).split()
    # The host's view has a /tmp of its own, which is writable; the others' is part of the root.
    assert found == (["refused"] if rootfs.name == "host" else ["refused", "refused"])


@pytest.mark.parametrize("init", [True, False])
async def test_no_mount_of_the_host_is_left(output, init) -> None:
    mounts = [line.split()[4] for line in (await output("cat /proc/self/mountinfo", init=init)).splitlines()]
    assert mounts.count("/") == 1
    assert not [path for path in mounts if path.startswith(("/mnt", "/sys/fs/cgroup", "/old"))]


async def test_chroot_leaves_the_old_root_mounted_and_dir_does_not(output, own_busybox) -> None:
    for kind, roots in (("chroot", 1), ("dir", 1)):
        rootfs = pysuper.DriverChoice(kind, argument=str(own_busybox))
        found = await output("cat /proc/self/mountinfo", rootfs=rootfs)
        # What lies outside the root is not listed; but only pivot_root has detached it.
        assert [line.split()[4] for line in found.splitlines()].count("/") == roots


async def test_chroot_refuses_the_capabilities_that_lead_out_of_it(supervisor, spec, own_busybox) -> None:
    rootfs = pysuper.DriverChoice("chroot", argument=str(own_busybox))
    with pytest.raises(pysuper.DriverError, match="SYS_CHROOT"):
        await supervisor.start(spec(rootfs=rootfs, capabilities=("SYS_CHROOT",)))


async def test_the_double_chroot_breaks_out_of_chroot_but_not_of_pivot_root(output, own_busybox, tmp_path) -> None:
    """
    The classic: keep a descriptor of "/", chroot below it, fchdir back, walk up, chroot(".").

    Shown against a bare chroot with CAP_SYS_CHROOT first, so that the test could fail; both look for a marker of
    the host and touch nothing.
    """
    (own_busybox / "break.py").write_text(
        "import os\nfd = os.open('/', os.O_RDONLY)\nos.makedirs('/x', exist_ok=True)\nos.chroot('/x')\n"
        "os.fchdir(fd)\nfor _ in range(50): os.chdir('..')\nos.chroot('.')\n"
        f"print(os.path.exists({str(tmp_path)!r}))\n"
    )
    script = (own_busybox / "break.py").read_text()
    bare = ["chroot", str(own_busybox), "/bin/true"]
    assert subprocess.run(bare, check=False).returncode == 0
    broken = subprocess.run(
        ["python3", "-c", f"import os; os.chroot({str(own_busybox)!r}); os.chdir('/')\n{script}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert broken.stdout == "True\n"
    found = await output(
        '/usr/bin/python3 -c "$SCRIPT"', environment={"SCRIPT": script}, capabilities=("SYS_CHROOT", "DAC_OVERRIDE")
    )
    assert found == "False\n"
