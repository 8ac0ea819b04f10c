"""A process with memory, standing still, for those that read another's; and a connection of a taker's to a giver."""

from __future__ import annotations

import os
import signal
import ssl
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import IO

import pytest

from checkpoint.core.areas import BLOCK_BYTES
from checkpoint.core.pages import PAGE_BYTES
from checkpoint.memory import channel, identity

KEY = bytes(32)
AREA = 20 << 20
SMALL = 3 << 20

_PROGRAM = f"""
import ctypes, mmap, sys
def private(size, more=0):  # areas that may do the same and touch are made one
    prot = mmap.PROT_READ | mmap.PROT_WRITE | more
    made = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=prot)
    return made, ctypes.addressof(ctypes.c_char.from_buffer(made))
large, at = private({AREA}, mmap.PROT_EXEC)
small, beside = private({SMALL})
large[0:{PAGE_BYTES}] = b"a" * {PAGE_BYTES}
large[{4 * BLOCK_BYTES}:{6 * BLOCK_BYTES}] = b"b" * {2 * BLOCK_BYTES}
large[{AREA - PAGE_BYTES}:{AREA}] = b"c" * {PAGE_BYTES}
large[{9 * BLOCK_BYTES}]  # read, never written
ctypes.CDLL(None).madvise(ctypes.c_void_p(at + {PAGE_BYTES}), {PAGE_BYTES}, 102)  # a guard page
small[:] = b"s" * {SMALL}
print(at, beside, flush=True)
sys.stdin.read()
"""


@dataclass
class Sleeper:
    pid: int
    large: int
    small: int


@pytest.fixture
def sleeper():
    """It has a large area with some pages in it and a small one, and is stopped."""
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", _PROGRAM], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as process:  # fmt: skip
        try:
            large, small = map(int, _line(process.stdout).split())
            os.kill(process.pid, signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
            yield Sleeper(process.pid, large, small)
        finally:
            process.kill()


@dataclass
class Ends:
    giver: ssl.SSLSocket
    taker: ssl.SSLSocket


@pytest.fixture
def ends():
    made: list[ssl.SSLSocket] = []
    with channel.listen("127.0.0.1") as listener:
        listener.settimeout(10)
        secured = channel.context(identity.make(KEY), server=True)
        thread = threading.Thread(target=lambda: made.append(channel.accept(listener, secured)))
        thread.start()
        port = listener.getsockname()[1]
        taker = channel.connect("127.0.0.1", port, channel.context(identity.make(KEY), server=False))
        thread.join(10)
    with made[0], taker:
        made[0].settimeout(10)
        yield Ends(made[0], taker)


def _line(file: IO[bytes] | None) -> bytes:
    assert file is not None
    return file.readline()
