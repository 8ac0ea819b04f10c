"""Giver and taker, both real, and a process whose memory comes while its threads do all that one may do with memory.

(With what CRIU has restored: tests/system/test_memory.py.)
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from checkpoint.kernel import Kernel
from checkpoint.memory import taker
from checkpoint.memory.ways import Giving, Taking
from tests.harness.journeys import PROGRAMS

KEY = bytes(32)
AREA, SIZE = 1 << 44, 256 << 20
RATE = 24 << 20
"""Bytes a second: it takes more than ten seconds until all of it has come."""

SECONDS = 2
MOST_SECONDS = 1.5
"""Of two hyperthreads that others keep busy, too, the longest took 0.2 to 0.4 s. Who is forgotten waits to the end."""

_SOURCE = f"""
import ctypes, mmap, struct, sys
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
assert libc.mmap({AREA}, {SIZE}, 3, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x10, -1, 0) == {AREA}
pages = memoryview((ctypes.c_char * {SIZE}).from_address({AREA})).cast("B")
for at in range(0, {SIZE}, 4096):
    pages[at : at + 8] = struct.pack("<Q", {AREA} + at)
print("there", flush=True)
sys.stdin.read()
"""


@contextmanager
def running(*argv: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program that has said a line; killed at the end."""
    with subprocess.Popen([sys.executable, *argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline()
            yield process
        finally:
            process.kill()


@pytest.fixture
async def moved(tmp_path):
    """A process that stands still, the taker of its memory, and the copy, which is told to go on by a line."""
    kernel = Kernel()
    with running("-c", _SOURCE) as source:
        os.kill(source.pid, signal.SIGSTOP)
        giving = await Giving.start(kernel, KEY, "127.0.0.1")
        taking = await Taking.start(kernel, KEY, tmp_path, runs=True)
        try:
            await giving.limit(RATE)
            await giving.open([source.pid])
            await giving.commit()
            wanted = {"host": "127.0.0.1", "port": giving.port, "pages": {source.pid: [(AREA, AREA + SIZE)]}}
            (tmp_path / taker.WANTED).write_text(json.dumps(wanted))
            arguments = (tmp_path / taker.LAZY_SOCKET, source.pid, AREA, SIZE, SECONDS)
            with running(str(PROGRAMS / "restored.py"), *map(str, arguments)) as copy:
                taking.begin()
                yield source, taking, copy
        finally:
            await taking.close()
            await giving.close()


async def test_nobody_waits_long_for_a_page_whatever_others_do_with_theirs(moved):
    _, taking, copy = moved
    out, _ = await asyncio.to_thread(copy.communicate, b"\n")
    found = json.loads(out)
    assert found["wrong"] == []
    assert {what: one for what, one in found["done"].items() if one[1] > MOST_SECONDS} == {}
    assert min(count for count, _ in found["done"].values()) >= 3, found
    memory = taking.memory()
    assert memory.state == "fetching", "all of it came before the end"
    assert memory.faults > 100


async def test_where_the_source_is_killed_the_memory_is_lost_and_that_is_said(moved):
    """Its pages cannot be read any more, however often they are asked for."""
    source, taking, copy = moved
    source.kill()
    copy.stdin.write(b"\n")
    copy.stdin.flush()
    last = await asyncio.wait_for(taking.ended(), 10)
    assert last.state == "lost"
    assert "could be reached no more" in last.reason
