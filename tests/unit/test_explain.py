"""`plan --explain`: every line of a plan is explained, truly as far as man pages can tell, and in a readable layout."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import attrs
import pytest
from user import failure, pysuper

from pysuper import explanations, receipts, steps
from pysuper.explain import explained, listed
from pysuper.explanations import Explanation
from pysuper.phase import Phase
from pysuper.plan import Context, Moment, Plan
from pysuper.planning import build_plan, choose_drivers
from pysuper.spec import NAMESPACES, BindMount, ContainerSpec, DriverChoice, TmpfsMount

MAN = Path("/usr/share/man")
#: Pages that are younger than those of Debian 12, which are of 2023: split off from proc(5) and prctl(2), or new.
YOUNGER = {
    *("fsopen(2)", "fsmount(2)", "move_mount(2)", "open_tree(2)"),
    *("proc_pid_ns(5)", "PR_CAPBSET_DROP(2const)", "PR_SET_NO_NEW_PRIVS(2const)"),
}


def plan_of(*, privileged: bool = True, **fields: object) -> Plan:
    defaults: dict[str, object] = {"name": "box", "command": ("true",), "cgroup": DriverChoice("none")}
    spec = ContainerSpec(**(defaults | fields))  # type: ignore[arg-type]
    context = Context(id="box.1", spec=spec, privileged=privileged, uid_base=1 << 29)
    return build_plan(context, choose_drivers(spec))


def full(*, privileged: bool) -> Plan:
    mounts = (BindMount(source="/usr", target="/data", read_only=True), TmpfsMount(target="/scratch"))
    return plan_of(privileged=privileged, terminal=True, read_only=True, mounts=mounts)


ALL = [
    *explanations._MOMENTS.values(),
    *explanations._STEPS.values(),
    *explanations._FILE_SYSTEMS.values(),
    *explanations._CHECKS.values(),
    *(explanations._USER, explanations._LOCKED, explanations._MAPPED, explanations._ID_MAP),
]
TEXTS = [text for found in ALL for text in (found.kernel, found.here) if text]
TEXTS += [*explanations._NAMESPACES.values(), explanations._IDS]


def test_every_kind_of_step_check_and_moment_has_an_explanation() -> None:
    assert set(explanations._STEPS) == set(steps.CLASSES.values())
    assert set(explanations._CHECKS) == set(receipts._CLASSES.values())
    assert set(explanations._MOMENTS) == set(explanations._HEADINGS) == set(Moment)
    assert set(explanations._NAMESPACES) == set(NAMESPACES)
    unsaid = [found for found in ALL if not found.kernel]
    assert unsaid == [explanations._MOMENTS[Moment.WARNING]]  # which is words already


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text[:20])
def test_no_text_is_longer_than_a_few_lines_of_a_narrow_terminal(text: str) -> None:
    assert len(textwrap.wrap(text, 80 - 17)) <= 5


@pytest.mark.parametrize("found", ALL, ids=lambda found: found.kernel[:20])
def test_texts_continue_their_label_and_are_sentences(found: Explanation) -> None:
    for text in filter(None, (found.kernel, found.here)):
        assert text[0].islower()
        assert text.endswith(".")


@pytest.mark.parametrize("phase", Phase, ids=lambda phase: phase.name)
def test_every_phase_has_a_reason_of_one_line(phase: Phase) -> None:
    assert len(f"{phase.name}: {phase.reason}") <= 100


def named_pages() -> set[str]:
    """Every man page that an explanation, a step or a phase names."""
    named = [*TEXTS, *(found.see for found in ALL), *(cls.man for cls in steps.CLASSES.values())]
    return {page for text in named for page in re.findall(r"[\w-]+\(\d\w*\)", text)}


def installed(page: str) -> bool:
    name, section = page.removesuffix(")").split("(")
    return any(MAN.glob(f"man{section[0]}/{name}.{section}*"))


@pytest.mark.skipif(not installed("clone(2)"), reason="the man pages of Linux are not installed")
@pytest.mark.parametrize("page", sorted(named_pages() - YOUNGER))
def test_every_man_page_that_is_named_exists(page: str) -> None:
    assert installed(page)


@pytest.mark.parametrize("privileged", [True, False])
@pytest.mark.parametrize("width", [80, 100, 120])
def test_explained_lines_are_those_of_the_plan_with_the_same_numbers_and_fit(width: int, privileged: bool) -> None:
    plan = full(privileged=privileged)
    lines = list(explained(plan, width))
    assert max(map(len, lines)) <= width
    paragraphs = re.split(r"\n(?! {5}\S)", "\n".join(lines))
    joined = [re.sub(r"\n {5}(?! )", " ", p.partition("\n     The kernel")[0]) for p in paragraphs]
    assert [line for line in joined if re.match(r" *\d+\. ", line)] == list(listed(plan))


def test_headings_are_the_phases_in_order_with_their_reasons() -> None:
    lines = list(explained(full(privileged=True), 120))
    headings = [line for line in lines if line and not line.startswith(" ")]
    named = [f"{phase.name}: {phase.reason}" for phase in Phase if phase is not Phase.CGROUP]
    assert headings[0].startswith("LAUNCHER: ")
    assert headings[1:-2] == named
    assert [heading.partition(":")[0] for heading in headings[-2:]] == ["RECEIPTS", "COMMAND"]


def test_what_follows_each_other_and_is_alike_is_explained_once() -> None:
    lines = list(explained(plan_of(), 120))
    hidden = [number for number, line in enumerate(lines) if re.match(r" *\d+\. hide ", line)]
    said = [number for number, line in enumerate(lines) if "mounts something empty on top" in line]
    assert len(hidden) > 10
    assert hidden == list(range(hidden[0], hidden[-1] + 1))
    assert said == [hidden[-1] + 1]


def below(plan: Plan, text: str) -> str:
    """The explanation of a line of a plan."""
    joined = " ".join(" ".join(explained(plan, 120)).split())
    return re.split(r" \d+\. ", joined.partition(text)[2])[0]


def test_an_explanation_says_what_the_kernel_does_and_why_here_and_where_to_read_on() -> None:
    found = below(full(privileged=True), "mount proc at /proc (nosuid,nodev,noexec)")
    assert "The kernel shows processes as directories: those of the pid namespace of whoever mounts it." in found
    assert "Here without root, a new one can be mounted only while another is in full view" in found
    assert "See fsopen(2), fsmount(2), mount(8); pid_namespaces(7), proc(5)" in found


def test_namespaces_are_explained_where_they_are_made() -> None:
    root, rootless = full(privileged=True), full(privileged=False)
    holder = below(root, "make the namespaces user, net, uts, ipc (0 is 536870912 for 65536)")
    assert "uts a host name: uts_namespaces(7)" in holder
    assert "pid process numbers" not in holder
    assert "pid process numbers" in below(root, "clone into new mnt, pid, time namespaces")
    clone = below(rootless, "clone into new mnt, pid, net, uts, ipc, user, time namespaces, ids 0 is 0 for 1")
    assert "uts a host name: uts_namespaces(7)" in clone
    assert "ids it maps them first of all." in clone


def test_the_same_step_is_explained_by_what_it_is_for() -> None:
    root, rootless = full(privileged=True), full(privileged=False)
    assert "locked" in below(root, "make a new cgroup, mnt namespace")
    assert "locked" not in below(rootless, "make a new cgroup namespace")
    assert "all capabilities in it and none outside" in below(root, "enter the container's user namespace")
    assert "The mount maps ids" in below(root, "mount a copy-on-write view of / at /, ids mapped")


async def test_the_command_explains_in_the_width_of_the_terminal() -> None:
    narrow, wide = [
        await pysuper("plan", "--explain", "true", env={"COLUMNS": columns, "PATH": "/usr/bin:/bin"})
        for columns in ("80", "500")
    ]
    assert "\n     The kernel  " in narrow
    assert len(narrow.splitlines()) > len(wide.splitlines())
    texts = [line for line in wide.splitlines() if "/" not in line]  # nothing that has to be longer
    assert 100 < max(map(len, texts)) <= 120


async def test_each_container_of_a_stack_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "two.toml"
    path.write_text(
        """
        [defaults]
        network = "own"
        [container.db]
        command = "true"
        [container.web]
        command = "true"
        depends_on = ["db"]
        """
    )
    found = await pysuper("plan", str(path), "--explain")
    db, _, web = found.partition("\nweb: after db is started\n")
    for name, text in ("db", db), ("web", web):
        assert text.count("  SESSION: ") == text.count(f"set the host name to {name}\n") == 1
        assert "\n       The kernel  changes the host name" in text


async def test_explanations_are_no_json() -> None:
    assert await failure("plan", "--json", "--explain", "true") == (
        2,
        "pysuper: --explain and --json exclude each other; see pysuper plan --help\n",
    )


def test_hostile_text_of_a_plugin_stays_on_its_line() -> None:
    plan = attrs.evolve(plan_of(), warnings=("a\nb\x1b[2J",))
    (line,) = [line for line in explained(plan, 120) if "warning" in line]
    assert line.endswith(r". warning: a\nb\x1b[2J")


# --- docs/plan.md, whose other blocks tests/test_docs.py executes ---


def test_the_document_draws_every_phase_in_order() -> None:
    document = (Path(__file__).parents[2] / "docs/plan.md").read_text()
    (drawing,) = re.findall(r"^```text drawing\n(.*?)^```", document, re.MULTILINE | re.DOTALL)
    assert re.findall(r"^[A-Z]{4,}", drawing, re.MULTILINE) == [phase.name for phase in Phase]
