"""What the registry says of plugins that are missing, broken, duplicated or hostile."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pysuper import registry
from pysuper.discovery import registrations
from pysuper.drivers import GROUPS, NetworkDriver, RootfsDriver
from pysuper.errors import DriverError
from pysuper.spec import DriverChoice

Install = Callable[..., None]

GOOD = """
    import attrs
    from pysuper.drivers import NetworkDriver

    @attrs.frozen
    class Options:
        bridge: str
        mtu: int = 1500

    class Bridge(NetworkDriver):
        Options = Options
        argument = "bridge"
        def contribute(self, plan): ...
"""


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    def forget() -> None:
        registry.forget()

    forget()
    yield
    forget()


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install a distribution with one network driver, `bridge` unless said otherwise."""
    number = 0

    def install(code: str, *, name: str = "bridge", distribution: str = "bridges", attribute: str = "Bridge") -> None:
        nonlocal number
        number += 1
        module = f"plugin_{tmp_path.name.replace('-', '_')}_{number}"
        site = tmp_path / str(number)
        info = site / f"{distribution}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[pysuper.network]\n{name} = {module}:{attribute}\n")
        (site / f"{module}.py").write_text(textwrap.dedent(code))
        monkeypatch.syspath_prepend(str(site))

    return install


def create(choice: DriverChoice) -> NetworkDriver:
    return registry.create("pysuper.network", choice, NetworkDriver)  # type: ignore[type-abstract]


def test_a_plugin_that_was_just_installed_is_found(install: Install) -> None:
    install(GOOD)
    driver = create(DriverChoice("bridge", {"mtu": 9000}, argument="br0"))
    assert (driver.options.bridge, driver.options.mtu) == ("br0", 9000)


def test_a_missing_driver_is_answered_with_a_near_name() -> None:
    with pytest.raises(DriverError, match="did you mean 'host'"):
        create(DriverChoice("hosts"))


def test_a_name_registered_twice_names_both_distributions(install: Install) -> None:
    install(GOOD)
    install(GOOD, distribution="other-bridges")
    remedy = r'uninstall one of them, or choose in a file: \[plugins\.network\] bridge = "bridges"'
    with pytest.raises(DriverError, match=rf"bridges 1\.0 and other-bridges 1\.0; {remedy}"):
        create(DriverChoice("bridge", argument="br0"))
    for distribution in ("bridges", "other-bridges"):
        driver = create(DriverChoice("bridge", argument="br0", distribution=distribution))
        assert registry.title(driver) == f"the network driver 'bridge' of {distribution} 1.0"


def test_what_comes_first_on_the_path_hides_others_of_its_name(install: Install) -> None:
    install(GOOD)
    install(GOOD, name="newer")
    assert "bridge" not in {plugin.name for plugin in registrations("pysuper.network")}
    assert create(DriverChoice("newer", argument="br0")).options.bridge == "br0"


def test_also_one_without_plugins_hides_others_of_its_name(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(GOOD)
    (info := tmp_path / "first/bridges-2.0.dist-info").mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bridges\nVersion: 2.0\n")
    monkeypatch.syspath_prepend(str(tmp_path / "first"))
    with pytest.raises(DriverError, match="there is no network driver 'bridge'"):
        create(DriverChoice("bridge"))


@pytest.mark.parametrize(
    "code",
    ["import no_such_module", "raise RuntimeError('boom')", "import sys; sys.exit(0)", "raise SystemExit", "def (", ""],
)
def test_a_plugin_that_cannot_be_imported_names_its_distribution(install: Install, code: str) -> None:
    install(code)
    with pytest.raises(DriverError, match=r"'bridge' of bridges 1\.0 cannot be loaded"):
        create(DriverChoice("bridge"))


def test_what_is_no_driver_is_refused(install: Install) -> None:
    install("Bridge = 7")
    with pytest.raises(DriverError, match="is no NetworkDriver"):
        create(DriverChoice("bridge"))


def test_a_driver_of_another_kind_is_refused(install: Install) -> None:
    install(
        "from pysuper.drivers import RootfsDriver\nclass Bridge(RootfsDriver):\n    def contribute(self, plan): ..."
    )
    with pytest.raises(DriverError, match="is no NetworkDriver"):
        create(DriverChoice("bridge"))


def test_another_version_of_the_interface_is_refused(install: Install) -> None:
    install(GOOD.replace('argument = "bridge"', 'argument = "bridge"; api_version = 99'))
    with pytest.raises(DriverError, match="version 99 of the driver interface, this is version 1"):
        create(DriverChoice("bridge", argument="br0"))


def test_unknown_and_missing_options_are_named(install: Install) -> None:
    install(GOOD)
    with pytest.raises(DriverError, match="mtuu"):
        create(DriverChoice("bridge", {"mtuu": 1}, argument="br0"))
    with pytest.raises(DriverError, match="needs bridge; write bridge:BRIDGE"):
        create(DriverChoice("bridge"))
    with pytest.raises(DriverError, match="takes no argument"):
        create(DriverChoice("none", argument="x"))


@pytest.mark.parametrize("place", ["detect", "__init__"])
@pytest.mark.parametrize("statement", ["raise ValueError('boom')", "raise SystemExit(0)"])
def test_a_driver_that_raises_is_an_error(install: Install, place: str, statement: str) -> None:
    signature = "@classmethod\n    def detect(cls)" if place == "detect" else "def __init__(self, options)"
    code = textwrap.dedent(GOOD) + f"\n    {signature}: {statement}\n"
    install(code)
    with pytest.raises(DriverError, match="'bridge' of bridges 1.0 failed in"):
        create(DriverChoice("bridge", argument="br0"))


def test_an_option_says_itself_what_is_wrong_with_it() -> None:
    choice = DriverChoice("tar", {"path": "a.tar", "max_size": "lots"})
    with pytest.raises(DriverError, match="max_size: 'lots' is not a size in bytes, such as 256M"):
        registry.create("pysuper.rootfs", choice, RootfsDriver)  # type: ignore[type-abstract]


def test_a_driver_that_cannot_work_here_says_why(install: Install) -> None:
    code = textwrap.dedent(GOOD).replace("import NetworkDriver", "import Detection, NetworkDriver")
    install(code + '\n    @classmethod\n    def detect(cls): return Detection(False, "no bridge module")\n')
    with pytest.raises(DriverError, match="cannot work here: no bridge module"):
        create(DriverChoice("bridge", argument="br0"))


def test_the_list_of_drivers_survives_broken_ones(install: Install) -> None:
    install("raise RuntimeError('boom')", name="broken")
    entries = {e.registration.name: e for e in registry.available() if e.registration.kind == "network"}
    assert set(entries) == {"broken", "host", "none", "own", "stack"}
    assert "boom" in (entries["broken"].error or "")
    assert entries["none"].error is None


def test_every_built_in_driver_is_registered_and_loads() -> None:
    entries = registry.available()
    assert [entry for entry in entries if entry.error] == []
    assert {entry.registration.group for entry in entries} == set(GROUPS)


def test_stevedores_cache_on_disk_is_neither_read_nor_written(tmp_path: Path) -> None:
    program = "from pysuper import registry; registry.load('pysuper.network', 'none')"
    environment = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path), "PATH": "/usr/bin"}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
    assert list(tmp_path.iterdir()) == []
