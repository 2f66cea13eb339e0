"""
A plan in the words of another tool: `pysuper plan --as FORM`.
"""

from __future__ import annotations

from collections.abc import Mapping

from pysuper.errors import ConfigError
from pysuper.plan import Plan
from pysuper.shorthand import did_you_mean
from pysuper.spec import ContainerSpec
from pysuper.translate.bwrap import Bwrap
from pysuper.translate.form import Form, Translation
from pysuper.translate.nsjail import Nsjail
from pysuper.translate.oci import Oci
from pysuper.translate.sh import Sh
from pysuper.translate.systemd_run import SystemdRun

__all__ = ["FORMS", "Translation", "translate"]

FORMS: Mapping[str, type[Form]] = {
    "sh": Sh,
    "bwrap": Bwrap,
    "systemd-run": SystemdRun,
    "oci": Oci,
    "nsjail": Nsjail,
}


def translate(form: str, spec: ContainerSpec, plan: Plan) -> Translation:
    """
    A container in another tool's words.

    Args:
        form: One of `FORMS`.
        spec: What was asked for.
        plan: What the drivers have made of it.

    Raises:
        ConfigError: There is no such form.
    """
    if form not in FORMS:
        raise ConfigError(f"there is no form {form!r} of a plan", remedy=did_you_mean(form, FORMS))
    return FORMS[form](spec, plan).translate()
