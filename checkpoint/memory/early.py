"""The giver's part in memory that is sent before the freeze: while the workload runs it is read, tagged and sent, pass
after pass; once it stands still it is read and tagged again, beside CRIU's dump, and what is the same is not sent.

What a tag is worth: GMAC is a keyed universal hash. Two contents of a unit have the same tag less than once in 2**117
times, whoever chose them, for nobody but this process has the key or sees a tag.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator

from checkpoint import aligned
from checkpoint.core.early import ALL_PAGES, UNIT_BYTES, Chunk, Sent, another_pass, whole
from checkpoint.core.pages import CHUNK_BYTES
from checkpoint.core.pagewire import ANSWER_BYTES, Answer, Same, encode_answer, squeeze
from checkpoint.memory import scan, urgency
from checkpoint.memory.reading import Memory

_NONCE = bytes(12)
"""One for all: the tags go nowhere, and are only compared with each other."""


PART_CHUNKS = 32
"""So much is said to be the same at once: 8 MiB, which are compared in 5 ms, and put in their places in as many."""

Say = Callable[[memoryview], None]


class Early:
    """One giver's."""

    def __init__(self, pids: list[int]) -> None:
        """These run, and their memory may be sent."""
        # Here, not above: of givers only those that are asked for it pay for the import.
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._tag = AESGCM(os.urandom(32)).encrypt
        self._pids = pids
        self._sent = Sent()
        self._standing: Memory | None = None
        self._sending = threading.Lock()
        self._found: list[list[Same]] = []
        self._comparing = False
        self._changed = threading.Condition()

    def send(self, arrived: int, limit_bytes: int, say: Say) -> None:
        """Everything that there is room for, and what changes meanwhile, as long as that gets less. Raises OSError."""
        with self._sending:
            self._sent.arrived(arrived)
            passes: list[int] = []
            while self._standing is None and (not passes or another_pass(passes)):
                passes.append(self._pass(limit_bytes, say))

    def _pass(self, limit_bytes: int, say: Say) -> int:
        """What it sent, in bytes."""
        sent_bytes = 0
        for pid in self._pids:
            memory = Memory()  # opened anew each time: it may have started another program
            with contextlib.suppress(OSError):  # it has ended: nothing of it can be read
                memory.open([pid])
            try:
                sent_bytes += self._send_process(pid, memory, limit_bytes, say)
            finally:
                memory.close()
        return sent_bytes

    def _send_process(self, pid: int, memory: Memory, limit_bytes: int, say: Say) -> int:
        answer = aligned.room(CHUNK_BYTES, ANSWER_BYTES)
        pages = answer[ANSWER_BYTES:]
        sent_bytes = 0
        for chunk in _chunks(pid):
            if self._standing is not None:
                break
            has_room = chunk in self._sent or len(self._sent) < limit_bytes // CHUNK_BYTES
            if has_room and _is_read(memory, chunk, pages) and (head := self._head(chunk, pages)) is not None:
                answer[:ANSWER_BYTES] = encode_answer(head)
                say(answer[: ANSWER_BYTES + head.body_bytes])
                sent_bytes += head.body_bytes
        return sent_bytes

    def _head(self, chunk: Chunk, pages: memoryview) -> Answer | None:
        """To be said before what it leaves at the beginning of `pages`; None: the taker has all of it."""
        tags = self._tags(pages)
        same = self._sent.same(chunk, tags)
        if same == ALL_PAGES:
            return None
        number = self._sent.send(chunk, tags)
        return Answer(chunk.process, number, CHUNK_BYTES, squeeze(pages, same), same, chunk.image)

    def _tags(self, pages: memoryview) -> bytes:
        return b"".join(
            [self._tag(_NONCE, b"", pages[at : at + UNIT_BYTES]) for at in range(0, CHUNK_BYTES, UNIT_BYTES)]
        )

    def compare(self, memory: Memory) -> None:
        """They stand still, and `memory` has them open: look, in a thread, at what has been sent."""
        if self._standing is None:
            self._standing, self._comparing = memory, True
            threading.Thread(target=self._compare, name="compare", daemon=True).start()

    def _compare(self) -> None:
        """One thread: a second one takes from CRIU's dump what it gains."""
        urgency.claim()
        try:
            with self._sending:
                chunks = self._sent.chunks
            pages = aligned.room(CHUNK_BYTES)
            for start in range(0, len(chunks), PART_CHUNKS):
                self._tell([Same(*one, self._look(one, pages)) for one in chunks[start : start + PART_CHUNKS]])
        finally:
            self._tell(None)

    def _tell(self, found: list[Same] | None) -> None:
        """Whoever waits for it; None: that was all."""
        with self._changed:
            if found is None:
                self._comparing = False
            else:
                self._found.append(found)
            self._changed.notify_all()

    def _look(self, chunk: Chunk, pages: memoryview) -> int:
        assert self._standing is not None
        return self._sent.same(chunk, self._tags(pages)) if _is_read(self._standing, chunk, pages) else 0

    def same(self) -> Iterator[list[Same]]:
        """What of all that was sent, and has arrived, is the same: some of it after the other, as it is found out."""
        number = 0
        while (found := self._part(number)) is not None:
            yield [one for one in found if Chunk(one.process, one.image) in self._sent]
            number += 1

    def _part(self, number: int) -> list[Same] | None:
        """None: there are no more."""
        with self._changed:
            self._changed.wait_for(lambda: number < len(self._found) or not self._comparing)
            return self._found[number] if number < len(self._found) else None


def _is_read(memory: Memory, chunk: Chunk, pages: memoryview) -> bool:
    """False where it is there no more: the process has unmapped it, or ended."""
    try:
        memory.read(pages, chunk.process, chunk.image)
    except (OSError, KeyError):
        return False
    return True


def _chunks(pid: int) -> Iterator[Chunk]:
    """What is in the large areas of a process that runs, as far as it can be told: nothing, where it has ended, or the
    kernel does not say which pages there are (before Linux 6.7)."""
    try:
        areas = scan.large_areas(pid)
        fd = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        for area in areas:
            try:
                ranges = list(scan.written(fd, area))
            except OSError:
                return
            yield from (Chunk(pid, at) for at in whole(ranges))
    finally:
        os.close(fd)
