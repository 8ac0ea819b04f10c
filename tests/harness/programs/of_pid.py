"""A process of the PID that the argument says, which does nothing; it says "up" when it is there, and ends with the
input. Fails when somebody else has ended it.

The kernel is asked for that very number (clone3(2), set_tid): set by the counter it would be whoever's that forks next.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import sys
import time

SYS_CLONE3 = 435
PATIENCE_SECONDS = 30.0


def fork(pid: int) -> int:
    """As os.fork(). Whoever has the number may be about to go; raises OSError when he stays."""
    libc, tid, end = ctypes.CDLL(None, use_errno=True), ctypes.c_int(pid), time.monotonic() + PATIENCE_SECONDS
    # struct clone_args (linux/sched.h): the fifth is the signal of its end, the ninth and the tenth are set_tid's.
    asked = (ctypes.c_uint64 * 11)(0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, ctypes.addressof(tid), 1, 0)
    while (made := libc.syscall(SYS_CLONE3, asked, ctypes.sizeof(asked))) < 0:
        if ctypes.get_errno() != errno.EEXIST or time.monotonic() > end:
            raise OSError(ctypes.get_errno(), f"clone3 for PID {pid}")
        time.sleep(0.001)
    return int(made)


if __name__ == "__main__":
    child = fork(int(sys.argv[1]))
    if child == 0:
        os.execvp("sleep", ["sleep", "1000"])
    print("up", flush=True)
    sys.stdin.read()
    if os.waitpid(child, os.WNOHANG)[0]:
        sys.exit("somebody has ended it")
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
