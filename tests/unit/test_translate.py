"""Plans in the words of other tools, as far as nothing has to run for it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import example, given, settings, strategies as st

from pysuper import cli, receipts, steps
from pysuper.errors import ConfigError
from pysuper.plan import Context, Phase, Plan
from pysuper.planning import build_plan, choose_drivers
from pysuper.spec import BindMount, ContainerSpec, DriverChoice, Rlimit, TmpfsMount
from pysuper.translate import FORMS, Translation, translate
from pysuper.translate.form import Form
from pysuper.translate.promises import Promises
from pysuper.translate.words import NEWLINE, quote

#: By name, since what attrs has made a class of may still be around.
CLASSES = list({cls.__name__: cls for cls in steps.Step.__subclasses__()}.values())

#: One of each, with values that a driver could give.
STEPS: dict[type[steps.Step], steps.Step] = {
    type(step): step
    for step in (
        steps.Setsid(),
        steps.NewSessionKeyring(),
        steps.JoinCgroup(path="/sys/fs/cgroup/pids/box/tasks"),
        steps.JoinNamespace(namespace="net"),
        steps.EnterNamespace(namespace="net", path="/proc/7/fd/3"),
        steps.Fork(),
        steps.Unshare(namespaces=("cgroup",)),
        steps.BecomeRoot(),
        steps.SetHostname(hostname="box"),
        steps.LoopbackUp(),
        steps.PrivateMounts(),
        steps.Overlay(source="/srv/layer", target="/opt", idmap=True),
        steps.Bind(source="/usr", target="/data", flags=("ro", "nosuid", "nodev")),
        steps.Mount(fstype="tmpfs", target="/scratch", flags=("nosuid",), options={"mode": "0755", "size": "1m"}),
        steps.MakeDirectory(target="/made", mode=0o700),
        steps.Mknod(target="/dev/fuse", major=10, minor=229),
        steps.Symlink(text="there", target="/here"),
        steps.MaskPath(target="/proc/kcore"),
        steps.ReadOnlyPath(target="/proc/sys"),
        steps.RootFlags(flags=("ro", "nosuid")),
        steps.PivotRoot(),
        steps.Chroot(),
        steps.WriteFile(path="/proc/sys/net/ipv4/ip_forward", content="1"),
        steps.SetRlimit(resource="core", soft=0, hard=-1),
        steps.SetUmask(umask=0o027),
        steps.SetUser(user="ada:friends"),
        steps.BoundCapabilities(keep=("CHOWN",)),
        steps.SetCapabilities(keep=("SYS_TIME",)),
        steps.NoNewPrivileges(),
        steps.SetSysctl(name="net.ipv4.ip_forward", value="1"),
        steps.Seccomp(program="0600000000000000"),
        steps.Landlock(deny=("make_char",), scope=("signal",)),
        steps.OpenTerminal(rows=24, columns=80),
        steps.OpenSocket(family=2, kind=1),
        steps.Barrier(name="veth"),
        steps.Syscall(number=1, purpose="do a thing"),
    )
}


def spec(**fields: Any) -> ContainerSpec:
    defaults: dict[str, Any] = {"name": "box", "command": ("true",), "cgroup": DriverChoice("none")}
    return ContainerSpec(**(defaults | fields))


def plan_of(wanted: ContainerSpec, *, privileged: bool = True) -> Plan:
    context = Context(id="box.1", spec=wanted, privileged=privileged, uid_base=1 << 29)
    return build_plan(context, choose_drivers(wanted))


def with_steps(plan: Plan, phase: Phase, *more: steps.Step) -> Plan:
    """The plan, with more steps at the end of a phase."""
    return attrs.evolve(plan, phases={**plan.phases, phase: (*plan.phases.get(phase, ()), *more)})


def translated(form: str, wanted: ContainerSpec, *more: steps.Step, privileged: bool = True) -> Translation:
    plan = plan_of(wanted, privileged=privileged)
    return translate(form, wanted, with_steps(plan, Phase.TERMINAL, *more))


forms = pytest.mark.parametrize("form", FORMS)
command_lines = pytest.mark.parametrize("form", ["bwrap", "nsjail", "systemd-run"])


# --- every step, in every form ---


@forms
@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_form_has_made_up_its_mind_about_every_step(form: str, cls: type[steps.Step]) -> None:
    translator: type[Form] = FORMS[form]
    name = steps.to_wire(STEPS[cls])["do"]
    ways = [cls in translator.implied, cls in translator.beyond, hasattr(translator, name)]
    assert ways.count(True) == 1


@forms
@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_a_step_is_translated_or_is_missing(form: str, cls: type[steps.Step]) -> None:
    step = STEPS[cls]
    without, with_it = translated(form, spec()), translated(form, spec(), step)
    said = any(step.describe() in line for line in with_it.missing)
    if cls in FORMS[form].beyond:
        assert said
    elif cls not in FORMS[form].implied and step not in plan_of(spec()).steps:
        assert said or with_it.text != without.text


# --- words ---

#: What can be in an argument vector or an environment: everything but NUL, and bytes that are not UTF-8.
TEXTS = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"])
    | st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF, categories=["Cs"])
)
HOSTILE = (
    *("", " ", "-n", "--", "$HOME", "$$", "$(id)", "`id`", "'", '"', "\\", "a b", "tab\t", "*", "~", "#", "!", "%n"),
    *("\n", "two\nlines", "a\nCONTAINER\nb", "\nid", "last\n", "bell\a\x1b[2J", "ü\u2028", "\udcff"),
)


@given(st.lists(TEXTS, max_size=30))
@settings(deadline=None)
def test_a_shell_reads_quoted_words_as_they_were_and_nobody_sees_more_than_a_line(words: list[str]) -> None:
    line = " ".join(map(quote, ["", *words]))
    assert line.isprintable()
    output = subprocess.run(["sh", "-c", f"{NEWLINE}printf '%s\\0' {line}"], stdout=subprocess.PIPE, check=True).stdout
    assert [os.fsdecode(word) for word in output.split(b"\0")[1:-1]] == words


def received(text: str, program: str, directory: Path) -> list[str]:
    """The arguments that a program gets when a shell runs a text."""
    stub = directory / program
    stub.write_text("#!/bin/sh\nprintf '%s\\0' \"$@\"\n")
    stub.chmod(0o755)
    path = f"{directory}:{os.environ['PATH']}"
    done = subprocess.run(["sh"], input=text.encode(), stdout=subprocess.PIPE, env={"PATH": path}, check=True)
    return [os.fsdecode(word) for word in done.stdout.split(b"\0")[:-1]]


@command_lines
@given(words=st.lists(TEXTS, min_size=1, max_size=5), value=TEXTS)
@settings(max_examples=10, deadline=None)
def test_a_command_line_carries_any_words(
    form: str, words: list[str], value: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    wanted = spec(command=("sh", *words), environment={"VALUE": value})
    arguments = received(translated(form, wanted).text, form, tmp_path_factory.mktemp("bin"))
    escaped = [word.replace("$", "$$") for word in words] if form == "systemd-run" else words
    assert arguments[-len(words) - 1 :] == ["sh", *escaped]
    given_value = ["VALUE", value] if form == "bwrap" else [f"VALUE={value}"]
    position = arguments.index(given_value[0])
    assert arguments[position : position + len(given_value)] == given_value


@given(words=st.lists(TEXTS, min_size=1, max_size=5), value=TEXTS)
@example(words=["\udcff"], value="")
@example(words=["fine"], value="\udc80")
@settings(max_examples=20, deadline=None)
def test_a_bundle_carries_any_text_and_says_what_is_none(words: list[str], value: str) -> None:
    translation = translated("oci", spec(command=("sh", *words), environment={"VALUE": value}))
    process = json.loads(translation.text)["process"]
    assert process["args"] == ["sh", *words]
    assert f"VALUE={value}" in process["env"]
    try:
        "".join([*words, value]).encode()
        lost = False
    except UnicodeEncodeError:
        lost = True
    assert any("bytes that are not UTF-8" in line for line in translation.missing) == lost


@forms
def test_no_value_can_forge_a_line(form: str) -> None:
    wanted = spec(
        command=("sh", *HOSTILE),
        environment={f"NAME{number}": word for number, word in enumerate(HOSTILE)},
        mounts=(BindMount(source="/usr", target="/tmp/a\nrm -rf b"),),
        working_dir="/tmp/\nid",
    )
    lines = translated(form, wanted).text.replace(NEWLINE, "").splitlines()
    assert [line for line in lines if not line.isprintable() or line.startswith(("rm", "id"))] == []


def test_a_script_that_no_shell_can_read_is_not_written() -> None:
    for wanted in (spec(), spec(command=HOSTILE[1:]), spec(command=(), user="ada", read_only=True, init=False)):
        for privileged in (True, False):
            text = translated("sh", wanted, privileged=privileged).text
            subprocess.run(["sh", "-n"], input=text.encode(), check=True)


# --- what is missing ---


@forms
@pytest.mark.parametrize("privileged", [True, False])
def test_what_is_missing_is_told_in_lines(form: str, privileged: bool) -> None:
    translation = translated(form, spec(mounts=(TmpfsMount(target="/a\nb"),)), privileged=privileged)
    assert translation.missing
    assert all(line.isprintable() and ": " in line for line in translation.missing)
    assert len(set(translation.missing)) == len(translation.missing)
    comments = [line.removeprefix("# - ") for line in translation.text.splitlines() if line.startswith("# - ")]
    assert comments == (list(translation.missing) if translation.told else [])


def missing(form: str, **fields: Any) -> str:
    return "\n".join(translated(form, spec(**fields)).missing)


def test_variables_that_a_shell_would_lose_are_missing() -> None:
    said = missing("sh", environment={"FINE": "1", "IFS": ":", "a-b": "2"})
    assert "the variable IFS; the variable a-b: " in said
    assert "FINE" not in said


@pytest.mark.parametrize("form", ["bwrap", "oci"])
def test_names_of_users_are_missing_where_nobody_looks_them_up(form: str) -> None:
    assert "become the user ada: nobody reads" in missing(form, user="ada")
    assert "become the user" not in missing(form, user="1000:1000")


def test_limits_that_a_tool_cannot_keep_are_missing() -> None:
    plan = plan_of(spec())
    promised = receipts.FileHolds(path="/sys/fs/cgroup/pids/box/pids.max", content="20")
    joined = with_steps(plan, Phase.CGROUP, steps.JoinCgroup(path="/sys/fs/cgroup/pids/box/tasks"))
    limited = attrs.evolve(joined, checks=(*plan.checks, promised))
    said = {form: "\n".join(translate(form, spec(), limited).missing) for form in FORMS}
    assert {form for form in FORMS if promised.describe() in said[form]} == {"bwrap"}


def test_an_image_that_is_not_unpacked_is_missing(tmp_path: Path) -> None:
    (tmp_path / "image.tar").write_bytes(b"")
    for form in FORMS:
        assert "unpacks it" in missing(form, rootfs=DriverChoice("tar", argument=str(tmp_path / "image.tar")))
        assert "unpacks it" not in missing(form)


# --- what a plan promises of its cgroup ---

V1 = {
    "pids/box/pids.max": "20",
    "memory/box/memory.limit_in_bytes": "67108864",
    "memory/box/memory.memsw.limit_in_bytes": "71303168",
    "cpu/box/cpu.cfs_period_us": "100000",
    "cpu/box/cpu.cfs_quota_us": "50000",
    "cpuset/box/cpuset.cpus": "0-1",
    "blkio/box/blkio.throttle.read_bps_device": "8:16 5 8:0 4",
    "blkio/box/blkio.throttle.write_iops_device": "8:0 7",
}
V2 = {
    "box/pids.max": "20",
    "box/memory.max": "67108864",
    "box/memory.swap.max": "4194304",
    "box/cpu.max": "50000 100000",
    "box/cpuset.cpus.effective": "0-1",
    "box/io.max": "8:16 rbps=5 wbps=max riops=max wiops=max 8:0 rbps=4 wbps=max riops=max wiops=7",
}


def promising(files: dict[str, str], *, v2: bool) -> Plan:
    """A plan with a cgroup of which these contents are promised."""
    checks = tuple(receipts.FileHolds(path=f"/sys/fs/cgroup/{path}", content=text) for path, text in files.items())
    directories = dict.fromkeys(os.path.dirname(check.path) for check in checks)
    joined = tuple(steps.JoinCgroup(path=f"{directory}/tasks") for directory in directories if not v2)
    plan = with_steps(plan_of(spec()), Phase.CGROUP, *joined)
    cgroup = "/sys/fs/cgroup/box" if v2 else None
    return attrs.evolve(plan, cgroup=cgroup, checks=(*plan.checks, *checks))


@pytest.mark.parametrize(("files", "v2"), [(V1, False), (V2, True)], ids=["v1", "v2"])
def test_both_versions_of_cgroups_promise_the_same(files: dict[str, str], v2: bool) -> None:
    promises = Promises.of(promising(files, v2=v2))
    assert (promises.pids_max, promises.memory_max, promises.memory_swap_max) == (20, 64 << 20, 4 << 20)
    assert (promises.cpu_quota_us, promises.cpu_period_us, promises.cpuset_cpus) == (50_000, 100_000, "0-1")
    assert sorted(promises.io_max) == [("8:0", "rbps", 4), ("8:0", "wiops", 7), ("8:16", "rbps", 5)]


@pytest.mark.parametrize(("files", "v2"), [(V1, False), (V2, True)], ids=["v1", "v2"])
def test_limits_come_through(files: dict[str, str], v2: bool) -> None:
    plan = promising(files, v2=v2)
    resources = json.loads(translate("oci", spec(), plan).text)["linux"]["resources"]
    assert resources["pids"] == {"limit": 20}
    assert resources["memory"] == {"limit": 64 << 20, "swap": 68 << 20}
    assert resources["cpu"] == {"quota": 50_000, "period": 100_000, "cpus": "0-1"}
    assert {"major": 8, "minor": 0, "rate": 7} in resources["blockIO"]["throttleWriteIOPSDevice"]
    properties = translate("systemd-run", spec(), plan).text
    for wanted in ("TasksMax=20", "MemoryMax=67108864", "MemorySwapMax=4194304", "CPUQuota=50%", "AllowedCPUs=0-1"):
        assert f"-p {wanted} " in properties
    assert "-p 'IOReadBandwidthMax=/dev/block/8:16 5' " in properties
    options = translate("nsjail", spec(), plan).text
    for wanted in ("--cgroup_pids_max 20", "--cgroup_mem_swap_max 4194304", "--cgroup_cpu_ms_per_sec 500"):
        assert wanted in options


def test_a_list_of_devices_is_denied_before_it_is_allowed() -> None:
    promises = Promises.of(promising({"devices/box/devices.list": "c 1:3 rwm c 136:* rwm"}, v2=False))
    assert promises.devices == ("c 1:3 rwm", "c 136:* rwm")
    at = "/sys/fs/cgroup/devices/box/devices"
    assert promises.writes() == ((f"{at}.deny", "a"), (f"{at}.allow", "c 1:3 rwm"), (f"{at}.allow", "c 136:* rwm"))


def test_the_disk_is_limited_first_that_the_kernel_will_list_last() -> None:
    writes = Promises.of(promising(V1, v2=False)).writes()
    assert [value for path, value in writes if path.endswith("read_bps_device")] == ["8:0 4", "8:16 5"]


# --- the forms, one by one ---


def test_a_bundle_has_what_the_plan_has() -> None:
    wanted = spec(
        name="web",
        command=("httpd", "-f"),
        rootfs=DriverChoice("dir", argument="/usr"),
        mounts=(BindMount(source="/etc", target="/data", read_only=True), TmpfsMount(target="/t", size=4096)),
        rlimits=(Rlimit("nofile", 10, -1),),
        capabilities=("KILL",),
        read_only=True,
        user="7:8",
        working_dir="/srv",
        terminal=True,
        terminal_size=(24, 80),
    )
    config = json.loads(translated("oci", wanted).text)
    process, linux = config["process"], config["linux"]
    assert config["root"] == {"path": "/usr", "readonly": True}
    assert (process["args"], process["cwd"], process["terminal"]) == (["httpd", "-f"], "/srv", True)
    assert process["user"] == {"umask": 0o022, "uid": 7, "gid": 8}
    assert process["consoleSize"] == {"height": 24, "width": 80}
    assert process["rlimits"] == [{"type": "RLIMIT_NOFILE", "soft": 10, "hard": 2**64 - 1}]
    none, kill = [], ["CAP_KILL"]
    sets = {"bounding": kill, "permitted": kill, "effective": kill, "inheritable": none, "ambient": none}
    assert process["capabilities"] == sets
    assert process["noNewPrivileges"] is True
    mounts = {mount["destination"]: mount for mount in config["mounts"]}
    assert mounts["/data"]["options"] == ["rbind", "rro", "rnosuid", "rnodev"]
    assert mounts["/t"]["options"] == ["nosuid", "nodev", "mode=1777", "size=4096"]  # root's, as whoever mounts it is
    assert mounts["/dev/pts"]["options"][-1] == "gid=5"
    kinds = {namespace["type"] for namespace in linux["namespaces"]}
    assert kinds == {"mount", "pid", "network", "uts", "ipc", "user", "cgroup"}
    assert linux["uidMappings"] == [{"containerID": 0, "hostID": 1 << 29, "size": 65536}]
    assert "/proc/kcore" in linux["maskedPaths"]
    assert "/proc/sys" in linux["readonlyPaths"]


def test_shared_namespaces_are_not_made() -> None:
    shared = spec(share=frozenset({"user", "net", "ipc"}))
    kinds = {n["type"] for n in json.loads(translated("oci", shared).text)["linux"]["namespaces"]}
    assert kinds == {"mount", "pid", "uts", "cgroup"}
    assert "--unshare-net" not in translated("bwrap", shared).text
    assert "--disable_clone_newnet" in translated("nsjail", shared).text
    assert "PrivateNetwork" not in translated("systemd-run", shared).text
    assert "--net" not in translated("sh", shared).text


def test_a_root_is_read_only_if_it_has_to_be() -> None:
    rootfs = DriverChoice("dir", argument="/usr")
    words = {
        "bwrap": "--remount-ro / ",
        "systemd-run": "ReadOnlyPaths=+/ ",
        "oci": '"readonly": true',
        "sh": 'bind,ro "$root"',
    }
    for form, word in words.items():
        assert word in translated(form, spec(rootfs=rootfs, read_only=True)).text
        assert word not in translated(form, spec(rootfs=rootfs)).text
    assert "--rw" not in translated("nsjail", spec(rootfs=rootfs, read_only=True)).text
    assert "--rw" in translated("nsjail", spec(rootfs=rootfs)).text


@forms
def test_a_joined_network_is_entered_or_missing(form: str) -> None:
    joined = spec(network=DriverChoice("stack", options={"namespace": "/proc/7/fd/3"}))
    translation = translated(form, joined)
    assert "/proc/7/fd/3" in translation.text
    if form in ("bwrap", "nsjail"):
        assert any("enter the net namespace /proc/7/fd/3: a new one is made" in line for line in translation.missing)


def test_a_script_does_what_the_plan_does_and_says_it() -> None:
    plan = plan_of(FULL)
    text = translate("sh", FULL, plan).text
    said = [line.removeprefix("# ") for line in text.splitlines() if line.startswith("# ")]
    beyond = {steps.NewSessionKeyring, steps.Landlock, steps.Seccomp}
    assert [step.describe() for step in plan.steps if type(step) not in beyond and step.describe() not in said] == []
    described = list(plan.describe())
    assert [line for line in described[:2] if line not in said] == []
    assert "--propagation slave" in text
    assert text.count("\ncheck ") + text.count("\nown_namespace ") == len(plan.checks) - 2  # of seccomp


FULL = spec(
    read_only=True,
    rlimits=(Rlimit("nofile", 64, 64),),
    environment={"ONE": "1"},
    working_dir="/usr",
    mounts=(TmpfsMount(target="/scratch"), BindMount(source="/usr", target="/data")),
)


def test_systemd_knows_every_property(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    full = attrs.evolve(FULL, user="root:root", timeout=3.0, mounts=(BindMount(source="/usr", target='/da ta:"x\\'),))
    plan = promising({**V2, "devices.list": "c 1:3 rwm"}, v2=True)
    plan = with_steps(plan, Phase.TERMINAL, *plan_of(full).steps, *STEPS.values())
    arguments = received(translate("systemd-run", full, plan).text, "systemd-run", tmp_path)
    properties = [value for option, value in pairwise(arguments) if option == "-p"]
    assert len(properties) > 50
    (tmp_path / "box.service").write_text("\n".join(["[Service]", "ExecStart=/bin/true", *properties, ""]))
    verify = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", tmp_path / "box.service"]
    done = subprocess.run(verify, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# --- the command line ---


def test_the_translation_is_printed_and_what_json_cannot_say_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "--as", "oci", "--cgroup", "none", "true"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["process"]["args"] == ["true"]
    assert "pysuper: not in the text above: an own time namespace: " in err
    assert cli.main(["plan", "--as", "bwrap", "--cgroup", "none", "true"]) == 0
    out, err = capsys.readouterr()
    assert "# - an own time namespace: " in out
    assert err == ""


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--as", "docker", "true"], "there is no form 'docker'"),
        (["--as", "bwarp", "true"], "did you mean 'bwrap'?"),
        (["--as", "sh", "--json", "true"], "--json and --as exclude each other"),
        (["--as", "sh", "stack.toml"], "choose one: -f stack.toml --name NAME"),
    ],
)
def test_what_cannot_be_translated_is_one_line_with_a_remedy(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("stack.toml").write_text('[container.a]\ncommand = "true"\n')
    assert cli.main(["plan", "--cgroup", "none", *argv]) == ConfigError.exit_code
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert said in err
