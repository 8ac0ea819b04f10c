"""Giver and taker, both real, and a process whose memory comes while its threads do all that one may do with memory.

(With what CRIU has restored: tests/system/test_memory.py.)
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checkpoint.core.errors import AgentError
from checkpoint.kernel import Kernel
from checkpoint.memory import taker
from checkpoint.memory.ways import Giving, Taking
from tests.harness.journeys import PROGRAMS

KEY = bytes(32)
AREA, SIZE = 1 << 44, 256 << 20
RATE = 24 << 20
"""Bytes a second: it takes more than ten seconds until all of it has come."""

SECONDS = 2
MOST_SECONDS = 2.5
"""The longest took 0.2 to 0.4 s on two hyperthreads, and 0.8 s where 20 others wanted them, too. Who is forgotten waits
to the end, for twice as long as this."""

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


@dataclass
class Ends:
    source: subprocess.Popen[bytes]
    copy: subprocess.Popen[bytes]
    giving: Giving
    taking: Taking

    def begin(self) -> None:
        """Fetch the memory, and let the copy go on."""
        self.taking.begin()
        assert self.copy.stdin is not None
        self.copy.stdin.write(b"\n")
        self.copy.stdin.flush()

    async def what_was_done(self) -> dict[str, Any]:
        """How often each thing, and how many seconds the longest took; and what was wrong."""
        assert self.copy.stdout is not None
        found: dict[str, Any] = json.loads(await asyncio.to_thread(self.copy.stdout.readline))
        return found


@asynccontextmanager
async def moved(folder: Path, *wanted: tuple[int, int]) -> AsyncIterator[Ends]:
    """A process that stands still, the taker of what is wanted of its memory, and the copy, which waits."""
    kernel = Kernel()
    with running("-c", _SOURCE) as source:
        os.kill(source.pid, signal.SIGSTOP)
        giving = await Giving.start(kernel, KEY, "127.0.0.1")
        taking = await Taking.start(kernel, KEY, folder, runs=True)
        try:
            await giving.limit(RATE)
            await giving.open([source.pid])
            await giving.commit()
            order = {"host": "127.0.0.1", "port": giving.port, "pages": {source.pid: wanted}}
            (folder / taker.WANTED).write_text(json.dumps(order))
            arguments = (folder / taker.LAZY_SOCKET, source.pid, AREA, SIZE, SECONDS)
            with running(str(PROGRAMS / "restored.py"), *map(str, arguments)) as copy:
                yield Ends(source, copy, giving, taking)
        finally:
            await taking.close()
            await giving.close()


async def test_nobody_waits_long_for_a_page_whatever_others_do_with_theirs(tmp_path):
    async with moved(tmp_path, (AREA, AREA + SIZE)) as ends:
        ends.begin()
        found = await ends.what_was_done()
        memory = ends.taking.memory()
    assert found["wrong"] == []
    assert {what: one for what, one in found["done"].items() if one[1] > MOST_SECONDS} == {}
    assert found["done"].keys() >= {"fork", "give back", "map anew", "move", "read", "read what changes"}
    assert memory.state == "fetching", "all of it came before the end"
    assert memory.faults > 50


async def test_nor_does_anybody_where_all_has_come_and_the_giver_says_nothing_to_that(tmp_path):
    """Pages that were never written are zeros, and are asked for as long as they are watched."""
    async with moved(tmp_path) as ends:
        await until_watched(ends.taking)
        os.kill(ends.giving.identity.pid, signal.SIGSTOP)
        ends.begin()
        found = await ends.what_was_done()
        assert ends.taking.memory().state != "complete"
    assert {what: one for what, one in found["done"].items() if one[1] > MOST_SECONDS} == {}


async def until_watched(taking: Taking) -> None:
    """Until the taker has a userfaultfd, for which it has connected before. Fails after 10 s."""
    for _ in range(1000):
        with contextlib.suppress(AgentError):
            taking.hold()
            return taking.let_go()
        await asyncio.sleep(0.01)
    raise AssertionError("nobody watches")


async def test_where_the_source_is_killed_the_memory_is_lost_and_that_is_said(tmp_path):
    """Its pages cannot be read any more, however often they are asked for."""
    async with moved(tmp_path, (AREA, AREA + SIZE)) as ends:
        ends.source.kill()
        ends.begin()
        last = await asyncio.wait_for(ends.taking.ended(), 60)
    assert last.state == "lost"
    assert "could be reached no more" in last.reason
