"""A tree of three processes, the first with two threads."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from checkpoint.processes import tree as trees

FAMILY = (
    "import os, threading, time\n"
    "threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()\n"
    "for _ in range(2):\n"
    "    if os.fork() == 0: time.sleep(1000)\n"
    "print('up', flush=True)\n"
    "time.sleep(1000)\n"
)


@pytest.fixture
def family():
    process = subprocess.Popen([sys.executable, "-I", "-S", "-c", FAMILY], stdout=subprocess.PIPE)
    assert process.stdout.read(3) == b"up\n"
    yield process.pid
    for pid in trees.descendants(process.pid):
        os.kill(pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
