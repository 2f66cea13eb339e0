"""A small root file system, made of this machine's busybox."""

from __future__ import annotations

import subprocess
from pathlib import Path

__all__ = ["make_busybox"]


def make_busybox(root: Path) -> Path:
    """Fill a directory with busybox and what a root file system needs."""
    (root / "bin").mkdir(parents=True)
    for name in ("etc", "root", "tmp", "proc", "sys", "dev"):
        (root / name).mkdir()
    (root / "tmp").chmod(0o1777)
    (root / "bin/busybox").write_bytes(Path("/bin/busybox").read_bytes())
    (root / "bin/busybox").chmod(0o755)
    applets = subprocess.run(["/bin/busybox", "--list"], capture_output=True, text=True, check=True).stdout.split()
    for applet in applets:
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nada:x:1000:1000::/home/ada:/bin/ash\n")
    (root / "etc/group").write_text("root:x:0:\nada:x:1000:\nfriends:x:2000:ada\n")
    return root
