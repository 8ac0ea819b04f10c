"""What giver and taker of memory say to each other, inside TLS: fixed headers, then a page's bytes as they are. Pure.

| who | message | bytes |
|---|---|---|
| taker | GET | kind, process, space, number, image address, size |
| taker | DONE | the same, all but the kind 0: every page has come |
| giver | answer to a GET, in their order | space, number, size, flags; then the bytes, unless they are all zero |
| giver | answer to DONE | the header, all 0 |

`process` is the PID at the source. `space` and `number` are the taker's own, and come back as they went.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from checkpoint.core.errors import AgentError, Code
from checkpoint.core.pages import CHUNK_BYTES, PAGE_BYTES

GET, DONE = 1, 2
ZEROS = 1
"""Flag of an answer: nothing follows, it is all zeros."""

_REQUEST = struct.Struct("<IIIIQQ")
_ANSWER = struct.Struct("<IIII")
REQUEST_BYTES = _REQUEST.size
ANSWER_BYTES = _ANSWER.size
_ADDRESS_END = 1 << 63


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
    flags: int = 0

    @property
    def body_bytes(self) -> int:
        return 0 if self.flags & ZEROS else self.size


def encode_request(one: Request) -> bytes:
    return _REQUEST.pack(*one)


def decode_request(raw: bytes) -> Request:
    """Raises AgentError BAD_REQUEST for what no taker says."""
    one = Request(*_REQUEST.unpack(raw))
    aligned = one.image % PAGE_BYTES == 0 and one.size % PAGE_BYTES == 0
    if one == Request(DONE) or (one.kind == GET and aligned and 0 < one.size <= CHUNK_BYTES
                                and one.image + one.size < _ADDRESS_END):  # fmt: skip
        return one
    raise AgentError(Code.BAD_REQUEST, f"no request for memory: {one}")


def encode_answer(one: Answer) -> bytes:
    return _ANSWER.pack(*one)


def decode_answer(raw: bytes) -> Answer:
    """Raises AgentError BAD_REQUEST for what no giver says."""
    one = Answer(*_ANSWER.unpack(raw))
    if one.size > CHUNK_BYTES or one.flags & ~ZEROS:
        raise AgentError(Code.BAD_REQUEST, f"no answer with memory: {one}")
    return one
