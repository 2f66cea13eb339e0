"""TOML files become specs, or say all that is wrong with them; and what is wrong in a spec however it was made."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import example, given, strategies as st
from tomlfiles import EXAMPLES, errors, write

from pysuper.config import load
from pysuper.errors import ConfigError
from pysuper.spec import BindMount, ContainerSpec, DriverChoice, Limits, Rlimit, TmpfsMount
from pysuper.tables import _Lines
from pysuper.validation import derived_name, validate

FULL = r"""
[container.web]
command = "httpd -f -p '80 80'"
environment = { PORT = 8080, RATE = 0.5, GREETING = "hello you" }
env_file = "variables"
working_dir = "/srv"
user = 1000
hostname = "www"
rootfs = "tar:images/alpine.tar.gz"
network = "host"
share = ["ipc", "time"]
volumes = [
    "./site:/srv:ro",
    "/data:/data",
    { source = "logs", target = "/logs", read_only = true },
    { type = "tmpfs", target = "/scratch", size = "1M", mode = "0700" },
]
tmpfs = ["/cache:size=64M,mode=755", "/empty"]
read_only = true
ulimits = { nofile = 2048, nproc = "10:20", core = { soft = 0, hard = -1 } }
stop_signal = "INT"
stop_grace_period = "0s"
timeout = "1m30s"
init = false
tty = true
best_effort = true

[container.web.cgroup]
driver = "v1"
pids_max = 20
memory_max = "256M"
memory_swap_max = 0
cpu_max = 0.5
cpuset_cpus = "0-1"

[container.web.cgroup.io_max."8:0"]
rbps = "1M"
wiops = 100
"""


def full(directory: Path) -> ContainerSpec:
    """What `FULL` says."""
    return ContainerSpec(
        name="web",
        command=("httpd", "-f", "-p", "80 80"),
        environment={"FROM_FILE": "1", "PORT": "8080", "RATE": "0.5", "GREETING": "hello you"},
        rootfs=DriverChoice("tar", argument=f"{directory}/images/alpine.tar.gz"),
        cgroup=DriverChoice("v1"),
        network=DriverChoice("host"),
        share=frozenset({"ipc", "time"}),
        limits=Limits(
            pids_max=20,
            memory_max=256 * 2**20,
            memory_swap_max=0,
            cpu_max=0.5,
            cpuset_cpus="0-1",
            io_max={"8:0": {"rbps": 2**20, "wiops": 100}},
        ),
        rlimits=(Rlimit("nofile", 2048, 2048), Rlimit("nproc", 10, 20), Rlimit("core", 0, -1)),
        mounts=(
            BindMount(source=f"{directory}/site", target="/srv", read_only=True),
            BindMount(source="/data", target="/data"),
            BindMount(source=f"{directory}/logs", target="/logs", read_only=True),
            TmpfsMount(target="/scratch", size=2**20, mode=0o700),
            TmpfsMount(target="/cache", size=64 * 2**20, mode=0o755),
            TmpfsMount(target="/empty"),
        ),
        read_only=True,
        working_dir="/srv",
        user="1000",
        hostname="www",
        init=False,
        terminal=True,
        stop_signal=2,
        stop_timeout=0.0,
        timeout=90.0,
        best_effort=True,
    )


def test_every_key_has_its_place_in_the_spec(tmp_path: Path) -> None:
    (tmp_path / "variables").write_text("#COMMENT=1\n\nFROM_FILE=1\nPORT=1\n")
    assert load(write(tmp_path, FULL)) == {"web": full(tmp_path)}


def test_the_example_is_the_container_of_the_readme() -> None:
    (spec,) = load(str(EXAMPLES / "shell.toml")).values()
    assert attrs.evolve(spec, environment={}) == ContainerSpec(
        name="shell",
        command=("/bin/bash",),
        limits=Limits(pids_max=20, memory_max=256 * 2**20),
    )


def test_a_table_without_keys_is_a_container_with_the_defaults(tmp_path: Path) -> None:
    assert load(write(tmp_path, "[container.a]\n[container.b]")) == {
        "a": ContainerSpec(name="a"),
        "b": ContainerSpec(name="b"),
    }


def test_lists_and_tables_of_variables_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COPIED", "from the host")
    monkeypatch.delenv("MISSING", raising=False)
    (spec,) = load(write(tmp_path, 'container.a.environment = ["A=1=2", "COPIED", "MISSING"]')).values()
    assert spec.environment == {"A": "1=2", "COPIED": "from the host"}


def test_a_driver_may_have_a_table_of_options(tmp_path: Path) -> None:
    text = '[container.a]\nrootfs = { driver = "tar", path = "x.tar", verify = true }'
    (spec,) = load(write(tmp_path, text)).values()
    assert spec.rootfs == DriverChoice("tar", {"path": f"{tmp_path}/x.tar", "verify": True})


@pytest.mark.parametrize("ids", ["range", "one"])
def test_how_many_ids_it_has_is_the_user_namespaces(tmp_path: Path, ids: str) -> None:
    text = f'[container.a]\nshare = ["user", "ipc"]\nuserns = "{ids}"\nnamespaces = {{ user = "other" }}'
    spec = load(write(tmp_path, text))["a"]
    assert spec.namespaces == {"user": DriverChoice("other", options={"ids": ids})}
    assert spec.share == {"ipc"}
    assert "'some' is not host, own, range or one" in str(errors(tmp_path, '[container.a]\nuserns = "some"'))


def test_links_in_paths_are_followed_when_the_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    write(tmp_path, '[container.a]\nrootfs = "dir:link/root"\nvolumes = ["link:/x", "link/later:/y"]')
    (spec,) = load(f"{tmp_path}/demo.toml").values()
    assert spec.rootfs.argument == f"{tmp_path}/real/root"
    assert [m.source for m in spec.mounts if isinstance(m, BindMount)] == [f"{tmp_path}/real", f"{tmp_path}/real/later"]


def test_paths_are_relative_to_the_file_and_not_to_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, '[container.a]\nrootfs = "dir:root"\nvolumes = ["~/x:/x", "../y:/y"]')
    monkeypatch.chdir(tmp_path.parent)
    monkeypatch.setenv("HOME", "/home/me")
    (spec,) = load(f"{tmp_path.name}/demo.toml").values()
    assert spec.rootfs.argument == f"{tmp_path}/root"
    assert [m.source for m in spec.mounts if isinstance(m, BindMount)] == ["/home/me/x", f"{tmp_path.parent}/y"]


def test_all_errors_of_a_file_are_reported_with_line_and_key(tmp_path: Path) -> None:
    assert errors(
        tmp_path,
        """\
[container.web]
comand = "x"
# a comment, and a value of several lines
volumes = [
    "/a:/b",
    "bad",
]
hostname = "a b"

[container.web.cgroup]
pids_max = 0
memory_max = "lots"
cpu_max = nan

[container."../x"]
share = ["mnt", "nett"]
stop_signal = "TREM"
""",
    ) == [
        "2: container.web.comand: there is no such key; did you mean 'command'?",
        "4: container.web.volumes[1]: 'bad' is not SOURCE:TARGET or SOURCE:TARGET:ro",
        "8: container.web.hostname: 'a b' must be letters, digits, '_', '.' and '-', and begin with a letter or digit",
        "11: container.web.cgroup.pids_max: 0 is too small; give a whole number, such as 20, or max",
        "12: container.web.cgroup.memory_max: 'lots' is not a size in bytes, such as 256M, 1.5G or 1024",
        "13: container.web.cgroup.cpu_max: nan is not a number of cores, such as 0.5 or 2",
        "15: container.'../x': '../x' must be letters, digits, '_', '.' and '-', and begin with a letter or digit",
        "16: container.'../x'.share[0]: mnt cannot be shared: all mounts of a container are made in its own",
        "16: container.'../x'.share[1]: there is no namespace 'nett'; did you mean 'net'?",
        "17: container.'../x'.stop_signal: 'TREM' is not a signal, such as TERM, SIGINT or 15",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "there is no container in it; add a [container.NAME]"),
        ("container = 3", "1: container: 3 is not a table"),
        ("[contaner.a]", "1: contaner: there is no such key; did you mean 'container'?"),
        ("[[container.a]]", "1: container.a: [{}] is not a table"),
        ("container.a.command = [1]", "1: container.a.command[0]: 1 is not a string"),
        ("container.a.command = 'x \"'", "1: container.a.command: No closing quotation"),
        ("container.a.init = 'yes'", "1: container.a.init: 'yes' is not true or false"),
        ("container.a.rootfs = 3", "1: container.a.rootfs: 3 is not a driver, such as v2, or a table"),
        ("container.a.rootfs = {}", "1: container.a.rootfs: needs driver, its name"),
        ("container.a.environment.X = true", "1: container.a.environment.X: True is not a string or a number"),
        ("container.a.environment.'A B' = 1", "1: container.a.environment: 'A B' is not a name of a variable"),
        ("container.a.ulimits.nofile = {soft = 1}", "1: container.a.ulimits.nofile: needs hard"),
        (
            "container.a.ulimits.nofle = 1",
            "1: container.a.ulimits: there is no resource limit 'nofle'; did you mean 'nofile'?",
        ),
        (
            "container.a.tmpfs = '/x:sise=1M'",
            "1: container.a.tmpfs[0]: a tmpfs mount has no 'sise'; did you mean 'size'?",
        ),
        ("\ncontainer.a.tmpfs = ''", "2: container.a.tmpfs[0]: target is not a path: ''"),
        ("container.a.tmpfs = ['/x', '/x/']", "1: container.a.tmpfs: '/x' is mounted twice"),
        (
            "container.a.volumes = [{type = [], target = '/x'}]",
            "1: container.a.volumes[0].type: [] is not a string",
        ),
        (
            "container.a.volumes = [{type = 'nfs', target = '/x'}]",
            "1: container.a.volumes[0]: 'nfs' is not a type of mount, such as bind or tmpfs",
        ),
        ("container.a.volumes = [{source = '/x'}]", "1: container.a.volumes[0]: needs target"),
        ("container.a.working_dir = 'srv'", "1: container.a.working_dir: 'srv' is not an absolute path"),
        ("container.a.timeout = 1979-05-27", None),
        ("container.a.hostname = '" + "x" * 65536 + "'", None),
        ('container.a.command = ["a\\u0000b"]', "1: container.a.command: an argument contains a NUL character"),
        ("x = " + "[" * 9999, "nested too deeply"),
        ("a." * 100 + "a = 1", "nested too deeply"),
        ("#" * 2**20 + "\n", "has more than 1048576 characters"),
        (
            "x" * 65536 + " = 1",
            "1: '" + "x" * 12 + "..." + "x" * 13 + "': there is no such key; there are container, "
            "defaults, hook, journal, plugins, stack",
        ),
        ("container.a." + "x" * 65536 + " = 1", None),
        ("container.a.network = true", "1: container.a.network: True is not a driver, such as v2, or a table"),
        ("container.a.timeout = " + "9" * 5000, None),
        ("container.a.timeout = 0x" + "f" * 5000, None),
        ("[container.a]\nx = \n", "2: Invalid value"),
        ("[container.a]\nx = '''\n\n", "3: Expected \"'''\""),
        ("[container.a]\n[container.a]\n", "2: Cannot declare ('container', 'a') twice"),
    ],
)
def test_what_is_wrong_is_said_in_one_printable_line(tmp_path: Path, text: str, expected: str | None) -> None:
    (line,) = errors(tmp_path, text)
    assert line.isprintable()
    assert len(line) < 300
    if expected is not None:
        assert line.strip() == expected


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path, reason in ((tmp_path, "Is a directory"), (tmp_path / "none", "No such file or directory")):
        with pytest.raises(ConfigError, match=f"{path}: {reason}"):
            load(str(path))
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b"x = '\xe9'")
    with pytest.raises(ConfigError, match=r"not UTF-8: .* at byte 5"):
        load(str(latin))


def test_a_file_without_end_is_not_read_to_its_end() -> None:
    with pytest.raises(ConfigError, match="/dev/zero: has more than 1048576 characters"):
        load("/dev/zero")


def test_a_container_alone_has_no_network_where_a_stack_would_give_it_one(tmp_path: Path) -> None:
    text = "[container.a]\n[container.b]\nnetwork = 'stack'\n[container.c]\nnetwork = 'own'"
    assert {name: str(spec.network) for name, spec in load(write(tmp_path, text)).items()} == {
        "a": "none",
        "b": "none",
        "c": "own",
    }


def test_everything_may_be_a_string_since_variables_are(tmp_path: Path) -> None:
    text = """
    [container.a]
    read_only = "true"
    init = " false "
    user = "7"
    timeout = "90"
    stop_signal = "2"
    ulimits = { core = "0" }
    cgroup = { pids_max = "20", memory_max = "1024", cpu_max = "0.5" }
    """
    (spec,) = load(write(tmp_path, text)).values()
    assert spec == ContainerSpec(
        name="a",
        read_only=True,
        init=False,
        user="7",
        timeout=90.0,
        stop_signal=2,
        rlimits=(Rlimit("nofile", 1024, 1024), Rlimit("core", 0, 0)),
        limits=Limits(pids_max=20, memory_max=1024, cpu_max=0.5),
    )


def test_an_env_file_that_is_missing_is_an_error_at_its_key(tmp_path: Path) -> None:
    assert errors(tmp_path, "[container.a]\nenv_file = ['none']") == [
        f"2: container.a.env_file[0]: {tmp_path}/none: No such file or directory"
    ]


KEYS = st.sampled_from(["a", "b", "'c d'", "e.f"])
VALUES = st.sampled_from(
    ["1", "'x'", "[\n1,\n# no\n2]", "'''\n[a]\nb = 2\n'''", "{ g = 1, h = { i = 2 } }", '"""\n"""']
)


@given(st.lists(st.tuples(KEYS, VALUES, st.integers(0, 2)), min_size=1, max_size=30))
@example([("a", "[\n1,\n# no\n2]", 2), ("b", "1", 0)])
def test_the_line_of_a_key_is_where_its_statement_begins(entries: list[tuple[str, str, int]]) -> None:
    lines: list[str] = []
    expected: dict[tuple[str, ...], int] = {}
    for number, (key, value, blank) in enumerate(entries):
        lines += ["# a comment = 1"] * blank
        expected[(f"t{number}", *key.strip("'").split("."))] = len(lines) + 2
        lines += [f"[t{number}]", *f"{key} = {value}".split("\n")]
    text = "\n".join(lines)
    tomllib.loads(text)
    found = _Lines(text)
    assert {keys: found.of(keys) for keys in expected} == expected


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        (("a",), 1),
        (("a", 0), 1),
        (("a", 0, "x"), 2),
        (("a", 0, "b"), 3),
        (("a", 0, "b", 1, "y"), 6),
        (("a", 1, "x"), 8),
        (("a", 1, "c"), 9),
        (("a", 1, "c", "d"), 9),
        (("a", 1, "c", "d", "z", 1, "w"), 10),
        (("none",), 1),
        (("a", 1, "c", "none"), 9),
        (("q",), 11),
        (("q", "none"), 11),
    ],
)
def test_the_lines_of_arrays_of_tables_are_found(keys: tuple[str | int, ...], line: int) -> None:
    text = """[[a]]
x = 1
[[a.b]]
y = 1
[[a.b]]
y = "]"  # ] "
[[a]]
x = '['
[a.c.d]
z = [1, { w = 1 }]
[q]
"""
    tomllib.loads(text)
    assert _Lines(text).of(keys) == line


def test_a_line_is_found_in_a_file_with_carriage_returns() -> None:
    assert _Lines("[a]\r\nb = 1\r\nc = 2\r\n").of(("a", "c")) == 3


def test_a_spec_with_nothing_but_a_name_is_right() -> None:
    validate(ContainerSpec(name="a"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": ""}, "name: '' must be letters"),
        ({"name": "a/b"}, r"name: 'a/b' must be letters"),
        ({"name": ".."}, r"name: '\.\.' must be letters"),
        ({"name": "a\nb"}, r"name: 'a\\nb' must be letters"),
        ({"name": "a\n"}, r"name: 'a\\n' must be letters"),
        ({"name": "a\0"}, r"name: 'a\\x00' must be letters"),
        ({"name": "é"}, "name: 'é' must be letters"),
        ({"name": "x" * 64}, "has 64 characters; 63 is the most"),
        ({"hostname": "x" * 65}, "has 65 characters; 64 is the most"),
        ({"hostname": "a", "share": frozenset({"uts"})}, "hostname: a container that shares the uts namespace"),
        ({"share": frozenset({"mnt"})}, "share: mnt cannot be shared"),
        ({"share": frozenset({"pids"})}, "share: there is no namespace 'pids'; did you mean 'pid'?"),
        ({"command": "ls -l"}, "command: is a string"),
        ({"command": ("", "x")}, "command: the program is an empty string"),
        ({"command": ("ls", "a\0")}, "command: an argument contains a NUL"),
        ({"command": ("ls", b"a")}, "command: the argument b'a' is not a string"),
        ({"command": ("ls", "\ud800")}, "command: an argument contains a surrogate"),
        ({"environment": {"\ud800": "1"}}, "environment: .* is not a name"),
        ({"environment": {"A": "\ud800"}}, "environment: the value of 'A' contains a surrogate"),
        ({"working_dir": "/\ud800"}, "working_dir: .* contains a surrogate"),
        ({"notify_socket": "/run/\0"}, "notify_socket: .* contains a NUL"),
        ({"mounts": (BindMount(source="/\ud800", target="/a"),)}, "mounts: the source .* is not an absolute path"),
        ({"environment": {"A=B": "1"}}, "environment: 'A=B' is not a name"),
        ({"environment": {"": "1"}}, "environment: '' is not a name"),
        ({"environment": {"A": "\0"}}, "environment: the value of 'A' contains a NUL"),
        ({"working_dir": "srv"}, "working_dir: 'srv' is not an absolute path"),
        ({"working_dir": "/\0"}, "working_dir: .* contains a NUL"),
        ({"user": ""}, "user: '' is not a user"),
        ({"user": "a:"}, "user: 'a:' is not a user"),
        ({"user": "a:b:c"}, "user: 'a:b:c' is not a user"),
        ({"user": "-1"}, "user: '-1' is not a user"),
        ({"user": "4294967295"}, "user: '4294967295' is not a user"),
        ({"user": "a\nroot"}, r"user: 'a\\nroot' is not a user"),
        ({"capabilities": ("SYS_ADMN",)}, "there is no capability 'SYS_ADMN'; did you mean 'SYS_ADMIN'?"),
        ({"limits": Limits(pids_max=0)}, "limits.pids_max: 0 is not between 1 and 4194304"),
        ({"limits": Limits(pids_max=-2)}, "limits.pids_max: -2 is not between"),
        ({"limits": Limits(memory_max=-1)}, "limits.memory_max: -1 is not between"),
        ({"limits": Limits(memory_max=2**63)}, "limits.memory_max: .* is not between"),
        ({"limits": Limits(memory_swap_max=-1)}, "limits.memory_swap_max: -1 is not between 0"),
        ({"limits": Limits(cpu_max=0)}, "limits.cpu_max: 0 is not between 0.01"),
        ({"limits": Limits(cpu_max=math.nan)}, "limits.cpu_max: nan is not between"),
        ({"limits": Limits(cpuset_cpus="0-")}, "limits.cpuset_cpus: '0-' is not a list of cores"),
        ({"limits": Limits(io_max={"sda": {}})}, "limits.io_max: 'sda' is not a device, such as 8:0"),
        ({"limits": Limits(io_max={"8:0": {"bps": 1}})}, "limits.io_max: there is no 'bps'; did you mean"),
        ({"limits": Limits(io_max={"8:0": {"rbps": 0}})}, "limits.io_max: 0 is not between 1"),
        ({"rlimits": (Rlimit("files", 1, 1),)}, "rlimits: there is no resource limit 'files'"),
        ({"rlimits": (Rlimit("nofile", 2, 1),)}, "rlimits: nofile: the soft limit 2 is above the hard one 1"),
        ({"rlimits": (Rlimit("nofile", -1, 1),)}, "rlimits: nofile: the soft limit -1 is above"),
        ({"rlimits": (Rlimit("nofile", -2, -1),)}, "rlimits: nofile is not between"),
        ({"rlimits": (Rlimit("core", 0, 0), Rlimit("core", 0, 0))}, "rlimits: core is given twice"),
        ({"mounts": (TmpfsMount(target="x"),)}, "mounts: 'x' is not an absolute path"),
        ({"mounts": (TmpfsMount(target="/x/../y"),)}, r"mounts: '/x/../y' contains '\.\.'"),
        ({"mounts": (TmpfsMount(target="/./"),)}, "mounts: a mount at / would hide the root"),
        ({"mounts": (TmpfsMount(target="//proc"),)}, "mounts: '//proc' begins with two slashes"),
        ({"mounts": (TmpfsMount(target="/x"), TmpfsMount(target="/x/."))}, "mounts: '/x' is mounted twice"),
        ({"mounts": (TmpfsMount(target="/x", size=0),)}, "mounts: the size 0 is not between"),
        ({"mounts": (TmpfsMount(target="/x", mode=0o10000),)}, "mounts: the mode 10000 is not between"),
        ({"mounts": (BindMount(source="x", target="/x"),)}, "mounts: the source 'x' is not an absolute path"),
        ({"mounts": (BindMount(source="/\0", target="/x"),)}, "mounts: the source .* is not an absolute path"),
        ({"stop_signal": 0}, "stop_signal: there is no signal 0"),
        ({"stop_timeout": -1.0}, "stop_timeout: -1.0 is not a number of seconds"),
        ({"timeout": 0.0}, "timeout: 0.0 is not a number of seconds above 0"),
        ({"timeout": math.nan}, "timeout: nan is not a number of seconds above 0"),
    ],
)
def test_a_spec_that_is_wrong_is_refused_in_one_line(fields: dict[str, Any], message: str) -> None:
    spec = attrs.evolve(ContainerSpec(name="a"), **fields)
    with pytest.raises(ConfigError, match=message) as caught:
        validate(spec)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 250


def test_everything_that_is_wrong_in_a_spec_is_named() -> None:
    with pytest.raises(ConfigError, match=r"name: .*; working_dir: .*; timeout: "):
        validate(ContainerSpec(name="", working_dir="x", timeout=0))


@pytest.mark.parametrize("user", ["root", "1000", "1000:1000", "www-data:adm", "0", "4294967294", "user.name", "_apt"])
def test_users_have_names_or_ids(user: str) -> None:
    validate(ContainerSpec(name="a", user=user))


@given(st.text(), st.text(), st.lists(st.text()), st.dictionaries(st.text(), st.text()), st.text())
def test_no_text_breaks_the_validation(
    name: str, target: str, command: list[str], environment: dict[str, str], user: str
) -> None:
    spec = ContainerSpec(
        name=name,
        command=tuple(command),
        environment=environment,
        user=user,
        mounts=(BindMount(source=target, target=target),),
    )
    try:
        validate(spec)
    except ConfigError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["/bin/true"], "true"),
        (["/usr/bin/["], "run"),
        (["a b"], "a-b"),
        (["-é-x_"], "x"),
        (["x" * 64], "x" * 63),
        ([], "run"),
        (["/"], "run"),
    ],
)
def test_a_name_that_is_made_from_a_command_is_right(command: list[str], name: str) -> None:
    assert derived_name(command) == name
    validate(ContainerSpec(name=name))
