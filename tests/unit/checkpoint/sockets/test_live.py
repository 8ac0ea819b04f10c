"""The twin of checkpoint/sockets/live.py: what real sockets are said to be."""

from __future__ import annotations

import socket
import struct

import pytest

from checkpoint.core import flows, readdress
from checkpoint.sockets import live


@pytest.mark.parametrize(
    ("family", "here", "words"), [(socket.AF_INET, "127.0.0.1", 1), (socket.AF_INET6, "::1", 4)], ids=["IPv4", "IPv6"]
)
def test_both_ends_of_a_connection_and_its_listener(family, here, words):
    with socket.create_server((here, 0), family=family) as listener:
        with socket.create_connection(listener.getsockname()[:2]) as client, listener.accept()[0] as server:
            mine, theirs = live.describe(1, client), live.describe(2, server)
            assert (mine.local, mine.peer) == (theirs.peer, theirs.local) == ((here, mine.source_port), theirs.local)
            assert (len(mine.source), len(mine.destination)) == (words, words)
            assert mine.state == theirs.state == live.state_of(client) == readdress.ESTABLISHED
            assert mine.connected
            assert not mine.listens
            waiting = live.describe(3, listener)
        assert waiting.local == listener.getsockname()[:2]
        assert waiting.listens
        assert not waiting.connected
        assert waiting.reuse_address  # create_server sets it
        assert not mine.reuse_address


def test_a_mapped_address_is_the_address_that_it_is():
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)), listener.accept()[0] as server:
            found = live.describe(1, server)
        assert found.local == ("127.0.0.1", port)
        assert len(found.source) == 4


def test_one_that_was_reset_has_no_peer_any_more():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        with listener.accept()[0] as server:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            found = live.describe(1, server)
    assert found.state == readdress.CLOSE
    assert not found.connected
    assert flows.sort([found], {1}).flows == []
