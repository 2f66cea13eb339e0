"""Attacks on what pysuper itself loads and passes on: variables, modules, plugins, and their cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from attackcore import Battle, Weak

import pysuper
from machine import cgroup_driver, children
from ordinary import USER
from pysuper.supervisor import open_supervisor

is_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, which has others to distrust")

# --- what a root file system brings ---

#: The launcher needs a module when it is in the container already, and looks for it in what the container brings.
NEEDS_A_MODULE = """
from pysuper.launcher import execute
_set_umask = execute.Executor.set_umask
def set_umask(self, umask):
    _set_umask(self, umask)
    try:
        import module_of_the_container
    except ImportError:
        pass
execute.Executor.set_umask = set_umask
sys.path.insert(0, "/data")
"""
UNSEALED = "from pysuper.launcher import server\nserver._seal = lambda: None\n"


@pytest.fixture
def volume(request: pytest.FixtureRequest, battle: Battle, tmp_path: Path) -> Path:
    """A directory with a module, which leaves a file beside itself when it is imported."""
    if battle.public is not None:
        tmp_path = battle.public.home / tmp_path.name
        tmp_path.mkdir()
    (tmp_path / "module_of_the_container.py").write_text("open('/data/imported', 'w').close()\n")
    if battle.public is not None:
        subprocess.run(["chown", "-R", f"{USER}:{USER}", tmp_path], check=True)
    return tmp_path


def test_nothing_that_a_container_brings_is_imported(battle: Battle, volume: Path) -> None:
    for launcher in (NEEDS_A_MODULE, UNSEALED + NEEDS_A_MODULE):
        ((outcome,),) = battle.run(
            [Weak(launcher=launcher, mounts=((str(volume), "/data"),)).job(["read_own_environment"])]
        )
        assert outcome["read_own_environment"][0] is False  # which is to say that it did run
        assert (volume / "imported").exists() is (launcher != NEEDS_A_MODULE)


# --- what the caller's environment brings ---


@pytest.fixture
def poisoned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Variables by which the caller's environment makes others load code; a file there says that it was."""
    (tmp_path / "sitecustomize.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w').close()\n")
    library = next(path for path in Path("/usr/lib").rglob("libm.so.6"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("LD_PRELOAD", str(library))
    monkeypatch.setenv("BASH_ENV", str(tmp_path / "none"))
    return tmp_path


async def test_variables_that_load_code_reach_neither_launcher_nor_command(poisoned: Path) -> None:
    subprocess.run([sys.executable, "-c", ""], check=True)
    assert (poisoned / "imported").exists()
    (poisoned / "imported").unlink()
    naive = subprocess.run(["sh", "-c", "echo $LD_PRELOAD"], capture_output=True, text=True, check=True)
    assert naive.stdout != "\n"

    before = children()
    async with open_supervisor() as supervisor:
        spec = pysuper.ContainerSpec(
            name="box", command=("sh", "-c", "exec sleep 1000"), cgroup=pysuper.DriverChoice(cgroup_driver())
        )
        container = await supervisor.start(spec)
        for pid in children() - before:  # the launcher, the init
            assert Path(f"/proc/{pid}/environ").read_bytes() == b""
        async with container.execute(
            ["sh", "-c", 'test -z "$LD_PRELOAD$PYTHONPATH$BASH_ENV" && ! grep -qz LD_PRELOAD /proc/self/environ']
        ) as joined:
            assert (await joined.wait()).exit_code == 0
    assert not (poisoned / "imported").exists()


# --- plugins ---


@pytest.fixture
def lure(tmp_path: Path) -> Path:
    """A directory with an importable distribution that registers a driver."""
    info = tmp_path / "lure-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lure\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[pysuper.network]\nlure = lure:Lure\n")
    (tmp_path / "lure.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w').close()\nclass Lure: ...\n")
    return tmp_path


def in_directory(directory: Path, program: str, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=directory,
        env={"PATH": os.environ["PATH"], "HOME": str(directory), **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout.strip()


def naive(name: str) -> str:
    """Loads a plugin as stevedore does by itself."""
    return (
        "from stevedore.driver import DriverManager\n"
        f"print(DriverManager('pysuper.network', {name!r}).driver.__name__)\n"
    )


def ours(name: str) -> str:
    return (
        "from pysuper import registry\nfrom pysuper.errors import DriverError\n"
        f"try: print(registry.load('pysuper.network', {name!r}).__name__)\n"
        "except DriverError as error: print(error)\n"
    )


@is_root
@pytest.mark.parametrize("way", ["the current directory", "PYTHONPATH"])
def test_root_loads_no_plugin_of_its_directory_or_environment(lure: Path, way: str) -> None:
    directory, variables = (lure, {}) if way == "the current directory" else (Path("/"), {"PYTHONPATH": str(lure)})
    variables["XDG_CACHE_HOME"] = str(lure / "cache")
    assert in_directory(directory, naive("lure"), **variables) == "Lure"
    (lure / "imported").unlink()
    assert "there is no network driver 'lure'" in in_directory(directory, ours("lure"), **variables)
    assert not (lure / "imported").exists()


def test_a_poisoned_cache_of_plugins_is_not_read(tmp_path: Path) -> None:
    """What stevedore remembers is in a directory that $HOME and $XDG_CACHE_HOME name: what it says is imported."""
    variables = {"XDG_CACHE_HOME": str(tmp_path)}
    where = in_directory(
        Path("/"),
        "import os, sys\nfrom stevedore import _cache\n"
        "print(os.path.join(_cache._get_cache_dir(), _cache._hash_settings_for_path(tuple(sys.path))[0]))",
        **variables,
    )
    assert where.startswith(str(tmp_path))
    Path(where).parent.mkdir(parents=True)
    poison = [["none", "pysuper.errors:PysuperError", "pysuper.network"]]
    Path(where).write_text(
        json.dumps({"groups": {"pysuper.network": poison}, "sys.executable": "", "sys.prefix": "", "path_values": []})
    )
    assert in_directory(Path("/"), naive("none"), **variables) == "PysuperError"
    assert in_directory(Path("/"), ours("none"), **variables) == "NoNetwork"
