"""Edits of dumped sockets: addresses of every family, and sequence numbers without FINs."""

from __future__ import annotations

import socket
import sys

import pytest

from checkpoint.core import readdress as r

NUMBERS = r.Numbers(inq_seq=100, inq_len=7, outq_seq=200, outq_len=9, rcv_wnd=50, rcv_wup=100)


def words(family: int, host: str) -> tuple[int, ...]:
    raw = socket.inet_pton(family, host)
    return tuple(int.from_bytes(raw[at : at + 4], sys.byteorder) for at in range(0, len(raw), 4))


V4, V6 = words(socket.AF_INET, "10.1.2.3"), words(socket.AF_INET6, "fd00::5")
MAPPED = words(socket.AF_INET6, "::ffff:10.1.2.3")
MAP = {"10.1.2.3": "10.9.9.9", "fd00::5": "fd00::6"}


@pytest.mark.parametrize(
    ("given", "host"), [(V4, "10.1.2.3"), (V6, "fd00::5"), (MAPPED, "10.1.2.3"), ((0,), "0.0.0.0")]
)
def test_words_are_addresses(given, host):
    assert r.host_of(given) == host
    assert r.words_of(host, len(given)) == given


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (V4, words(socket.AF_INET, "10.9.9.9")),
        (V6, words(socket.AF_INET6, "fd00::6")),
        (MAPPED, words(socket.AF_INET6, "::ffff:10.9.9.9")),
        (words(socket.AF_INET, "127.0.0.1"), words(socket.AF_INET, "127.0.0.1")),
        ((0, 0, 0, 0), (0, 0, 0, 0)),
    ],
)
def test_only_the_pods_own_address_changes(given, wanted):
    assert r.readdress(given, MAP) == wanted


def test_an_address_of_the_other_family_does_not_fit():
    with pytest.raises(ValueError, match="does not fit"):
        r.words_of("fd00::5", len(V4))


def test_a_fin_received_is_taken_back_with_its_window():
    found = r.without_fins(r.CLOSE_WAIT, NUMBERS)
    assert (found.inq_seq, found.rcv_wup, found.rcv_wnd, found.outq_seq) == (99, 99, 51, 200)


@pytest.mark.parametrize("state", [r.FIN_WAIT1, r.FIN_WAIT2])
def test_a_fin_sent_is_taken_back(state):
    found = r.without_fins(state, NUMBERS)
    assert (found.inq_seq, found.outq_seq) == (100, 199)


@pytest.mark.parametrize("state", [r.LAST_ACK, r.CLOSING])
def test_both_fins_are_taken_back(state):
    found = r.without_fins(state, NUMBERS)
    assert (found.inq_seq, found.outq_seq) == (99, 199)


def test_sequence_numbers_wrap():
    found = r.without_fins(r.LAST_ACK, r.Numbers(0, 0, 0, 0, (1 << 32) - 1, 0))
    assert (found.inq_seq, found.outq_seq, found.rcv_wnd, found.rcv_wup) == (2**32 - 1, 2**32 - 1, 0, 2**32 - 1)


def test_an_established_connection_keeps_its_numbers_and_loses_its_send_queue():
    assert r.without_fins(r.ESTABLISHED, NUMBERS) is NUMBERS
    assert r.without_unsent(NUMBERS).outq_len == 0


def test_a_socket_that_is_to_expect_earlier_bytes_keeps_the_edge_of_its_window():
    assert r.reading_from(NUMBERS, 100) is NUMBERS
    found = r.reading_from(NUMBERS, 60)
    assert (found.inq_seq, found.rcv_wup, found.rcv_wnd) == (60, 60, 90)
    assert r.reading_from(NUMBERS, 2**32 - 1).inq_seq == 2**32 - 1
