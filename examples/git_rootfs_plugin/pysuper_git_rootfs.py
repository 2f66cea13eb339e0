"""
The rootfs driver `git`: the root file system is a checkout of a git repository, made once for each commit.

    pysuper run --rootfs git:/srv/images/debian -- cat /etc/debian_version

git runs what a repository's configuration says: filters, hooks, monitors. So it only ever runs in a container of its
own, without network, which sees the repository read-only: what runs there can harm nothing but the checkout.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import attrs

from pysuper.cache import Cache
from pysuper.drivers import Context, Detection, Phase, PlanBuilder, RootfsDriver, Trace
from pysuper.errors import DriverError
from pysuper.spec import BindMount, ContainerSpec, DriverChoice
from pysuper.steps import Overlay

CHECKOUTS = Cache("git-checkouts")

#: Where git finds things in its container.
REPOSITORY, CHECKOUT = "/run/repository", "/run/checkout"
PROGRAMS = "/usr/local/bin:/usr/bin:/bin"
ENVIRONMENT = {
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_SYSTEM": "/dev/null",
    "GIT_INDEX_FILE": "/tmp/index",  # that of the repository cannot be written to
    "LC_ALL": "C",
}


@attrs.frozen
class GitOptions:
    """
    Attributes:
        path: The repository: the directory of a working tree, or a bare repository.
        revision: Whose tree it is: a branch, a tag, a hash, or whatever else gitrevisions(7) has.
    """

    path: str
    revision: str = "HEAD"


class GitRootfs(RootfsDriver):
    """`git:REPOSITORY`: a checkout, made once for each commit; every container has a copy-on-write view of it."""

    Options = GitOptions
    argument = "path"
    patience = 600.0  # a large repository takes its time

    @classmethod
    def detect(cls) -> Detection:
        works = shutil.which("git", path=PROGRAMS) is not None
        return Detection(works, "" if works else "there is no git; apt install git")

    def __init__(self, options: GitOptions) -> None:
        super().__init__(options)
        self._repository = os.path.realpath(options.path)

    def contribute(self, plan: PlanBuilder) -> None:
        if not os.path.isdir(self._repository):
            raise DriverError(f"rootfs git:{self.options.path} is no directory", remedy="name a git repository")
        # Nothing may run here, so that nobody knows the commit yet: `host` lets this name lead to its checkout.
        source = str(self._view(plan.context))
        userxattr = not plan.context.privileged
        # A link that nobody but us can make; others are not followed.
        layer = Overlay(source=source, target="/", idmap=plan.idmap, userxattr=userxattr, follow=True)
        plan.add(Phase.ROOTFS, layer)

    def traces(self, context: Context) -> tuple[Trace, ...]:
        return (CHECKOUTS.trace(context), Trace("directory", str(self._view(context))))

    @asynccontextmanager
    async def host(self, context: Context) -> AsyncIterator[None]:
        wanted = f"{self.options.revision}^{{commit}}"
        commit = await self._git(context, "rev-parse", "--verify", "--end-of-options", wanted)
        # A repository answers for its own commits only: what another one has under that hash may be forged.
        key = hashlib.sha256(f"{self._repository}\0{commit}".encode(errors="surrogateescape")).hexdigest()
        view = self._view(context)
        view.symlink_to(await CHECKOUTS.require(context, key, partial(self._check_out, context, commit)))
        try:
            yield
        finally:
            view.unlink()

    async def _check_out(self, context: Context, commit: str, destination: Path) -> None:
        target = BindMount(source=str(destination), target=CHECKOUT)
        await self._git(context, f"--work-tree={CHECKOUT}", "checkout", "--force", commit, "--", ".", mounts=(target,))

    async def _git(self, context: Context, *arguments: str, mounts: tuple[BindMount, ...] = ()) -> str:
        """Run git in a container; what it prints."""
        assert context.sandbox is not None
        spec = ContainerSpec(
            name="git",
            # Its owner may be anybody, and hooks have nothing to do with a checkout.
            command=("git", "-C", REPOSITORY, "-c", "safe.directory=*", "-c", "core.hooksPath=/dev/null", *arguments),
            environment=ENVIRONMENT,
            rootfs=DriverChoice("host"),
            cgroup=context.spec.cgroup,
            mounts=(BindMount(source=self._repository, target=REPOSITORY, read_only=True), *mounts),
            capabilities=("DAC_READ_SEARCH",),
        )
        with open(os.devnull) as nothing:
            status, output, errors = await context.sandbox(spec, stdin=nothing.fileno())
        if status != 0:
            lines = errors.splitlines() or [f"exit status {status}"]
            why = next((line for line in lines if line.startswith("fatal: ")), lines[-1])
            raise DriverError(f"rootfs git:{self.options.path}: {why.replace(REPOSITORY, self.options.path)}")
        return output.strip()

    @staticmethod
    def _view(context: Context) -> Path:
        return CHECKOUTS.path / f".view-{context.id}"
