"""Who may be read or written, and who has hung up: one epoll set for all of the proxy's sockets.

It hangs in the event loop by its own descriptor, beside and not instead of it. The loop's own `add_reader` would not
do: libuv stops watching a socket on its first POLLERR, with bytes still to be read before the error, and does not say
that a socket which nobody reads at the moment was reset.
"""

from __future__ import annotations

import asyncio
import logging
import select
from collections.abc import Callable
from typing import Protocol

from proxy.sys import error_queue

log = logging.getLogger(__name__)

MAX_EVENTS = 64
"""Handled at one go; then the loop has its turn, and the control API with it. The kernel keeps the others in order."""

_IN, _OUT = select.EPOLLIN, select.EPOLLOUT
_GONE = select.EPOLLERR | select.EPOLLHUP
_READ, _WRITE = _IN | _GONE, _OUT | _GONE

Callback = Callable[[], object]


def of_no_interest(*_: object) -> None:
    """In the place of a callback whose owner is over."""


class Pollable(Protocol):
    """A socket, or what stands for one."""

    def fileno(self) -> int: ...


class _Watched:
    __slots__ = ("batch", "descriptor", "hangup", "mask", "reader", "sock", "writer")

    def __init__(self, sock: Pollable, batch: int) -> None:
        self.sock = sock
        self.descriptor = sock.fileno()
        self.batch = batch
        self.mask = -1
        """What epoll was told; -1: nothing."""
        self.reader: Callback | None = None
        self.writer: Callback | None = None
        self.hangup: Callback | None = None


class Poller:
    """Level-triggered. A socket must be forgotten before it is closed."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._epoll = select.epoll()
        self._watched: dict[int, _Watched] = {}
        self._batch = 0
        loop.add_reader(self._epoll.fileno(), self._dispatch)

    def close(self) -> None:
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
        self._watched.clear()

    def read(self, sock: Pollable, callback: Callback | None) -> None:
        """Call back whenever there is something to read, an end or an error; None: no more."""
        watched = self._get(sock)
        watched.reader = callback
        self._update(watched)

    def write(self, sock: Pollable, callback: Callback | None) -> None:
        """Call back whenever there is room to write, or an error; None: no more."""
        watched = self._get(sock)
        watched.writer = callback
        self._update(watched)

    def hangup(self, sock: Pollable, callback: Callback) -> None:
        """Call back once if the connection is gone while the socket is neither read nor written."""
        watched = self._get(sock)
        watched.hangup = callback
        self._update(watched)

    def forget(self, sock: Pollable) -> None:
        watched = self._watched.pop(sock.fileno(), None)
        if watched and watched.mask >= 0:
            self._epoll.unregister(watched.descriptor)

    def _get(self, sock: Pollable) -> _Watched:
        descriptor = sock.fileno()
        watched = self._watched.get(descriptor)
        if watched is None:
            watched = self._watched[descriptor] = _Watched(sock, self._batch)
        return watched

    def _update(self, watched: _Watched) -> None:
        mask = (_IN if watched.reader else 0) | (_OUT if watched.writer else 0)
        if mask == watched.mask:
            return
        if watched.mask < 0:
            self._epoll.register(watched.descriptor, mask)
        else:
            self._epoll.modify(watched.descriptor, mask)
        watched.mask = mask

    def _dispatch(self) -> None:
        """More has come meanwhile, often, and the way through the loop and back costs more than another look."""
        left = MAX_EVENTS
        while left:
            ready = self._epoll.poll(0, left)
            self._handle(ready)
            left -= len(ready)
            if len(ready) < 2:  # little is going on: the look would be in vain
                return

    def _handle(self, ready: list[tuple[int, int]]) -> None:
        self._batch += 1
        for descriptor, events in ready:
            watched = self._watched.get(descriptor)
            if watched is None or watched.batch == self._batch:
                continue  # forgotten, or another socket with the same number, since this batch was fetched
            try:
                if events == _IN and watched.reader:  # as almost always
                    watched.reader()
                else:
                    self._tell(watched, events)
            except Exception:
                log.exception("a socket's callback failed")

    def _tell(self, watched: _Watched, events: int) -> None:
        if events & select.EPOLLERR and error_queue.emptied(watched.sock):
            return  # what else there is comes again
        if events & _READ and watched.reader:
            watched.reader()
        if events & _WRITE and watched.writer:
            watched.writer()
        if events & _GONE and watched.mask == 0:
            self._park(watched)

    def _park(self, watched: _Watched) -> None:
        """Gone, and nobody is reading or writing: say so once, and look again when somebody wants to."""
        if self._watched.get(watched.descriptor) is not watched:
            return
        self._epoll.unregister(watched.descriptor)
        watched.mask = -1
        if watched.hangup:
            watched.hangup()
