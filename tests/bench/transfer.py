"""Images from agent to agent: `python -m tests.bench.transfer [--size 4GiB]`, beside a plain TLS 1.3 socket.
What it found is a line of JSON.

Both have a process at each end, on the same cores, over the loopback. The transfer reads files from a tmpfs, and writes
files there; the socket sends one buffer again and again, and throws away what it gets.

A move's destination takes the room for the images before the freeze, while the workload runs: so does the destination
here, and how long that takes is said beside. For a hypervisor that takes back what is free gives memory again by the
page, 5 to 14 us each have been seen, as much as TLS takes for it and more. The transfer is measured without that, too,
as where the room is not to be had; and the socket's bytes go once into a new file.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from checkpoint import aligned
from checkpoint.api import ReserveRoom, SendImages
from checkpoint.core.manifest import CHUNK_BYTES
from checkpoint.images import store
from checkpoint.kernel import Kernel
from checkpoint.memory import channel, identity
from checkpoint.transfer.receiving import Receiving
from checkpoint.transfer.reserve import SPARE_BYTES, Reserve
from checkpoint.transfer.sending import Sending
from controller.core.units import parse_bytes
from controller.lab.init import libc_call, mount_images
from tests.bench.image_figures import Carried, Pair, Transfer

KEY = bytes(range(32))
HOST = "127.0.0.1"
PAGES = "pages-1.img"
REPORTED_SECONDS = 4.0
"""A kernel tells its hypervisor what is free every 2 s (K: page_reporting.c)."""


def transfer(folder: Path, streams: int, reserve_bytes: int = 0) -> Carried:
    """The folder `here`, to `there`, where room for so much was taken before."""
    with _child("receive", str(folder / "there"), str(reserve_bytes)) as (port, child):
        assert child.stdout is not None
        reserve_seconds = float(child.stdout.readline())
        found = asyncio.run(_send(folder / "here", port, streams, child))
        return msgspec.structs.replace(found, reserve_seconds=reserve_seconds)


async def _send(folder: Path, port: int, streams: int, child: subprocess.Popen[str]) -> Carried:
    sending = await Sending.open(Kernel(), KEY, folder, SendImages(HOST, port, streams))
    before = _resident_bytes()
    try:
        report = await sending.finish(store.listing(folder))
    finally:
        await sending.close()
    return Carried(report.image_bytes / report.seconds, _resident_bytes() - before, _last_word(child))


def plain(size_bytes: int, into: str = "") -> Carried:
    """As many bytes through one TLS 1.3 socket of Python's, into this file, if any."""
    with _child("drain", into) as (port, child):
        buffer = memoryview(bytearray(os.urandom(CHUNK_BYTES)))
        with channel.connect(HOST, port, channel.context(identity.make(KEY), server=False)) as sock:
            began = time.monotonic()
            for _ in range(size_bytes // CHUNK_BYTES):
                sock.sendall(buffer)
            sock.shutdown(1)
            _last_word(child)
            return Carried(size_bytes / (time.monotonic() - began))


@contextmanager
def _child(*role: str) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """The other end; it says its port first."""
    argv = [sys.executable, "-m", "tests.bench.transfer", "--role", *role]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        yield int(child.stdout.readline()), child


def _last_word(child: subprocess.Popen[str]) -> int:
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.close()
    return int(child.stdout.readline())


async def _receive(folder: Path, reserve_bytes: int) -> None:
    reserve = Reserve(folder, Kernel())
    receiving = Receiving(KEY, HOST, folder, reserve)
    before = _resident_bytes()
    print(receiving.port, flush=True)
    print(_reserved(reserve, reserve_bytes), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await receiving.close()
    reserve.settle()
    reserve.close()
    print(_resident_bytes() - before, flush=True)


def _reserved(reserve: Reserve, size_bytes: int) -> float:
    """How long it took to have the room."""
    if size_bytes:
        reserve.begin(ReserveRoom(size_bytes))
    while (found := reserve.state()).state != "there":
        time.sleep(0.02)
    if found.size_bytes != size_bytes:
        raise RuntimeError(f"no more than {found.size_bytes} bytes of {size_bytes} are to be had")
    return found.seconds


def _drain(into: str) -> None:
    with channel.listen(HOST) as listener, open(into or os.devnull, "wb", buffering=0) as file:
        print(listener.getsockname()[1], flush=True)
        with channel.accept(listener, channel.context(identity.make(KEY), server=True)) as sock:
            buffer = aligned.room(CHUNK_BYTES)
            while got := sock.recv_into(buffer):
                if into:
                    file.write(buffer[:got])
    print(0, flush=True)


def _resident_bytes() -> int:
    """The most that was resident at a time (proc_pid_status(5))."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) << 10
    raise LookupError("VmHWM")


def fill(folder: Path, size_bytes: int) -> None:
    """Pages that no compressor makes smaller."""
    block = os.urandom(CHUNK_BYTES)
    with (folder / PAGES).open("wb") as file:
        for _ in range(size_bytes // CHUNK_BYTES):
            file.write(block)


@contextmanager
def _tmpfs(size_bytes: int) -> Iterator[Path]:
    """As a pod with room of its own for images has it."""
    with tempfile.TemporaryDirectory(prefix="midstream-bench-") as name:
        mount_images(name, size_bytes)
        try:
            yield Path(name)
        finally:
            libc_call("umount", name.encode())


def measure(size_bytes: int, streams: int, rounds: int) -> Transfer:
    with _tmpfs(2 * size_bytes + 2 * SPARE_BYTES) as folder:
        for one in ("here", "there"):
            (folder / one).mkdir()
        fill(folder / "here", size_bytes)
        return Transfer(size_bytes, [_round(folder, size_bytes, streams) for _ in range(rounds)])


def _round(folder: Path, size_bytes: int, streams: int) -> Pair:
    new = folder / "there" / PAGES
    direct, socket = transfer(folder, streams, size_bytes), plain(size_bytes)
    _take_back(new)
    unreserved = transfer(folder, streams)
    _take_back(new)
    filed = plain(size_bytes, str(folder / "there" / "plain"))
    _take_back(folder / "there" / "plain")
    return Pair(direct, socket, unreserved, filed)


def _take_back(file: Path) -> None:
    """The machine's memory is as new again."""
    file.unlink()
    time.sleep(REPORTED_SECONDS)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.transfer", description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=parse_bytes, default=1 << 30)
    parser.add_argument("--streams", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--role", nargs="+", default=[])
    flags = parser.parse_args()
    match flags.role:
        case ["receive", folder, reserve_bytes]:
            asyncio.run(_receive(Path(folder), int(reserve_bytes)))
        case ["drain", into]:
            _drain(into)
        case _:
            found = measure(int(flags.size), flags.streams, flags.rounds)
            sys.stdout.buffer.write(msgspec.json.encode(found) + b"\n")


if __name__ == "__main__":
    main()
