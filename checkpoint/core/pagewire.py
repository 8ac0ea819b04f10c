"""What giver and taker of memory say to each other, inside TLS: fixed headers, then a page's bytes as they are. Pure.

| who | message | bytes |
|---|---|---|
| taker | GET | kind, process, space, number, image address, size |
| taker | NOW | as GET: somebody waits for it |
| taker | DONE | the same, all but the kind 0: every page has come |
| giver | answer to a GET or NOW, in their order | space, number, size, present; then the pages that are not all zeros |
| giver | answer to DONE | the header, all 0 |

`process` is the PID at the source. `space` and `number` are the taker's own, and come back as they went. `present` has
a bit for each page, the first one's the lowest: it is set where the page follows, in their order.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from checkpoint.core.errors import AgentError, Code
from checkpoint.core.pages import CHUNK_BYTES, PAGE_BYTES

GET, DONE, NOW = 1, 2, 3

_REQUEST = struct.Struct("<IIIIQQ")
_ANSWER = struct.Struct("<IIQQ")
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

    @property
    def body_bytes(self) -> int:
        return self.present.bit_count() * PAGE_BYTES


def encode_request(one: Request) -> bytes:
    return _REQUEST.pack(*one)


def decode_request(raw: bytes) -> Request:
    """Raises AgentError BAD_REQUEST for what no taker says."""
    one = Request(*_REQUEST.unpack(raw))
    aligned = one.image % PAGE_BYTES == 0 and one.size % PAGE_BYTES == 0
    if one == Request(DONE) or (one.kind in (GET, NOW) and aligned and 0 < one.size <= CHUNK_BYTES
                                and one.image + one.size < _ADDRESS_END):  # fmt: skip
        return one
    raise AgentError(Code.BAD_REQUEST, f"no request for memory: {one}")


def encode_answer(one: Answer) -> bytes:
    return _ANSWER.pack(*one)


def decode_answer(raw: bytes) -> Answer:
    """Raises AgentError BAD_REQUEST for what no giver says."""
    one = Answer(*_ANSWER.unpack(raw))
    if one.size > CHUNK_BYTES or one.present >> one.size // PAGE_BYTES:
        raise AgentError(Code.BAD_REQUEST, f"no answer with memory: {one}")
    return one


def squeeze(view: memoryview) -> int:
    """Move the pages of `view` that are not all zeros to its beginning; which those are, as in `Answer.present`."""
    count = len(view) // PAGE_BYTES
    first_bytes = bytes(view[::PAGE_BYTES])
    if 0 not in first_bytes:
        return (1 << count) - 1
    present = kept = 0
    for number, first in enumerate(first_bytes):
        page = view[number * PAGE_BYTES : (number + 1) * PAGE_BYTES]
        # As bytes: a memoryview is compared number by number, a hundred times as slowly.
        if first or bytes(page) != _ZERO_PAGE:
            if kept != number:
                view[kept * PAGE_BYTES : (kept + 1) * PAGE_BYTES] = page
            present |= 1 << number
            kept += 1
    return present
