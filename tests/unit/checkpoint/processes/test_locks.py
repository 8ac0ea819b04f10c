"""Locks on mapped files, as a process has them, and taken by a process that is stopped."""

from __future__ import annotations

import fcntl
import mmap
import os
import subprocess
import sys

import pytest

from checkpoint.core.errors import AgentError
from checkpoint.kernel import Kernel
from checkpoint.processes import locks
from checkpoint.processes.locks import MappedLock
from tests.harness.standing import standing_still

ME = os.getpid()
SLEEPER = "import os, sys; os.open(sys.argv[1], os.O_RDWR); print('up', flush=True); sys.stdin.read()"


@pytest.fixture
def path(tmp_path):
    (tmp_path / "f").write_bytes(b"mapped")
    return tmp_path / "f"


def of_mine(path):
    return [one for one in locks.read([ME]) if os.readlink(f"/proc/self/fd/{one.fd}") == str(path)]  # noqa: PTH115


def test_each_is_read_once_by_a_descriptor_that_it_can_be_taken_by_while_the_file_is_mapped(path):
    with path.open("rb") as reading, path.open("r+b") as writing:
        fcntl.lockf(reading, fcntl.LOCK_SH, 2, 100)
        fcntl.lockf(writing, fcntl.LOCK_EX, 0, 200)
        assert of_mine(path) == []
        with mmap.mmap(reading.fileno(), 6, prot=mmap.PROT_READ):
            shared, exclusive = sorted(of_mine(path), key=lambda one: one.start)
            assert shared == MappedLock(ME, shared.fd, exclusive=False, start=100, size=2)
            assert shared.fd in (reading.fileno(), writing.fileno())
            assert exclusive == MappedLock(ME, writing.fileno(), exclusive=True, start=200, size=0)
            assert locks.read([os.getppid()]) == []


def test_a_stopped_process_takes_its_own(path):
    with subprocess.Popen([sys.executable, "-c", SLEEPER, str(path)], stdin=-1, stdout=-1) as child:
        assert child.stdout.readline() == b"up\n"
        assert locks.can_be_kept(child.pid)
        with standing_still(child.pid), path.open("r+b") as mine:
            locks.take(Kernel(), [MappedLock(child.pid, 3, True, 128, 1), MappedLock(child.pid, 3, False, 200, 0)])
            fcntl.lockf(mine, fcntl.LOCK_EX | fcntl.LOCK_NB, 128)
            fcntl.lockf(mine, fcntl.LOCK_SH | fcntl.LOCK_NB, 0, 200)
            for start in (128, 1 << 40):
                with pytest.raises(BlockingIOError):
                    fcntl.lockf(mine, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, start)
            with pytest.raises(AgentError, match=r"does not get its locks .*: Resource temporarily unavailable"):
                locks.take(Kernel(), [MappedLock(child.pid, 3, True, 0, 1)])
        child.stdin.close()


def test_who_has_filters_or_is_gone_cannot_be_made_to(path):
    filtered = "import ctypes; ctypes.CDLL(None).prctl(22, 1, 0); import os; os.write(1, b'up'); os.read(0, 1)"
    with subprocess.Popen([sys.executable, "-S", "-c", filtered], stdin=-1, stdout=-1) as child:
        assert child.stdout.read(2) == b"up"
        assert not locks.can_be_kept(child.pid)
        child.kill()
    assert not locks.can_be_kept(child.pid)
