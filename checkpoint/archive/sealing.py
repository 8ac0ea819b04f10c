"""Seals and opens containers (`core.container`): AES-256-GCM, and zstd where it pays.

Each call does one chunk, in whatever thread: the libraries let go of the interpreter's lock.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from checkpoint.archive.keys import KEY_BYTES, Secret
from checkpoint.core import container
from checkpoint.core.container import Frame
from checkpoint.core.errors import AgentError, Code
from checkpoint.core.squeeze import Squeeze

LEVEL = 1
"""zstd's fastest of the ordinary levels: 0.8 GiB/s here; a higher one gains little on memory pages."""


class Sealer:
    """One object on its way out, chunk by chunk, the last one said to be it."""

    def __init__(self, key: Secret, image: str, name: str, squeeze: Squeeze, now: Callable[[], float]) -> None:
        """`now` is a clock in seconds, for `squeeze` to learn how fast compression is."""
        salt = secrets.token_bytes(container.SALT_BYTES)
        self.header = container.header(salt)
        self._cipher = _cipher(key, salt, image, name)
        self._squeeze = squeeze
        self._now = now
        self._zstd = zstandard.ZstdCompressor(level=LEVEL)
        self._index = 0

    def seal(self, chunk: bytes | memoryview, *, last: bool) -> bytearray:
        """The frame of one chunk: at most CHUNK_BYTES."""
        body, packed = self._squeezed(chunk)
        head = container.head(len(body) + container.TAG_BYTES, last=last, packed=packed)
        frame = bytearray(len(head) + len(body) + container.TAG_BYTES)
        frame[: len(head)] = head
        self._cipher.encrypt_into(container.nonce(self._index, last), body, head, memoryview(frame)[len(head) :])
        self._index += 1
        return frame

    def _squeezed(self, chunk: bytes | memoryview) -> tuple[bytes | memoryview, bool]:
        if not self._squeeze.wanted():
            self._squeeze.stored(len(chunk))
            return chunk, False
        began = self._now()
        small = self._zstd.compress(chunk)
        self._squeeze.compressed(len(chunk), min(len(small), len(chunk)), self._now() - began)
        return (small, True) if len(small) < len(chunk) else (chunk, False)


class Opener:
    """One object on its way in: bytes in pieces of any size, plain chunks out.

    A chunk that is given is proved, and proved to be at its place; that none is missing is proved by `finish`.
    """

    def __init__(self, key: Secret, image: str, name: str) -> None:
        self._key, self._image, self._name = key, image, name
        self._reader = container.Reader(name)
        self._cipher: AESGCM | None = None
        self._zstd = zstandard.ZstdDecompressor()

    def feed(self, data: bytes) -> list[bytes]:
        """Raises AgentError IMAGE_DAMAGED."""
        return [self._open(frame) for frame in self._reader.feed(data)]

    def finish(self) -> None:
        """Raises AgentError IMAGE_DAMAGED where the end is missing."""
        self._reader.finish()

    def _open(self, frame: Frame) -> bytes:
        if self._cipher is None:
            self._cipher = _cipher(self._key, self._reader.salt, self._image, self._name)
        try:
            body = self._cipher.decrypt(frame.nonce, frame.payload, frame.head)
            return self._unpacked(body) if frame.packed else body
        except (InvalidTag, zstandard.ZstdError) as error:
            words = f"the stored object {self._name} was changed (in its chunk {frame.index})"
            raise AgentError(Code.IMAGE_DAMAGED, words) from error

    def _unpacked(self, body: bytes) -> bytes:
        plain = self._zstd.decompress(body, max_output_size=container.CHUNK_BYTES)
        if len(plain) > container.CHUNK_BYTES:
            raise zstandard.ZstdError("longer than a chunk")
        return plain


def _cipher(key: Secret, salt: bytes, image: str, name: str) -> AESGCM:
    with Secret(bytearray(KEY_BYTES)) as derived:
        HKDF(SHA256(), KEY_BYTES, salt, container.info(image, name)).derive_into(key.raw, derived.raw)
        return AESGCM(derived.raw)
