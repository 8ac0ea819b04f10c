"""An asker: every reply compared byte for byte, however it is cut up; a difference named; nothing forgotten."""

from __future__ import annotations

from itertools import pairwise

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.demo.exchange import Asker, Exchange, Peer, altered, bulk_string, command, parse, shown
from controller.demo.report import Role

EXPECTED = b"+OK\r\n:5\r\n$3\r\nabc\r\n"


class OneAsker(Asker):
    """Asks what the test says."""

    role: Role = "counter"

    def hello(self, now: float) -> bytes:
        return b""

    turn = goodbye = hello

    def ask(self, expected: bytes = EXPECTED, replies: int = 3) -> None:
        assert self._ask(Exchange(b"request", expected, replies), 0.0) == b"request"


def answered(*chunks: bytes, asked: int = 1) -> OneAsker:
    asker = OneAsker("one")
    for _ in range(asked):
        asker.ask()
    for chunk in chunks:
        asker.receive(chunk, 1.0)
    return asker


@given(st.lists(st.integers(0, 3 * len(EXPECTED)), max_size=8))
def test_right_replies_are_right_however_they_are_cut(cuts: list[int]) -> None:
    stream = EXPECTED * 3
    edges = [0, *sorted(cuts), len(stream)]
    asker = answered(*(stream[a:b] for a, b in pairwise(edges) if a < b), asked=3)
    assert (asker.replies, asker.wrong, asker.idle, asker.exchanges) == (9, 0, True, 3)
    assert asker.bytes_received == len(stream)


@given(st.integers(0, len(EXPECTED) - 1), st.integers(1, 255), st.integers(0, len(EXPECTED)))
def test_no_altered_byte_goes_unseen(position: int, flip: int, cut: int) -> None:
    broken = bytearray(EXPECTED)
    broken[position] ^= flip
    asker = OneAsker("one")
    asker.ask()
    try:
        asker.receive(bytes(broken[:cut]), 1.0)
        asker.receive(bytes(broken[cut:]), 1.0)
    except hiredis.ProtocolError:
        return
    assert asker.wrong or not asker.idle


def test_bytes_that_the_parser_overlooks_are_wrong_too() -> None:
    asker = answered(EXPECTED.replace(b"abc\r\n", b"abc\r\r"))
    assert (asker.wrong, asker.idle) == (1, True)
    assert "abc" in asker.mistakes[0].got


@given(st.integers(0, len(EXPECTED) - 1))
def test_no_lost_byte_goes_unseen(position: int) -> None:
    asker = OneAsker("one")
    asker.ask()
    try:
        asker.receive(EXPECTED[:position] + EXPECTED[position + 1 :], 1.0)
    except hiredis.ProtocolError:
        return
    assert asker.wrong or not asker.idle


def test_a_wrong_reply_is_named() -> None:
    asker = answered(b"+OK\r\n:6\r\n$3\r\nabc\r\n")
    assert (asker.replies, asker.wrong) == (3, 1)
    (mistake,) = asker.mistakes
    assert (mistake.connection, mistake.expected, mistake.got) == ("one", "5", "6")


def test_after_a_wrong_one_it_compares_bytes_again() -> None:
    asker = answered(b"+OK\r\n:6\r\n$3\r\na", b"bc\r\n", EXPECTED[:4], EXPECTED[4:], asked=2)
    assert (asker.replies, asker.wrong, asker.idle) == (6, 1, True)
    asker.ask()
    asker.receive(EXPECTED, 2.0)
    assert (asker.replies, asker.wrong) == (9, 1)


def test_an_error_reply_is_wrong() -> None:
    asker = answered(b"-LOADING\r\n:5\r\n$3\r\nabc\r\n")
    assert asker.wrong == 1
    assert "LOADING" in asker.mistakes[0].got


def test_a_reply_nobody_asked_for_is_wrong() -> None:
    assert answered(b"+OK\r\n", asked=0).wrong == 1
    assert answered(EXPECTED + b":1\r\n").wrong == 1


def test_half_a_reply_too_much_is_seen_when_it_is_whole() -> None:
    asker = answered(EXPECTED + b"$3\r\nxy", b"z\r\n")
    assert asker.wrong == 1


def test_what_is_no_resp_raises() -> None:
    with pytest.raises(hiredis.ProtocolError):
        answered(b"HTTP/1.1 400\r\n")


def test_an_end_leaves_the_rest_missing() -> None:
    asker = answered(EXPECTED[:7], asked=2)
    asker.lost("reset", 3.0)
    asker.lost("closed", 4.0)
    report = asker.report()
    assert (report.loss, report.lost_at) == ("reset", 3.0)
    assert (report.missing, report.bytes_lost) == (6, 2 * len(EXPECTED) - 7)
    assert report.silences[0].seconds == 2.0
    assert asker.idle
    assert not asker.open


def test_what_was_parsed_before_the_end_is_not_missing() -> None:
    asker = answered(b"+NO\r\n:5\r\n")
    asker.lost("closed", 3.0)
    assert asker.report().missing == 1


def test_few_mistakes_are_kept_and_all_are_counted() -> None:
    asker = answered(*[b":1\r\n"] * 50, asked=0)
    assert (asker.wrong, len(asker.mistakes)) == (50, 10)


@pytest.mark.parametrize(
    ("due", "reply", "count"),
    [
        (b"abcd", b"abcd", 0),
        (b"abcd", b"abXd", 1),
        (b"abcd", b"ab", 2),
        (b"abcd", b"abcdef", 0),
        (b"abcd", None, 4),
        (5, 6, 0),
    ],
)
def test_altered_bytes_are_counted(due: object, reply: object, count: int) -> None:
    assert altered(due, reply) == count


def test_commands_are_resp() -> None:
    assert command(b"GET", b"key") == b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n"
    assert parse(command(b"a", b"") + bulk_string(b"x")) == [[b"a", b""], b"x"]


def test_a_long_reply_is_shown_short() -> None:
    assert shown(b"ab") == "b'ab'"
    assert shown(b"x" * 5000).endswith("… (5,003 characters)")


def test_a_connection_has_to_say_what_it_asks_and_how_it_checks():
    with pytest.raises(TypeError, match="abstract"):
        Peer("p")
    with pytest.raises(TypeError, match="abstract"):
        Asker("a")
