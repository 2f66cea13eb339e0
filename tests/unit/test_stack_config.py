"""Files of stacks: what their keys mean, all that can be wrong with them, and how they are printed."""

from __future__ import annotations

import contextlib
import json
import tomllib
from pathlib import Path
from typing import Any

import attrs
import pytest
import tomli_w
from hypothesis import given, strategies as st
from tomlfiles import EXAMPLES, SCHEMA, documents, errors, write

from pysuper import cli
from pysuper.config import load_stack
from pysuper.document import document, to_json, to_toml
from pysuper.errors import ConfigError
from pysuper.spec import BindMount, ContainerSpec, DriverChoice, Limits, Rlimit
from pysuper.stack.spec import (
    CommandProbe,
    Condition,
    DescriptorProbe,
    HealthCheck,
    HttpProbe,
    JournalSpec,
    Kind,
    LogMode,
    LogProbe,
    MemberSpec,
    NotifyProbe,
    Probe,
    Readiness,
    Restart,
    RestartPolicy,
    Schedule,
    StackSpec,
    Strategy,
    TcpProbe,
    Unhealthy,
)
from pysuper.stack.validation import validate

FULL = r"""
[stack]
strategy = "rest_for_one"

[journal]
max_size = "1M"
max_files = 2

[defaults]
labels = { team = "web", tier = "${TIER:-back}" }
restart = "on-failure"
stop_grace_period = "3s"
environment = ["A=default", "B=default"]
ulimits = ["core=0", "nproc=5"]
volumes = ["/from/defaults:/d"]

[defaults.cgroup]
pids_max = 50
memory_max = "64M"

[container.web]
command = ["sh", "-c", "echo $HOME $(id) $$1 '${PRICE:-5 $$}'"]
depends_on = { db = "healthy", init = "completed" }
kind = "service"
ready = { tcp = 8080, interval = "50ms", timeout = "10s" }
restart = { policy = "always", delay = "1s", max_delay = 5, jitter = 0, max_restarts = "unlimited", within = 20 }
replicas = 2
warm = 3
profiles = ["demo", "all"]
labels = { tier = "front" }
logging = "drop"
environment = { B = "own" }
ulimits = { nproc = 7 }
volumes = []
cgroup.pids_max = 20

[container.web.healthcheck]
http = "http://127.0.0.1:8080/health?deep=1"
interval = "5s"
start_interval = "100ms"
timeout = "2s"
retries = 5
start_period = "1m"
on_unhealthy = "stop"

[container.db]
ready = "notify"
healthcheck = { command = "pg_isready -q" }
labels = ["tier=back", "empty=", "a=b=c"]
network = "own"

[container.init]
kind = "task"
depends_on = ["db"]

[container.nightly]
cron = "0 3 * * *"
depends_on = "db"
"""


def member(name: str, **fields: Any) -> MemberSpec:
    """A member with the defaults of `FULL`."""
    ours = {"labels": {"team": "web", "tier": "back"}, "restart": RestartPolicy(when=Restart.ON_FAILURE), **fields}
    container = ContainerSpec(
        name=name,
        network=DriverChoice("stack"),
        environment={"A": "default", "B": "default"},
        stop_timeout=3.0,
        rlimits=(Rlimit("nofile", 1024, 1024), Rlimit("core", 0, 0), Rlimit("nproc", 5, 5)),
        mounts=(BindMount(source="/from/defaults", target="/d"),),
        limits=Limits(pids_max=50, memory_max=64 * 2**20),
    )
    return MemberSpec(container=attrs.evolve(container, **ours.pop("container", {})), **ours)


def full(path: str) -> StackSpec:
    """What `FULL` says."""
    web = member(
        "web",
        container={
            "command": ("sh", "-c", "echo $HOME $(id) $1 '5 $'"),
            "environment": {"A": "default", "B": "own"},
            "rlimits": (Rlimit("nofile", 1024, 1024), Rlimit("core", 0, 0), Rlimit("nproc", 7, 7)),
            "mounts": (),
            "limits": Limits(pids_max=20, memory_max=64 * 2**20),
        },
        depends_on={"db": Condition.HEALTHY, "init": Condition.COMPLETED},
        readiness=Readiness(probe=TcpProbe(port=8080), interval=0.05, timeout=10.0),
        healthcheck=HealthCheck(
            probe=HttpProbe(port=8080, path="/health?deep=1"),
            interval=5.0,
            start_interval=0.1,
            timeout=2.0,
            retries=5,
            start_period=60.0,
            on_unhealthy=Unhealthy.STOP,
        ),
        restart=RestartPolicy(when=Restart.ALWAYS, delay=1.0, max_delay=5.0, jitter=0.0, max_restarts=-1, within=20.0),
        replicas=2,
        warm=3,
        profiles=("demo", "all"),
        labels={"team": "web", "tier": "front"},
        log_mode=LogMode.DROP,
    )
    db = member(
        "db",
        container={"network": DriverChoice("own")},
        readiness=Readiness(probe=NotifyProbe()),
        healthcheck=HealthCheck(probe=CommandProbe(command=("pg_isready", "-q"))),
        labels={"team": "web", "tier": "back", "empty": "", "a": "b=c"},
    )
    init = member("init", kind=Kind.TASK, depends_on={"db": Condition.STARTED})
    nightly = member(
        "nightly", kind=Kind.TASK, schedule=Schedule(cron="0 3 * * *"), depends_on={"db": Condition.STARTED}
    )
    return StackSpec(
        path=path,
        members={"web": web, "db": db, "init": init, "nightly": nightly},
        strategy=Strategy.REST_FOR_ONE,
        journal=JournalSpec(max_size=2**20, max_files=2),
    )


def one(directory: Path, text: str, **environment: str) -> MemberSpec:
    """The only member of a file, `[container.a]` with these keys."""
    (found,) = load_stack(write(directory, f"[container.a]\n{text}"), environment).members.values()
    return found


# --- what the keys mean ---


def test_every_key_has_its_place_in_the_stack(tmp_path: Path) -> None:
    path = write(tmp_path, FULL)
    stack = load_stack(path, {})
    assert stack == full(path)
    assert list(stack.members) == ["web", "db", "init", "nightly"]


def test_a_file_with_nothing_but_a_container_has_the_defaults_of_the_specs(tmp_path: Path) -> None:
    path = write(tmp_path, "[container.a]")
    container = ContainerSpec(name="a", network=DriverChoice("stack"))
    assert load_stack(path) == StackSpec(path=path, members={"a": MemberSpec(container=container)})


def test_the_path_of_a_stack_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "[container.a]")
    monkeypatch.chdir(tmp_path)
    assert load_stack("demo.toml").path == path


def test_a_container_in_the_network_namespace_of_the_host_is_in_no_network_of_the_stack(tmp_path: Path) -> None:
    assert one(tmp_path, 'share = "net"').container.network == DriverChoice("none")


@pytest.mark.parametrize(
    ("text", "probe"),
    [
        ('"notify"', NotifyProbe()),
        ("{ notify = true }", NotifyProbe()),
        ("{ fd = 3 }", DescriptorProbe(number=3)),
        ('{ fd = "9" }', DescriptorProbe(number=9)),
        ("{ tcp = 80 }", TcpProbe(port=80)),
        ('{ tcp = "${PORT}" }', TcpProbe(port=81)),
        ('{ tcp = "db:5432" }', TcpProbe(port=5432, host="db")),
        ('{ tcp = "[::1]:80" }', TcpProbe(port=80, host="::1")),
        ('{ http = "http://localhost" }', HttpProbe(port=80, path="/", host="localhost")),
        (
            '{ http = "http://a-b.c_d:81/x/?q=%20&r#".strip() }'.replace('#".strip()', '"'),
            HttpProbe(port=81, path="/x/?q=%20&r", host="a-b.c_d"),
        ),
        ('{ http = "http://[::1]:81?q" }', HttpProbe(port=81, path="/?q", host="::1")),
        ("{ command = \"test -e '/a b'\" }", CommandProbe(command=("test", "-e", "/a b"))),
        ('{ command = ["test", "$X"] }', CommandProbe(command=("test", "$X"))),
        ("{ log = '^listening on [0-9]+$' }", LogProbe(pattern="^listening on [0-9]+$")),
    ],
)
def test_probes_of_readiness(tmp_path: Path, text: str, probe: Probe) -> None:
    assert one(tmp_path, f"ready = {text}", PORT="81").readiness == Readiness(probe=probe)


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ('"curl -f http://x || exit 1"', ("sh", "-c", "curl -f http://x || exit 1")),
        ('["CMD-SHELL", "a | b"]', ("sh", "-c", "a | b")),
        ('["CMD", "a", "|", "b"]', ("a", "|", "b")),
        ('["CMD", "a"]', ("a",)),
    ],
)
def test_the_test_of_compose_is_a_command(tmp_path: Path, text: str, command: tuple[str, ...]) -> None:
    check = one(tmp_path, f"healthcheck = {{ test = {text} }}").healthcheck
    assert check == HealthCheck(probe=CommandProbe(command=command))


@pytest.mark.parametrize("word", list(Restart))
def test_a_restart_policy_may_be_a_word(tmp_path: Path, word: Restart) -> None:
    assert one(tmp_path, f'restart = "{word}"').restart == RestartPolicy(when=word)


@pytest.mark.parametrize("text", ["max_restarts = -1", 'max_restarts = "unlimited"'])
def test_restarts_may_be_without_a_limit(tmp_path: Path, text: str) -> None:
    policy = RestartPolicy(when=Restart.ALWAYS, max_restarts=-1)
    assert one(tmp_path, f'restart = {{ policy = "always", {text} }}').restart == policy


def test_what_has_a_schedule_is_a_task(tmp_path: Path) -> None:
    for text, schedule in (('every = "1m30s"', Schedule(every=90.0)), ('cron = "@1 * * * *"', None)):
        if schedule is not None:
            found = one(tmp_path, text)
            assert (found.kind, found.schedule) == (Kind.TASK, schedule)


def test_a_problem_of_several_keys_is_at_one_that_is_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "variables").write_text("A B=1")
    text = "[defaults]\ncron = '* * * * *'\n[container.a]\nkind = 'service'\n[container.b]\nevery = 1\n"
    assert errors(tmp_path, text + "env_file = 'variables'") == [
        "4: container.a.kind: what runs again and again is a task",
        "6: container.b.every: give either every or cron",
        "7: container.b.env_file: 'A B' is not a name of a variable",
    ]


# --- defaults ---


def test_tables_are_put_together_with_the_defaults_and_the_rest_replaces_them(tmp_path: Path) -> None:
    text = """
    [defaults]
    environment = { A = "1", B = "1" }
    cgroup = { pids_max = 1, memory_max = 1 }
    depends_on = { db = "ready" }
    healthcheck = { tcp = 80, retries = 1 }
    restart = { policy = "always", delay = 7 }
    volumes = ["/a:/a"]
    [container.web]
    environment = ["B=2"]
    cgroup = { pids_max = 2 }
    depends_on = ["cache"]
    healthcheck = { tcp = 81 }
    restart = "no"
    volumes = ["/b:/b"]
    [container.db]
    [container.cache]
    depends_on = {}
    """
    members = load_stack(write(tmp_path, text)).members
    assert members["web"] == MemberSpec(
        container=ContainerSpec(
            name="web",
            network=DriverChoice("stack"),
            environment={"A": "1", "B": "2"},
            limits=Limits(pids_max=2, memory_max=1),
            mounts=(BindMount(source="/b", target="/b"),),
        ),
        depends_on={"db": Condition.READY, "cache": Condition.STARTED},
        healthcheck=HealthCheck(probe=TcpProbe(port=81)),
        restart=RestartPolicy(),
    )


def test_what_all_others_depend_on_does_not_depend_on_itself(tmp_path: Path) -> None:
    text = 'defaults.depends_on = ["db"]\n[container.web]\n[container.db]'
    members = load_stack(write(tmp_path, text)).members
    assert {name: list(found.depends_on) for name, found in members.items()} == {"web": ["db"], "db": []}


def test_an_error_in_the_defaults_is_said_once_and_where_they_are(tmp_path: Path) -> None:
    text = """\
[defaults]
timeout = "soon"
stop_signal = 99
hostname = "a b"
depends_on = ["bd"]
cgroup = { pids_max = 1, memory_max = "x" }
[container.web]
[container.db]
environment = { A = "${NO}" }
"""
    assert errors(tmp_path, text) == [
        "2: defaults.timeout: 'soon' is not a duration, such as 10s, 1m30s or 500ms (a plain number is in seconds)",
        "3: defaults.stop_signal: 99 is not a signal, such as TERM, SIGINT or 15",
        "4: defaults.hostname: 'a b' must be letters, digits, '_', '.' and '-', and begin with a letter or digit",
        "6: defaults.cgroup.memory_max: 'x' is not a size in bytes, such as 256M, 1.5G or 1024",
        "9: container.db.environment.A: the variable 'NO' is not set; write '${NO:-}' if it may be missing",
    ]


@pytest.mark.parametrize("own", ['["none"]', '"none"', '{ none = "ready" }'])
@pytest.mark.parametrize("default", ['["nobody"]', '"nobody"', '{ nobody = "ready" }'])
def test_an_error_is_where_the_key_is_that_makes_it_one(tmp_path: Path, default: str, own: str) -> None:
    text = f"""\
[defaults]
hostname = "fixed"
depends_on = {default}
[container.web]
share = ["uts"]
depends_on = {own}
[container.db]
hostname = "a/b"
"""
    assert errors(tmp_path, text) == [
        "2: defaults.hostname: a container that shares the uts namespace has the host's name",
        "3: defaults.depends_on.nobody: there is no container 'nobody'; there are db, web",
        "6: container.web.depends_on.none: there is no container 'none'; there are db, web",
        "8: container.db.hostname: 'a/b' must be letters, digits, '_', '.' and '-', and begin with a letter or digit",
    ]


# --- variables ---


def test_variables_are_those_of_the_environment_that_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = 'command = ["${X}"]\nenvironment = ["X"]\nenv_file = "variables"'
    (tmp_path / "variables").write_text("X\nY")
    container = one(tmp_path, text, X="given", Y="copied").container
    assert container.command == ("given",)
    assert container.environment == {"X": "given", "Y": "copied"}
    monkeypatch.setenv("X", "process")
    (found,) = load_stack(write(tmp_path, '[container.a]\nhostname = "${X}"')).members.values()
    assert found.container.hostname == "process"


def test_every_value_of_a_file_may_have_variables(tmp_path: Path) -> None:
    text = """
    stack.strategy = "${STRATEGY}"
    journal.max_files = "${FILES}"
    [defaults.cgroup]
    memory_max = "${SIZE:-1}M"
    [container.a]
    rootfs = { driver = "tar", path = "${IMAGE}.tar", deep = [{ x = "${IMAGE}" }] }
    """
    stack = load_stack(write(tmp_path, text), {"STRATEGY": "one_for_all", "FILES": "7", "IMAGE": "/i"})
    assert (stack.strategy, stack.journal.max_files) == (Strategy.ONE_FOR_ALL, 7)
    container = stack.members["a"].container
    assert container.limits.memory_max == 2**20
    assert container.rootfs == DriverChoice("tar", {"path": "/i.tar", "deep": [{"x": "/i"}]})


def test_keys_have_no_variables(tmp_path: Path) -> None:
    assert one(tmp_path, "labels = { '${X}' = '${X}' }", X="x").labels == {"${X}": "x"}


def test_all_that_is_wrong_with_variables_is_said_with_the_rest_and_nothing_follows_from_it(tmp_path: Path) -> None:
    text = """\
[container.web]
command = "x ${NO"
timeout = "${NO}"
tty = "${NO:?yes or no}"
cgroup.pids_max = "${A}"
share = ["${NO}"]
volumes = [
  "${NO}",
  "bad",
]
depends_on = ["${NO}"]
labels = "${NO}"
"""
    assert errors(tmp_path, text, A="many") == [
        "2: container.web.command: '${NO' has no closing brace; write $${ for ${ itself",
        "3: container.web.timeout: the variable 'NO' is not set; write '${NO:-}' if it may be missing",
        "4: container.web.tty: the variable 'NO' is not set: yes or no",
        "5: container.web.cgroup.pids_max: 'many' is not a whole number, such as 20, or max",
        "6: container.web.share[0]: the variable 'NO' is not set; write '${NO:-}' if it may be missing",
        "7: container.web.volumes[0]: the variable 'NO' is not set; write '${NO:-}' if it may be missing",
        "7: container.web.volumes[1]: 'bad' is not SOURCE:TARGET or SOURCE:TARGET:ro",
        "11: container.web.depends_on[0]: the variable 'NO' is not set; write '${NO:-}' if it may be missing",
        "12: container.web.labels: the variable 'NO' is not set; write '${NO:-}' if it may be missing",
    ]


# --- what can be wrong ---


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("kind = 'job'", "kind: 'job' is not a kind; there are service, task"),
        ("kind = 1", "kind: 1 is not a kind; there are service, task"),
        ("kind = 'tsk'", "kind: 'tsk' is not a kind; did you mean 'task'?"),
        ("logging = 'wait'", "logging: 'wait' is not a mode; there are block, drop"),
        ("ready = 'soon'", "ready: 'soon' is not \"notify\", or a table with a probe"),
        ("ready = 8080", 'ready: 8080 is not "notify", or a table with a probe'),
        ("ready = {}", "ready: needs one of tcp, http, command, notify, fd, log"),
        ("ready = {tcp = 1, log = 'x'}", "ready: has tcp and log, of which there can be only one"),
        ("ready = {notify = false}", "ready.notify: is true, or left out"),
        ("ready = {fd = 2}", "ready.fd: 2 is not a whole number from 3 to 9"),
        ("ready = {fd = 10}", "ready.fd: 10 is not a whole number from 3 to 9"),
        ("ready = {tcp = 0}", "ready.tcp: 0 is not a whole number from 1 to 65535"),
        ("ready = {tcp = '65536'}", "ready.tcp: '65536' is not a whole number from 1 to 65535"),
        ("ready = {tcp = true}", "ready.tcp: True is not a whole number from 1 to 65535"),
        ("ready = {tcp = 'db'}", "ready.tcp: 'db' is not a port or HOST:PORT, such as 8080 or 127.0.0.1:8080"),
        (
            "ready = {http = 'https://x/'}",
            "ready.http: 'https://x/' is not a URL that can be asked, such as http://127.0.0.1:8080/health",
        ),
        ("ready = {http = 'http://x:0/'}", "ready.http: '0' is not a whole number from 1 to 65535"),
        ("ready = {http = 80}", "ready.http: 80 is not a string"),
        ("ready = {command = []}", "ready: the command is empty"),
        ("ready = {command = ''}", "ready: the command is empty"),
        ('ready = {command = "\\u0000"}', "ready: an argument contains a NUL character"),
        ("ready = {command = 'a \"'}", "ready.command: No closing quotation"),
        (
            "ready = {log = '('}",
            "ready.log: '(' is not a regular expression: missing ), unterminated subpattern at position 0",
        ),
        (
            "ready = {log = '[[a]'}",
            "ready.log: '[[a]' is not a regular expression: Possible nested set at position 1",
        ),
        (
            "ready = {log = '" + "x" * 4097 + "'}",
            "ready.log: the regular expression has 4097 characters; 4096 is the most",
        ),
        ("ready = {tcp = 1, timeout = 0}", None),
        ("ready = {tpc = 1}", "ready.tpc: there is no such key; did you mean 'tcp'?"),
        ("healthcheck = 'curl'", "healthcheck: 'curl' is not a table"),
        ("healthcheck = {interval = 1}", "healthcheck: needs one of tcp, http, command, test"),
        (
            "healthcheck = {test = 'a', command = 'a'}",
            "healthcheck: has command and test, of which there can be only one",
        ),
        ("healthcheck = {log = 'x'}", None),
        ("healthcheck = {test = ['NONE']}", None),
        ("healthcheck = {test = ['CMD']}", None),
        ("healthcheck = {test = ['CMD-SHELL', 'a', 'b']}", None),
        ("healthcheck = {test = ['CMD', 1]}", "healthcheck.test[1]: 1 is not a string"),
        ("healthcheck = {test = 1}", "healthcheck.test: 1 is not a list of strings"),
        ("healthcheck = {tcp = 1, retries = 0}", "healthcheck.retries: 0 is not a whole number from 1 to 1000"),
        (
            "healthcheck = {tcp = 1, on_unhealthy = 'reboot'}",
            "healthcheck.on_unhealthy: 'reboot' is not what to do with an unhealthy container; "
            "there are none, restart, stop",
        ),
        ("restart = 'allways'", "restart: 'allways' is not a restart policy; did you mean 'always'?"),
        ("restart = false", "restart: False is not a restart policy; there are always, no, on-failure, unless-stopped"),
        ("restart = {delay = 1}", "restart: needs policy"),
        ("restart = {policy = 'no', jitter = 1.5}", "restart.jitter: 1.5 is not a number from 0 to 1"),
        ("restart = {policy = 'no', jitter = nan}", "restart.jitter: nan is not a number from 0 to 1"),
        (
            "restart = {policy = 'no', delay = '2m'}",
            "restart: the delay of 120 s is above the max_delay of 60 s",
        ),
        ("replicas = 0", "replicas: 0 is not a whole number from 1 to 1000"),
        ("replicas = 1001", "replicas: 1001 is not a whole number from 1 to 1000"),
        ("replicas = 2.0", "replicas: 2.0 is not a whole number from 1 to 1000"),
        ("warm = -1", "warm: -1 is not a whole number from 0 to 100"),
        ("warm = 101", "warm: 101 is not a whole number from 0 to 100"),
        (
            "warm = 1\nready = 'notify'",
            'warm: the socket of ready = "notify" is another one in each run; use ready = { fd = 3 }',
        ),
        ("profiles = ['a b']", "profiles[0]: 'a b' is not a name of a profile"),
        ("profiles = '" + "x" * 64 + "'", "profiles[0]: 'xxxxxxxxxxxx...xxxxxxxxxxxxx' is not a name of a profile"),
        ("labels = ['a']", "labels[0]: 'a' is not NAME=VALUE"),
        ("labels = {a = 1}", "labels.a: 1 is not a string"),
        ("labels = {'' = 'x'}", "labels.'': '' is not a name of a label"),
        ("labels = {'a b' = 'x'}", "labels.'a b': 'a b' is not a name of a label"),
        ("depends_on = 3", "depends_on: 3 is not a list of strings"),
        (
            "depends_on = {b = 'service_healthy'}",
            "depends_on.b: 'service_healthy' is not what a dependency can have reached; did you mean 'healthy'?",
        ),
        ("every = 0", None),
        (
            "cron = '* * *'",
            "cron: '* * *' is not a cron expression of five fields, such as \"*/5 * * * *\": there are five fields",
        ),
        ("cron = '* * * * * *'", None),
        (
            "cron = '61 * * * *'",
            "cron: '61 * * * *' is not a cron expression of five fields, such as \"*/5 * * * *\": Bad minute",
        ),
        ("cron = '0 0 31 2 *'", None),
        ("cron = '0 0 */31 * 1#5'", "cron: '0 0 */31 * 1#5' is never due"),
        ("cron = '* * * * *'\nevery = '5s'", "cron: give either every or cron"),
        ("kind = 'service'\nevery = '5s'", "kind: what runs again and again is a task"),
        (
            "network = 'stack'\nshare = 'net'",
            'network: a container that shares the net namespace is not in the network "stack"',
        ),
        ("volumes = ['/a:b']", "volumes: 'b' is not an absolute path"),
        ("journal = {}", None),
        ("restart = {policy = 'always', max_restarts = 'many'}", None),
    ],
)
def test_what_is_wrong_in_a_member_is_one_line(tmp_path: Path, key: str, expected: str | None) -> None:
    (line,) = errors(tmp_path, f"[container.a]\n{key}\n[container.b]\nhealthcheck = {{ tcp = 80 }}")
    assert line.isprintable()
    assert len(line) < 300
    if expected is not None:
        assert line == f"2: container.a.{expected}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("stack.strategy = 'all'", "1: stack.strategy: 'all' is not a strategy; there are"),
        ("stack.stratgy = 'all'", "1: stack.stratgy: there is no such key; did you mean 'strategy'?"),
        ("journal.max_size = 0", "1: journal.max_size: 0 is too small"),
        ("journal.max_files = 0", "1: journal.max_files: 0 is not a whole number from 1 to 1000"),
        ("journal = 1", "1: journal: 1 is not a table"),
        ("defaults = 1", "1: defaults: 1 is not a table"),
        ("defaults.comand = 'x'", "1: defaults.comand: there is no such key; did you mean 'command'?"),
        ("container.b = 1", "1: container.b: 1 is not a table"),
        ("default.init = true", "1: default: there is no such key; did you mean 'defaults'?"),
    ],
)
def test_what_is_wrong_in_another_table_is_one_line(tmp_path: Path, text: str, expected: str) -> None:
    (line,) = errors(tmp_path, f"{text}\n[container.a]")
    assert line.startswith(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.depends_on = ['bb']", ["1: container.a.depends_on.bb: there is no container 'bb'; did you mean 'b'?"]),
        ("a.depends_on = ['a']", ["1: container.a.depends_on.a: depends on itself"]),
        (
            "b.depends_on = ['c']\na.depends_on = ['b']\nc.depends_on = { a = 'ready' }",
            ["1: container.b.depends_on.c: a cycle: b -> c -> a -> b"],
        ),
        (
            "b.depends_on = ['a']\na.depends_on = ['b']\nc.depends_on = ['d']\nd.depends_on = ['c', 'a']",
            ["1: container.b.depends_on.a: a cycle: b -> a -> b", "3: container.c.depends_on.d: a cycle: c -> d -> c"],
        ),
        (
            "a.depends_on = { b = 'healthy' }",
            ["1: container.a.depends_on.b: b has no healthcheck, and is never healthy"],
        ),
        (
            "a.depends_on = { b = 'completed' }\nb.every = 1",
            ["1: container.a.depends_on.b: b runs again and again, and is never completed"],
        ),
        (
            "a.depends_on = { b = 'completed' }\nb.restart = 'always'",
            ['1: container.a.depends_on.b: b is always restarted, and is never completed; did you mean kind = "task"?'],
        ),
        ("a.depends_on = { b = 'completed' }\nb.restart = 'unless-stopped'", None),
        (
            "a.replicas = 3\na-2 = {}\na-3 = {}",
            ["1: container.a.replicas: would have an instance 'a-2', which is the name of another container"],
        ),
        (
            "x" * 62 + ".replicas = 10",
            [
                f"1: container.{'x' * 62}.replicas: would have an instance 'xxxxxxxxxxxx...xxxxxxxxxx-10' "
                "of 65 characters; 63 is the most"
            ],
        ),
        (
            "'../x'.replicas = 2",
            ["1: container.'../x': '../x' must be letters, digits, '_', '.' and '-', and begin with a letter or digit"],
        ),
        ('"a\\nb".tty = 1', None),
        ('"a\\u0000b" = {}', None),
    ],
)
def test_what_is_wrong_between_members_is_said_once(tmp_path: Path, text: str, expected: list[str] | None) -> None:
    file = "".join(f"container.{line}\n" for line in text.split("\n"))
    lines = errors(tmp_path, file + "container.b.init = true\n" * ("container.b." not in file))
    assert all(line.isprintable() for line in lines)
    if expected is not None:
        assert lines == expected


@pytest.mark.parametrize(
    "text",
    [
        "a.depends_on = { b = 'completed' }\nb = { restart = 'always', kind = 'task' }",
        "a.depends_on = { b = 'completed' }\nb.restart = 'on-failure'",
        "a.depends_on = { b = 'healthy' }\nb.healthcheck.tcp = 80",
        "a.depends_on = { b = 'ready' }\nb.every = 1",
        "a.replicas = 1\na-1 = {}\na-01 = {}",
        "a.ready.log = '" + "x" * 4096 + "'",
        "a.restart = { policy = 'always', delay = '1m', max_delay = 60, jitter = 1 }",
        "a.ready = { tcp = 65535 }\na.replicas = 1000",
        "a.profiles = ['" + "x" * 63 + "']",
        "a.warm = 100\na.ready.fd = 3",
    ],
)
def test_what_makes_sense_is_let_through(tmp_path: Path, text: str) -> None:
    load_stack(write(tmp_path, "".join(f"container.{line}\n" for line in text.split("\n"))))


def test_what_could_not_be_read_is_not_missing(tmp_path: Path) -> None:
    text = "container.a.depends_on = { b = 'healthy' }\ncontainer.b.healthcheck = { tcp = 'x' }"
    assert errors(tmp_path, text) == [
        "2: container.b.healthcheck.tcp: 'x' is not a port or HOST:PORT, such as 8080 or 127.0.0.1:8080"
    ]


def test_all_errors_of_a_stack_are_reported_with_line_and_key(tmp_path: Path) -> None:
    text = """\
[stack]
strategy = "one"
[container.web]
comand = "x"
depends_on = { db = "helthy" }
ready = { tcp = 99999 }
[container.db]
depends_on = ["web"]
every = "1s"
kind = "service"
replicas = 0
"""
    assert [line.partition(": ")[::2] for line in errors(tmp_path, text)] == [
        ("2", "stack.strategy: 'one' is not a strategy; there are one_for_all, one_for_one, rest_for_one"),
        ("4", "container.web.comand: there is no such key; did you mean 'command'?"),
        (
            "5",
            "container.web.depends_on.db: 'helthy' is not what a dependency can have reached; did you mean 'healthy'?",
        ),
        ("6", "container.web.ready.tcp: 99999 is not a whole number from 1 to 65535"),
        ("10", "container.db.kind: what runs again and again is a task"),
        ("11", "container.db.replicas: 0 is not a whole number from 1 to 1000"),
    ]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"replicas": 0}, "a.replicas: 0 is not between 1 and 1000"),
        ({"replicas": 10**9}, "a.replicas: 1000000000 is not between"),
        ({"warm": -1}, "a.warm: -1 is not between 0 and 100"),
        ({"profiles": ("a b",)}, "a.profiles: 'a b' is not a name of a profile"),
        ({"labels": {"": "x"}}, "a.labels.'': '' is not a name of a label"),
        ({"schedule": Schedule()}, "a.schedule: give either every or cron"),
        ({"schedule": Schedule(every=1, cron="* * * * *")}, "a.schedule: give either every or cron"),
        ({"schedule": Schedule(every=0)}, "a.schedule: 0 is not a number of seconds above 0"),
        ({"schedule": Schedule(cron="x")}, "a.schedule: 'x' is not a cron expression"),
        ({"schedule": Schedule(every=1), "kind": Kind.SERVICE}, "a.kind: what runs again and again is a task"),
        ({"restart": RestartPolicy(delay=-1)}, "a.restart.delay: -1 is not a number of seconds"),
        ({"restart": RestartPolicy(jitter=2)}, "a.restart.jitter: 2 is not between 0 and 1"),
        ({"restart": RestartPolicy(max_restarts=-2)}, "a.restart.max_restarts: -2 is not between 0"),
        ({"readiness": Readiness(probe=TcpProbe(port=0))}, "a.readiness: '0' is not a whole number from 1 to 65535"),
        (
            {"readiness": Readiness(probe=TcpProbe(port=1, host="a b"))},
            "a.readiness: 'a b:1' is not a port or HOST:PORT",
        ),
        ({"readiness": Readiness(probe=HttpProbe(port=1, path="x"))}, "a.readiness: .* is not a URL that can be asked"),
        ({"readiness": Readiness(probe=HttpProbe(port=1, path="/a b"))}, "a.readiness: .* is not a URL"),
        (
            {"readiness": Readiness(probe=HttpProbe(port=1, path="/\r\n"))},
            "a.readiness: HttpProbe.* is not what it would",
        ),
        (
            {"readiness": Readiness(probe=HttpProbe(port=1, host="a/b"))},
            "a.readiness: HttpProbe.* is not what it would be",
        ),
        ({"readiness": Readiness(probe=DescriptorProbe(number=2))}, "a.readiness: 2 is not a whole number from 3 to 9"),
        ({"readiness": Readiness(probe=LogProbe(pattern="("))}, "a.readiness: '\\(' is not a regular expression"),
        ({"readiness": Readiness(probe=CommandProbe(command=()))}, "a.readiness: the command is empty"),
        (
            {"readiness": Readiness(probe=NotifyProbe(), interval=0)},
            "a.readiness.interval: 0 is not a number of seconds",
        ),
        (
            {"readiness": Readiness(probe=NotifyProbe(), timeout=float("nan"))},
            "a.readiness.timeout: nan is not a number",
        ),
        ({"healthcheck": HealthCheck(probe=TcpProbe(port=1), retries=0)}, "a.healthcheck.retries: 0 is not between 1"),
        (
            {"healthcheck": HealthCheck(probe=TcpProbe(port=1), start_interval=0)},
            "a.healthcheck.start_interval: 0 is not",
        ),
        (
            {"healthcheck": HealthCheck(probe=TcpProbe(port=1), start_period=-1)},
            "a.healthcheck.start_period: -1 is not",
        ),
        ({"container": ContainerSpec(name="a", hostname="")}, "a.hostname: '' must be letters"),
        ({"depends_on": {"b": Condition.READY}}, "a.depends_on.b: there is no container 'b'"),
    ],
)
def test_a_stack_that_a_program_makes_is_refused_in_one_line(fields: dict[str, Any], message: str) -> None:
    kind = Kind.TASK if "schedule" in fields else Kind.SERVICE
    made = MemberSpec(**{"container": ContainerSpec(name="a"), "kind": kind, **fields})
    with pytest.raises(ConfigError, match=message) as caught:
        validate(StackSpec(path="/demo.toml", members={"a": made}))
    assert str(caught.value).isprintable()


def test_a_stack_that_is_right_is_not_refused(tmp_path: Path) -> None:
    validate(load_stack(write(tmp_path, FULL), {}))


# --- printing ---


def printed(stack: StackSpec, directory: Path) -> StackSpec:
    """What is read from a file in another directory, into which a stack has been printed."""
    path = directory / "printed.toml"
    path.write_text(to_toml(stack), encoding="utf-8")
    return attrs.evolve(load_stack(str(path), {}), path=stack.path)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.name)
def test_what_is_printed_of_an_example_means_the_same(tmp_path: Path, path: Path) -> None:
    stack = load_stack(str(path), {})
    assert printed(stack, tmp_path) == stack


def test_what_is_printed_means_the_same(tmp_path: Path) -> None:
    stack = load_stack(write(tmp_path, FULL), {})
    (tmp_path / "elsewhere").mkdir()
    assert printed(stack, tmp_path / "elsewhere") == stack


@pytest.mark.parametrize(
    "keys",
    [
        "rootfs = { driver = 'tar', path = 'x.tar', more = [1, { a = 1979-05-27 }], nan = 'x$' }",
        "rootfs = { driver = 'a:b' }\ncgroup.driver = { driver = 'v2', x = true }",
        "share = ['net', 'uts']\nuser = 5\nworking_dir = '/x'\nhostname = '${X:-y}'".replace(
            "\nhostname = '${X:-y}'", ""
        ),
        "tmpfs = ['/t:size=1M,mode=755', '/u']\nvolumes = ['~/x:/x', './a$$b:/b:ro']",
        "ulimits = { nofile = '1:max', core = 0 }\ncgroup.io_max.'8:0' = { rbps = '1M' }\ncgroup.memory_swap_max = 0",
        "command = 'a'\ntty = true\ninit = false\nread_only = true\nbest_effort = true\ntimeout = 0.1\nstop_signal = 9",
        "ready = { command = 'a $$b', timeout = 0.001 }\nhealthcheck = { tcp = '[::1]:80', on_unhealthy = 'none' }",
        "ready.log = 'x$$'\nhealthcheck.test = 'a'",
        "ready.fd = 4\nevery = 1e-5\nlogging = 'drop'",
        "ready.http = 'http://h'\ncron = '*/5 * * * *'\nprofiles = 'x'",
        "restart = { policy = 'no', delay = 0 }\nenvironment = { A = '$$${X:-}$$', B = \"\\u0001\\n\\u007f\" }",
    ],
)
def test_every_value_is_printed_so_that_it_can_be_read(tmp_path: Path, keys: str) -> None:
    stack = load_stack(write(tmp_path, f"[container.a]\n{keys}"), {})
    (tmp_path / "elsewhere").mkdir()
    assert printed(stack, tmp_path / "elsewhere") == stack


def test_what_has_its_default_is_not_printed(tmp_path: Path) -> None:
    text = (
        "[stack]\nstrategy = 'one_for_one'\n[container.a]\ninit = true\nreplicas = 1\nnetwork = 'stack'\nrestart = 'no'"
    )
    assert document(load_stack(write(tmp_path, text))) == {"container": {"a": {}}}


def test_json_says_the_same_as_toml(tmp_path: Path) -> None:
    stack = load_stack(write(tmp_path, FULL), {})
    assert json.loads(to_json(stack)) == tomllib.loads(to_toml(stack)) == document(stack)
    dated = load_stack(write(tmp_path, "[container.a]\nrootfs = { driver = 'x', day = 1979-05-27 }"))
    assert json.loads(to_json(dated))["container"]["a"]["rootfs"]["day"] == "1979-05-27"


def test_bytes_that_toml_cannot_have_are_an_error_and_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "variables").write_bytes(b"X=\xff")
    stack = load_stack(write(tmp_path, "[container.a]\nenv_file = 'variables'"))
    with pytest.raises(ConfigError, match=r"demo.toml: cannot be written as TOML: .*\\udcff.* is not UTF-8"):
        to_toml(stack)
    assert "udcff" in to_json(stack)


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_the_config_command_prints_the_result(
    tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIZE", "2M")
    path = write(tmp_path, "[defaults]\ncgroup.memory_max = '${SIZE}'\n[container.a]\ncommand = 'b'")
    for argv in ([path, *options], [*options, path]):
        assert cli.main(["config", *argv]) == 0
        text = capsys.readouterr().out
        assert (json.loads if options else tomllib.loads)(text) == {
            "container": {"a": {"command": ["b"], "cgroup": {"memory_max": 2**21}}}
        }


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "give one FILE; see pysuper config --help"),
        (["a", "b"], "give one FILE; see pysuper config --help"),
        (["--schema", "a"], "unexpected argument 'a'; see pysuper config --help"),
        (["--jsn", "a"], "option --jsn not recognized; did you mean --json?"),
        (["/none.toml"], "/none.toml: No such file or directory"),
        (["a\0b"], "embedded null byte"),
    ],
)
def test_the_config_command_says_what_is_wrong(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["config", *argv]) == 2
    stdout, stderr = capsys.readouterr()
    (line,) = stderr.splitlines()
    assert stdout == ""
    assert message in line


# --- bad input ---


BAD = {
    "64 KiB": '"' + "x" * 65536 + '"',
    "64 KiB in lines": '"""' + "x\n" * 32768 + '"""',
    "NUL": '"a\\u0000b"',
    "newline": '"a\\nb"',
    "dots": '"../../x"',
    "huge": "0x" + "f" * 5000,
    "infinite": "inf",
    "nested": "[" * 40 + "]" * 40,
    "nested tables": "{ a = " * 40 + "1" + " }" * 40,
    "dollars": '"' + "$" * 65535 + '{"',
}


@pytest.mark.parametrize("value", BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize("key", sorted(SCHEMA["$defs"]["container"]["properties"]))
def test_a_bad_value_is_refused_in_one_line_or_is_none_there(tmp_path: Path, key: str, value: str) -> None:
    path = write(tmp_path, f"[container.a]\n# the next line\n{key} = {value}")
    try:
        load_stack(path, {})
    except ConfigError as error:
        (line,) = str(error).split("\n")
        assert line.startswith(f"{path}:3: container.a.{key}")
        assert line.isprintable()
        assert len(line) < 600


@pytest.mark.parametrize("name", ["x" * 65536, "a\\u0000b", "a\\nb", "..", "../x", "\\u202e"])
def test_a_bad_name_is_refused_in_one_line(tmp_path: Path, name: str) -> None:
    for text in (f'[container."{name}"]', f'[container.a.labels]\n" {name}" = "x"', f'[container.a]\n"{name}" = 1'):
        (line,) = errors(tmp_path, text)
        assert line.isprintable()
        assert len(line) < 600


@given(st.one_of(st.text(), st.binary(), st.text(st.sampled_from("[]{}='\"\n.a1#,$\\ "))))
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str | bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "text.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode(errors="surrogatepass"))
    with contextlib.suppress(ConfigError):
        load_stack(str(path))


# --- any document ---


@given(documents())
def test_any_document_is_read_or_refused_in_lines(
    tmp_path_factory: pytest.TempPathFactory, made: dict[str, Any]
) -> None:
    directory = tmp_path_factory.getbasetemp()
    path = write(directory, tomli_w.dumps(made))
    try:
        stack = load_stack(path, {"A": "1"})
    except ConfigError as error:
        assert all(line.isprintable() and len(line) < 600 for line in str(error).split("\n"))
    else:
        assert printed(stack, directory) == stack


PLUGINS = """
[plugins]
cgroup = { v1 = "other-cgroups" }
namespace = { time = "time-machine", uptime = "uptimes" }
hook = { webhook = "hooks" }

[hook.webhook]
url = "https://example.org"

[hook.again]
driver = "webhook"
url = "https://example.net"

[hook.systemd]

[container.a]
rootfs = "git:https://example.org/images"
cgroup = { driver = "v1" }

[container.b]
namespaces = { uts = "names", time = { driver = "uptime", days = 7 } }
"""


def test_a_file_says_whose_drivers_are_meant_and_who_is_told(tmp_path: Path) -> None:
    stack = load_stack(write(tmp_path, PLUGINS))
    assert stack.hooks == (
        DriverChoice("webhook", {"url": "https://example.org"}, distribution="hooks"),
        DriverChoice("webhook", {"url": "https://example.net"}, distribution="hooks"),
        DriverChoice("systemd"),
    )
    one, other = (stack.members[name].container for name in "ab")
    assert one.rootfs == DriverChoice("git", argument="https://example.org/images")  # which is no path
    assert one.cgroup == DriverChoice("v1", distribution="other-cgroups")
    assert other.cgroup == DriverChoice("auto")
    machine = DriverChoice("time", distribution="time-machine")
    assert one.namespaces == {"time": machine}
    assert other.namespaces == {
        "time": DriverChoice("uptime", {"days": 7}, distribution="uptimes"),
        "uts": DriverChoice("names"),
    }


def test_plugins_are_printed_as_they_are_read(tmp_path: Path) -> None:
    stack = load_stack(write(tmp_path, PLUGINS))
    again = load_stack(write(tmp_path, to_toml(stack)))
    assert again.hooks == stack.hooks
    assert again.members == stack.members


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[plugins.cgruop]\nv1 = "x"', "1: plugins.cgruop: there is no such key; did you mean 'cgroup'?"),
        ("[plugins.cgroup]\nv1 = 7", "2: plugins.cgroup.v1: 7 is not a string"),
        ('hook = "systemd"', "1: hook: 'systemd' is not a table"),
        ("[hook]\nsystemd = true", "2: hook.systemd: True is not a table"),
        (
            '[container.a.namespaces]\ntim = "uptime"',
            "2: container.a.namespaces.tim: there is no such key; did you mean 'time'?",
        ),
        (
            '[container.a]\nshare = ["uts"]\nnamespaces = { uts = "names" }',
            "3: container.a.namespaces: the uts namespace is shared, so nobody makes one",
        ),
    ],
)
def test_what_is_wrong_with_plugins_is_said_with_its_line(tmp_path: Path, text: str, expected: str) -> None:
    text = text if "[container.a" in text else f"{text}\n[container.a]\n"
    assert errors(tmp_path, text) == [expected]
