from __future__ import annotations

import socket
import struct

import pytest

from proxy.api import Endpoint
from proxy.sys import nftables

APP, PEER = Endpoint("10.0.0.2", 7000), Endpoint("10.0.0.9", 40000)


def test_a_key_is_the_flow_as_the_application_sends_it() -> None:
    key = nftables.flow_key(APP, PEER)
    app, peer = bytes([10, 0, 0, 2]), bytes([10, 0, 0, 9])
    assert key == app + struct.pack("!HH", 7000, 0) + peer + struct.pack("!HH", 40000, 0)
    assert nftables.ends_of(key) == ((app, struct.pack("!H", 7000)), (peer, struct.pack("!H", 40000)))
    six = nftables.flow_key(Endpoint("fd00::1", 1), Endpoint("fd00::2", 2))
    assert len(six) == 40
    assert nftables.ends_of(six)[1] == (socket.inet_pton(socket.AF_INET6, "fd00::2"), b"\0\2")


def test_families_do_not_mix() -> None:
    with pytest.raises(OSError, match="illegal IP address"):
        nftables.flow_key(APP, Endpoint("fd00::2", 2))


def test_the_key_type_names_its_parts() -> None:
    assert nftables.FAMILIES[socket.AF_INET].key_type == 7 << 18 | 13 << 12 | 7 << 6 | 13
    assert nftables.FAMILIES[socket.AF_INET6].key_bytes == 40


def test_a_change_is_one_transaction_in_pieces_that_fit() -> None:
    keys = [nftables.flow_key(APP, Endpoint("10.0.0.9", port)) for port in range(2000)]
    six = [nftables.flow_key(Endpoint("fd00::1", 1), Endpoint("fd00::2", 2))]
    messages = nftables.change(keys + six, keys[:1])
    assert [message.kind & 0xFF for message in messages] == [0x10, 14, 12, 12, 12, 12, 0x11]
    assert all(len(message.body) < 1 << 16 for message in messages)
    assert sum(message.body.count(b"\x1b\x58") for message in messages) >= 2000


def test_keys_of_datagrams_are_another_sets() -> None:
    key = nftables.datagram_key(APP, PEER)
    assert nftables.app_host(key) == bytes([10, 0, 0, 2])
    assert [nftables.is_of_datagrams(each) for each in (key, nftables.flow_key(APP, PEER))] == [True, False]
    (_, message, _) = nftables.change([key], [])
    assert b"datagrams4" in message.body
    assert nftables.flow_key(APP, PEER) in message.body
    assert nftables.app_host(nftables.datagram_key(Endpoint("fd00::1", 1), Endpoint("fd00::2", 2)))[:2] == b"\xfd\0"


def test_a_full_message_of_ipv6_fits_an_attribute() -> None:
    keys = [nftables.flow_key(Endpoint("fd00::1", 1), Endpoint("fd00::2", port)) for port in range(800)]
    (_, message, _) = nftables.change(keys, [])
    assert len(message.body) < 1 << 16


def test_the_table_is_made_afresh() -> None:
    kinds = [message.kind & 0xFF for message in nftables.create(1)]
    assert kinds == [0x10, 0, 2, 0, *[9] * 7, 3, 3, *[6] * 10, 0x11]
    assert [message.kind & 0xFF for message in nftables.catch(1)] == [0x10, 3, 6, 6, 0x11]
    assert [message.kind & 0xFF for message in nftables.delete()] == [0x10, 2, 0x11]


def test_only_those_who_ask_directly_are_forgotten_by_the_kernel() -> None:
    sets = {
        name: message.body
        for message in nftables.create(1)
        for name in ("datagrams4", "datagrams6", "direct4", "direct6")
        if message.kind & 0xFF == 9 and name.encode() in message.body
    }
    minute = struct.pack("!Q", 60_000)
    assert [name for name, body in sets.items() if minute in body] == ["direct4", "direct6"]


def test_a_port_is_put_among_the_words_and_taken_out() -> None:
    for wanted, kind in ((True, 12), (False, 14)):
        (_, message, _) = nftables.words(7000, wanted=wanted)
        assert (message.kind & 0xFF, message.body[-4:]) == (kind, struct.pack("!HH", 7000, 0))


def test_the_keys_of_a_set_are_read_as_they_are_written() -> None:
    keys = [nftables.flow_key(APP, Endpoint("10.0.0.9", port)) for port in range(3)]
    (_, message, _) = nftables.change(keys, [])
    assert list(nftables.listed(message.body)) == keys
    assert [b"flows4\0" in each.body for each in nftables.listings()] == [True, False]
