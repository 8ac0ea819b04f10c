"""Spare CRIU its survey of the kernel inside the freeze.

CRIU looks at what the kernel can do once for each request: 33 ms before a dump and as much before a restore (measured).
It keeps the result in /run/criu.kdat only when /run is a tmpfs, but loads it from there whatever that is (criu:
kerndat.c, kerndat_save_cache, kerndat_try_load_cache). So the survey is made once, in a mount namespace where /run is a
tmpfs, and its result is mounted on /run/criu.kdat in this pod's mount namespace only. It lies on the images' tmpfs: it
does not outlive the kernel that it describes. Nothing here is needed for a move to succeed: what fails is logged, and
CRIU looks for itself.
"""

from __future__ import annotations

import logging
import subprocess
from pathlib import Path

_LOG = logging.getLogger(__name__)

CACHE = "/run/criu.kdat"
_SECONDS = 20.0

_SURVEY = 'mount -t tmpfs -o mode=0755 tmpfs /run && "$0" check >/dev/null 2>&1; cat /run/criu.kdat'
"""`criu check` may complain about things the move does not need; the survey is saved before."""


def ensure(criu: str, folder: Path) -> bool:
    """Make CRIU find a survey of this kernel; `folder` is on a tmpfs. True when it will. Blocks for about 0.1 s."""
    mounts = _mounts()
    if mounts.get(CACHE) == "tmpfs":
        return True
    try:
        if mounts.get("/run") == "tmpfs":
            subprocess.run([criu, "check"], check=False, capture_output=True, timeout=_SECONDS)
            return Path(CACHE).exists()
        _mount(_survey(criu, folder))
    except (OSError, subprocess.SubprocessError) as error:
        _LOG.warning("CRIU will survey the kernel inside the freeze: %s", error)
        return False
    return True


def _survey(criu: str, folder: Path) -> Path:
    """Let CRIU look at the kernel, in namespaces like the pod's but with a tmpfs on /run, and keep what it found."""
    namespace = Path("/proc/self/ns/mnt").stat().st_ino
    kept = folder / f"criu.kdat.{namespace}"
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", _SURVEY, criu],
        check=True, capture_output=True, timeout=_SECONDS,
    )  # fmt: skip
    kept.write_bytes(done.stdout)
    return kept


def _mount(kept: Path) -> None:
    # A mount needs something to lie on. An empty file there is no survey to CRIU, only a stale one.
    Path(CACHE).touch(mode=0o600)
    subprocess.run(["mount", "--bind", str(kept), CACHE], check=True, capture_output=True, timeout=_SECONDS)


def _mounts() -> dict[str, str]:
    """Mount point -> type of file system, the topmost where several lie on each other (proc_pid_mountinfo(5))."""
    found = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, right = line.split(" - ", 1)
        found[left.split()[4]] = right.split()[0]
    return found
