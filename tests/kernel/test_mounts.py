"""Mounts of the container: the private /dev, /proc and /sys, and what the user adds."""

from __future__ import annotations

import os

import pytest

import pysuper
from pysuper import BindMount, TmpfsMount


async def test_dev_is_private_and_complete(output) -> None:
    found = (await output("ls /dev")).split()
    names = "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero"
    assert found == names.split()
    script = "echo x > /dev/null && head -c 4 /dev/zero | wc -c && head -c 4 /dev/urandom | wc -c; echo x > /dev/full"
    assert (await output(f"({script}) 2>/dev/null || echo full")).split() == ["4", "4", "full"]


@pytest.mark.parametrize("path", ["/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/sys/kernel/uevent_helper"])
async def test_the_hosts_kernel_files_cannot_be_written(output, path) -> None:
    if not os.path.exists(path):
        pytest.skip(f"{path} does not exist here")
    # What is there already, or nothing at all: the gate is tested, not gone through.
    assert await output(f"(: >> {path}) 2>/dev/null && echo open || echo shut") == "shut\n"


async def test_masked_paths_say_nothing(output) -> None:
    script = (
        "cat /proc/keys /proc/timer_list /proc/interrupts 2>/dev/null | wc -c; ls /sys/firmware 2>/dev/null | wc -l"
    )
    assert (await output(script)).split() == ["0", "0"]


async def test_proc_and_sys_are_mounted_safely(output) -> None:
    lines = [line.split() for line in (await output("cat /proc/self/mounts")).splitlines()]
    flags = {target: set(options.split(",")) for _, target, _, options, *_ in lines}
    assert {"nosuid", "nodev", "noexec"} <= flags["/proc"]
    assert {"ro", "nosuid", "nodev", "noexec"} <= flags["/sys"]
    assert "ro" in flags["/proc/sys"]
    assert {"nosuid", "noexec"} <= flags["/dev/pts"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs mapped ids")
async def test_a_bind_mount_is_shared_with_the_host(output, tmp_path) -> None:
    (tmp_path / "in").write_text("from the host\n")
    mount = BindMount(source=str(tmp_path), target="/data")
    script = "cat /data/in; echo back > /data/out; stat -c %u /data/in"
    assert await output(script, mounts=(mount,)) == "from the host\n0\n"
    assert (tmp_path / "out").read_text() == "back\n"
    assert (tmp_path / "out").stat().st_uid == 0


async def test_a_read_only_bind_mount_cannot_be_written(output, tmp_path) -> None:
    (tmp_path / "file").write_text("kept\n")
    mounts = (BindMount(source=str(tmp_path), target="/data", read_only=True),)
    script = "(echo x > /data/file) 2>/dev/null || echo refused; cat /data/file"
    assert await output(script, mounts=mounts) == "refused\nkept\n"


async def test_a_file_can_be_mounted(output, tmp_path) -> None:
    (tmp_path / "file").write_text("content\n")
    mounts = (BindMount(source=str(tmp_path / "file"), target="/tmp/deep/below/file", read_only=True),)
    assert await output("cat /tmp/deep/below/file", mounts=mounts) == "content\n"


async def test_a_target_may_have_any_name(output) -> None:
    name = "/tmp/a b\tc\\d ü\u2028\x0c"
    assert await output('ls -d "$NAME"', environment={"NAME": name}, mounts=(TmpfsMount(target=name),)) == f"{name}\n"


async def test_a_tmpfs_has_its_size_and_mode(output) -> None:
    mounts = (TmpfsMount(target="/scratch", size=1 << 20, mode=0o700),)
    script = "stat -c %a /scratch; head -c 2000000 /dev/zero > /scratch/big 2>/dev/null || echo full"
    assert await output(script, mounts=mounts) == "700\nfull\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="writes to a directory root file system")
@pytest.mark.parametrize("target", ["/link/inside", "/link", "/chain/x", "/dangling"])
async def test_a_target_that_is_a_symbolic_link_is_an_error(supervisor, spec, own_busybox, tmp_path, target) -> None:
    """CVE-2021-30465 and its kin: an image whose mount target leads to the host."""
    (outside := tmp_path / "outside").mkdir()
    (own_busybox / "link").symlink_to(outside)
    (own_busybox / "chain").symlink_to("../../../../../../" + str(outside))
    (own_busybox / "dangling").symlink_to("/nowhere")
    rootfs = pysuper.DriverChoice("dir", argument=str(own_busybox))
    mounts = (BindMount(source="/usr", target=target),)
    with pytest.raises(pysuper.LaunchError, match="symbolic link"):
        await supervisor.start(spec(rootfs=rootfs, mounts=mounts))
    assert os.listdir(outside) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="writes to a directory root file system")
@pytest.mark.parametrize("name", ["proc", "sys", "dev"])
async def test_a_system_directory_that_is_a_link_is_an_error(supervisor, spec, own_busybox, tmp_path, name) -> None:
    """CVE-2025-31133, CVE-2025-52565: /proc or /dev of the image is a link."""
    (outside := tmp_path / "outside").mkdir()
    (own_busybox / name).rmdir()
    (own_busybox / name).symlink_to(outside)
    with pytest.raises(pysuper.LaunchError, match=f"/{name}.* symbolic link"):
        await supervisor.start(spec(rootfs=pysuper.DriverChoice("dir", argument=str(own_busybox))))
    assert os.listdir(outside) == []


async def test_a_missing_source_is_an_error(supervisor, spec) -> None:
    with pytest.raises(pysuper.DriverError, match="/no/such"):
        await supervisor.start(spec(mounts=(BindMount(source="/no/such", target="/data"),)))


@pytest.mark.parametrize("source", ["link", "link/below"])
async def test_a_link_in_a_source_is_an_error(supervisor, spec, tmp_path, source: str) -> None:
    (tmp_path / "real/below").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(pysuper.LaunchError, match=f"{tmp_path}/{source} is or leads through a symbolic link: name"):
        await supervisor.start(spec(mounts=(BindMount(source=f"{tmp_path}/{source}", target="/data"),)))


async def test_a_root_that_is_a_link_is_an_error(supervisor, spec, own_busybox, tmp_path) -> None:
    (tmp_path / "current").symlink_to(own_busybox)
    with pytest.raises(pysuper.LaunchError, match="/current is or leads through a symbolic link: name"):
        await supervisor.start(spec(rootfs=pysuper.DriverChoice("dir", argument=f"{tmp_path}/current")))


@pytest.mark.parametrize("target", ["/proc", "/proc/sys", "/proc/."])
async def test_proc_cannot_be_a_target(supervisor, spec, target: str) -> None:
    with pytest.raises(pysuper.DriverError, match=f"^{target} cannot be a mount target"):
        await supervisor.start(spec(mounts=(TmpfsMount(target=target),)))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs privileges")
async def test_not_even_added_capabilities_undo_a_mount(output) -> None:
    """Mounts are locked: they came from a more privileged mount namespace, mount_namespaces(7)."""
    script = """
        umount /proc/sys 2>/dev/null && echo unmounted
        umount /sys 2>/dev/null && echo unmounted
        mount -o remount,rw /sys 2>/dev/null && echo remounted
        mount -o remount,bind,rw /proc/sys 2>/dev/null && echo remounted
        mount -t tmpfs none /mnt && echo mounted
    """
    assert await output(script, capabilities=("SYS_ADMIN", "DAC_OVERRIDE")) == "mounted\n"
