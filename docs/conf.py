"""
How Sphinx builds the documentation: `make docs`, into build/docs. There a warning is an error.

No other project's inventory is fetched: what the build says must not depend on who answers.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from docutils import nodes
from sphinx.domains.python import PyXRefRole

import pysuper
from pysuper.steps import Step
from pysuper.testing.rules import Rule

if TYPE_CHECKING:
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

project = "pysuper"
release = pysuper.__version__
html_theme = "furo"
html_title = f"pysuper {release}"
smartquotes = False  # which make a dash of the two in front of an option

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinxcontrib_trio"]

# Sphinx 9 has written autodoc anew. sphinxcontrib-trio 1.2 changes the classes of the former one: with the new one
# it shows `await`, but `async with` only where a directive says so.
autodoc_use_legacy_class_based = True
autodoc_default_options = {"member-order": "bysource"}
maximum_signature_line_length = 80
python_display_short_literal_types = True

default_role = "mention"
nitpick_ignore_regex = [
    ("py:obj", r".*"),
    ("py:class", r"'.*'"),  # the strings of a Literal
    ("py:class", r"pysuper\.plan\.T"),  # a type variable
    ("py:.*", r"(trio|attrs|collections|contextlib|pathlib|socket|subprocess|typing)\..*"),
]


def setup(app: Sphinx) -> None:
    # Before napoleon, which comes at 500 and would see no indented text in its sections.
    app.connect("autodoc-process-docstring", _keep_indented_text, priority=400)
    app.connect("autodoc-process-docstring", _add_what_attributes_say, priority=400)
    app.connect("autodoc-process-signature", _simplify)
    app.connect("missing-reference", _find_by_last_name)
    app.add_role("mention", _Mention())


class _Mention(PyXRefRole):
    """One backquote, as in the sources: a link if it is the name of something that is documented, code otherwise."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        if re.fullmatch(r"[A-Za-z_][\w.]*", self.text):
            self.name = "py:obj"
            return super().run()
        return [nodes.literal(self.rawtext, self.text)], []


def _keep_indented_text(_app: Sphinx, _what: str, _name: str, _obj: Any, _options: Any, lines: list[str]) -> None:
    """Docstrings are written to be read in an editor: what is indented after an empty line is shown as it stands."""
    shown: list[str] = []
    paragraph, verbatim = 0, None
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if line and (verbatim is None or indent < verbatim):
            verbatim = indent if shown and not shown[-1] and indent > paragraph else None
            if verbatim is None:
                paragraph = indent
            else:
                shown += [f"{' ' * paragraph}::", ""]
        shown.append(line)
    lines[:] = shown


def _add_what_attributes_say(_app: Sphinx, _what: str, _name: str, obj: Any, _options: Any, lines: list[str]) -> None:
    """Where a step is documented, and the rules that a class of tests checks: both are data, and no docstring."""
    if isinstance(obj, type) and issubclass(obj, Step) and obj is not Step:
        lines += ["", f"See {obj.man}."]
    for check in vars(obj).values() if isinstance(obj, type) else ():
        if isinstance(rule := getattr(check, "rule", None), Rule):
            lines += ["", f"- **{rule.sentence}** {rule.because[0].upper()}{rule.because[1:]}"]


def _simplify(
    _app: Sphinx, _what: str, _name: str, _obj: Any, _options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """A default that attrs makes anew each time is shown as `...`; what `async with` gives is no iterator."""
    if returns and "AsyncIterator[" in returns:
        returns = None
    return signature and re.sub(r"\bNOTHING\b", "...", signature), returns


def _find_by_last_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.TextElement
) -> nodes.reference | None:
    """Lead `DriverError` to what is documented elsewhere under that name, if only one thing is."""
    if node["refdomain"] != "py":
        return None
    domain = env.domains.python_domain
    ending = f".{node['reftarget']}"
    found = [name for name, entry in domain.objects.items() if name.endswith(ending) and not entry.aliased]
    if len(found) != 1:
        return None
    exact = {**node.attributes, "reftarget": found[0]}
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", found[0], type(node)("", **exact), content)
