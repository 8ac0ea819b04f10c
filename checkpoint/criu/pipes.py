"""Room for a whole workload's memory in pipes, for the moment in which CRIU dumps it lazily, or before the freeze.

CRIU takes references to all the pages into pipes of 1,024 pages (criu: page-pipe.c). Who has CAP_SYS_RESOURCE may;
for all others root's own limits are in the way (pipe(7)), which are the machine's: so they are raised once, on the
first move that needs it, and stay. What it costs: any user may then fill more of the kernel's memory through pipes.
"""

from __future__ import annotations

import logging
import resource
from pathlib import Path

from checkpoint.core.errors import AgentError, Code
from checkpoint.processes import procfs

_LOG = logging.getLogger(__name__)

PIPE_BYTES = 4 << 20
_OTHER_FILES = 1000
"""What CRIU has open besides: images, and the workload's own descriptors."""
_SOFT = Path("/proc/sys/fs/pipe-user-pages-soft")
_LARGEST = Path("/proc/sys/fs/pipe-max-size")


def most_bytes() -> int:
    """How much memory fits into as many pipes as this process's children may open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(0, soft - _OTHER_FILES) // 2 * PIPE_BYTES


def make_room(soft: Path = _SOFT, largest: Path = _LARGEST, *, privileged: bool | None = None) -> None:
    """Raises AgentError MEMORY_WAY when the limits stand in the way and may not be changed."""
    if procfs.may_read_limits() if privileged is None else privileged:  # CAP_SYS_RESOURCE
        return
    try:
        if int(soft.read_text()) != 0:
            _LOG.info("setting %s to 0, from %s", soft, soft.read_text().strip())
            soft.write_text("0")
        if int(largest.read_text()) < PIPE_BYTES:
            _LOG.info("setting %s to %d, from %s", largest, PIPE_BYTES, largest.read_text().strip())
            largest.write_text(str(PIPE_BYTES))
    except OSError as error:
        message = f"its memory needs pipes without a limit, and {error.filename} cannot be changed: {error.strerror}"
        hint = "Give the agent CAP_SYS_RESOURCE, or set fs.pipe-user-pages-soft=0 and fs.pipe-max-size=4194304."
        raise AgentError(Code.MEMORY_WAY, message, hint=hint) from error
