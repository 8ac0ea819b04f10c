"""What giver and taker of memory say to each other, inside TLS: fixed headers, then a page's bytes as they are. Pure.

| who | message | bytes |
|---|---|---|
| taker | GET | kind, process, space, number, image address, size |
| taker | NOW | as GET: somebody waits for it |
| taker | SOON | as GET: it lies near what somebody waits for |
| taker | HURRY | as a GET or SOON before: by now somebody waits for it. It has no answer of its own |
| taker | EARLY | the same; number: so many chunks sent ahead have come; size: so many bytes there is room for |
| taker | SAME | the same, all but the kind 0: what of that is as it came? |
| taker | DONE | as SAME: every page has come |
| giver | answer to a NOW, SOON or GET; these go before each other in this order | header; then the present pages |
| giver | answer to EARLY: for each chunk | header, with process, its number and image; then the present pages |
| giver | answer to SAME: for some chunks each | header, with how many; then a page: process, image, same of each |
| giver | end of the answer to EARLY and to SAME; answer to DONE | the header, all 0 |

The header of the giver: space, number, size, present, same, image.

`process` is the PID at the source. `space`, from 1 on, and `number` are the taker's own, and come back as they went.
`present` and `same` have a bit for each page, the first one's the lowest: a page that is present follows, in their
order; one that is the same is as it was sent ahead (`checkpoint.core.early`); any other is all zeros.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from checkpoint.core.errors import AgentError, Code
from checkpoint.core.pages import CHUNK_BYTES, PAGE_BYTES

GET, DONE, NOW, EARLY, SAME, HURRY, SOON = 1, 2, 3, 4, 5, 6, 7
FOR_PAGES = (NOW, SOON, GET)
"""The more urgent ones first."""

_REQUEST = struct.Struct("<IIIIQQ")
_ANSWER = struct.Struct("<IIQQQQ")
_SAME = struct.Struct("<QQQ")
REQUEST_BYTES = _REQUEST.size
ANSWER_BYTES = _ANSWER.size
_ADDRESS_END = 1 << 63
_ZERO_PAGE = bytes(PAGE_BYTES)


class Request(NamedTuple):
    kind: int
    process: int = 0
    space: int = 0
    number: int = 0
    image: int = 0
    size: int = 0


class Answer(NamedTuple):
    space: int
    number: int
    size: int
    present: int = 0
    same: int = 0
    image: int = 0

    @property
    def body_bytes(self) -> int:
        return self.present.bit_count() * PAGE_BYTES


def encode_request(one: Request) -> bytes:
    return _REQUEST.pack(*one)


def decode_request(raw: bytes) -> Request:
    """Raises AgentError BAD_REQUEST for what no taker says."""
    one = Request(*_REQUEST.unpack(raw))
    aligned = one.image % PAGE_BYTES == 0 and one.size % PAGE_BYTES == 0
    if (one.kind in (*FOR_PAGES, HURRY) and aligned and 0 < one.size <= CHUNK_BYTES
            and one.image + one.size < _ADDRESS_END):  # fmt: skip
        return one
    if one in (Request(DONE), Request(SAME)) or one == Request(EARLY, number=one.number, size=one.size):
        return one
    raise AgentError(Code.BAD_REQUEST, f"no request for memory: {one}")


def encode_answer(one: Answer) -> bytes:
    return _ANSWER.pack(*one)


def decode_answer(raw: bytes) -> Answer:
    """Raises AgentError BAD_REQUEST for what no giver says."""
    one = Answer(*_ANSWER.unpack(raw))
    pages = one.size // PAGE_BYTES
    if one.size > CHUNK_BYTES or (one.present | one.same) >> pages or one.present & one.same:
        raise AgentError(Code.BAD_REQUEST, f"no answer with memory: {one}")
    return one


class Same(NamedTuple):
    """Of a chunk that was sent ahead: `pages` has a bit for each that is as it was."""

    process: int
    image: int
    pages: int


MOST_SAME = PAGE_BYTES // _SAME.size


def encode_same(some: Sequence[Same]) -> bytes:
    """Header and page; at most MOST_SAME."""
    head = encode_answer(Answer(0, len(some), PAGE_BYTES, 0b1))
    return head + b"".join([_SAME.pack(*one) for one in some]).ljust(PAGE_BYTES, b"\0")


def decode_same(one: Answer, page: memoryview) -> list[Same]:
    """Raises AgentError BAD_REQUEST for what no giver says."""
    if one != Answer(0, one.number, PAGE_BYTES, 0b1) or one.number > MOST_SAME:
        raise AgentError(Code.BAD_REQUEST, f"no list of what is the same: {one}")
    return [Same(*found) for found in _SAME.iter_unpack(page[: one.number * _SAME.size])]


def squeeze(view: memoryview, same: int = 0) -> int:
    """Move the pages of `view` that are neither all zeros nor the `same` to its beginning; which those are, as in
    `Answer.present`."""
    count = len(view) // PAGE_BYTES
    first_bytes = bytes(view[::PAGE_BYTES])
    if 0 not in first_bytes and not same:
        return (1 << count) - 1
    present = kept = 0
    for number, first in enumerate(first_bytes):
        if same >> number & 1:
            continue
        page = view[number * PAGE_BYTES : (number + 1) * PAGE_BYTES]
        # As bytes: a memoryview is compared number by number, a hundred times as slowly.
        if first or bytes(page) != _ZERO_PAGE:
            if kept != number:
                view[kept * PAGE_BYTES : (kept + 1) * PAGE_BYTES] = page
            present |= 1 << number
            kept += 1
    return present


def placed(present: int) -> Iterator[tuple[int, int, int]]:
    """Runs of the pages of `present`: in its place from here on, in the body from here on, so many bytes."""
    page = kept = 0
    while rest := present >> page:
        page += (rest & -rest).bit_length() - 1
        run = (~(present >> page) & -~(present >> page)).bit_length() - 1
        yield page * PAGE_BYTES, kept * PAGE_BYTES, run * PAGE_BYTES
        page += run
        kept += run
