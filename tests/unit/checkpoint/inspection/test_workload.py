"""What a look at a workload finds, with real processes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from checkpoint.api import Workload
from checkpoint.core.errors import AgentError, Code
from checkpoint.inspection.workload import inspect

SOURCE = """
import ctypes, fcntl, mmap, os, socket, sys, time
listener = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(listener.getsockname())
full = socket.socket(); full.bind(("127.0.0.1", 0)); full.listen(0)
opening = [socket.socket() for _ in range(3)]
for one in opening:
    one.setblocking(False); one.connect_ex(full.getsockname())
leased = open(sys.argv[1], "w"); fcntl.fcntl(leased, fcntl.F_SETLEASE, fcntl.F_WRLCK)
mapped = open(sys.argv[1] + "-2", "w+"); mapped.truncate(9); fcntl.lockf(mapped, fcntl.LOCK_EX)
view = mmap.mmap(mapped.fileno(), 9)
faults = ctypes.CDLL(None).syscall(323, 0x80000)
whole, half = os.openpty(), os.openpty()
os.close(half[0])
if os.fork() == 0:
    ctypes.CDLL(None).unshare(0x04000000)
    print("up", flush=True)
    os.read(0, 1)
    os._exit(0)
os.read(0, 1)
os.wait()
"""


@pytest.fixture
def troubled(tmp_path):
    argv = [sys.executable, "-I", "-S", "-c", SOURCE, str(tmp_path / "lock")]
    # No descriptor of ours: what it is, and of which mount namespace, depends on who runs the tests.
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(argv, **pipes) as process:
        assert process.stdout.read(3) == b"up\n"
        yield process
        process.stdin.write(b"xx")


def test_troubles_are_named(troubled):
    found = inspect(Workload("w", troubled.pid, ["x"], "running"))
    codes = set(codes_of(found))
    assert codes == {code.value for code in (
        Code.UNSUPPORTED_FILE, Code.TERMINAL, Code.FOREIGN_NAMESPACE, Code.CONNECTION_STATE,
    )}  # fmt: skip
    assert len(found.pids) == 2
    assert len(found.listening_ports) == 2
    assert found.connections >= 3
    assert found.memory_bytes > 1 << 20
    messages = " ".join(one.message for one in found.problems)
    assert "uts namespace of its own" in messages
    assert "is in state SYN_SENT" in messages
    assert "[userfaultfd]" in messages
    assert "holds a lease for writing (F_SETLEASE) on a file" in messages
    assert codes_of(found).count(Code.TERMINAL.value) == 2  # of the two it and its child have the one without a master


def codes_of(found):
    return [one.code for one in found.problems]


def test_a_workload_that_has_ended_is_said_to_have():
    with subprocess.Popen(["true"]) as process:
        process.wait()
    with pytest.raises(AgentError) as caught:
        inspect(Workload("w", process.pid, ["true"], "exited"))
    assert caught.value.code is Code.WORKLOAD_GONE


RESERVE = """
import ctypes, sys
mmap = ctypes.CDLL(None).mmap
mmap.restype = ctypes.c_void_p
mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
assert mmap(None, int(sys.argv[1]), 0, 0x4022, -1, 0) != 2**64 - 1
print("up", flush=True)
sys.stdin.read()
"""  # PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE


@pytest.mark.parametrize(("tebibytes", "words"), [(0.25, ""), (64, "has reserved 64.0 TiB of addresses")])
def test_addresses_that_criu_could_not_list_are_no_matter_for_post_copy(tebibytes, words):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", RESERVE, str(int(tebibytes * 2**40))], **pipes) as process:
        assert process.stdout.read(3) == b"up\n"
        found = inspect(Workload("w", process.pid, ["x"], "running"))
        process.communicate()
    assert words in found.no_post_copy
    assert bool(words) == bool(found.no_post_copy)
    assert found.memory_bytes < 1 << 30
