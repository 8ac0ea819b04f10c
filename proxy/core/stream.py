"""A link's two streams as offsets, without I/O: what may be given, what must be kept, where a broken link goes on.

Behind the frames that named the link (`proxy.core.wire`) each end sends, for as long as the flow lasts:

    header    u32 kind << 24 | length     u64 acknowledged                         (big-endian)
    DATA      then `length` bytes of the flow's
    ACK       nothing else
    END       the flow's stream has ended (its FIN); takes one offset, as TCP's does
    RESET     the flow was reset, by whoever had it at that end; takes one offset too
    FREE      acceptor: nothing more of this link comes over this connection, and both ends know: frames may follow,
              for another link. Both streams have ended, or SLEEP had come
    SLEEP     initiator: nothing more of this link comes over this connection, whatever it is given from now on
    YIELD     acceptor: it wants the connection's descriptor; SLEEP answers it, unless the link ends anyway

`acknowledged` is the offset up to which the sender of the frame has handed the other's stream on, to the flow's leg.
What is given and not acknowledged is kept (`Outgoing`), at most `WINDOW_BYTES`, and the taker takes that much whether
or not its leg does: so an end reads its connection always, a stream that is stuck holds up neither the other one nor
its acknowledgements, and a connection whose kernel acknowledges nothing is a broken one. Then each end says how much
it has received, and the other goes on from there: END and RESET too, until they are acknowledged. A link that sleeps
goes on in the same way.
"""

from __future__ import annotations

import struct
from enum import IntEnum

from proxy.core.wire import Fault, WireError

HEADER = struct.Struct("!IQ")
HEADER_BYTES = HEADER.size
WINDOW_BYTES = 1 << 20
"""What a direction of a stuck flow may keep at each end. With a round trip of 1 ms it carries 8 Gbit/s."""
ACK_BYTES = WINDOW_BYTES // 4
"""An acknowledgement of its own is sent after so many; else it travels with what goes the other way."""
MAX_DATA_BYTES = WINDOW_BYTES // 4
_LENGTH = (1 << 24) - 1


class Mark(IntEnum):
    DATA = 1
    ACK = 2
    END = 3
    RESET = 4
    FREE = 5
    SLEEP = 6
    YIELD = 7


_DATA = Mark.DATA << 24
_LAST = (Mark.FREE, Mark.SLEEP)
"""Behind these nothing of the link's comes over the connection."""


def header(mark: Mark, length: int, acknowledged: int) -> bytes:
    return HEADER.pack(mark << 24 | length, acknowledged)


class Outgoing:
    """What was given to a link: kept until it is acknowledged."""

    __slots__ = ("_kept", "acknowledged", "given", "mark", "payload", "room")

    def __init__(self) -> None:
        self.given = 0
        """Offset: the flow's bytes, and one each for END and RESET."""
        self.payload = 0
        """The flow's bytes alone."""
        self.acknowledged = 0
        self.mark: Mark | None = None
        """END or RESET, the last that was given."""
        self.room = WINDOW_BYTES
        """So many bytes may be given: none after a mark, else what the window has left. Kept, not worked out: each read
        of a leg asks for it twice."""
        self._kept: list[tuple[int, bytes | memoryview | Mark, int]] = []
        """(offset behind it, frame, its payload), oldest first. No deque: that takes 600 bytes when it is empty."""

    @property
    def over(self) -> bool:
        """Nothing more will be given, and all of it has arrived."""
        return self.mark is not None and self.acknowledged == self.given

    @property
    def unacknowledged(self) -> int:
        """Of the flow's bytes."""
        return max(0, self.payload - self.acknowledged)

    def keep(self, frame: bytes | memoryview, size: int) -> None:
        """`frame` is a header's room and then `size` bytes; it is ours until `acknowledge` gives it back."""
        self.given += size
        self.payload += size
        self.room -= size
        self._kept.append((self.given, frame, size))

    def close(self, mark: Mark) -> None:
        """END, or RESET: after RESET nothing can be given, after END a RESET."""
        if self.mark in (mark, Mark.RESET):
            return
        self.mark = mark
        self.room = 0
        self.given += 1
        self._kept.append((self.given, mark, 1))

    def acknowledge(self, offset: int) -> list[memoryview]:
        """Buffers that need not be kept any longer. Raises WireError(OFFSET) for what was never given."""
        if offset > self.given:
            raise WireError(Fault.OFFSET)
        freed: list[memoryview] = []
        if offset <= self.acknowledged:
            return freed
        if self.mark is None:
            self.room += offset - self.acknowledged
        self.acknowledged = offset
        count = 0
        for end, frame, _ in self._kept:
            if end > offset:
                break
            count += 1
            if isinstance(frame, memoryview):
                freed.append(frame)
        del self._kept[:count]
        return freed

    def since(self, received: int) -> list[memoryview | Mark]:
        """What the other end has not received, in order: pieces of the flow's bytes, END, RESET.

        Raises WireError(OFFSET) when it says that it has less than it had acknowledged, or more than there was.
        """
        if not self.acknowledged <= received <= self.given:
            raise WireError(Fault.OFFSET)
        missing: list[memoryview | Mark] = []
        for end, frame, size in self._kept:
            if end <= received:
                continue
            if isinstance(frame, Mark):
                missing.append(frame)
            else:
                skipped = max(0, received - (end - size))
                missing.append(memoryview(frame)[HEADER_BYTES + skipped : HEADER_BYTES + size])
        return missing

    def drop(self) -> list[memoryview]:
        """Keep nothing any longer: there is nobody to send it to. Gives the buffers, as `acknowledge` does."""
        freed = [frame for _, frame, _ in self._kept if isinstance(frame, memoryview)]
        self._kept.clear()
        return freed


class Incoming:
    """What comes from a link: cut into headers and bytes, counted."""

    __slots__ = ("_head", "_left", "acknowledged", "delivered", "ended", "mark", "payload", "received", "turn")

    def __init__(self) -> None:
        self.received = 0
        """Offset up to which everything has been taken from the link's connections."""
        self.payload = 0
        """The flow's bytes alone."""
        self.delivered = 0
        """Offset up to which everything has been handed on; the taker counts it."""
        self.acknowledged = 0
        """What the other end has acknowledged of ours."""
        self.mark: Mark | None = None
        """END or RESET, the last that came."""
        self.ended = False
        """END has come."""
        self.turn: Mark | None = None
        """FREE, SLEEP or YIELD, the last that came over this connection. After FREE and SLEEP nothing may."""
        self._left = 0
        self._head = bytearray()

    @property
    def handed_on(self) -> bool:
        """All of the flow's bytes that have come."""
        return self.delivered >= self.payload

    def restart(self) -> None:
        """Another connection: what the last one was about to say is said again."""
        self._left = 0
        self._head.clear()
        self.turn = None

    def take(self, view: memoryview) -> list[memoryview]:
        """The flow's bytes in what came, as pieces of it. Raises WireError; then this end is of no more use."""
        if piece := self._take_one_frame(view):
            return [piece]
        pieces: list[memoryview] = []
        at, size = 0, len(view)
        while at < size:
            if self._left:
                end = min(size, at + self._left)
                pieces.append(view[at:end])
                self._left -= end - at
                self.received += end - at
                self.payload += end - at
                at = end
            elif not self._head and size - at >= HEADER_BYTES:
                word, acknowledged = HEADER.unpack_from(view, at)
                self._begin(word, acknowledged)
                at += HEADER_BYTES
            else:
                if self.turn in _LAST:
                    raise WireError(Fault.ORDER)
                end = min(size, at + HEADER_BYTES - len(self._head))
                self._head += view[at:end]
                at = end
                if len(self._head) == HEADER_BYTES:
                    word, acknowledged = HEADER.unpack(self._head)
                    self._head.clear()
                    self._begin(word, acknowledged)
        return pieces

    def _take_one_frame(self, view: memoryview) -> memoryview | None:
        """The bytes, if what came is one DATA and nothing else: so it is for whoever asks and is answered."""
        length = len(view) - HEADER_BYTES
        if self._left or self._head or self.mark or not 0 < length <= MAX_DATA_BYTES:
            return None
        word, acknowledged = HEADER.unpack_from(view)
        if word != _DATA | length or self.received + length - self.delivered > WINDOW_BYTES:
            return None
        if acknowledged > self.acknowledged:
            self.acknowledged = acknowledged
        self.received += length
        self.payload += length
        return view[HEADER_BYTES:]

    def _begin(self, word: int, acknowledged: int) -> None:
        kind, length = word >> 24, word & _LENGTH
        if self.turn in _LAST:
            raise WireError(Fault.ORDER)
        if acknowledged > self.acknowledged:
            self.acknowledged = acknowledged
        if kind == Mark.DATA:
            self._begin_data(length)
        elif length or kind > Mark.YIELD or not kind:
            raise WireError(Fault.LENGTH if length else Fault.KIND)
        elif kind >= Mark.FREE:
            self.turn = Mark(kind)
        elif kind != Mark.ACK:
            if self.mark is Mark.RESET or self.mark is Mark(kind):
                raise WireError(Fault.ORDER)
            self.mark = Mark(kind)
            self.ended |= self.mark is Mark.END
            self.received += 1

    def _begin_data(self, length: int) -> None:
        if self.mark:
            raise WireError(Fault.ORDER)
        if not 0 < length <= MAX_DATA_BYTES:
            raise WireError(Fault.LENGTH)
        if self.received + length - self.delivered > WINDOW_BYTES:
            raise WireError(Fault.FLOOD)
        self._left = length
