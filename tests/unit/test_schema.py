"""The JSON Schema of files takes what the reader takes, and refuses what people get wrong."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import tomli_w
from hypothesis import given
from tomlfiles import EXAMPLES, SCHEMA, documents, write

from pysuper import cli
from pysuper.config import load_stack
from pysuper.document import document
from pysuper.errors import ConfigError
from pysuper.schema import FILE, schema, text

VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def is_read(directory: Path, made: dict[str, Any]) -> bool:
    """Whether the reader takes a document."""
    try:
        load_stack(write(directory, tomli_w.dumps(made)), {"A": "a"})
    except ConfigError:
        return False
    return True


def parts(part: Any) -> Iterator[dict[str, Any]]:
    """All the dicts in a schema."""
    if isinstance(part, dict):
        yield part
    for inner in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from parts(inner)


def test_the_file_in_the_package_is_up_to_date() -> None:
    assert FILE.read_text(encoding="utf-8") == text(), "run: python -m pysuper.schema"


def test_it_is_a_json_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    assert json.loads(text()) == schema()


def test_every_key_is_explained_in_a_line() -> None:
    keys = {name: key for part in parts(SCHEMA) for name, key in part.get("properties", {}).items() if name != "driver"}
    assert {"command", "tcp", "policy", "pids_max", "soft", "target", "strategy", "max_files"} <= keys.keys()
    for name, key in keys.items():
        assert key.get("description", "").endswith("."), name
        assert "\n" not in key["description"]


def test_it_knows_the_defaults_of_the_specs() -> None:
    container = SCHEMA["$defs"]["container"]["properties"]
    defaults = {name: key["default"] for name, key in container.items() if "default" in key}
    assert defaults == {
        "best_effort": False,
        "init": True,
        "kind": "service",
        "logging": "block",
        "network": "stack",
        "privileged": False,
        "read_only": False,
        "replicas": 1,
        "rootfs": "host",
        "stop_grace_period": 10.0,
        "stop_signal": 15,
        "tty": False,
        "userns": "own",
        "warm": 0,
        "working_dir": "/",
    }
    assert container["healthcheck"]["properties"]["interval"]["default"] == 30.0


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.name)
def test_it_takes_the_examples(path: Path) -> None:
    VALIDATOR.validate(tomllib.loads(path.read_text()))
    VALIDATOR.validate(document(load_stack(str(path), {})))


#: What may be written at a place by those who know, and by those who do not.
VALUES = [
    *(-1, 0, 1, 3, 80, 4096, 65536, 0.5, 1.0, 1e-9, float("inf"), True, False, [], {}),
    *(
        "",
        "a",
        "true",
        "false",
        " true ",
        "True",
        "-1",
        "0",
        "3",
        " 80 ",
        "max",
        "unlimited",
        "lots",
        "5s",
        "1m30s",
        "500ms",
    ),
    *(
        "s",
        "1.5G",
        "1 kib",
        "1KB",
        "0.5",
        "0-2, 4",
        "TERM",
        "sigint",
        "notify",
        "no",
        "always",
        "on-failure",
        "restart",
    ),
    *(
        "stop",
        "none",
        "one_for_all",
        "service",
        "task",
        "block",
        "drop",
        "host",
        "own",
        "tar:x",
        "ipc",
        "mnt",
        "bind",
        "tmpfs",
    ),
    *(
        "a:80",
        "[::1]:80",
        ":80",
        "a b:80",
        "http://a",
        "http://a:80/x?y",
        "https://a",
        "http://",
        "http:/a",
        "http://a/ b",
    ),
    *(
        "/a:/b",
        "/a:/b:ro",
        "/a:/b:rx",
        "/a",
        "/a:size=1M",
        "nofile=1",
        "nofile=1:2",
        "nofile",
        "1:2",
        "1:",
        "0700",
        "rwx",
    ),
    *("* * * * *", "*/5 0 1 1 0", "* * *", "a=b", "a=", "=", "${A}", "${A:-5}", "x${A}y", "$$", "a\nb"),
    *(["a"], ["a=b"], ["a", 1], [["a"]], ["CMD", "a"], ["CMD-SHELL", "a"], ["ipc"], ["/a:/b"], ["nofile=1"], ["${A}"]),
    *({"a": "b"}, {"a": 1}, {"a": True}, {"a": "started"}, {"driver": "tar", "path": "x", "y": [1]}, {"driver": 1}),
    *({"tcp": 80}, {"tcp": 80, "log": "x"}, {"policy": "always"}, {"delay": 1}, {"soft": 1}, {"soft": 1, "hard": 2}),
    *([{"source": "/a", "target": "/b"}], [{"target": "/b"}], [{"type": "tmpfs", "target": "/b", "mode": "755"}]),
    *({"pids_max": 1}, {"pids_max": "x"}, {"nofile": 1}, {"nofile": "1:2"}, {"nofile": {"soft": 1, "hard": 2}}),
    *(
        {"8:0": {"rbps": 1}},
        {"8:0": {"rbps": "1M"}},
        {"8:0": 1},
        {"test": "a"},
        {"fd": 3},
        {"notify": True},
        {"notify": False},
    ),
]


#: What is wrong in the defaults is wrong also where no container takes it from there.
OVERRIDDEN: dict[str, Any] = {
    "network": "own",
    "profiles": "a",
    "restart": "no",
    "share": [],
    "user": "a",
    "volumes": [],
    "working_dir": "/a",
}


def places() -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Every key of the schema: its path in a document, and what has to stand beside it."""
    for top in ("stack", "journal", "plugins"):
        yield from (((top, key), {"container": {"a": {}}}) for key in SCHEMA["properties"][top]["properties"])
    yield ("hook", "a"), {"container": {"a": {}}}
    container = SCHEMA["$defs"]["container"]["properties"]
    for key, part in container.items():
        yield ("container", "a", key), {}
        yield ("defaults", key), {"container": {"a": {}}}
        if key in OVERRIDDEN:
            yield ("defaults", key), {"container": {"a": {key: OVERRIDDEN[key]}}}
        if key == "namespaces":
            yield from ((("container", "a", key, name), {}) for name in part["properties"])
        for table in (
            inner for inner in parts(part) if "properties" in inner and key not in ("rootfs", "network", "namespaces")
        ):
            probes = [choice["required"][0] for choice in table.get("oneOf", ())]
            for name in table["properties"]:
                needed = {"tcp": 80} if probes and name not in probes else {}
                needed |= {"policy": "no"} if key == "restart" and name != "policy" else {}
                if key not in ("volumes", "ulimits"):
                    yield ("container", "a", key, name), {"container": {"a": {key: needed}}}


def placed(path: tuple[str, ...], beside: dict[str, Any], value: Any) -> dict[str, Any]:
    """A document with a value at a place."""
    made: dict[str, Any] = json.loads(json.dumps(beside))
    table = made
    for key in path[:-1]:
        table = table.setdefault(key, {})
    table[path[-1]] = value
    return made


@pytest.mark.parametrize(("path", "beside"), list(places()), ids=lambda value: ".".join(value) if value else "")
def test_at_every_key_it_takes_what_the_reader_takes(
    tmp_path: Path, path: tuple[str, ...], beside: dict[str, Any]
) -> None:
    (tmp_path / "a").touch()  # for env_file
    made = [placed(path, beside, value) for value in VALUES]
    taken = [one for one in made if is_read(tmp_path, one)]
    assert taken
    assert [one for one in taken if not VALIDATOR.is_valid(one)] == []
    assert [one for one in made if not VALIDATOR.is_valid(one)]


@given(documents())
def test_it_takes_every_document_that_the_reader_takes(
    tmp_path_factory: pytest.TempPathFactory, made: dict[str, Any]
) -> None:
    if is_read(tmp_path_factory.getbasetemp(), made):
        VALIDATOR.validate(made)


@pytest.mark.parametrize(
    "keys",
    [
        "comand = 'x'",
        "command = 1",
        "command = ['a', 1]",
        "environment = { A = true }",
        "init = 'yes'",
        "init = 1",
        "timeout = 'soon'",
        "timeout = 0",
        "timeout = -1",
        "cgroup = { memory_max = '1X' }",
        "cgroup = { memory_max = 1.5 }",
        "cgroup = { pids_max = 0 }",
        "cgroup = { pid_max = 1 }",
        "cgroup = { cpu_max = 0 }",
        "share = ['mnt']",
        "share = ['network']",
        "volumes = '/a:/b'",
        "volumes = ['/a']",
        "volumes = ['/a:/b:rx']",
        "volumes = [{ source = '/a' }]",
        "volumes = [{ src = '/a', target = '/b' }]",
        "ulimits = ['nofile']",
        "ulimits = { nofile = { soft = 1 } }",
        "ulimits = { nofile = 'many' }",
        "user = 1.5",
        "depends_on = { b = 'service_healthy' }",
        "depends_on = { b = { condition = 'healthy' } }",
        "kind = 'job'",
        "ready = 8080",
        "ready = {}",
        "ready = { tcp = 80, http = 'http://x' }",
        "ready = { fd = 1 }",
        "ready = { tcp = 65536 }",
        "ready = { http = 'https://x' }",
        "healthcheck = 'curl'",
        "healthcheck = { tcp = 80, retries = 0 }",
        "healthcheck = { tcp = 80, on_unhealthy = 'kill' }",
        "healthcheck = { log = 'x' }",
        "restart = true",
        "restart = 'on_failure'",
        "restart = { delay = 1 }",
        "restart = { policy = 'no', jitter = 2 }",
        "every = 'hour'",
        "cron = '* * *'",
        "replicas = 0",
        "replicas = 1001",
        "profiles = ['a b']",
        "labels = ['a']",
        "labels = { a = 1 }",
        "logging = { driver = 'json-file' }",
        "network = 1",
        "rootfs = { path = 'x' }",
    ],
)
def test_it_refuses_mistakes_as_the_reader_does(tmp_path: Path, keys: str) -> None:
    made = tomllib.loads(f"[container.a]\n{keys}\n[container.b]\nhealthcheck = {{ tcp = 80 }}")
    assert not VALIDATOR.is_valid(made)
    assert not is_read(tmp_path, made)


@pytest.mark.parametrize(
    ("keys", "taken"),
    [
        ("timeout = 0", False),
        ("every = 0", False),
        ("ready = { tcp = 80, interval = 0 }", False),
        ("ready = { tcp = 80, timeout = 0 }", False),
        ("healthcheck = { tcp = 80, interval = 0 }", False),
        ("healthcheck = { tcp = 80, start_interval = 0 }", False),
        ("healthcheck = { tcp = 80, timeout = 0 }", False),
        ("cgroup = { memory_max = 0 }", False),
        ("cgroup = { pids_max = -2 }", False),
        ("cgroup = { io_max = { '8:0' = { rbps = 0 } } }", False),
        ("ulimits = { core = -2 }", False),
        ("volumes = [{ type = 'tmpfs', target = '/x', size = 0 }]", False),
        ("volumes = [{ type = 'tmpfs', target = '/x', mode = -1 }]", False),
        ("volumes = [{ type = 'tmpfs', target = '/x', mode = 0 }]", True),
        ("stop_grace_period = 0", True),
        ("healthcheck = { tcp = 80, start_period = 0 }", True),
        ("restart = { policy = 'no', delay = 0, max_delay = 0, stable = 0, within = 0 }", True),
        ("restart = { policy = 'no', max_restarts = 0 }", True),
        ("restart = { policy = 'no', max_restarts = -1 }", True),
        ("restart = { policy = 'no', max_restarts = -2 }", False),
        ("cgroup = { memory_swap_max = 0 }", True),
        ("cgroup = { pids_max = -1 }", True),
        ("ulimits = { core = 0, nproc = -1 }", True),
    ],
)
def test_both_know_where_a_number_may_be_zero_or_unlimited(tmp_path: Path, keys: str, taken: bool) -> None:
    made = tomllib.loads(f"[container.a]\n{keys}")
    assert VALIDATOR.is_valid(made) == is_read(tmp_path, made) == taken


@pytest.mark.parametrize("name", ["a b", "../x", "", "x" * 64, "-a"])
def test_it_refuses_names_as_the_reader_does(tmp_path: Path, name: str) -> None:
    assert not VALIDATOR.is_valid({"container": {name: {}}})
    assert not is_read(tmp_path, {"container": {name: {}}})


def test_options_of_drivers_are_for_the_drivers_to_know() -> None:
    driver = {"driver": "anything", "options": {"x": [1, {"y": 2}]}}
    VALIDATOR.validate({"container": {"a": {"rootfs": driver, "network": driver, "cgroup": {"driver": driver}}}})


def test_the_config_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out) == schema()
