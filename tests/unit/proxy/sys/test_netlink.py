from __future__ import annotations

import errno
import socket
import struct

import pytest

from proxy.sys import options
from proxy.sys.netlink import (
    NLM_F_ACK,
    NLM_F_REQUEST,
    NLMSG_ERROR,
    Message,
    Netlink,
    answer_errors,
    attribute,
    attributes,
    big32,
    native32,
    nested,
    text,
)


def test_attributes_are_padded_and_know_their_length() -> None:
    assert attribute(3, b"abc") == struct.pack("=HH", 7, 3) + b"abc\0"
    assert text(1, "abc") == struct.pack("=HH", 8, 1) + b"abc\0"
    assert big32(2, 1) == struct.pack("=HH", 8, 2) + b"\0\0\0\1"
    assert big32(2, -150) == struct.pack("=HH", 8, 2) + struct.pack("!i", -150)
    assert native32(2, 1) == struct.pack("=HHI", 8, 2, 1)
    assert nested(4, attribute(1, b""), attribute(2, b"")) == struct.pack("=HHHHHH", 12, 4 | 0x8000, 4, 1, 4, 2)


def test_attributes_are_told_apart() -> None:
    inner = attribute(1, b"abc") + attribute(2, b"")
    assert list(attributes(nested(4, inner) + attribute(5, b"defg"))) == [(4, inner), (5, b"defg")]
    assert list(attributes(inner)) == [(1, b"abc"), (2, b"")]
    assert len(list(attributes(bytes(8)))) == 2  # lengths that would never end


def test_a_message_has_a_header() -> None:
    encoded = Message(20, NLM_F_ACK, b"body!").encode(7)
    assert encoded == struct.pack("=IHHII", 21, 20, NLM_F_ACK | NLM_F_REQUEST, 7, 0) + b"body!\0\0\0"


def answer(error: int) -> bytes:
    return struct.pack("=IHHIIi", 20, NLMSG_ERROR, 0, 1, 0, error)


def test_errors_are_found_among_acknowledgements() -> None:
    assert answer_errors(answer(0) + answer(-errno.EEXIST) + answer(0)) == [errno.EEXIST]
    assert answer_errors(struct.pack("=IHHII", 16, 3, 0, 1, 0)) == []
    assert answer_errors(b"short") == []
    assert answer_errors(struct.pack("=IHHIIi", 4, 3, 0, 1, 0, 0)) == []  # a length that would never end


def test_the_kernel_answers_at_once() -> None:
    netlink = Netlink(options.NETLINK_ROUTE)
    with pytest.raises(OSError, match="Operation not supported") as raised:
        netlink.send([Message(0x7FFF, NLM_F_ACK, b"")])
    assert raised.value.errno == errno.EOPNOTSUPP
    netlink.close()


def test_a_question_that_is_refused_leaves_no_answer_to_the_next() -> None:
    """What there is not is no refusal: of its family sock_diag(7) knows every socket."""
    netlink = Netlink(options.NETLINK_SOCK_DIAG)
    absent = Message(20, 0, struct.pack("=BB54x", socket.AF_INET, socket.IPPROTO_TCP))
    with pytest.raises(OSError, match="Invalid argument"):
        netlink.ask([Message(20, 0, b""), absent])
    assert netlink.ask([absent, absent]) == [b"", b""]
    netlink.close()


def test_a_dump_gives_everything_or_nothing() -> None:
    """RTM_GETLINK of all; and of an nft table that is not there the sets' elements."""
    netlink = Netlink(options.NETLINK_ROUTE)
    for _ in range(2):
        links = netlink.dump(Message(18, 0, bytes(16)))
        assert b"lo\0" in b"".join(links)
    with pytest.raises(OSError, match="Operation not supported"):
        netlink.dump(Message(0x7FFE, 0, bytes(16)))
    netlink.close()
    netlink = Netlink(options.NETLINK_NETFILTER)
    nowhere = struct.pack("!BBH", 1, 0, 0) + text(1, "nowhere") + text(2, "nothing")
    assert netlink.dump(Message(10 << 8 | 13, 0, nowhere)) == []
    netlink.close()
