"""Programs whose machine seems to have another time of day than this one.

The C library's clock_gettime(3) is replaced by one of ours (LD_PRELOAD, ld.so(8)): whatever a program asks for the time
of day by, Python, or a library of another language, gets there. What the kernel itself writes down (the times of files)
is not touched, and no other program.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

_SOURCE = """
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t which, struct timespec *now) {
    const char *ahead = getenv("CLOCK_AHEAD_SECONDS");
    int failed = syscall(SYS_clock_gettime, which, now);
    if (!failed && ahead && which == CLOCK_REALTIME) now->tv_sec += atol(ahead);
    return failed;
}
"""


class OtherClock:
    """Compiled into `folder`, by the C compiler that the system has."""

    def __init__(self, folder: Path) -> None:
        self._library = folder / "other_clock.so"
        argv = ["cc", "-shared", "-fPIC", "-Wall", "-Werror", "-x", "c", "-", "-o", str(self._library)]
        subprocess.run(argv, input=_SOURCE, text=True, check=True)

    def environment(self, ahead_seconds: int) -> dict[str, str]:
        """That of a program whose clock is so far ahead."""
        return {**os.environ, "LD_PRELOAD": str(self._library), "CLOCK_AHEAD_SECONDS": str(ahead_seconds)}
