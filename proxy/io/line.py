"""A link's connection, for as long as it has one, and what waits to be sent on it."""

from __future__ import annotations

import socket
from collections.abc import Callable

from proxy.io.connection import Connection, why
from proxy.io.poller import Callback, Poller, of_no_interest


class Line:
    """Never blocks: what the connection does not take at once waits, in order. `drained` is called when all of that has
    gone, `broke` with the reason when the connection fails."""

    __slots__ = ("_broke", "_drained", "_poller", "connection", "mute", "pending", "shut")

    def __init__(self, poller: Poller, drained: Callable[[], None], broke: Callable[[str], None]) -> None:
        self.connection: Connection | None = None
        self.mute = False
        """Nothing may be sent yet: the answer to the frame that named the link comes first."""
        self.shut = False
        """The last frame over this connection has been said: what is to be sent now has to wait for another."""
        self._poller = poller
        self._drained = drained
        self._broke = broke
        self.pending: list[memoryview] = []
        """Frames and rests of frames that the connection has not taken: what is sent now would overtake them."""

    def read(self, readable: Callback) -> None:
        if self.connection is not None:
            self._poller.read(self.connection, readable)

    def send(self, frame: bytes | memoryview) -> int:
        """How much of it went at once; the rest is the caller's to queue."""
        if self.connection is None or self.mute or self.pending or self.shut:
            return 0
        try:
            return self.connection.send(frame)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            self._broke(why(error))
            return 0

    def queue(self, view: memoryview) -> None:
        if self.shut:
            return
        if not self.pending and self.connection is not None and not self.mute:
            self._poller.write(self.connection, self.flush)
        self.pending.append(view)

    def say(self, frame: bytes, *, last: bool = False) -> None:
        """Behind what waits; at once, if nothing does. `last`: and nothing behind it."""
        if self.shut:
            return
        connection = self.connection
        sent = self.send(frame)
        if self.connection is not connection:
            return
        if sent < len(frame):
            self.queue(memoryview(frame)[sent:])
        self.shut = last
        if sent == len(frame):
            self._drained()

    def answer(self, frame: bytes) -> None:
        """It goes first, then what was queued behind it."""
        self.mute = False
        if self.connection is not None:
            self.pending.insert(0, memoryview(frame))
            self._poller.write(self.connection, self.flush)
            self.flush()

    def flush(self) -> None:
        pending, connection = self.pending, self.connection
        if connection is None or self.mute:
            return
        gone = 0
        try:
            for view in pending:
                sent = connection.send(view)
                if sent < len(view):
                    pending[gone] = view[sent:]
                    break
                gone += 1
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            self._broke(why(error))
            return
        del pending[:gone]
        if pending:
            return
        self._poller.write(connection, None)
        self._drained()

    def end(self) -> None:
        """Nothing more is sent on this connection."""
        if self.connection is None:
            return
        self.shut = True
        try:
            self.connection.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._broke(why(error))

    def leave(self) -> Connection | None:
        """It is another's."""
        connection, self.connection = self.connection, None
        self.shut = False
        return connection

    def cut(self) -> None:
        """It was dropped for good: nobody is called back any more."""
        self._drained = self._broke = of_no_interest

    def drop(self) -> None:
        self.pending.clear()
        if (connection := self.leave()) is not None:
            self._poller.forget(connection)
            connection.close()
