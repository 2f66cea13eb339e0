"""Every built-in driver keeps the rules that third parties' have to keep."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pysuper.testing import CgroupDriverTests, HookTests, NamespaceDriverTests, NetworkDriverTests, RootfsDriverTests
from roots import make_busybox

MARKER = {"/etc/marker": "this root, and no other\n"}
PASSWD = {"/etc/passwd": Path("/etc/passwd").read_text()}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a small root file system."""
    root = make_busybox(tmp_path_factory.mktemp("conformance") / "root")
    (root / "etc/marker").write_text(MARKER["/etc/marker"])
    return root


class TestV1(CgroupDriverTests):
    driver = "v1"
    limits = ("pids_max", "memory_max", "memory_swap_max", "cpu_max", "cpuset_cpus", "io_max")


class TestV2(CgroupDriverTests):
    driver = "v2"
    limits = ("pids_max", "memory_max", "memory_swap_max", "cpu_max", "cpuset_cpus", "io_max")


class TestNoCgroup(CgroupDriverTests):
    driver = "none"


class TestHostRootfs(RootfsDriverTests):
    driver = "host"
    shows = PASSWD


class TestDirectoryRootfs(RootfsDriverTests):
    shows = MARKER
    writes_stay = True

    @pytest.fixture(autouse=True)
    def _tree(self, tree: Path) -> None:
        self.driver = f"dir:{tree}"


class TestChrootRootfs(RootfsDriverTests):
    shows = MARKER
    writes_stay = True

    @pytest.fixture(autouse=True)
    def _tree(self, tree: Path) -> None:
        self.driver = f"chroot:{tree}"


class TestTarRootfs(RootfsDriverTests):
    shows = MARKER

    @pytest.fixture(autouse=True)
    def _archive(self, tree: Path, tmp_path: Path) -> None:
        path = tmp_path / "root.tar"
        with tarfile.open(path, "w") as archive:  # a small one, since it is unpacked hundreds of times
            for name in ("bin/busybox", "bin/sh", "etc/marker"):
                archive.add(tree / name, name)
        self.driver = f"tar:{path}"
        cache = Path("/var/cache/pysuper") if os.geteuid() == 0 else Path.home() / ".cache"
        images = cache / ("images" if os.geteuid() == 0 else "pysuper/images")
        self.keeps = [str(cache)]
        # Unpacked in each test anew.
        self.forgets = [str(images / hashlib.sha256(path.read_bytes()).hexdigest())]


class TestNoNetwork(NetworkDriverTests):
    driver = "none"


class TestOwnNetwork(NetworkDriverTests):
    driver = "own"


class TestHostNetwork(NetworkDriverTests):
    driver = "host"


@pytest.mark.skipif(os.geteuid() != 0, reason="without root, containers cannot share a network namespace")
class TestStackNetwork(NetworkDriverTests):
    driver = "stack"

    @pytest.fixture(autouse=True)
    def _namespace(self) -> Iterator[None]:
        script = "ip link set lo up && echo ready && exec sleep 1000"
        with subprocess.Popen(["unshare", "--net", "sh", "-c", script], stdout=subprocess.PIPE) as holder:
            assert holder.stdout is not None
            holder.stdout.readline()
            self.joins = f"/proc/{holder.pid}/ns/net"
            self.options = {"namespace": self.joins}
            yield
            holder.kill()


class TestMountNamespace(NamespaceDriverTests):
    driver = "mnt"


class TestPidNamespace(NamespaceDriverTests):
    driver = "pid"


class TestNetNamespace(NamespaceDriverTests):
    driver = "net"


class TestUtsNamespace(NamespaceDriverTests):
    driver = "uts"


class TestIpcNamespace(NamespaceDriverTests):
    driver = "ipc"


class TestUserNamespace(NamespaceDriverTests):
    driver = "user"


class TestCgroupNamespace(NamespaceDriverTests):
    driver = "cgroup"


class TestTimeNamespace(NamespaceDriverTests):
    driver = "time"


class TestCommandHook(HookTests):
    driver = "command:sh -c 'cat > /dev/null'"


class TestPrometheusHook(HookTests):
    driver = "prometheus"
    wrong = ("prometheus:nowhere", "prometheus:127.0.0.1:http")

    @pytest.fixture(autouse=True)
    def _endpoint(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            address = f"127.0.0.1:{server.getsockname()[1]}"
        self.options = {"listen": address, "file": str(tmp_path / "metrics.prom")}
        self.keeps = [self.options["file"]]


class TestSystemdHook(HookTests):
    driver = "systemd"

    @pytest.fixture(autouse=True)
    def _manager(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """One that reads what it is told, as systemd does."""
        address = str(tmp_path / "notify")
        code = (
            "import socket, sys\nserver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\nserver.bind(sys.argv[1])\n"
        )
        code += "print('ready', flush=True)\nwhile server.recv(4096): pass"
        with subprocess.Popen([sys.executable, "-c", code, address], stdout=subprocess.PIPE) as manager:
            assert manager.stdout is not None
            manager.stdout.readline()
            monkeypatch.setenv("NOTIFY_SOCKET", address)
            yield
            manager.kill()
