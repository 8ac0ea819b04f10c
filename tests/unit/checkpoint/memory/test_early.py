"""Memory of a process, sent before it stands still and compared when it does: the twin of `early` and `store`.

The process stands still all the while, and is written to from here, as it would itself.
"""

from __future__ import annotations

import ctypes
import os
import threading

import pytest

from checkpoint.core.early import UNIT_BYTES
from checkpoint.core.errors import AgentError
from checkpoint.core.pages import CHUNK_BYTES, PAGE_BYTES, Ask, Put, pieces
from checkpoint.core.pagewire import ANSWER_BYTES, GET, Answer, Request, decode_answer
from checkpoint.memory import scan
from checkpoint.memory.early import Early
from checkpoint.memory.reading import Memory
from checkpoint.memory.store import Store

pytestmark = pytest.mark.skipif(not scan.is_known(), reason="this kernel does not say which pages there are")

LIMIT = 64 * CHUNK_BYTES
END = Answer(0, 0, 0)


class Ends:
    """A giver and a taker, and the connection between them, which can break."""

    def __init__(self, sleeper) -> None:
        self.pid, self.at = sleeper.pid, (sleeper.large // CHUNK_BYTES + 2) * CHUNK_BYTES  # behind its guard page
        self.early, self.store = Early([sleeper.pid, 1 << 22]), Store(LIMIT)
        self.answers: list[Answer] = []
        self.breaks_after = 1 << 30
        self.while_sending = lambda: None
        self.memory = Memory()

    def say(self, raw: memoryview) -> None:
        if len(self.answers) == self.breaks_after:
            raise ConnectionResetError
        answer = decode_answer(bytes(raw[:ANSWER_BYTES]))
        self.store.take(answer, raw[ANSWER_BYTES:])
        self.answers.append(answer)
        self.while_sending()

    def send(self) -> None:
        welcome = self.store.welcome()
        self.early.send(welcome.number, welcome.size, self.say)
        self.store.take(END, memoryview(b""))

    def write(self, offset: int, data: bytes) -> None:
        with open(f"/proc/{self.pid}/mem", "r+b", buffering=0) as file:
            os.pwrite(file.fileno(), data, self.at + offset)

    def stand_still(self) -> None:
        self.memory.open([self.pid])
        self.early.compare(self.memory)

    def copy(self, offset: int, size: int = CHUNK_BYTES) -> tuple[bytes, int]:
        """What the restored process would have there, and how many bytes were sent inside the freeze for it."""
        ask = Ask(1, self.at + offset, size)
        same = self.early.same(self.pid, ask.image, size)
        raw = self.memory.answer(Request(GET, self.pid, 1, 1, ask.image, size), same)
        answer, body = decode_answer(bytes(raw[:ANSWER_BYTES])), raw[ANSWER_BYTES:]
        address, kept = self.store.find(self.pid, ask, answer.same)
        found = bytearray(size)
        for one in pieces(Put(0, 0, size), answer.present, kept):
            if one.offset is not None:
                source = _at(address + one.offset, one.size) if one.kept else body[one.offset : one.offset + one.size]
                found[one.address : one.address + one.size] = source
        self.store.used(self.pid, ask)
        return bytes(found), len(body)

    def source(self, offset: int, size: int = CHUNK_BYTES) -> bytes:
        with open(f"/proc/{self.pid}/mem", "rb", buffering=0) as file:
            return os.pread(file.fileno(), size, self.at + offset)


def _at(address: int, size: int) -> bytes:
    return ctypes.string_at(address, size)


@pytest.fixture
def ends(sleeper):
    made = Ends(sleeper)
    for number in range(8):
        made.write(number * CHUNK_BYTES, bytes([number + 1]) * CHUNK_BYTES)
    yield made
    for thread in threading.enumerate():
        if thread.name == "compare":
            thread.join(10)
    made.memory.close()


def test_what_has_not_changed_is_not_sent_again(ends):
    ends.send()
    assert ends.store.size >= 8 * CHUNK_BYTES
    assert not ends.store.coming
    ends.stand_still()
    for number in range(8):
        assert ends.copy(number * CHUNK_BYTES) == (bytes([number + 1]) * CHUNK_BYTES, 0)
    part = ends.copy(3 * CHUNK_BYTES + 5 * PAGE_BYTES, 2 * PAGE_BYTES)
    assert part == (b"\x04" * 2 * PAGE_BYTES, 0)


def test_a_byte_that_was_changed_after_it_was_read_goes_with_its_unit(ends):
    ends.send()
    ends.write(CHUNK_BYTES + 7 * UNIT_BYTES + 5000, b"!")
    ends.stand_still()
    assert ends.copy(CHUNK_BYTES) == (ends.source(CHUNK_BYTES), UNIT_BYTES)
    assert ends.copy(0) == (ends.source(0), 0)


@pytest.mark.parametrize("once_more", [False, True])
def test_a_byte_that_is_changed_and_changed_back_is_as_it_is_at_the_end(ends, once_more):
    """It changes with each chunk that is sent: one pass reads it as it was, and another as it is in between."""

    def flip() -> None:
        ends.write(2 * CHUNK_BYTES, b"?" if ends.source(2 * CHUNK_BYTES, 1) == b"\x03" else b"\x03")

    ends.while_sending = flip
    ends.send()
    if once_more:
        flip()
    ends.stand_still()
    assert ends.copy(2 * CHUNK_BYTES)[0] == ends.source(2 * CHUNK_BYTES)


def test_pages_of_zeros_are_neither_sent_nor_kept_whether_they_were_or_became_it(ends):
    ends.write(0, bytes(2 * UNIT_BYTES))
    ends.send()
    ends.write(UNIT_BYTES, b"x")
    ends.write(4 * UNIT_BYTES, bytes(UNIT_BYTES))
    ends.stand_still()
    assert ends.copy(0) == (ends.source(0), PAGE_BYTES)


def test_what_a_broken_connection_swallowed_is_sent_over_the_next_and_nothing_else(ends):
    ends.breaks_after = 3
    with pytest.raises(ConnectionResetError):
        ends.send()
    ends.breaks_after = 1 << 30
    ends.send()
    images = [one.image for one in ends.answers]
    assert len(images) == len(set(images))
    ends.stand_still()
    assert ends.copy(3 * CHUNK_BYTES) == (ends.source(3 * CHUNK_BYTES), 0)


def test_where_one_broke_and_none_came_after_it_the_rest_is_sent_inside_the_freeze(ends):
    ends.breaks_after = 1
    with pytest.raises(ConnectionResetError):
        ends.send()
    ends.stand_still()
    ends.breaks_after = 1
    ends.send()  # whoever connects says what he has; nothing is sent ahead any more
    assert len(ends.answers) == 1
    copies = [ends.copy(number * CHUNK_BYTES) for number in range(8)]
    assert [one[0] for one in copies] == [ends.source(number * CHUNK_BYTES) for number in range(8)]
    assert [one[1] for one in copies].count(0) <= 1


def test_no_more_is_sent_than_there_is_room_for(ends):
    ends.store = Store(2 * CHUNK_BYTES)
    ends.send()
    assert ends.store.size == 2 * CHUNK_BYTES
    ends.stand_still()
    assert all(ends.copy(number * CHUNK_BYTES)[0] == ends.source(number * CHUNK_BYTES) for number in range(8))


def test_what_was_never_sent_is_not_taken_for_the_same(ends):
    ends.stand_still()
    assert ends.copy(0) == (ends.source(0), CHUNK_BYTES)
    with pytest.raises(AgentError):
        ends.store.find(ends.pid, Ask(1, ends.at, PAGE_BYTES), 0b1)


def test_what_the_process_has_taken_is_kept_no_longer(ends):
    ends.send()
    ends.stand_still()
    for answer in ends.answers:
        ends.copy(answer.image - ends.at)
    address, _ = ends.store.find(ends.pid, Ask(1, ends.answers[0].image, PAGE_BYTES), 0)
    assert _at(address, CHUNK_BYTES) == bytes(CHUNK_BYTES)
