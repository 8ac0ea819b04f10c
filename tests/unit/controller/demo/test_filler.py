"""The filling of the demo's Redis: every byte known, and a load that notices a wrong one."""

from __future__ import annotations

import socket
import threading

import pytest

from controller.demo.exchange import bulk_string, command
from controller.demo.filler import STAMP_BYTES, VALUE_BYTES, Filling, Toucher, fill


def test_values_differ_and_are_known_to_the_byte():
    filling = Filling("x", 10 * VALUE_BYTES)
    assert filling.count == 10
    assert len({filling.value(number) for number in range(10)}) == 10
    assert filling.value(3)[100 : 100 + STAMP_BYTES] == filling.part(3, 100)
    assert filling.key(3) == b"x:filling:3"
    assert Filling("x", 1).count == 1


def answered(filling: Filling, answers: list[bytes]) -> None:
    """Fill a server that gives these answers, one to each connection's first bytes, then closes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                due = b"".join(command(b"SET", filling.key(n), filling.value(n)) for n in range(filling.count))
                got = 0
                while got < len(due):
                    got += len(sock.recv(1 << 20))
                for answer in answers:
                    sock.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            fill("127.0.0.1", listener.getsockname()[1], filling)
        finally:
            thread.join(10)


def test_filling_writes_every_value():
    answered(Filling("x", 3 * VALUE_BYTES), [b"+OK\r\n+O", b"K\r\n+OK\r\n"])


@pytest.mark.parametrize("answer", [b"-OOM\r\n", b"+OK\r\n"])
def test_a_redis_that_does_not_take_it_is_told(answer):
    with pytest.raises(ConnectionError, match="did not take its filling"):
        answered(Filling("x", 3 * VALUE_BYTES), [answer])


def test_a_toucher_writes_on_its_own_values_and_checks_what_it_reads():
    filling = Filling("x", 8 * VALUE_BYTES)
    toucher = Toucher("t", filling, 1, 4)
    assert toucher.hello(0.0) == command(b"PING")
    toucher.receive(b"+PONG\r\n", 0.1)
    request = toucher.turn(1.0)
    assert b"SETRANGE" in request
    assert b"filling:1\r\n" in request or b"filling:5\r\n" in request
    expected = toucher._pending[0].expected
    assert expected.startswith(b":%d\r\n" % VALUE_BYTES + bulk_string(b"%016d" % 1))
    toucher.receive(expected, 1.5)
    assert (toucher.replies, toucher.wrong) == (4, 0)
    assert toucher.latencies == [(0.0, 0.1), (1.0, 0.5)]
    toucher.turn(2.0)
    toucher.receive(toucher._pending[0].expected[:-3] + b"?\r\n", 2.1)
    assert toucher.wrong == 1
    assert toucher.goodbye(3.0) == command(b"PING")
