"""PID 1 of a solo pod: it mounts nothing, starts nothing, and reaps what is orphaned in its PID namespace."""

from __future__ import annotations

import os
import signal
import sys


def main() -> None:
    """Print one line when ready, then reap for ever: a zombie would keep its PID, and a restore would not get it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while True:
        signal.sigwait({signal.SIGCHLD})
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break


if __name__ == "__main__":
    main()
