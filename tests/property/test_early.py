"""Memory sent before the freeze, whatever the workload writes meanwhile and wherever a connection breaks: the copy has
what the source has when it stands still."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from checkpoint.core.early import ALL_PAGES, UNIT_BYTES, Chunk, Kept, Sent
from checkpoint.core.pages import CHUNK_BYTES, PAGE_BYTES
from checkpoint.core.pagewire import Answer, Same, placed, squeeze

CHUNKS = 2
PAGES = CHUNK_BYTES // PAGE_BYTES
PLACES = st.tuples(st.integers(0, CHUNKS - 1), st.integers(0, PAGES - 1))

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), PLACES, st.integers(0, 2)),  # 0: as it was in the beginning
        st.tuples(st.just("send"), st.integers(0, CHUNKS - 1), st.booleans()),  # whether it arrives
        st.tuples(st.just("connect")),
    ),
    max_size=25,
)


class World:
    """A source with some memory, a destination that keeps what arrives, and a connection in between."""

    def __init__(self) -> None:
        self.memory = [bytearray(CHUNK_BYTES) for _ in range(CHUNKS)]
        self.sent, self.kept = Sent(), Kept(CHUNKS * CHUNK_BYTES)
        self.store = bytearray(CHUNKS * CHUNK_BYTES)
        self.is_cut = False

    def write(self, place: tuple[int, int], value: int) -> None:
        chunk, page = place
        self.memory[chunk][page * PAGE_BYTES + 7] = value

    def tags(self, number: int) -> bytes:
        units = (self.memory[number][at : at + UNIT_BYTES] for at in range(0, CHUNK_BYTES, UNIT_BYTES))
        return b"".join(hashlib.md5(unit).digest() for unit in units)

    def send(self, number: int, arrives: bool) -> None:
        """Once something has not arrived, nothing arrives until there is another connection."""
        chunk, tags = Chunk(1, number * CHUNK_BYTES), self.tags(number)
        self.is_cut |= not arrives
        same = self.sent.same(chunk, tags)
        if same == ALL_PAGES:
            return
        body = memoryview(bytearray(self.memory[number]))
        count = self.sent.send(chunk, tags)
        answer = Answer(1, count, CHUNK_BYTES, squeeze(body, same), same, chunk.image)
        if not self.is_cut:
            slot = self.kept.take(answer)
            for place, offset, size in placed(answer.present):
                self.store[slot.offset + place : slot.offset + place + size] = body[offset : offset + size]

    def connect(self) -> None:
        self.is_cut = False
        self.sent.arrived(self.kept.number)

    def copy(self) -> list[bytes]:
        """What the restored process has: of what is the same what was kept, and the rest as it is in the end."""
        chunks = [Chunk(1, number * CHUNK_BYTES) for number in range(CHUNKS)]
        same = [Same(*one, self.sent.same(one, self.tags(number))) for number, one in enumerate(chunks)]
        found = bytearray(b"".join(self.memory))
        for part in self.kept.parts(one for one in same if Chunk(one.process, one.image) in self.sent):
            found[part.image : part.image + part.size] = bytes(part.size)
            for image, offset, size in part.pages:
                found[image : image + size] = self.store[offset : offset + size]
        return [bytes(found[at : at + CHUNK_BYTES]) for at in range(0, len(found), CHUNK_BYTES)]


@given(STEPS)
def test_the_copy_is_what_the_source_is_when_it_stands_still(steps):
    world = World()
    for name, *arguments in steps:
        getattr(world, name)(*arguments)
    world.connect()
    assert world.copy() == [bytes(one) for one in world.memory]
