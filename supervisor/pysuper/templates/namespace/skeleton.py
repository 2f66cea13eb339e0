"""
The namespace driver `skeleton`: a uts namespace whose host name has a domain.

All that a namespace driver does is data. `contribute` says which namespace the container gets, and which steps make of
it what it shall be; nothing of this module ever runs in the container.

Man: uts_namespaces(7).
"""

from __future__ import annotations

import attrs

from pysuper.drivers import NamespaceDriver, Phase, PlanBuilder
from pysuper.errors import DriverError
from pysuper.steps import SetHostname


# CHANGE: the options that it has. Their names are keys in files, their types are checked, their docs are shown by
# `pysuper plugins show`.
@attrs.frozen
class SkeletonOptions:
    """
    Attributes:
        domain: What the host name ends in, such as `example.org`.
    """

    domain: str = "localdomain"


class Skeleton(NamespaceDriver):
    """`skeleton:DOMAIN`: an own host name, with a domain."""

    Options = SkeletonOptions
    argument = "domain"  # which option `skeleton:VALUE` sets
    namespace = "uts"  # CHANGE: which namespace it makes, as the kernel abbreviates it

    def contribute(self, plan: PlanBuilder) -> None:
        spec = plan.context.spec
        hostname = f"{spec.hostname or spec.name}.{self.options.domain}"
        if len(hostname) > 64:
            raise DriverError(f"namespace skeleton: {hostname} is too long", remedy="64 characters are the most")
        # CHANGE: the namespace, and what is done in it. `pysuper.steps` has all that there is.
        plan.namespace("uts")
        plan.add(Phase.NAMESPACES, SetHostname(hostname=hostname))
