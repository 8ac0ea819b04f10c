"""A link that sleeps and wakes at any time, said by either end, over connections that deliver whenever they like: each
end gets exactly what the other was given, and neither sleeps for ever on something to carry."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from proxy.core.link import Event, State, step
from proxy.core.stream import Incoming, Mark, Outgoing, header


class End:
    """As `proxy.io.carrier` goes about it; `index` 0 is the initiator."""

    def __init__(self, index: int, model: Model) -> None:
        self.index, self.model = index, model
        self.outgoing, self.incoming = Outgoing(), Incoming()
        self.state = step(State.WAITING, Event.CONNECTED)
        self.given = self.got = b""
        self.wire = bytearray()
        """What it has sent over the connection and the other has not taken."""
        self.drowsy = self.called = self.yielded = False
        self.sent = 0

    def send(self, frame: bytes) -> None:
        if self.state is State.CARRYING and not self.drowsy:
            self.wire += frame
        else:
            self.stir()

    def give(self, size: int) -> None:
        if size := min(size, self.outgoing.room):
            payload = bytes((len(self.given) + at * (self.index + 3)) % 251 for at in range(size))
            frame = header(Mark.DATA, size, self.incoming.delivered) + payload
            self.outgoing.keep(frame, size)
            self.given += payload
            self.send(frame)

    def stir(self) -> None:
        if self.state is State.ASLEEP:
            self.state = step(self.state, Event.STIRRED)
            self.model.stirred(self.index)

    def call(self) -> None:
        """The bell's."""
        if self.drowsy:
            self.called = True
        else:
            self.stir()

    def rest(self) -> None:
        if self.state is not State.CARRYING or self.drowsy or self.yielded:
            return
        if self.index:
            self.yielded = True
            self.send(header(Mark.YIELD, 0, self.incoming.delivered))
        else:
            self.doze(Mark.SLEEP)

    def doze(self, mark: Mark) -> None:
        self.send(header(mark, 0, self.incoming.delivered))
        self.drowsy, self.sent = True, self.outgoing.given

    def take(self, data: bytes) -> None:
        self.got += b"".join(self.incoming.take(memoryview(data)))
        self.incoming.delivered = self.incoming.received
        self.outgoing.acknowledge(self.incoming.acknowledged)
        turn, self.incoming.turn = self.incoming.turn, None
        if turn is Mark.YIELD:
            self.rest()
        elif turn is Mark.SLEEP:
            self.doze(Mark.FREE)
            self.fall_asleep()
        elif turn is Mark.FREE:
            self.fall_asleep()

    def fall_asleep(self) -> None:
        self.state = step(self.state, Event.LENT)
        called = self.called or self.outgoing.given > self.sent
        self.drowsy = self.called = self.yielded = False
        if called:
            self.stir()

    def carry(self, received: int) -> None:
        self.state = step(self.state, Event.CONNECTED)
        self.incoming.restart()
        for piece in self.outgoing.since(received):
            assert not isinstance(piece, Mark)
            self.wire += header(Mark.DATA, len(piece), self.incoming.delivered) + piece


class Model:
    """Two ends, a connection, and a bell, which is slower or faster than that."""

    def __init__(self) -> None:
        self.ends = (End(0, self), End(1, self))
        self.rung = 0
        """Not heard yet."""
        self.asked = False
        """The initiator wants a connection."""

    def stirred(self, index: int) -> None:
        if index:
            self.rung += 1
        else:
            self.asked = True

    def move(self, index: int, size: int) -> None:
        wire = self.ends[index].wire
        said = bytes(wire[:size])
        del wire[:size]
        if said:
            self.ends[1 - index].take(said)

    def hear(self) -> None:
        if self.rung:
            self.rung -= 1
            self.ends[0].call()

    def connect(self) -> None:
        """The initiator's turn has come. Until then what it had sent to the other has arrived: FREE was behind it."""
        if not self.asked:
            return
        self.asked = False
        near, far = self.ends
        assert not near.wire
        assert not far.wire
        assert far.state in (State.ASLEEP, State.WAKING)
        near_has, far_has = near.incoming.received, far.incoming.received
        assert near.sent == far_has  # it need not wait for the answer
        near.carry(far_has)
        far.carry(near_has)

    def settle(self) -> None:
        for _ in range(12):
            for index in (0, 1):
                self.move(index, len(self.ends[index].wire))
            self.hear()
            self.connect()


steps = st.one_of(
    st.tuples(st.just("give"), st.integers(0, 1), st.integers(1, 60)),
    st.tuples(st.just("rest"), st.integers(0, 1), st.just(0)),
    st.tuples(st.just("move"), st.integers(0, 1), st.integers(1, 120)),
    st.tuples(st.just("hear"), st.just(0), st.just(0)),
    st.tuples(st.just("connect"), st.just(0), st.just(0)),
)


@example([("rest", 0, 0), ("move", 0, 120), ("give", 1, 9), ("hear", 0, 0)])  # rung for before its FREE has come
@given(st.lists(steps, max_size=60))
def test_whenever_it_sleeps_everything_arrives(played: list[tuple[str, int, int]]) -> None:
    model = Model()
    for what, index, size in played:
        match what:
            case "give":
                model.ends[index].give(size)
            case "rest":
                model.ends[index].rest()
            case "move":
                model.move(index, size)
            case "hear":
                model.hear()
            case _:
                model.connect()
        for one, other in (model.ends, model.ends[::-1]):
            assert one.given.startswith(other.got)
    model.settle()
    for one, other in (model.ends, model.ends[::-1]):
        assert other.got == one.given
        assert one.state in (State.CARRYING, State.ASLEEP)
    assert {end.state for end in model.ends} in ({State.CARRYING}, {State.ASLEEP})
