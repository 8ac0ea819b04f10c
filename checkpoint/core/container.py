"""The form of an encrypted object: frames of at most a megabyte, each sealed at its place. Pure: bytes in, bytes out.

    "MIDSIMG" 0x01, salt (16 bytes), then frames:
    head (u32, big-endian: bit 31 the last frame, bit 30 compressed, bits 0 to 23 the payload's length), payload

A payload is AES-256-GCM's output. Its key is derived (HKDF-SHA256, RFC 5869) from the image's own key, the salt, and
the names of the image and the object, so that no object stands for another; the salt is new for each writing, so that
a second try never uses a nonce twice. The nonce is the frame's number and whether it is the last, and the head is
associated data: what is cut off, exchanged, repeated, added or changed does not open. It is the construction STREAM
(Hoang, Reyhanitabar, Rogaway, Vizár: "Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance", 2015).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from checkpoint.core.errors import AgentError, Code

MAGIC = b"MIDSIMG\x01"
SALT_BYTES = 16
HEADER_BYTES = len(MAGIC) + SALT_BYTES

CHUNK_BYTES = 1 << 20
"""Of plain bytes in a frame, at most: stays in the processor's cache while it is hashed, compressed and sealed."""
TAG_BYTES = 16
MAX_PAYLOAD_BYTES = CHUNK_BYTES + TAG_BYTES
"""What compression would make longer is stored as it is."""

_HEAD = struct.Struct(">I")
HEAD_BYTES = _HEAD.size
_LAST, _PACKED, _LENGTH = 1 << 31, 1 << 30, (1 << 24) - 1
_NONCE = struct.Struct(">3xQ?")  # 12 bytes: the size that GCM takes as it is (SP 800-38D, 8.2.1)


@dataclass(frozen=True)
class Frame:
    """One frame as it came; nothing of it is proved until its payload has been opened."""

    index: int
    head: bytes
    last: bool
    packed: bool
    payload: bytes

    @property
    def nonce(self) -> bytes:
        return nonce(self.index, self.last)


def header(salt: bytes) -> bytes:
    return MAGIC + salt


def info(image: str, name: str) -> bytes:
    """HKDF's info for one object of an image: neither name can hold the separator (`core.stored`)."""
    return b"midstream object 1\0" + image.encode() + b"\0" + name.encode()


def nonce(index: int, last: bool) -> bytes:
    return _NONCE.pack(index, last)


def head(payload_bytes: int, *, last: bool, packed: bool) -> bytes:
    """A frame's head, which its payload is bound to as associated data."""
    if not TAG_BYTES <= payload_bytes <= MAX_PAYLOAD_BYTES:
        raise ValueError(f"a payload of {payload_bytes} bytes")
    return _HEAD.pack(payload_bytes | (_LAST if last else 0) | (_PACKED if packed else 0))


class Reader:
    """Cuts a stream of bytes, in pieces of any size, into frames. Keeps one frame's bytes at most, and the piece.

    Raises AgentError IMAGE_DAMAGED for what cannot be a container.
    """

    def __init__(self, name: str) -> None:
        """`name` is for the words of an error."""
        self.salt = b""
        self._name = name
        self._kept = bytearray()
        self._at = 0
        """Where in `_kept` the next frame begins."""
        self._index = 0
        self._ended = False

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that these bytes complete."""
        self._kept += data
        if not self.salt and not self._take_header():
            return
        while (frame := self._take_frame()) is not None:
            yield frame
        # Once for all of them: each time the rest would move to the front.
        del self._kept[: self._at]
        self._at = 0

    def finish(self) -> None:
        """Say that no more bytes will come."""
        if not self._ended:
            raise self._damaged("is cut short")

    def _take_header(self) -> bool:
        if len(self._kept) < HEADER_BYTES:
            return False
        if not self._kept.startswith(MAGIC):
            raise self._damaged("is no container of this version")
        self.salt = bytes(self._kept[len(MAGIC) : HEADER_BYTES])
        del self._kept[:HEADER_BYTES]
        return True

    def _take_frame(self) -> Frame | None:
        there = len(self._kept) - self._at
        if self._ended and there:
            raise self._damaged("has bytes behind its end")
        if there < HEAD_BYTES:
            return None
        start = self._at + HEAD_BYTES
        raw = bytes(self._kept[self._at : start])
        (word,) = _HEAD.unpack(raw)
        length = word & _LENGTH
        if word & ~(_LAST | _PACKED | _LENGTH) or not TAG_BYTES <= length <= MAX_PAYLOAD_BYTES:
            raise self._damaged("has a frame that cannot be one")
        if there < HEAD_BYTES + length:
            return None
        with memoryview(self._kept) as kept:
            payload = bytes(kept[start : start + length])
        frame = Frame(self._index, raw, bool(word & _LAST), bool(word & _PACKED), payload)
        self._at = start + length
        self._index += 1
        self._ended = frame.last
        return frame

    def _damaged(self, words: str) -> AgentError:
        return AgentError(Code.IMAGE_DAMAGED, f"the stored object {self._name} {words}")
