"""Threads that wait and that no dump has interrupted; those that one has: tests/system/agent/test_way_back.py."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from checkpoint.kernel import Kernel
from checkpoint.processes import waits
from checkpoint.processes.tree import Tree, hold_all, is_stopped, send

KERNEL = Kernel()
WAITING = (
    "import ctypes\n"
    "libc = ctypes.CDLL(None, use_errno=True)\n"
    "print('up', flush=True)\n"
    "stdin = ctypes.create_string_buffer(b'\\0\\0\\0\\0\\1\\0\\0\\0', 8)\n"
    "print(libc.poll(stdin, 1, 60_000), ctypes.get_errno(), flush=True)\n"
)


@pytest.fixture
def waiting():
    """A process that waits in poll for something to read, and is stopped."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", WAITING], **pipes) as process:
        assert process.stdout.readline() == b"up\n"
        yield process
        process.kill()


async def stopped(process: subprocess.Popen[bytes], wait_until) -> Tree:
    await wait_until(lambda: waits._waits(process.pid))
    tree = hold_all(KERNEL, [process.pid])
    process.send_signal(signal.SIGSTOP)
    await wait_until(lambda: is_stopped(process.pid))
    return tree


async def test_who_is_only_stopped_is_left_as_it_is(waiting, wait_until):
    tree = await stopped(waiting, wait_until)
    assert waits.restart(KERNEL, tree) == 0
    assert is_stopped(waiting.pid)
    send(KERNEL, tree.members[0], signal.SIGCONT)
    waiting.stdin.write(b"x")
    waiting.stdin.flush()
    assert waiting.stdout.readline() == b"1 0\n"
    tree.close()


class Late(Kernel):
    """Whoever it is to trace has just been killed."""

    def seize(self, tid: int) -> None:
        super().seize(tid)
        os.kill(tid, signal.SIGKILL)


async def test_who_is_killed_meanwhile_is_not_waited_for(waiting, wait_until):
    tree = await stopped(waiting, wait_until)
    assert waits.restart(Late(), tree) == 0
    tree.close()


async def test_who_is_gone_is_passed_over(waiting, wait_until):
    tree = await stopped(waiting, wait_until)
    waiting.kill()
    waiting.wait()
    assert waits.restart(KERNEL, tree) == 0
    tree.close()
