"""Who has not the migration's key, or makes no sense, is refused; a disk that is full is said, and nothing hangs."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess

import pytest
import zstandard

from checkpoint.core import parcel as wire
from checkpoint.core.errors import AgentError, Code
from checkpoint.core.manifest import CHUNK_BYTES
from checkpoint.core.parcel import Parcel, Piece
from checkpoint.memory import channel, identity
from checkpoint.transfer import PURPOSE
from checkpoint.transfer.receiving import MAX_CONNECTIONS, Receiving
from checkpoint.transfer.stream import exactly
from tests.harness.ferry import HOST, KEY, ferry, fill


@pytest.fixture
async def receiving(tmp_path):
    made = Receiving(KEY, HOST, tmp_path)
    yield made
    await made.close()
    await made.close()


def dial(receiving, purpose=PURPOSE):
    made = channel.connect(HOST, receiving.port, channel.context(identity.make(KEY, purpose), server=False))
    made.settimeout(10)
    return made


def answer(sock):
    kind, number = wire.decode_answer(exactly(sock, wire.ANSWER_BYTES))
    return number if kind == wire.ARRIVED else wire.decode_refusal(exactly(sock, number))


PIECE = Parcel(3, 0, (Piece("a.img", 0, 5, True),))


async def test_a_parcel_is_written_and_answered(receiving, tmp_path):
    with dial(receiving) as sock:
        sock.sendall(wire.encode(PIECE, 5, packed=False) + b"hello")
        assert answer(sock) == 3
    assert (tmp_path / "a.img").read_bytes() == b"hello"


def lies() -> list[bytes]:
    packed = zstandard.compress(b"hello, hello, hello")
    bomb = zstandard.compress(bytes(2 * CHUNK_BYTES))
    return [
        b"GET / HTTP/1.0\r\nHost: somebody\r\n\r\n",
        wire.encode(PIECE, 5, packed=False)[:-1] + b"\xff" + b"hello",
        wire.encode(PIECE, len(packed), packed=True) + packed,
        wire.encode(PIECE, len(bomb), packed=True) + bomb,
        wire.encode(PIECE, 5, packed=True) + b"hello",
    ]


@pytest.mark.parametrize("lie", lies(), ids=["http", "table", "longer", "bomb", "garbage"])
async def test_what_makes_no_sense_is_refused_and_hung_up_on(receiving, tmp_path, lie):
    with dial(receiving) as sock:
        sock.sendall(lie)
        assert answer(sock).code == Code.BAD_REQUEST
        assert sock.recv(1) == b""
    assert list(tmp_path.iterdir()) == []


async def test_half_a_parcel_is_none(receiving, tmp_path):
    with dial(receiving) as sock:
        sock.sendall(wire.encode(PIECE, 5, packed=False) + b"hel")
    await receiving.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("purpose", ["memory", "images of another"])
async def test_an_identity_for_something_else_is_not_let_in(receiving, purpose):
    heard = b""
    with contextlib.suppress(OSError), dial(receiving, purpose) as sock:  # reset, or an alert of TLS's
        heard = sock.recv(100)
    assert heard == b""


async def test_too_many_are_turned_away(receiving):
    silent = [socket.create_connection((HOST, receiving.port)) for _ in range(MAX_CONNECTIONS)]
    try:
        with socket.create_connection((HOST, receiving.port)) as one_more:
            one_more.settimeout(10)
            assert one_more.recv(1) == b""
    finally:
        for sock in silent:
            sock.close()


async def test_an_address_that_is_not_ours(tmp_path):
    with pytest.raises(AgentError, match="cannot listen") as caught:
        Receiving(KEY, "192.0.2.1", tmp_path)
    assert caught.value.code is Code.TRANSFER_BROKEN


@pytest.mark.parametrize("bytes_per_second", [0, CHUNK_BYTES])
async def test_a_disk_that_is_full(tmp_path, bytes_per_second):
    """It is heard at once, however much is on its way, or held back by a limit: for 40 s, here."""
    full = tmp_path / "full"
    full.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={CHUNK_BYTES}", "tmpfs", full], check=True)
    try:
        async with ferry(tmp_path, there=full, bytes_per_second=bytes_per_second) as one, asyncio.timeout(30):
            fill(one.here, {"pages-1.img": 40 * CHUNK_BYTES})
            with pytest.raises(AgentError, match="cannot write the images: No space") as caught:
                await one.finish()
            assert caught.value.code is Code.NO_SPACE
    finally:
        subprocess.run(["umount", full], check=True)
