"""The launcher as a program: what the workload inherits, and what it does not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

from checkpoint.processes import launch

SHOW = (
    "import json, os, signal\n"
    "ignored = [n for n in range(1, 32) if signal.getsignal(n) is signal.SIG_IGN and n not in (13, 25)]\n"
    "fds = [fd for fd in os.listdir('/proc/self/fd') if int(fd) < 3 or int(fd) > 9]\n"
    "fds = {fd: os.readlink(f'/proc/self/fd/{fd}') for fd in fds}\n"
    "print(json.dumps([fds, ignored, sorted(signal.pthread_sigmask(signal.SIG_BLOCK, []))]), flush=True)\n"
)


def test_nothing_is_inherited_but_what_is_given(tmp_path):
    log = tmp_path / "w.log"
    show = [sys.executable, "-I", "-S", "-c", SHOW]
    argv = [sys.executable, "-I", "-S", launch.__file__, str(log), "0", "/", "{}", json.dumps(show)]
    stray = os.dup2(1, 77)
    try:
        done = subprocess.run(argv, capture_output=True, check=True, pass_fds=[stray], preexec_fn=_spoil)
    finally:
        os.close(stray)
    pid = json.loads(done.stdout)["pid"]
    os.waitpid(pid, 0)
    fds, ignored, blocked = json.loads(log.read_text())
    assert fds == {"0": "/dev/null", "1": str(log), "2": str(log)}
    assert (ignored, blocked) == ([], [])


def _spoil() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})


def test_pids_come_from_above_the_base(tmp_path):
    """In a PID namespace of its own: the machine's counter is not ours to move."""
    argv = [sys.executable, "-I", "-S", launch.__file__, str(tmp_path / "w.log"), "20000", "/", "{}", '["true"]']
    done = subprocess.run(["unshare", "--pid", "--fork", "--mount-proc", *argv], capture_output=True, check=True)
    assert json.loads(done.stdout)["pid"] == 20001
