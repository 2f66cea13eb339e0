"""
A conformance suite for drivers: subclass, name the driver, and pytest checks it against the real kernel.

A complete test of a driver, in a file such as tests/test_pids_v1.py of the distribution that it comes with:

    from pysuper.testing import CgroupDriverTests


    class TestPidsV1(CgroupDriverTests):
        driver = "pids-v1"                  # as on the command line: NAME[:ARGUMENT]
        options = {}                        # as in the driver's TOML table
        limits = {"pids_max"}               # what it has to hold; the others it may refuse

To run it:

    pip install pysuper-containers[testing]
    sudo env PATH=$PATH pytest tests/test_pids_v1.py     # and without sudo, for what ordinary users get

Each test is a *rule*: a promise that every driver of its kind keeps, and the reason why. A failure says which rule is
broken, why it exists, what was found, and what to do:

    the cgroup driver 'pids-v1' of my-plugin 1.0 breaks a rule: Nothing of a container is left, however it ends.
      why:   what is left of each container adds up, until the machine has no room for another one.
      found: after a normal end there is still the cgroup /sys/fs/cgroup/pids/pids-v1.check4711x3.5f0c9a17
      do:    undo in `host`, in a `finally`, all that it did before; `keeps` of the test's class names a cache

What cannot be checked on a machine is skipped, with the reason. Nothing is mocked: containers are started, killed,
cancelled at every await, and let fail at every step. What is needed of a driver to do that is in class attributes; a
fixture may set them, too:

    class TestSquash(RootfsDriverTests):
        shows = {"/etc/hostname": "squashed\\n"}

        @pytest.fixture(autouse=True)
        def image(self, tmp_path):
            self.driver = f"squash:{make_image(tmp_path)}"

    plugin.py      what is under test, and what can be asked of it
    interface.py   rules for what plugins say of themselves       lives.py      for what becomes of containers
    plans.py       for what drivers decide                        driver.py     for the containers of any driver
    cgroup.py limits.py programs.py   rootfs.py   namespace.py   network.py   hook.py    for those of each kind
    rules.py       what a rule is                                 stage.py      containers that are watched
    machine.py     what there is on the machine                   changes.py    what Python code makes there
    faults.py      cancellation, descriptors that run out         apart.py      supervisors that are killed
    run.py         checks a plugin by its name

PYSUPER_TEST_PATIENCE=20 makes every time limit twenty times as long, for emulated machines.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pysuper.testing.cgroup import CgroupDriverTests as CgroupDriverTests
    from pysuper.testing.hook import HookTests as HookTests
    from pysuper.testing.namespace import NamespaceDriverTests as NamespaceDriverTests
    from pysuper.testing.network import NetworkDriverTests as NetworkDriverTests
    from pysuper.testing.rootfs import RootfsDriverTests as RootfsDriverTests

_HOME_OF = {
    "CgroupDriverTests": "pysuper.testing.cgroup",
    "HookTests": "pysuper.testing.hook",
    "NamespaceDriverTests": "pysuper.testing.namespace",
    "NetworkDriverTests": "pysuper.testing.network",
    "RootfsDriverTests": "pysuper.testing.rootfs",
}

__all__ = list(_HOME_OF)


def __getattr__(name: str) -> Any:
    # When it is first used: `pysuper.testing.machine` and `.run` do without pytest.
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)
