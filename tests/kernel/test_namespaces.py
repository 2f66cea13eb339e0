"""Namespaces, compared by inode (namespaces(7), /proc/PID/ns)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import pysuper
from pysuper.spec import NAMESPACES

SHAREABLE = sorted(set(NAMESPACES) - {"mnt", "pid"})


def inode(pid: int, namespace: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{namespace}")


@pytest.mark.parametrize("init", [True, False])
async def test_a_container_has_a_namespace_of_every_kind(supervisor, spec, init) -> None:
    container = await supervisor.start(spec("exec sleep 60", init=init))
    ours = {name: inode(os.getpid(), name) for name in NAMESPACES}
    theirs = {name: inode(container.pid, name) for name in NAMESPACES}
    assert [name for name in NAMESPACES if ours[name] == theirs[name]] == []


@pytest.mark.parametrize("shared", SHAREABLE)
async def test_share_leaves_out_exactly_the_named_namespace(supervisor, spec, shared) -> None:
    container = await supervisor.start(spec("exec sleep 60", share=frozenset({shared})))
    same = [name for name in NAMESPACES if inode(os.getpid(), name) == inode(container.pid, name)]
    assert [shared] == same


async def test_a_shared_pid_namespace_is_cleaned_up_through_the_cgroup(supervisor, spec) -> None:
    container = await supervisor.start(spec("sleep 60 & sleep 60", share=frozenset({"pid"})))
    assert inode(os.getpid(), "pid") == inode(container.pid, "pid")
    await container.stop()
    await container.wait()  # and `nothing_is_left` sees that both sleeps are gone


async def test_the_mount_namespace_cannot_be_shared(supervisor, spec) -> None:
    with pytest.raises(pysuper.ConfigError, match="mnt"):
        await supervisor.start(spec(share=frozenset({"mnt"})))


async def test_two_containers_share_no_namespace(supervisor, spec) -> None:
    one, two = [await supervisor.start(spec("exec sleep 60")) for _ in range(2)]
    assert [name for name in NAMESPACES if inode(one.pid, name) == inode(two.pid, name)] == []


async def test_loopback_is_up_and_alone(output) -> None:
    assert (await output("ls /sys/class/net; cat /sys/class/net/lo/flags")).split() == ["lo", "0x9"]


async def test_the_host_network_is_the_hosts(output) -> None:
    inside = await output("readlink /proc/self/ns/net", network=pysuper.DriverChoice("host"))
    assert inside.strip() == inode(os.getpid(), "net")


async def test_the_hostname_is_the_name(output) -> None:
    assert await output("hostname", name="ada") == "ada\n"
    assert await output("hostname", hostname="lovelace") == "lovelace\n"


async def test_only_processes_of_the_container_are_seen(output) -> None:
    pids = (await output("ls /proc")).split()
    assert {pid for pid in pids if pid.isdecimal()} <= {str(n) for n in range(1, 10)}


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user has one id only")
async def test_root_is_nobody_on_the_host(supervisor, spec) -> None:
    one, two = [await supervisor.start(spec("exec sleep 60")) for _ in range(2)]
    maps = [Path(f"/proc/{container.pid}/uid_map").read_text().split() for container in (one, two)]
    bases = {int(base) for _, base, _ in maps}
    assert len(bases) == 2
    assert [[inside, count] for inside, _, count in maps] == [["0", "65536"]] * 2
    for container, (_, base, _) in zip((one, two), maps, strict=True):
        status = Path(f"/proc/{container.pid}/status").read_text()
        assert f"Uid:\t{base}\t{base}\t{base}\t{base}" in status
