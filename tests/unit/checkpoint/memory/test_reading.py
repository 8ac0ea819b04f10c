"""The memory of a stopped process, as it is given: the pages that have something, and guard pages as nothing."""

from __future__ import annotations

import pytest

from checkpoint.core.areas import BLOCK_BYTES
from checkpoint.core.pages import CHUNK_BYTES, PAGE_BYTES
from checkpoint.core.pagewire import ANSWER_BYTES, GET, Answer, Request, decode_answer
from checkpoint.memory.reading import Memory


def ask(memory: Memory, pid: int, image: int, size: int) -> tuple[Answer, bytes]:
    raw = bytes(memory.answer(Request(GET, pid, 3, 7, image, size)))
    return decode_answer(raw[:ANSWER_BYTES]), raw[ANSWER_BYTES:]


@pytest.fixture
def memory(sleeper):
    made = Memory()
    made.open([sleeper.pid, sleeper.pid])
    made.open([sleeper.pid])
    yield made
    made.close()


def test_pages_as_they_are_and_of_a_guard_page_and_one_never_written_nothing(memory, sleeper):
    answer, body = ask(memory, sleeper.pid, sleeper.large, 4 * PAGE_BYTES)
    assert answer == Answer(3, 7, 4 * PAGE_BYTES, 0b1)
    assert body == b"a" * PAGE_BYTES


def test_a_whole_chunk_and_one_with_nothing_in_it(memory, sleeper):
    answer, body = ask(memory, sleeper.pid, sleeper.large + 4 * BLOCK_BYTES, CHUNK_BYTES)
    assert answer.present == (1 << 64) - 1
    assert body == b"b" * CHUNK_BYTES
    answer, body = ask(memory, sleeper.pid, sleeper.large + 9 * BLOCK_BYTES, CHUNK_BYTES)
    assert (answer.present, body) == (0, b"")


def test_what_is_no_memory_of_a_process_is_an_error(memory, sleeper):
    with pytest.raises(OSError, match="Input/output error"):
        ask(memory, sleeper.pid, 1 << 46, PAGE_BYTES)
    with pytest.raises(KeyError):
        ask(memory, 1 << 22, sleeper.large, PAGE_BYTES)


def test_a_process_that_has_gone_has_none():
    made = Memory()
    with pytest.raises(FileNotFoundError):
        made.open([1 << 22])
