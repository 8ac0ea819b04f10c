"""The tags of images: a chunk is read, tagged, forgotten. A megabyte takes 0.3 ms, with SHA-256 it was 2.6 ms.

Read, not mapped: a mapped file that somebody shortens kills its reader (SIGBUS).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from checkpoint import aligned
from checkpoint.core import manifest
from checkpoint.core.errors import AgentError, Code

SPAN_CHUNKS = 4
"""Of a large file one job does so much: 4 MiB are 1 to 2 ms, and starting a job takes 0.1 ms."""

JOB_BYTES = SPAN_CHUNKS * manifest.CHUNK_BYTES
JOB_SPANS = 1000
"""Small files are done many at a time: there is one for each connection, and it takes 10 us."""


class Span(NamedTuple):
    """Some consecutive chunks of one file."""

    name: str
    place: int
    size: int
    """The whole file's."""
    chunks: range


_AT_ONCE_BYTES = 64 << 10
"""Almost every image but the pages is smaller: read without a buffer of ours and most of what goes with it."""

_OF_THREAD = threading.local()
_NOTHING: Mapping[str, int] = {}
_ONE = range(1)


def plan(sizes: Mapping[str, int], wanted: Collection[str], tagged: Mapping[str, int] = _NOTHING) -> list[list[Span]]:
    """Jobs of about the same length that together tag the `wanted` of the files that `sizes` names, but for their first
    chunks, so many as are `tagged` already."""
    jobs: list[list[Span]] = []
    room_bytes = 0
    for span in _spans(sizes, wanted, tagged):
        if room_bytes <= 0 or len(jobs[-1]) == JOB_SPANS:
            jobs.append([])
            room_bytes = JOB_BYTES
        jobs[-1].append(span)
        room_bytes -= min(span.size, len(span.chunks) * manifest.CHUNK_BYTES)
    return jobs


def _spans(sizes: Mapping[str, int], wanted: Collection[str], tagged: Mapping[str, int]) -> Iterator[Span]:
    places = manifest.places(sizes, wanted)
    for name in wanted:
        size = sizes[name]
        if size <= manifest.CHUNK_BYTES and name not in tagged:  # as almost all are
            yield Span(name, places[name], size, _ONE)
            continue
        end = manifest.chunk_count(size)
        for start in range(tagged.get(name, 0), end, SPAN_CHUNKS):
            yield Span(name, places[name], size, range(start, min(start + SPAN_CHUNKS, end)))


def tag(folder: str, key: bytes, work: Iterable[Span]) -> list[list[bytes]]:
    """The tags of each span. For a thread: reading and tagging let go of the interpreter's lock.

    Raises AgentError IMAGE_DAMAGED for a file that cannot be read or has not the size it is said to have.
    """
    cipher = AESGCM(key)
    return [_tag_span(f"{folder}/{one.name}", cipher, one) for one in work]


def proof(cipher: AESGCM, place: int, raw: bytes) -> manifest.Proof:
    """Of a file whose content is at hand; `place`: see `manifest.places`."""
    step = manifest.CHUNK_BYTES
    if len(raw) <= step:
        return manifest.Proof((cipher.encrypt(manifest.nonce(place, 0), b"", raw),), len(raw))
    pieces = (memoryview(raw)[start : start + step] for start in range(0, len(raw), step))
    tags = tuple(cipher.encrypt(manifest.nonce(place, at), b"", piece) for at, piece in enumerate(pieces))
    return manifest.Proof(tags, len(raw))


def _tag_span(path: str, cipher: AESGCM, span: Span) -> list[bytes]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            if span.size <= _AT_ONCE_BYTES:
                raw = os.pread(fd, span.size + 1, 0)  # one more than there is: an end that moved shows
                if len(raw) != span.size:
                    raise _changed(span)
                return [cipher.encrypt(manifest.nonce(span.place, 0), b"", raw)]
            return [cipher.encrypt(manifest.nonce(span.place, at), b"", _read(fd, span, at)) for at in span.chunks]
        finally:
            os.close(fd)
    except OSError as error:
        raise AgentError(Code.IMAGE_DAMAGED, f"the image {path} cannot be read: {error.strerror}") from error


def _read(fd: int, span: Span, chunk: int) -> memoryview:
    """One chunk, in this thread's buffer: a fresh one would cost as much again, for the kernel to clear its pages.

    Of the last chunk a byte more is asked for than there is, so that an end that moved shows.
    """
    if not hasattr(_OF_THREAD, "buffer"):
        _OF_THREAD.buffer = aligned.room(manifest.CHUNK_BYTES + 1)
    start = chunk * manifest.CHUNK_BYTES
    wanted = min(manifest.CHUNK_BYTES, span.size - start)
    is_last = start + wanted == span.size
    view: memoryview = _OF_THREAD.buffer[: wanted + is_last]
    if os.preadv(fd, [view], start) != wanted:
        raise _changed(span)
    return view[:wanted]


def _changed(span: Span) -> AgentError:
    return AgentError(Code.IMAGE_DAMAGED, f"the file {span.name} changed while it was read")
