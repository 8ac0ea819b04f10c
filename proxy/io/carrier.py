"""What carries a link's two streams: one connection after the other, from the first to the last acknowledgement."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod

from proxy.core.link import Event, State, step
from proxy.core.stream import Incoming, Mark, Outgoing, header
from proxy.core.wire import Accepted, Refused, WireError, encode
from proxy.io.connection import Connection, why
from proxy.io.context import Context, count
from proxy.io.line import Line

log = logging.getLogger(__name__)


class Carrier(ABC):
    """Never blocks. Its connection, if it has one, is read always.

    What the flow has to do with it is `proxy.io.link`'s; what happens when a connection breaks, or has served its turn,
    differs between the acceptor (`proxy.io.accepted`) and the initiator (`proxy.io.initiated`).
    """

    def __init__(self, context: Context, number: int, via: str) -> None:
        self.context = context
        self.number = number
        self.via = via
        self.state = State.WAITING
        self.outgoing = Outgoing()
        self.incoming = Incoming()
        self._line = Line(context.poller, self._drained, self._broken)
        self._torn = False
        """One of its connections broke."""
        self._said = 0
        """The last acknowledgement that was sent."""
        self._sent = 0
        """What had been given when it last said the last over a connection: the other end has it."""
        self.is_lendable = True
        """Whether its connection may be lent to another while it has nothing to carry."""
        self.group: object = None
        """Those that could have its connection."""
        context.links.add(self)

    # The flow's side

    @abstractmethod
    def _take(self, view: memoryview) -> None:
        """Something has come; `view` is good for the time of the call only."""

    @abstractmethod
    def _go_on(self) -> None:
        """There may be room again for what the flow has to give."""

    @property
    @abstractmethod
    def _is_needed(self) -> bool:
        """By a flow that has not seen both streams end."""

    @abstractmethod
    def _fail(self, reason: str) -> None:
        """The flow is to hear that its link is lost."""

    # Its connections

    def carry(self, connection: Connection, received: int, rest: bytes = b"", *, reads: bool = True) -> None:
        """Go on over this connection: the other end has received so much of ours. `rest` has come already.

        Raises WireError(OFFSET) when that cannot be; nothing has changed then.
        """
        missing = list(self.outgoing.since(received))
        line = self._line
        line.drop()
        self._torn |= self.state in (State.CARRYING, State.BROKEN, State.CLOSING)
        self.state = step(self.state, Event.CONNECTED)
        line.connection = connection
        if self.is_lendable:
            self.context.lending.add(self)
        self.incoming.restart()
        self._said = self.incoming.delivered
        if missing or self._said:
            line.queue(memoryview(header(Mark.ACK, 0, self._said)))
        for piece in missing:
            if isinstance(piece, Mark):
                self._say(piece)
            else:
                line.queue(memoryview(header(Mark.DATA, len(piece), self._said)))
                line.queue(piece)
        if line.pending:
            line.flush()
        if reads:
            self.read(rest)

    def read(self, rest: bytes) -> None:
        """What comes from now on is the link's stream; `rest` are its first bytes."""
        if self._line.connection is None:
            return
        if rest:
            self._take(memoryview(rest))
        self._line.read(self._readable)
        self._go_on()

    @property
    def is_mute(self) -> bool:
        """The answer to the frame that named it has not been said."""
        return self._line.mute

    def be_mute(self) -> None:
        self._line.mute = True

    def unmute(self) -> None:
        self._line.answer(encode(Accepted(self.incoming.received)))

    def refuse(self, code: str, text: str) -> None:
        """The flow cannot be had here."""
        self._line.answer(encode(Refused(code, text)))
        self.close()

    def _readable(self) -> None:
        connection = self._line.connection
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

    def acknowledge(self) -> None:
        """Say what has been handed on, if that is news: for links that have nothing else to say."""
        if self.incoming.delivered > self._said:
            self._acknowledge()

    def _acknowledge(self) -> None:
        self._say(Mark.ACK)

    def _say(self, mark: Mark) -> None:
        if self._line.connection is None:
            self._stir()
        elif not self._drowsy:
            self._said = self.incoming.delivered
            self._line.say(header(mark, 0, self._said))

    def _drained(self) -> None:
        """All that waited has gone."""
        self._go_on()
        self._check()

    # Its sleep

    def stay(self) -> None:
        """Its connection is never lent."""
        self.is_lendable = False
        self.context.lending.discard(self)

    @property
    def is_asleep(self) -> bool:
        """It has no connection, and is not broken."""
        return self.state in (State.ASLEEP, State.WAKING)

    @property
    def _drowsy(self) -> bool:
        """It has said the last over this connection, which is going to be lent."""
        return self.state is State.CARRYING and self._line.shut

    @property
    def is_idle(self) -> bool:
        """Nothing is on its way, and all of it is acknowledged."""
        return self.outgoing.acknowledged == self.outgoing.given and self.incoming.received == self._said

    @property
    def is_unused(self) -> bool:
        """Nothing has gone over it."""
        return not self.outgoing.given and not self.incoming.received

    @property
    def may_rest(self) -> bool:
        """Whether its connection can be lent now: it is not about to end."""
        ends = self.finished or (self.outgoing.mark is not None and not self.outgoing.over)
        return self.state is State.CARRYING and not (self._drowsy or self._line.mute or ends)

    @abstractmethod
    def rest(self) -> None:
        """See to its being asleep soon. It must be one that `may_rest`."""

    def be_asleep(self) -> None:
        """It needs no connection yet: the other end knows it none the less."""
        self.state = step(self.state, Event.LENT)

    def _doze(self, mark: Mark) -> None:
        """Say the last over this connection. What is given from now on waits for another."""
        self._sent, self._said = self.outgoing.given, self.incoming.delivered
        self._line.say(header(mark, 0, self._said), last=True)

    @abstractmethod
    def _dozes(self) -> None:
        """That is on its way."""

    def _fall_asleep(self) -> None:
        """The connection is another's: whoever calls sees to that, and then has this one `_turn_over`."""
        self._line.leave()
        self.state = step(self.state, Event.LENT)
        self.context.lending.discard(self)
        self.context.totals.links_lent += 1

    def _turn_over(self) -> None:
        """It is asleep: what was given since the last was said over its connection wakes it."""
        if self.outgoing.given > self._sent or self.incoming.delivered > self._said:
            self._stir()
        else:
            self._check()

    def _stir(self) -> None:
        """There is something to carry. If it is broken, it will be."""
        if self.state is State.ASLEEP:
            self.state = step(self.state, Event.STIRRED)
            self._rouse()

    @abstractmethod
    def _rouse(self) -> None:
        """It is asleep, and has something to carry: see to a connection."""

    # Its end

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
        line = self._line
        if self._drowsy:
            if not line.pending:
                self._dozes()
            return
        if not self.finished or self._is_needed:
            return
        if self.state is State.ASLEEP:
            self._over(Event.LOST)
        if self.state is not State.CARRYING or line.connection is None:
            return
        if self.incoming.delivered > self._said:
            self._acknowledge()
            return  # and look again when it is on its way
        if line.pending or (self._clean and self._free()):
            return
        self.state = step(self.state, Event.FINISHED)
        line.end()

    @property
    def _clean(self) -> bool:
        """Both streams ended in order, over connections that did not break: behind that nothing of this link comes."""
        return not self._torn and self.outgoing.mark is Mark.END and self.incoming.mark is Mark.END

    @abstractmethod
    def _free(self) -> bool:
        """It is clean and has nothing more to say: see to its connection's next use, or give False."""

    @abstractmethod
    def _heed(self, turn: Mark) -> None:
        """The other end says FREE, SLEEP or YIELD."""

    def _leave(self) -> Connection | None:
        """Over, and the connection is another's."""
        connection = self._line.leave()
        self._over(Event.FREED)
        return connection

    def _distrust(self, error: WireError) -> None:
        """The other end does not keep to the protocol: neither its bytes nor its offsets can be trusted."""
        count(self.context.totals.links_refused, f"wire_{error.fault.name.lower()}")
        self.lose(f"the other proxy sent {error}")

    def _broken(self, reason: str) -> None:
        self._line.drop()
        self.context.lending.discard(self)
        self.state = step(self.state, Event.BROKE)
        if not self.finished and self._in_use:
            count(self.context.totals.links_broken, "broken")
        self._renew(reason)

    @property
    def _in_use(self) -> bool:
        """Before the commit nobody misses it."""
        return bool(self._is_needed or self.outgoing.given or self.incoming.received)

    @abstractmethod
    def _renew(self, reason: str) -> None:
        """The connection broke: see to another one."""

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
        self._fail(reason)

    def _over(self, event: Event) -> None:
        self.state = step(self.state, event)
        self._line.drop()
        self.context.scratch.give_back(self.outgoing.drop())
        self.context.links.discard(self)
        self.context.lending.discard(self)
        self.context.unsaid.discard(self)

    def close(self) -> None:
        """The process ends: what the connection takes at once still goes, and nothing is waited for."""
        if self.state is not State.OVER:
            self._over(Event.LOST)
