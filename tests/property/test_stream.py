"""A link cut anywhere, in either direction, any number of times: each end gets exactly what the other was given.

The wire is modelled as what it may lose: whatever is under way when it breaks, but for a part that still arrives. TLS
loses more of it at a time, whole records; that is one of these cases.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.core.stream import HEADER_BYTES, Incoming, Mark, Outgoing, header


class End:
    def __init__(self, name: int) -> None:
        self.name = name
        self.outgoing, self.incoming = Outgoing(), Incoming()
        self.given = self.got = b""
        self.wire = bytearray()
        """What it has sent and the other has not taken."""

    def give(self, size: int) -> None:
        size = min(size, self.outgoing.room)
        if size:
            payload = bytes((len(self.given) + at * self.name) % 251 for at in range(size))
            frame = header(Mark.DATA, size, self.incoming.delivered) + payload
            self.wire += frame
            self.outgoing.keep(frame, size)
            self.given += payload

    def close(self, mark: Mark) -> None:
        before = self.outgoing.given
        self.outgoing.close(mark)
        if self.outgoing.given > before:
            self.wire += header(mark, 0, self.incoming.delivered)

    def acknowledge(self) -> None:
        """Hands on what has come, and says so."""
        self.incoming.delivered = self.incoming.received
        self.wire += header(Mark.ACK, 0, self.incoming.delivered)

    def take(self, data: bytes) -> None:
        self.got += b"".join(self.incoming.take(memoryview(data)))
        self.outgoing.acknowledge(self.incoming.acknowledged)

    def begin_again(self, received: int) -> None:
        self.wire.clear()
        self.incoming.restart()
        for piece in self.outgoing.since(received):
            length = 0 if isinstance(piece, Mark) else len(piece)
            self.wire += header(piece if isinstance(piece, Mark) else Mark.DATA, length, self.incoming.delivered)
            if not isinstance(piece, Mark):
                self.wire += piece


class Model:
    def __init__(self) -> None:
        self.ends = (End(1), End(7))

    def move(self, end: int, size: int) -> None:
        """So many of the bytes under way from `end` arrive."""
        wire = self.ends[end].wire
        self.ends[1 - end].take(bytes(wire[:size]))
        del wire[:size]

    def cut(self, first: int, second: int) -> None:
        """So much of either wire still arrives; the rest never does. Then both go on."""
        self.move(0, first)
        self.move(1, second)
        a, b = self.ends
        for end, other in ((a, b), (b, a)):
            end.begin_again(other.incoming.received)

    def settle(self) -> None:
        for _ in range(4):
            for end in (0, 1):
                self.ends[end].acknowledge()
                self.move(end, len(self.ends[end].wire))


sizes = st.integers(0, 400)
which = st.integers(0, 1)
steps = st.one_of(
    st.tuples(st.just("give"), which, st.integers(1, 300)),
    st.tuples(st.just("move"), which, sizes),
    st.tuples(st.just("acknowledge"), which, st.just(0)),
    st.tuples(st.just("end"), which, st.just(0)),
    st.tuples(st.just("reset"), which, st.just(0)),
    st.tuples(st.just("cut"), sizes, sizes),
)


def play(model: Model, step: tuple[str, int, int]) -> None:
    match step:
        case ("give", end, size):
            model.ends[end].give(size)
        case ("move", end, size):
            model.move(end, size)
        case ("acknowledge", end, _):
            model.ends[end].acknowledge()
        case ("end", end, _):
            model.ends[end].close(Mark.END)
        case ("reset", end, _):
            model.ends[end].close(Mark.RESET)
        case (_, first, second):
            model.cut(first, second)


def check(model: Model) -> None:
    model.settle()
    for end, other in (model.ends, model.ends[::-1]):
        assert other.got == end.given
        assert other.incoming.mark is end.outgoing.mark
        assert end.outgoing.acknowledged == end.outgoing.given == other.incoming.received
        assert end.outgoing.drop() == []


@given(st.lists(steps, max_size=40))
def test_any_cuts_at_any_time(played: list[tuple[str, int, int]]) -> None:
    model = Model()
    for step in played:
        play(model, step)
        for end, other in (model.ends, model.ends[::-1]):
            assert end.outgoing.acknowledged <= other.incoming.received <= end.outgoing.given
            assert end.given.startswith(other.got)
    check(model)


def test_every_cut_point_of_a_short_conversation() -> None:
    """All pairs of cut points: every byte of both directions, headers, END and all."""
    length = 2 * (HEADER_BYTES + 9) + HEADER_BYTES
    for first in range(length + 1):
        for second in range(length + 1):
            model = Model()
            for end in model.ends:
                end.give(9)
                end.give(9)
                end.close(Mark.END)
            assert len(model.ends[0].wire) == length
            model.cut(first, second)
            model.cut(second, first)
            check(model)
