"""Which sockets are flows, which way they go, and which cannot be moved."""

from __future__ import annotations

import pytest

from checkpoint.core import flows
from checkpoint.core import readdress as tcp
from checkpoint.core.errors import AgentError, Code
from checkpoint.core.flows import InetSocket

POD, PEER, OTHER = "10.0.0.1", "10.0.0.9", "10.0.0.2"
ANY4, ANY6 = (0,), (0, 0, 0, 0)


def four(host: str) -> tuple[int, ...]:
    return tcp.words_of(host, 1)


def mapped(host: str) -> tuple[int, ...]:
    return tcp.words_of(host, 4)


def sock(number, source, source_port, destination=ANY4, destination_port=0, state=tcp.ESTABLISHED, **more):
    given = {"type": flows.SOCK_STREAM, "proto": flows.IPPROTO_TCP, "backlog": 5, "reuse_address": False} | more
    return InetSocket(
        ino=number, state=state, source=source, source_port=source_port, destination=destination,
        destination_port=destination_port, **given,
    )  # fmt: skip


def sort(*sockets):
    inodes = {one.ino for one in sockets}
    return flows.sort(sockets, inodes, inodes)


@pytest.mark.parametrize("listening", [four(POD), ANY4, ANY6])
def test_a_connection_to_a_port_we_listen_on_is_inbound(listening):
    found = sort(sock(1, listening, 80, state=tcp.LISTEN), sock(2, four(POD), 80, four(PEER), 5000))
    assert [one.direction for one in found.flows] == ["inbound"]
    assert [one.socket.ino for one in found.listeners] == [1]


def test_any_other_connection_is_outbound():
    listener = sock(1, four(OTHER), 80, state=tcp.LISTEN)
    found = sort(listener, sock(2, four(POD), 80, four(PEER), 5000), sock(3, mapped(POD), 41000, mapped(PEER), 443))
    assert [one.direction for one in found.flows] == ["outbound", "outbound"]
    assert found.flows[1].socket.local == (POD, 41000)


def test_both_ends_in_the_tree_are_left_alone():
    one, two = sock(1, four(POD), 80, mapped(POD)[3:], 5000), sock(2, mapped(POD), 5000, mapped(POD), 80)
    found = sort(one, two, sock(3, four(POD), 80, four(PEER), 5000))
    assert [held.socket.ino for held in found.flows] == [3]
    assert [inside.ino for inside in found.inside] == [1, 2]


def test_what_is_no_connection_is_passed_over():
    found = sort(
        sock(1, four(POD), 0, proto=17, type=2),
        sock(4, four("127.0.0.1"), 53, proto=17, type=2),
        sock(2, four(POD), 90, state=tcp.CLOSE),
        sock(3, four(POD), 0, four(PEER), 9, proto=6, type=3),
    )
    assert found == flows.Sorted([], [], [], [])


def test_a_udp_socket_that_others_can_send_to_is_relayed():
    connected = sock(2, four("0.0.0.0"), 54, four(PEER), 9, proto=17, type=2)
    found = sort(sock(1, four(POD), 53, proto=17, type=2), connected)
    assert [held.socket.ino for held in found.datagrams] == [1, 2]
    assert (found.flows, found.listeners, found.inside) == ([], [], [])


@pytest.mark.parametrize("state", sorted(flows.MOVABLE))
def test_every_state_with_two_sequence_numbers_moves(state):
    assert len(sort(sock(1, four(POD), 80, four(PEER), 5000, state=state)).flows) == 1


@pytest.mark.parametrize("state", [tcp.SYN_SENT, tcp.SYN_RECV])
def test_a_connection_that_is_being_opened_is_named(state):
    with pytest.raises(AgentError, match=r"10\.0\.0\.1:80 to 10\.0\.0\.9:5000 \(SYN_") as caught:
        sort(sock(1, four(POD), 80, four(PEER), 5000, state=state))
    assert caught.value.code is Code.CONNECTION_STATE


def test_a_connection_in_no_process_is_named():
    six = tcp.words_of("fd00::1", 4)
    with pytest.raises(AgentError, match=r"\[fd00::1\]:80 to \[fd00::1\]:81") as caught:
        flows.sort([sock(1, six, 80, six, 81)], {})
    assert caught.value.code is Code.UNSUPPORTED_SOCKET
