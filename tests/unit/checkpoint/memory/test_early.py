"""Memory of a process, sent before it stands still and compared when it does: the twin of `early` and `store`.

The process stands still all the while, and is written to from here, as it would itself.
"""

from __future__ import annotations

import ctypes
import os
import threading

import pytest

from checkpoint.core.early import UNIT_BYTES, Part
from checkpoint.core.errors import AgentError
from checkpoint.core.pages import CHUNK_BYTES, PAGE_BYTES
from checkpoint.core.pagewire import ANSWER_BYTES, GET, SAME, Answer, Request, Same, decode_answer
from checkpoint.memory import scan
from checkpoint.memory.early import Early
from checkpoint.memory.reading import Memory
from checkpoint.memory.store import GROUP_BYTES, Store

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
        self.placed: dict[int, bytes] = {}

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

    def settle(self) -> None:
        """What is the same is put in its places, as it is found."""
        for same in self.early.same():
            self.store.settle(same, self.fill)

    def fill(self, part: Part, store: int) -> None:
        """As a process does: what is there stays."""
        wanted = set(range(part.image, part.image + part.size, PAGE_BYTES)) - self.placed.keys()
        self.placed |= dict.fromkeys(wanted, bytes(PAGE_BYTES))
        for image, offset, size in part.pages:
            for at in range(0, size, PAGE_BYTES):
                if image + at in wanted:
                    self.placed[image + at] = _at(store + offset + at, PAGE_BYTES)

    def copy(self, offset: int) -> tuple[bytes, int]:
        """What the restored process would have of a chunk, and how many bytes were sent inside the freeze for it."""
        found, sent_bytes = [], 0
        for at in range(self.at + offset, self.at + offset + CHUNK_BYTES, PAGE_BYTES):
            if at not in self.placed:
                body = bytes(self.memory.answer(Request(GET, self.pid, 1, 1, at, PAGE_BYTES)))[ANSWER_BYTES:]
                sent_bytes += len(body)
                self.placed[at] = body or bytes(PAGE_BYTES)
            found.append(self.placed[at])
        return b"".join(found), sent_bytes

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
    ends.settle()
    for number in range(8):
        assert ends.copy(number * CHUNK_BYTES) == (bytes([number + 1]) * CHUNK_BYTES, 0)


def test_a_byte_that_was_changed_after_it_was_read_goes_with_its_unit(ends):
    ends.send()
    ends.write(CHUNK_BYTES + 7 * UNIT_BYTES + 5000, b"!")
    ends.stand_still()
    ends.settle()
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
    ends.settle()
    assert ends.copy(2 * CHUNK_BYTES)[0] == ends.source(2 * CHUNK_BYTES)


def test_pages_of_zeros_are_neither_sent_nor_kept_whether_they_were_or_became_it(ends):
    ends.write(0, bytes(2 * UNIT_BYTES))
    ends.send()
    ends.write(UNIT_BYTES, b"x")
    ends.write(4 * UNIT_BYTES, bytes(UNIT_BYTES))
    ends.stand_still()
    ends.settle()
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
    ends.settle()
    assert ends.copy(3 * CHUNK_BYTES) == (ends.source(3 * CHUNK_BYTES), 0)


def test_where_one_broke_and_none_came_after_it_the_rest_is_sent_inside_the_freeze(ends):
    ends.breaks_after = 1
    with pytest.raises(ConnectionResetError):
        ends.send()
    ends.stand_still()
    ends.breaks_after = 1
    ends.send()  # whoever connects says what he has; nothing is sent ahead any more
    assert len(ends.answers) == 1
    ends.settle()
    copies = [ends.copy(number * CHUNK_BYTES) for number in range(8)]
    assert [one[0] for one in copies] == [ends.source(number * CHUNK_BYTES) for number in range(8)]
    assert [one[1] for one in copies].count(0) <= 1


def test_no_more_is_sent_than_there_is_room_for(ends):
    ends.store = Store(2 * CHUNK_BYTES)
    ends.send()
    assert ends.store.size == 2 * CHUNK_BYTES
    ends.stand_still()
    ends.settle()
    assert all(ends.copy(number * CHUNK_BYTES)[0] == ends.source(number * CHUNK_BYTES) for number in range(8))


def test_what_was_never_sent_is_not_taken_for_the_same(ends):
    ends.stand_still()
    ends.settle()
    assert ends.copy(0) == (ends.source(0), CHUNK_BYTES)
    with pytest.raises(AgentError):
        ends.store.settle([Same(ends.pid, ends.at, 0b1)], ends.fill)


def test_nothing_is_said_of_memory_that_nobody_compares(ends):
    ends.send()
    assert list(ends.early.same()) == []


def test_what_cannot_be_read_any_more_is_not_the_same(ends):
    ends.send()
    ends.early.compare(ends.memory)  # which has none of them open
    ends.settle()
    ends.memory.open([ends.pid])
    assert ends.copy(0) == (ends.source(0), CHUNK_BYTES)


def test_what_the_process_has_taken_is_kept_no_longer(ends):
    ends.send()
    ends.stand_still()
    kept: list[int] = []

    def fill(part: Part, store: int) -> None:
        kept.append(store)
        ends.fill(part, store)

    for same in ends.early.same():
        ends.store.settle(same, fill)
    groups = ends.store.size // GROUP_BYTES
    assert groups
    assert _at(kept[0], groups * GROUP_BYTES) == bytes(groups * GROUP_BYTES)


def test_what_is_heard_twice_takes_nothing_away_that_is_to_be_taken(ends):
    """A connection broke after some of it: the giver says all of it again, and what was taken is gone by then."""
    ends.send()
    ends.stand_still()
    same = [one for some in ends.early.same() for one in some]
    half = GROUP_BYTES // CHUNK_BYTES // 2
    ends.store.settle(same[:half], ends.fill)
    ends.store.settle(same[:half], ends.fill)
    ends.store.settle(same, ends.fill)
    for number in range(8):
        assert ends.copy(number * CHUNK_BYTES) == (bytes([number + 1]) * CHUNK_BYTES, 0)
    assert ends.store.kept_bytes == len(same) * CHUNK_BYTES


def test_the_question_is_asked_once_over_each_connection_when_nothing_is_sent_ahead_any_more(ends):
    assert ends.store.question() is None
    ends.send()
    assert ends.store.question() == Request(SAME)
    assert ends.store.question() is None
    ends.send()
    assert ends.store.question() == Request(SAME)
