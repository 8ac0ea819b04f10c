from __future__ import annotations

import asyncio
import errno
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from proxy.api import Endpoint
from proxy.io.context import Context
from proxy.io.listener import HeldListener
from tests.harness import proxy_parts as parts


class Taker:
    def __init__(self) -> None:
        self.socks: list[socket.socket] = []
        self.ends: list[tuple[Endpoint, Endpoint]] = []

    def take(self, sock: socket.socket, peer: Endpoint, local: Endpoint) -> None:
        self.socks.append(sock)
        self.ends.append((peer, local))

    def close(self) -> None:
        for sock in self.socks:
            sock.close()


def backlog(sock: socket.socket) -> int:
    return int.from_bytes(sock.getsockopt(6, 11, 104)[28:32], "little")


async def test_the_backlog_grows_for_the_hold_and_goes_back(context: Context) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=3) as own:
        held = HeldListener(context, own.dup(), Endpoint(*own.getsockname()), Taker().take)
        assert backlog(own) > 3
        held.release()
        assert backlog(own) == 3
        assert own.getblocking()


async def test_what_waits_is_taken_a_few_at_a_time_and_the_rest_as_it_comes(context: Context) -> None:
    taker = Taker()
    own = socket.create_server(("127.0.0.1", 0), backlog=3)
    address = own.getsockname()
    held = HeldListener(context, own, Endpoint(*address), taker.take)
    peers = [socket.create_connection(address) for _ in range(HeldListener.ACCEPTS_A_CALLBACK + 6)]
    assert held.repoint() == len(peers)
    peers.append(socket.create_connection(address))
    await parts.eventually(lambda: len(taker.socks) == len(peers))
    assert taker.ends[-1] == (Endpoint(*peers[-1].getsockname()), Endpoint(*address))
    held.close()
    taker.close()
    for peer in peers:
        peer.close()


@pytest.mark.parametrize("comes", [True, False])
async def test_who_comes_while_the_workload_comes_home_waits_for_it(context: Context, comes: bool) -> None:
    """In the kernel, which gives the connection to the restored listener; or it is taken after all, if none came."""
    taker = Taker()
    own = socket.create_server(("127.0.0.1", 0))
    held = HeldListener(context, own, Endpoint(*own.getsockname()), taker.take)
    held.repoint()
    held.share(True, 60)
    with socket.create_connection(own.getsockname()):
        await asyncio.sleep(0.02)
        assert not taker.socks
        if comes:
            assert held.hand_over()
            assert own.fileno() < 0
        else:
            held.share(False)
            assert not held.hand_over()
            await parts.eventually(lambda: taker.socks)
            held.close()
    taker.close()


async def test_who_comes_does_not_wait_for_ever(context: Context) -> None:
    taker = Taker()
    own = socket.create_server(("127.0.0.1", 0))
    held = HeldListener(context, own, Endpoint(*own.getsockname()), taker.take)
    held.repoint()
    held.share(True, 0.02)
    with socket.create_connection(own.getsockname()):
        await parts.eventually(lambda: taker.socks)
    held.close()
    taker.close()


async def test_without_descriptors_the_backlog_waits(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HeldListener, "EXHAUSTED_SECONDS", 0.02)
    taker = Taker()
    own = socket.create_server(("127.0.0.1", 0))
    held = HeldListener(context, own, Endpoint(*own.getsockname()), taker.take)
    exhausted = [True]

    class Scarce:
        """The listener, in a process that has no descriptor to spare for a while."""

        def accept(self) -> object:
            if exhausted[0]:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return own.accept()

        def __getattr__(self, name: str) -> object:
            return getattr(own, name)

    held._sock = Scarce()  # type: ignore[assignment]
    assert held.repoint() == 0
    with socket.create_connection(own.getsockname()):
        await parts.eventually(lambda: held._pause is not None)
        assert taker.socks == []
        exhausted[0] = False
        await parts.eventually(lambda: taker.socks)
    exhausted[0] = True
    with socket.create_connection(own.getsockname()):
        await parts.eventually(lambda: held._pause is not None)
        held.close()
    taker.close()


async def test_a_connection_is_taken_only_with_a_descriptor_for_its_link(context: Context) -> None:
    """With a single one to spare it stays in the backlog: whoever takes it can open one more."""
    taker = Taker()
    own = socket.create_server(("127.0.0.1", 0))
    held = HeldListener(context, own, Endpoint(*own.getsockname()), taker.take)
    with socket.create_connection(own.getsockname()), spare_descriptors(1):
        assert held.repoint() == 1
        assert held._accept_some() == 0
    with socket.create_connection(own.getsockname()):
        await parts.eventually(lambda: len(taker.socks) == 2)
    held.close()
    taker.close()


@contextmanager
def spare_descriptors(count: int) -> Iterator[None]:
    """In a process that may open so many more, and no others."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = [os.dup(0) for _ in range(count)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(free) + 1, hard))
    filling: list[int] = []
    with suppress(OSError):
        while True:
            filling.append(os.dup(0))
    for number in free:
        os.close(number)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for number in filling:
            os.close(number)
