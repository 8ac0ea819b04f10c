"""A link: carries one flow between two proxies, over one connection after the other (`proxy.core.stream`).

`InitiatedLink` dials, and dials again when a connection breaks; `AcceptedLink` waits for that. A link outlives its flow
until all that was given to it, END or RESET included, is acknowledged.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Callable
from typing import Protocol

from proxy.core.link import Event, State, step
from proxy.core.stream import ACK_BYTES, HEADER, HEADER_BYTES, Incoming, Mark, Outgoing, header
from proxy.core.wire import Accepted, Fault, Refused, WireError, encode
from proxy.io.connection import Connection, why
from proxy.io.context import Context, count
from proxy.io.relay import Giver, Taker

log = logging.getLogger(__name__)

_DATA = int(Mark.DATA) << 24
RESET_SECONDS = 1.0
"""How long a reset waits for a leg to take the bytes that came before it, as its sender had sent them."""


class LinkUser(Protocol):
    """Who a link works for: a flow's path."""

    def link_ended(self, link: Link) -> None:
        """The other end's stream has ended, and everything before that was handed on."""

    def link_failed(self, link: Link, why: str) -> None:
        """The flow was reset at the other end (`why` is empty then), or the link is lost."""


class Link:
    """Never blocks. Its connection, if it has one, is read always."""

    def __init__(self, context: Context, number: int, via: str) -> None:
        self.context = context
        self.number = number
        self.via = via
        self.state = State.WAITING
        self.outgoing = Outgoing()
        self.incoming = Incoming()
        self.taker = Taker(context.poller, self._handed)
        self._carried = 0
        """So many connections it has had."""
        self.mute = False
        """Nothing may be sent yet: the answer to the frame that named the link comes first."""
        self._connection: Connection | None = None
        self._pending: deque[memoryview] = deque()
        """Frames and rests of frames that the connection has not taken."""
        self._user: LinkUser | None = None
        self._giver: Giver | None = None
        self._taken = False
        """Its turn has come: before that an end is no news, if it follows another link."""
        self._told = False
        self._failure: str | None = None
        self._said = 0
        """The last acknowledgement that was sent."""
        context.links.add(self)

    # Its flow

    def attach(self, user: LinkUser) -> None:
        """From now on `user` hears what happens; what has happened already, soon."""
        self._user = user
        if self._failure is not None:
            self.context.loop.call_soon(self._tell_failure)

    def detach(self) -> None:
        """The flow needs it no more; it sees its own end through."""
        self._user = None
        self._giver = None
        self.taker.stop()
        self._check()

    def give_from(self, giver: Giver) -> None:
        self._giver = giver
        giver.start()

    def take_to(self, leg: socket.socket, failed: Callable[[], None]) -> None:
        self._taken = True
        self.taker.start(leg, failed)
        if self.incoming.mark:
            self._check_end()

    @property
    def room(self) -> int:
        return 0 if self._pending else self.outgoing.room

    def give(self, size: int) -> bool:
        """The first `size` bytes of the scratch buffer's body. Whether there is room for more."""
        scratch, outgoing = self.context.scratch, self.outgoing
        self._said = acknowledged = self.incoming.delivered
        HEADER.pack_into(scratch.view, 0, _DATA | size, acknowledged)
        length = HEADER_BYTES + size
        connection, sent = self._connection, 0
        if connection is not None and not self.mute and not self._pending:
            try:
                sent = connection.send(scratch.view[:length])
            except (BlockingIOError, InterruptedError):
                pass
            except OSError as error:
                self._broken(why(error))
        frame = scratch.keep(length)
        outgoing.keep(frame, size)
        if sent < length and self._connection is not None:
            self._queue(memoryview(frame)[sent:length])
        return not self._pending and outgoing.room > 0

    def end(self) -> None:
        """The flow's stream has ended here."""
        if not self.outgoing.mark:
            self._close(Mark.END)

    def reset(self) -> None:
        """The flow was reset here; the other end hears of it behind the last byte that was given."""
        self._close(Mark.RESET)
        self.detach()

    def conclude(self) -> None:
        """The flow is over: in order if both streams have ended, else it is reset."""
        if self.outgoing.mark is Mark.END and self.incoming.mark is Mark.END and self.incoming.handed_on:
            self.detach()
        else:
            self.reset()

    def _close(self, mark: Mark) -> None:
        before = self.outgoing.given
        self.outgoing.close(mark)
        if self.outgoing.given > before and self.state is not State.OVER:
            self._say(mark)

    # Its connections

    def carry(self, connection: Connection, received: int, rest: bytes = b"", *, reads: bool = True) -> None:
        """Go on over this connection: the other end has received so much of ours. `rest` has come already.

        Raises WireError(OFFSET) when that cannot be; nothing has changed then.
        """
        missing = list(self.outgoing.since(received))
        self._drop_connection()
        self.state = step(self.state, Event.CONNECTED)
        self._connection = connection
        self._carried += 1
        self.incoming.restart()
        self._said = self.incoming.delivered
        if missing or self._said:
            self._queue(memoryview(header(Mark.ACK, 0, self._said)))
        for piece in missing:
            if isinstance(piece, Mark):
                self._say(piece)
            else:
                self._queue(memoryview(header(Mark.DATA, len(piece), self._said)))
                self._queue(piece)
        if self._pending:
            self._flush()
        if reads:
            self.read(rest)

    def read(self, rest: bytes) -> None:
        """What comes from now on is the link's stream; `rest` are its first bytes."""
        if self._connection is None:
            return
        if rest:
            self._take(memoryview(rest))
        if self._connection is not None:
            self.context.poller.read(self._connection, self._readable)
        if self._giver:
            self._giver.go_on()

    def unmute(self) -> None:
        """The answer goes first, then what was queued behind it."""
        self._answer(Accepted(self.incoming.received))

    def refuse(self, code: str, text: str) -> None:
        """The flow cannot be had here."""
        self._answer(Refused(code, text))
        self.close()

    def _answer(self, frame: Accepted | Refused) -> None:
        self.mute = False
        if self._connection is not None:
            self._pending.appendleft(memoryview(encode(frame)))
            self.context.poller.write(self._connection, self._flush)
            self._flush()

    def _readable(self) -> None:
        connection = self._connection
        assert connection is not None
        view = self.context.scratch.view
        try:
            size = connection.recv_into(view)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._broken(why(error))
            return
        if size:
            self._take(view[:size])
        elif self.state is State.CLOSING:
            self._over(Event.CLOSED)
        else:
            self._broken("the other proxy closed the connection")

    def _take(self, view: memoryview) -> None:
        incoming = self.incoming
        try:
            pieces = incoming.take(view)
            if incoming.acknowledged > self.outgoing.acknowledged:
                self.context.scratch.give_back(self.outgoing.acknowledge(incoming.acknowledged))
                if self._giver:
                    self._giver.go_on()
        except WireError as error:
            self._distrust(error)
            return
        if pieces:
            self.taker.take(pieces)
        if incoming.mark:
            self._check_end()
        if self.outgoing.mark:
            self._check()
        if incoming.free:
            self._be_freed()

    def _handed(self, size: int) -> None:
        """So much more was handed on to the leg, or dropped with it."""
        incoming = self.incoming
        incoming.delivered += size
        if incoming.delivered - self._said >= ACK_BYTES:
            self._acknowledge()
        else:
            self.context.unsaid.add(self)
        if incoming.mark:
            self._check_end()

    def acknowledge(self) -> None:
        """Say what has been handed on, if that is news: for links that have nothing else to say."""
        if self._connection is not None and self.incoming.delivered > self._said:
            self._acknowledge()

    def _acknowledge(self) -> None:
        self._say(Mark.ACK)

    # What goes out

    def _say(self, mark: Mark) -> None:
        if self._connection is None:
            return
        self._said = self.incoming.delivered
        self._queue(memoryview(header(mark, 0, self._said)))
        if len(self._pending) == 1:
            self._flush()

    def _queue(self, view: memoryview) -> None:
        if not self._pending and self._connection is not None and not self.mute:
            self.context.poller.write(self._connection, self._flush)
        self._pending.append(view)

    def _flush(self) -> None:
        pending, connection = self._pending, self._connection
        if connection is None or self.mute:
            return
        try:
            while pending:
                view = pending[0]
                sent = connection.send(view)
                if sent < len(view):
                    pending[0] = view[sent:]
                    return
                pending.popleft()
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._broken(why(error))
            return
        self.context.poller.write(connection, None)
        if self._giver:
            self._giver.go_on()
        self._check()

    # Its end

    def _check_end(self) -> None:
        """END or RESET has come: tell, once everything before it was handed on."""
        if not self.incoming.handed_on:
            if self.incoming.mark is Mark.RESET and self._failure is None:
                self._failure = ""
                self.context.loop.call_later(RESET_SECONDS, self._tell_failure)
            return
        if self.incoming.mark is Mark.RESET:
            self.incoming.delivered = self.incoming.received
            if self.incoming.ended and self._taken and not self._told and self._user and not self.outgoing.mark:
                self._told = True
                self._user.link_ended(
                    self
                )  # in one go with the reset: a workload is to see both, for it sees EPIPE then
            self._failure = ""
            self._tell_failure()
        elif self._taken and not self._told and self._user:
            self._told = True
            self.incoming.delivered = self.incoming.received
            self._acknowledge()
            self._user.link_ended(self)
        elif self.taker.discarding:
            self.incoming.delivered = self.incoming.received
        self._check()

    def _tell_failure(self) -> None:
        user, self._user = self._user, None
        if user and self._failure is not None:
            self.taker.stop()
            user.link_failed(self, self._failure)

    @property
    def is_over(self) -> bool:
        return self.state is State.OVER

    @property
    def finished(self) -> bool:
        """Nothing has to be sent or received any more, except the last acknowledgement."""
        if self.incoming.mark is Mark.RESET:
            return True
        ended = self.outgoing.mark is Mark.RESET or (self.incoming.mark is Mark.END and self.incoming.handed_on)
        return ended and self.outgoing.over

    def _check(self) -> None:
        if self.state is not State.CARRYING or self._connection is None or not self.finished or self._user:
            return
        if self.incoming.delivered > self._said:
            self._acknowledge()
            return  # and look again when it is on its way
        if self._connection is None or self._pending:
            return
        if self._clean and self._free():
            return
        self.state = step(self.state, Event.FINISHED)
        try:
            self._connection.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._broken(why(error))

    @property
    def _clean(self) -> bool:
        """Both streams ended in order over one connection: behind their last bytes nothing of this link can come."""
        return self._carried == 1 and self.outgoing.mark is Mark.END and self.incoming.mark is Mark.END

    def _free(self) -> bool:
        """It is clean and has nothing more to say: see to its connection's next use, or give False."""
        raise NotImplementedError

    def _be_freed(self) -> None:
        """The other end says FREE."""
        raise NotImplementedError

    def _leave(self) -> Connection | None:
        """Over, and the connection is another's."""
        connection, self._connection = self._connection, None
        self._over(Event.FREED)
        return connection

    def _distrust(self, error: WireError) -> None:
        """The other end does not keep to the protocol: neither its bytes nor its offsets can be trusted."""
        count(self.context.totals.links_refused, f"wire_{error.fault.name.lower()}")
        self.lose(f"the other proxy sent {error}")

    def _broken(self, reason: str) -> None:
        self._drop_connection()
        self.state = step(self.state, Event.BROKE)
        if not self.finished and self._in_use:
            count(self.context.totals.links_broken, "broken")
        self._renew(reason)

    @property
    def _in_use(self) -> bool:
        """Before the commit nobody misses it."""
        return bool(self._user or self.outgoing.given or self.incoming.received)

    def _renew(self, reason: str) -> None:
        raise NotImplementedError

    def lose(self, reason: str) -> None:
        """It will have no further connection. What was not acknowledged is lost, and the flow with it."""
        if self.state is State.OVER:
            return
        quiet = self.finished or not self._in_use
        self._over(Event.LOST)
        if quiet:
            return
        count(self.context.totals.links_broken, "lost")
        log.warning("link to %s lost: %s", self.via, reason)
        self._failure = reason
        self._tell_failure()

    def _over(self, event: Event) -> None:
        self.state = step(self.state, event)
        self._drop_connection()
        self.context.scratch.give_back(self.outgoing.drop())
        self.context.links.discard(self)
        self.context.unsaid.discard(self)

    def close(self) -> None:
        """The process ends: what the connection takes at once still goes, and nothing is waited for."""
        if self.state is not State.OVER:
            self._over(Event.LOST)

    def _drop_connection(self) -> None:
        self._pending.clear()
        connection, self._connection = self._connection, None
        if connection is not None:
            self.context.poller.forget(connection)
            connection.close()


class AcceptedLink(Link):
    """The acceptor's end. `forget` is called when it is over, `come_back` if its connection may carry another one."""

    GRACE_SECONDS = 5.0
    """It may notice the break earlier than the initiator (proxy.io.connection), and must not give up before it."""

    def __init__(
        self,
        context: Context,
        number: int,
        via: str,
        patience: float,
        forget: Callable[[Link], None],
        come_back: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(context, number, via)
        self._come_back = come_back
        self._freeing = False
        self._patience = patience
        self._forget = forget
        self._timer: asyncio.TimerHandle | None = None
        self.inquire: Callable[[AcceptedLink], None] | None = None
        """It broke: see whether the initiator's proxy is still there."""

    @property
    def is_broken(self) -> bool:
        return self.state is State.BROKEN

    def carry(self, connection: Connection, received: int, rest: bytes = b"", *, reads: bool = True) -> None:
        super().carry(connection, received, rest, reads=reads)
        self._stop_waiting()

    def _free(self) -> bool:
        """Says FREE; once that is on its way the connection is the acceptor's again."""
        if self._come_back is None:
            return False
        if not self._freeing:
            self._freeing = True
            self._say(Mark.FREE)  # and is back here when it has gone
        elif self._leave():
            self._come_back()
        return True

    def _be_freed(self) -> None:
        self._distrust(WireError(Fault.ORDER))

    def _renew(self, reason: str) -> None:
        self._stop_waiting()
        patience = self._patience + self.GRACE_SECONDS
        self._timer = self.context.loop.call_later(patience, self.lose, f"{reason}, and it was not made again")
        if self.inquire:
            self.inquire(self)

    def _stop_waiting(self) -> None:
        if self._timer and self.state is not State.BROKEN:
            self._timer.cancel()
            self._timer = None

    def _over(self, event: Event) -> None:
        super()._over(event)
        self._stop_waiting()
        self._forget(self)
