"""A UDP client that asks without end and hears only whom it asks, and a puppet's socket that answers."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Self

from controller.lab.namespaces import in_network
from controller.lab.pod import Pod
from tests.harness.journeys import Puppet
from tests.harness.moving import until

PAUSE_SECONDS = 0.004
ROOM_BYTES = 4 << 20
"""Of the sockets: for five thousand small datagrams, those of twenty seconds. By default it is for those of one, and on
a busy machine a freeze may last that long."""
SO_RCVBUFFORCE = 33  # asm-generic/socket.h; not in Python's socket module


def answer(told: Puppet, port: int, host: str = "::") -> None:
    """The puppet gives back whatever comes to that port."""
    told.do(f"asked = socket.socket(socket.{'AF_INET6' if ':' in host else 'AF_INET'}, socket.SOCK_DGRAM)")
    told.do(f"asked.setsockopt(socket.SOL_SOCKET, {SO_RCVBUFFORCE}, {ROOM_BYTES})")
    told.do(f"asked.bind(({host!r}, {port}))")
    told.do("def answer(sock):\n  while True: sock.sendto(*sock.recvfrom(100))")
    told.do("threading.Thread(target=answer, args=(asked,), daemon=True).start()")


class Asking:
    """Numbers, one after the other, to one address; the kernel drops what comes from another, for it is connected.

    Begins and ends as a context.
    """

    def __init__(self, pod: Pod, host: str, port: int) -> None:
        self.asked = 0
        self._answered: set[int] = set()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._sock = in_network(pod, lambda: socket.socket(family, socket.SOCK_DGRAM))
        self._sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, ROOM_BYTES)
        self._sock.connect((host, port))
        self._sock.settimeout(0.05)
        self._asks, self._hears = (threading.Thread(target=run, name=run.__name__) for run in (self._ask, self._hear))
        self._asked_all, self._heard_all = threading.Event(), threading.Event()

    def __enter__(self) -> Self:
        self._asks.start()
        self._hears.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ask_no_more()
        self._heard_all.set()
        self._hears.join()
        self._sock.close()

    def _ask(self) -> None:
        while not self._asked_all.wait(PAUSE_SECONDS):
            with suppress(ConnectionRefusedError):  # what was said to an earlier one
                self._sock.send(str(self.asked).encode())
                self.asked += 1

    def _hear(self) -> None:
        while not self._heard_all.is_set():
            with suppress(TimeoutError, ConnectionRefusedError):
                self._answered.add(int(self._sock.recv(100)))

    def _ask_no_more(self) -> None:
        self._asked_all.set()
        self._asks.join()

    async def goes_on(self, count: int = 20) -> None:
        """Until so many of what it asks from now on are answered."""
        first = self.asked
        await until(lambda: len(self._answered - set(range(first))) >= count, f"nothing is answered since {first}")

    async def missing(self) -> list[int]:
        """Asks no more; gives what was not answered, once nothing more has been for a second."""
        self._ask_no_more()
        heard = -1
        while heard < len(self._answered) < self.asked:
            heard = len(self._answered)
            with suppress(AssertionError):
                await until(lambda: len(self._answered) == self.asked, "", 1)
        return sorted(set(range(self.asked)) - self._answered)
