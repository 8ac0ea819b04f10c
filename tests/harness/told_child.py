"""A process that does what it is told, in Python, so that a test can look at what it has open."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

_PROGRAM = """
import fcntl, json, os, select, socket, sys
names = {"fcntl": fcntl, "os": os, "select": select, "socket": socket}
for line in sys.stdin:
    try:
        exec(line, names)
        files = {name: one for name, one in names.items() if not getattr(one, "closed", True) or hasattr(one, "bind")}
        said = {"value": {name: one.fileno() for name, one in files.items()}}
    except Exception as error:
        said = {"error": repr(error)}
    print(json.dumps(said), flush=True)
"""


class ToldChild:
    """It has the descriptors `given`, too, under the same numbers. `fd` has those of what it has names for."""

    def __init__(self, *given: int) -> None:
        argv = [sys.executable, "-I", "-S", "-c", _PROGRAM]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen(argv, text=True, pass_fds=given, **pipes)  # type: ignore[call-overload]
        self.pids: list[int] = [self._process.pid]
        self.fd: dict[str, int] = {}

    @property
    def pid(self) -> int:
        return self.pids[0]

    def tell(self, what: str) -> None:
        """A line of Python. Returns when it is done."""
        self._process.stdin.write(what + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        assert "error" not in answer, answer
        self.fd = answer["value"]

    def place(self, name: str) -> tuple[int, int]:
        return self.pid, self.fd[name]

    def stat(self, name: str) -> os.stat_result:
        """Of what has that name there."""
        return Path(f"/proc/{self.pid}/fd/{self.fd[name]}").stat()

    def ino(self, name: str) -> int:
        return self.stat(name).st_ino

    def fork(self) -> int:
        """A child of its own, which has what it has, and does nothing; its PID."""
        self.tell("pid = os.fork() or os.read(os.pipe()[0], 1)")
        self.pids += map(int, Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split())
        return self.pids[-1]

    def close(self) -> None:
        for pid in reversed(self.pids):
            os.kill(pid, signal.SIGKILL)
        self._process.communicate()
