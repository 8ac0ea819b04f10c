"""Requests out, answers in, in pieces as the network has them."""

from __future__ import annotations

import socket
import time

import pytest

from checkpoint.core.errors import AgentError
from checkpoint.core.pages import CHUNK_BYTES, PAGE_BYTES
from checkpoint.core.pagewire import DONE, GET, REQUEST_BYTES, Answer, Request, decode_request, encode_answer
from checkpoint.memory.connection import Connection

KEY = bytes(32)


@pytest.fixture
def connected(ends):
    """A connection of the taker's, the giver's end of it, and where bytes are put."""
    body = bytearray(CHUNK_BYTES)
    connection = Connection(ends.taker, memoryview(body))
    yield connection, ends.giver, body
    connection.close()


def hear(connection: Connection) -> Answer:
    """It never blocks, so it is asked again; fails after 10 s."""
    deadline = time.monotonic() + 10
    while (answer := connection.hear()) is None:
        assert time.monotonic() < deadline, "no answer came"
        time.sleep(0.001)
    return answer


def test_requests_go_out_whole(connected):
    connection, giver, _ = connected
    wanted = [Request(GET, 5, 1, 9, 1 << 20, PAGE_BYTES), Request(DONE)]
    for one in wanted:
        connection.say(one)
    assert not connection.blocked
    raw = b""
    while len(raw) < 2 * REQUEST_BYTES:
        raw += giver.recv(100)
    assert [decode_request(raw[:REQUEST_BYTES]), decode_request(raw[REQUEST_BYTES:])] == wanted


def test_an_answer_is_given_once_all_of_it_is_there(connected):
    connection, giver, body = connected
    assert connection.hear() is None
    raw = encode_answer(Answer(1, 9, 2 * PAGE_BYTES, 0b10)) + b"x" * PAGE_BYTES
    giver.sendall(raw[:7])
    assert connection.hear() is None
    giver.sendall(raw[7:100])
    assert connection.hear() is None
    giver.sendall(raw[100:] + encode_answer(Answer(1, 10, PAGE_BYTES)))
    assert hear(connection) == Answer(1, 9, 2 * PAGE_BYTES, 0b10)
    assert body[:PAGE_BYTES] == b"x" * PAGE_BYTES
    assert hear(connection) == Answer(1, 10, PAGE_BYTES)
    assert not connection.pending


def test_nonsense_is_an_error(connected):
    connection, giver, _ = connected
    giver.sendall(encode_answer(Answer(1, 9, CHUNK_BYTES + PAGE_BYTES)))
    with pytest.raises(AgentError):
        hear(connection)


def test_an_end_is_an_error(connected):
    connection, giver, _ = connected
    giver.shutdown(socket.SHUT_WR)
    with pytest.raises(OSError, match=r"hung up|EOF|closed"):
        hear(connection)
