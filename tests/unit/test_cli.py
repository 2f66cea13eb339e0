"""The command line, as far as nothing has to run for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

import pysuper
from pysuper import cli
from pysuper.config import load
from pysuper.errors import ConfigError, DriverError, PysuperError
from pysuper.flags import container_parser, make_spec
from pysuper.record import ExitRecord
from pysuper.spec import BindMount, ContainerSpec, DriverChoice, Limits, Rlimit, TmpfsMount


def spec_of(*argv: str, interactive: bool = False) -> ContainerSpec:
    """The spec that `pysuper run` makes of these options."""
    spec, _ = make_spec(container_parser("pysuper run", "").parse(argv), interactive=interactive)
    return spec


def pysuper_in_a_process(*argv: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does."""
    command = [sys.executable, "-m", "pysuper", *argv]
    return subprocess.run(command, capture_output=True, text=True, check=False, **settings)


def test_flags_and_a_file_make_the_same_spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("variables").write_text("A=1\nB=2\n")
    Path("web.toml").write_text(
        """
        [container.web]
        command = ["httpd", "-f"]
        environment = { B = "3" }
        env_file = "variables"
        working_dir = "/srv"
        user = "www"
        hostname = "w"
        rootfs = "tar:alpine.tar"
        network = "host"
        share = ["ipc", "time"]
        volumes = ["site:/srv:ro", { source = "/d", target = "/d" }]
        tmpfs = ["/t:size=1M"]
        read_only = true
        ulimits = ["nofile=10:20", "core=0"]
        stop_signal = "INT"
        stop_grace_period = 0
        timeout = "1m"
        init = false
        tty = true
        best_effort = true
        cgroup = { driver = "v1", pids_max = 20, memory_max = "1G", cpu_max = 0.5, cpuset_cpus = "0" }
        """
    )
    flags = (
        *("--name", "web", "--rootfs", "tar:alpine.tar", "--cgroup", "v1", "--network", "host", "--share", "ipc,time"),
        *("-e", "B=3", "--env-file", "variables", "-v", "site:/srv:ro", "--mount", "type=bind,src=/d,dst=/d"),
        *("--tmpfs", "/t:size=1M", "-w", "/srv", "-u", "www", "-h", "w", "-m", "1G", "--cpus", "0.5"),
        *("--cpuset-cpus", "0", "--pids-limit", "20", "--ulimit", "nofile=10:20", "--ulimit", "core=0"),
        *("--read-only", "--no-init", "-it", "--stop-signal", "INT", "--stop-timeout", "0", "--timeout", "1m"),
        *("--best-effort", "--", "httpd", "-f"),
    )
    assert spec_of(*flags) == load("web.toml")["web"]


def test_flags_win_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.toml").write_text(
        """
        [container.a]
        command = "x y"
        environment = { A = "1", B = "2" }
        volumes = ["/a:/a", "/b:/b"]
        share = ["ipc"]
        tty = true
        [container.a.cgroup]
        pids_max = 20
        memory_max = "1G"
        """
    )
    flags = ("-e", "B=3", "-v", "/c:/b:ro", "--pids-limit", "max", "--ulimit", "core=0", "--share", "uts", "--no-tty")
    assert spec_of("-f", "a.toml", *flags, "z") == ContainerSpec(
        name="a",
        command=("z",),
        environment={"A": "1", "B": "3"},
        mounts=(BindMount(source="/a", target="/a"), BindMount(source="/c", target="/b", read_only=True)),
        share=frozenset({"ipc", "uts"}),
        limits=Limits(pids_max=-1, memory_max=2**30),
        rlimits=(Rlimit("nofile", 1024, 1024), Rlimit("core", 0, 0)),
    )
    assert spec_of("-f", "a.toml").command == ("x", "y")
    assert spec_of("-f", "a.toml").terminal


def test_a_file_with_several_containers_needs_a_name(tmp_path: Path) -> None:
    path = tmp_path / "two.toml"
    path.write_text("[container.web]\n[container.db]\n")
    assert spec_of("-f", str(path), "--name", "db").name == "db"
    with pytest.raises(ConfigError, match="several containers; --name one of web, db"):
        spec_of("-f", str(path))
    with pytest.raises(ConfigError, match=r"no container 'wep'; did you mean 'web'\?"):
        spec_of("-f", str(path), "--name", "wep")


@pytest.mark.parametrize(
    ("flags", "mount"),
    [
        (("-v", "/a:/b"), BindMount(source="/a", target="/b")),
        (("-v", "/a:/b:rw"), BindMount(source="/a", target="/b")),
        (("-v", "./a:/b"), BindMount(source="CWD/a", target="/b")),
        (("--mount", "source=/a,target=/b"), BindMount(source="/a", target="/b")),
        (("--mount", "type=bind,src=/a,destination=/b,ro"), BindMount(source="/a", target="/b", read_only=True)),
        (("--mount", "src=/a:b,dst=/b,readonly=true"), BindMount(source="/a:b", target="/b", read_only=True)),
        (
            ("--mount", "type=tmpfs,dst=/t,tmpfs-size=1M,tmpfs-mode=700"),
            TmpfsMount(target="/t", size=2**20, mode=0o700),
        ),
        (("--tmpfs", "/t"), TmpfsMount(target="/t")),
        (("--tmpfs", "/t:mode=0755"), TmpfsMount(target="/t", mode=0o755)),
    ],
)
def test_mounts_are_written_as_docker_users_do(
    flags: tuple[str, ...], mount: BindMount | TmpfsMount, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (made,) = spec_of(*flags).mounts
    assert str(made).replace(str(tmp_path), "CWD") == str(mount)


def test_mounts_keep_their_order() -> None:
    flags = ("--tmpfs", "/1", "-v", "/a:/2", "--mount", "src=/a,dst=/3", "--tmpfs", "/4")
    assert [mount.target for mount in spec_of(*flags).mounts] == ["/1", "/2", "/3", "/4"]


def test_a_variable_without_value_is_copied_from_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COPIED", "x")
    monkeypatch.delenv("MISSING", raising=False)
    assert spec_of("-e", "COPIED", "-e", "MISSING", "-e", "EMPTY=").environment == {"COPIED": "x", "EMPTY": ""}


def test_a_terminal_is_what_the_user_is_at_unless_told_otherwise() -> None:
    assert [spec_of(*flags, interactive=True).terminal for flags in ((), ("-t",), ("--no-tty",))] == [True, True, False]
    assert [spec_of(*flags, interactive=False).terminal for flags in ((), ("-t",), ("-i",))] == [False, True, False]


@pytest.mark.parametrize(
    ("command", "prefix"),
    [(["/bin/bash"], "bash-"), ([], "shell-"), (["./my app.sh"], "my-app-sh-"), (["\0\n/../é"], "shell-")],
)
def test_a_container_is_named_after_its_command(command: list[str], prefix: str) -> None:
    parsed = container_parser("pysuper run", "").parse(["--", *command])
    try:
        name = make_spec(parsed, interactive=False)[0].name
    except ConfigError as error:
        assert "NUL" in str(error)
    else:
        assert name.startswith(prefix)
        assert name != make_spec(parsed, interactive=False)[0].name


@given(st.lists(st.text()))
def test_what_follows_the_command_is_never_an_option(rest: list[str]) -> None:
    parse = container_parser("pysuper run", "").parse
    assert parse(["-m", "1M", "sh", *rest]).rest == ["sh", *rest]
    assert parse(["-m", "1M", "--", *rest]).rest == rest


@given(st.text(), st.text())
def test_the_value_of_an_option_may_be_anything(name: str, value: str) -> None:
    parsed = container_parser("pysuper run", "").parse(["-e", value, f"--hostname={name}", "-u", value, "x"])
    assert (parsed.env, parsed.hostname, parsed.user, parsed.rest) == ([value], name, value, ["x"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "a command is missing; see pysuper --help"),
        (["rnu"], "there is no command 'rnu'; did you mean 'run'?"),
        (["--verbose"], "option --verbose not recognized; did you mean --version?"),
        (["plugins", "shwo"], "there is no command 'shwo' for plugins; did you mean 'show'?"),
        (["plugins", "list", "x"], "unexpected argument 'x'; see pysuper plugins --help"),
        (["plugins", "show"], "show needs NAME; see pysuper plugins --help"),
        (["plugins", "check", "v1", "v2"], "unexpected argument 'v2'"),
        (["plugins", "new"], "new needs KIND and NAME"),
        (["plugins", "new", "cgroup"], "new needs NAME"),
        (["plugins", "show", "cgruop/v1"], "there is no kind of plugin 'cgruop'; did you mean 'cgroup'?"),
        (["plugins", "check", "host:x"], "write rootfs/host or network/host"),
        (["run", "--memroy", "1"], "option --memroy not recognized; did you mean --memory?"),
        (["run", "-m"], "option -m requires argument; see pysuper run --help"),
        (["run", "-Z"], "option -Z not recognized; see pysuper run --help"),
        (["run", "--init=1"], "option --init must not have an argument; see pysuper run --help"),
        (["run", "-m", "1x"], "argument -m/--memory: '1x' is not a size in bytes, such as 256M, 1.5G or 1024"),
        (["run", "-m", "0"], "argument -m/--memory: '0' is too small; give a size in bytes"),
        (["run", "--cpus", "nan"], "argument --cpus: 'nan' is not a number of cores"),
        (["run", "--cpus", "1e3"], "argument --cpus: '1e3' is not a number of cores"),
        (["run", "--pids-limit", "-5"], "argument --pids-limit: '-5' is not a whole number"),
        (["run", "--pids-limit", "9999999999"], "limits.pids_max: 9999999999 is not between 1 and 4194304"),
        (["run", "--stop-signal", "9x"], "argument --stop-signal: '9x' is not a signal"),
        (["run", "--ulimit", "nofile"], "argument --ulimit: 'nofile' is not NAME=SOFT[:HARD]"),
        (["run", "--ulimit", "nofile=x"], "argument --ulimit: 'x' is not a whole number"),
        (["run", "-v", "/a"], "argument -v/--volume: '/a' is not SOURCE:TARGET or SOURCE:TARGET:ro"),
        (["run", "-v", "/a:/b:rx"], "argument -v/--volume: '/a:/b:rx' is not SOURCE:TARGET"),
        (["run", "-v", "/a:b"], "mounts: 'b' is not an absolute path"),
        (["run", "--mount", "type=volume,src=a,dst=/b"], "argument --mount: 'volume' is not a type of mount"),
        (["run", "--mount", "src=/a"], "argument --mount: a bind mount needs target"),
        (["run", "--mount", "src,dst=/a"], "argument --mount: source is not a path: True"),
        (["run", "--mount", "src=/a,dst=/a,rw=x"], "argument --mount: a bind mount has no 'rw'"),
        (["run", "--mount", "src=/a,dst=/a,ro=x"], "argument --mount: 'x' is not true or false"),
        (["run", "--tmpfs", "/a:mode=9"], "argument --tmpfs: '9' is not a mode, such as 1777"),
        (["run", "--env-file", "/none"], "--env-file: /none: No such file or directory"),
        (["run", "-e", "=x"], "environment: '' is not a name of a variable"),
        (["run", "--share", "mnt"], "share: mnt cannot be shared"),
        (["run", "--share", "uts", "-h", "x"], "hostname: a container that shares the uts namespace"),
        (["run", "--name", "a\nb"], r"name: 'a\nb' must be letters"),
        (["run", "--name", "../a"], "name: '../a' must be letters"),
        (["run", "--name", ""], "name: '' must be letters"),
        (["run", "--name", "x" * 65536], "has 65536 characters; 63 is the most"),
        (["run", "-f", "/none.toml"], "/none.toml: No such file or directory"),
        (["run", "--report", "/"], "--report /: not a regular file"),
        (["run", "--report", "/dev/null"], "--report /dev/null: not a regular file"),
        (["run", "--report", "/none/x"], "--report /none/x: there is no directory /none"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(argv) == 2
    stdout, stderr = capsys.readouterr()
    (line,) = stderr.splitlines()
    assert stdout == ""
    assert line.startswith("pysuper: ")
    assert message in line
    assert len(line) < 300


def test_each_error_of_a_file_is_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("[container.a]\ncomand = 1\ntimeout = 0\n")
    assert cli.main(["plan", "-f", str(path)]) == 2
    assert capsys.readouterr().err == (
        f"pysuper: {path}:2: container.a.comand: there is no such key; did you mean 'command'?\n"
        f"pysuper: {path}:3: container.a.timeout: 0 is too small; give a duration, such as 10s, 1m30s or 500ms"
        " (a plain number is in seconds)\n"
    )


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (DriverError("no\nsuch", remedy="try"), 125, r"pysuper: no\nsuch; try" + "\n"),
        (ExceptionGroup("", [ExceptionGroup("", [ConfigError("a")])]), 2, "pysuper: a\n"),
        (ExceptionGroup("", [ValueError("x"), PysuperError("a")]), 125, "pysuper: a\n"),
        (ExceptionGroup("", [PysuperError("a"), PysuperError("b")]), 125, "pysuper: a\npysuper: b\n"),
        (BaseExceptionGroup("", [KeyboardInterrupt()]), 130, ""),
        (KeyboardInterrupt(), 130, ""),
        (OSError(24, "x", "/f"), 125, "pysuper: EMFILE (Too many open files): /f (PYSUPER_DEBUG=1 shows where)\n"),
        (ValueError("a\nb"), 125, r"pysuper: unexpected ValueError: a\nb (PYSUPER_DEBUG=1 shows where)" + "\n"),
    ],
)
def test_an_error_is_a_line_and_never_a_traceback(
    error: BaseException,
    status: int,
    text: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> int:
        raise error

    monkeypatch.setitem(cli._COMMANDS, "plugins", (fail, "fail"))
    monkeypatch.delenv("PYSUPER_DEBUG", raising=False)
    assert cli.main(["plugins"]) == status
    assert capsys.readouterr().err == text
    monkeypatch.setenv("PYSUPER_DEBUG", "1")
    assert cli.main(["plugins"]) == status
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        ["--version"],
        ["run", "--help"],
        ["plan", "--help"],
        ["plugins", "--help"],
        ["plugins", "show", "--help"],
    ],
)
def test_help_imports_nothing_heavy(argv: list[str]) -> None:
    program = (
        "import sys; from pysuper.cli import main; status = main(sys.argv[1:]); "
        "print(*sorted({'trio', 'stevedore', 'attrs', 'attr', 'cattrs', 'tomllib', 'ctypes'} & set(sys.modules)),"
        " file=sys.stderr); sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", program, *argv], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (0, "")
    assert "pysuper" in done.stdout


def test_the_help_of_run_has_every_option() -> None:
    text = pysuper_in_a_process("run", "--help").stdout
    options = (
        "--name --rootfs --cgroup --network --share -e --env --env-file -v --mount --tmpfs -w -u -h --hostname -m "
        "--memory --cpus --cpuset-cpus --pids-limit --ulimit --read-only --init -i -t --stop-signal --stop-timeout "
        "--timeout --report --best-effort --trace"
    )
    assert [option for option in options.split() if option not in text] == []


def test_the_version_is_printed() -> None:
    assert pysuper_in_a_process("--version").stdout == f"pysuper {pysuper.__version__}\n"


@pytest.mark.parametrize("missing", [(0,), (1,), (2,), (0, 1, 2)])
def test_descriptors_that_the_caller_has_closed_do_no_harm(missing: tuple[int, ...]) -> None:
    close = " ".join(f"{fd}>&-" for fd in missing)
    for argument, status in (("--version", 0), ("--nonsense", 2)):
        command = ["sh", "-c", f'exec "$0" -m pysuper {argument} {close}', sys.executable]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
        assert done.returncode == status
        assert "nonsense" not in done.stdout


def test_a_closed_stdout_is_not_an_error() -> None:
    script = '"$0" -m pysuper run --help | true; "$0" -m pysuper plugins | true'
    done = subprocess.run(["sh", "-c", script, sys.executable], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_report_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")
    record = ExitRecord(name="a", argv=("x", "\udcff"), exit_code=3, reason="exited")
    cli._Report(str(path)).write(record)
    assert json.loads(path.read_text()) == record.to_dict() | {
        "argv": ["x", "\udcff"],
        "receipts": [],
        "protections": [],
    }
    assert os.listdir(tmp_path) == ["report.json"]
    report = cli._Report(str(path))
    path.unlink()
    path.mkdir()
    with pytest.raises(PysuperError, match=r"could not write the report .*: Is a directory"):
        report.write(record)
    assert os.listdir(tmp_path) == ["report.json"]


def test_a_report_does_not_follow_links(tmp_path: Path) -> None:
    (tmp_path / "target").touch()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(ConfigError, match="not a regular file"):
        cli._Report(str(tmp_path / "link"))


def test_drivers_have_short_forms() -> None:
    spec = spec_of("--rootfs", "tar:/a:b.tar", "--cgroup", "v2", "--network", "host")
    assert spec.rootfs == DriverChoice("tar", argument="/a:b.tar")
    assert (spec.cgroup, spec.network) == (DriverChoice("v2"), DriverChoice("host"))
