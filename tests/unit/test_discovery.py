"""Where plugins are looked for: distributions, files of a `--plugin-dir`, and what root does not trust."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from environments import Environment
from pysuper import registry
from pysuper.discovery import add_directory
from pysuper.drivers import NetworkDriver
from pysuper.errors import DriverError
from pysuper.spec import DriverChoice

FILE = """
    from pysuper.drivers import NetworkDriver

    class Bridge(NetworkDriver):
        '''A bridge.'''
        def contribute(self, plan): ...
"""
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="is about root")


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    registry.forget()
    yield
    registry.forget()


def write(directory: Path, name: str, text: str = FILE) -> Path:
    path = directory / name
    path.write_text(textwrap.dedent(text))
    return path


def create(name: str, distribution: str | None = None) -> NetworkDriver:
    choice = DriverChoice(name, distribution=distribution)
    return registry.create("pysuper.network", choice, NetworkDriver)  # type: ignore[type-abstract]


def test_a_file_of_a_plugin_directory_is_a_driver_with_its_name(tmp_path: Path) -> None:
    path = write(tmp_path, "my_bridge.py")
    write(tmp_path, "_helper.py", "1 / 0")
    add_directory(str(tmp_path))
    driver = create("my-bridge")
    assert type(driver).__name__ == "Bridge"
    assert registry.title(driver) == f"the network driver 'my-bridge' of {path}"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.py", "1 / 0", "failed in import: ZeroDivisionError"),
        ("a.py", "import sys; sys.exit(3)", "failed in import: SystemExit"),
        ("a.py", "def (", "failed in import: SyntaxError"),
        ("a.py", "from pysuper.drivers import NetworkDriver", "has to have one class.* has none"),
        ("a.py", textwrap.dedent(FILE) + "class Other(Bridge): pass", "has Bridge, Other"),
        ("a-b.py", FILE, "not a name for a plugin"),
    ],
)
def test_a_file_that_is_no_plugin_is_an_error_that_names_it(
    tmp_path: Path, name: str, text: str, expected: str
) -> None:
    path = write(tmp_path, name, text)
    with pytest.raises(DriverError, match=expected) as caught:
        add_directory(str(tmp_path))
    assert str(path) in str(caught.value)


def test_a_plugin_directory_has_to_exist(tmp_path: Path) -> None:
    with pytest.raises(DriverError, match="no such directory"):
        add_directory(str(tmp_path / "missing"))


def test_a_file_does_not_replace_what_is_installed(tmp_path: Path) -> None:
    write(tmp_path, "host.py")
    add_directory(str(tmp_path))
    with pytest.raises(DriverError, match=r"'host' is registered by .*host\.py and pysuper-containers"):
        create("host")
    assert type(create("host", "pysuper-containers")).__name__ == "HostNetwork"
    assert type(create("host", str(tmp_path / "host.py"))).__name__ == "Bridge"


def test_a_distribution_that_has_no_such_driver_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DriverError, match=r"pysuper-container has no network driver 'host'.*'pysuper-containers'"):
        create("host", "pysuper-container")


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory below one that everybody may write to, and that keeps what is root's (as /tmp does)."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        yield Path(name)


@as_root
@pytest.mark.parametrize("spoil", ["file", "directory", "above", "owner", "link"])
def test_root_loads_no_file_that_others_could_replace(place: Path, spoil: str) -> None:
    above = place / "above"
    directory = above / "plugins"
    directory.mkdir(parents=True)
    path = write(directory, "bridge.py")
    add_directory(str(directory))  # nothing is wrong yet
    registry.forget()
    match spoil:
        case "file":
            path.chmod(0o664)
        case "directory":
            directory.chmod(0o777)
        case "above":
            above.chmod(0o777)
        case "owner":
            os.chown(path, 1000, 1000)
        case "link":
            elsewhere = place / "elsewhere"
            elsewhere.mkdir(mode=0o777)
            elsewhere.chmod(0o777)
            shutil.move(path, elsewhere / "bridge.py")
            path.symlink_to(elsewhere / "bridge.py")
    with pytest.raises(DriverError, match="root does not load .*(belongs to uid 1000|can be written to by others)"):
        add_directory(str(directory))
    assert "pysuper_plugin_dir_bridge" not in sys.modules


@pytest.fixture
def lure(tmp_path: Path) -> Path:
    """A directory with an importable distribution that registers a driver."""
    info = tmp_path / "lure-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lure\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[pysuper.network]\nlure = lure:Bridge\n")
    write(tmp_path, "lure.py", "print('the lure was imported')\n" + textwrap.dedent(FILE))
    return tmp_path


def listed(lure: Path, environment: dict[str, str], python: str = sys.executable) -> str:
    result = subprocess.run(
        [python, "-m", "pysuper", "plugins"],
        cwd=lure,
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return result.stdout


@as_root
@pytest.mark.parametrize("way", ["PYTHONPATH", "the current directory", "PYTHONUSERBASE"])
def test_root_takes_no_plugins_from_its_environment_or_current_directory(
    lure: Path, tmp_path_factory: pytest.TempPathFactory, way: str
) -> None:
    environment = {"PYTHONPATH": str(lure)} if way == "PYTHONPATH" else {}
    if way == "PYTHONUSERBASE":
        base = tmp_path_factory.mktemp("base")
        environment = {way: str(base)}
        ask = [sys.executable, "-m", "site", "--user-site"]
        site = subprocess.run(ask, env=environment, capture_output=True, text=True, check=False).stdout.strip()
        shutil.copytree(lure, site)
    assert "lure" not in listed(lure if way == "the current directory" else Path("/"), environment)


@as_root
def test_root_finds_an_editable_install_also_in_its_own_directory(lure: Path, tmp_path: Path) -> None:
    environment = Environment.make(tmp_path / "venv")
    (environment.packages / "lure.pth").write_text(f"{lure}\n")
    assert "lure 1.0" in " ".join(listed(lure, {}, str(environment.python)).split())


def test_a_program_of_roots_may_add_to_its_own_path(lure: Path) -> None:
    program = f"import sys; sys.path.append({str(lure)!r})\nfrom pysuper import registry\n"
    program += "print(registry.load('pysuper.network', 'lure').__name__)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout == "the lure was imported\nBridge\n"
