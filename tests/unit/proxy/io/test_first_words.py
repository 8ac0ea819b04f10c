from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterator

import pytest

from proxy.api import Endpoint
from proxy.core.datagram import Datagram
from proxy.core.errors import Code, ProxyError
from proxy.io.context import Context
from proxy.io.first_words import FirstWords
from proxy.sys import datagrams
from proxy.sys.routing import Routing
from tests.harness import proxy_parts as parts

pytestmark = parts.NEEDS_ROOT


@pytest.fixture
def routing() -> Routing:
    made = parts.quiet_routing()
    made.set_up()
    return made


@pytest.fixture
async def words(context: Context, routing: Routing) -> FirstWords:
    return FirstWords(context.kernel, context.poller, routing)


@pytest.fixture
def say() -> Iterator[Callable[..., None]]:
    """A word to a catcher, as if the nft table had sent it there, from a port at one of lo's addresses."""
    socks: dict[tuple[str, int], socket.socket] = {}

    def one(text: bytes, port: int, host: str = "127.0.0.1") -> None:
        if (host, port) not in socks:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            socks[host, port] = socket.socket(family, socket.SOCK_DGRAM)
            socks[host, port].bind((host, port))
        socks[host, port].sendto(text, ("::1" if ":" in host else "127.0.0.1", datagrams.CATCHER_PORT))

    yield one
    for sock in socks.values():
        sock.close()


async def test_a_word_is_heard_with_both_its_ends_and_by_nobody_when_it_is_forgotten(
    words: FirstWords, say: Callable[..., None]
) -> None:
    heard = list[Datagram]()
    app = Endpoint("127.0.0.1", 7000)
    words.listen(app, heard.append)
    say(b"from another port", 7001)
    say(b"word", 7000)
    await parts.eventually(
        lambda: heard == [Datagram(Endpoint("127.0.0.1", datagrams.CATCHER_PORT), app.host, b"word")]
    )
    say(b"last", 7000)
    words.forget(app, heard.append)
    assert [one.payload for one in heard] == [b"word", b"last"]
    words.forget(app, heard.append)
    assert not words._catchers


async def test_of_sockets_at_one_port_each_has_its_own_words(words: FirstWords, say: Callable[..., None]) -> None:
    """As a name server has them: one for each address, one for each family, or one for both."""
    heard: dict[str, list[bytes]] = {host: [] for host in ("::", "0.0.0.0", "127.0.0.2")}
    ways = {host: (lambda one, host=host: heard[host].append(one.payload)) for host in heard}
    for host in heard:
        words.listen(Endpoint(host, 7000), ways[host])
    for host in ("::1", "127.0.0.1", "127.0.0.2"):
        say(host.encode(), 7000, host)
    await parts.eventually(lambda: heard == {"::": [b"::1"], "0.0.0.0": [b"127.0.0.1"], "127.0.0.2": [b"127.0.0.2"]})
    words.forget(Endpoint("0.0.0.0", 7000), ways["0.0.0.0"])
    say(b"of both families", 7000)
    await parts.eventually(lambda: heard["::"] == [b"::1", b"of both families"])
    for host in ("::", "127.0.0.2"):
        words.forget(Endpoint(host, 7000), ways[host])
    assert not words._catchers


async def test_a_kernel_that_cannot_is_asked_for_nothing(
    words: FirstWords, routing: Routing, monkeypatch: pytest.MonkeyPatch
) -> None:
    routing.catches = False
    monkeypatch.setattr(routing, "catch", None)
    words.listen(Endpoint("::", 7000), print)
    words.forget(Endpoint("::", 7000), print)


async def test_a_refusal_is_logged(
    words: FirstWords, routing: Routing, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ProxyError(Code.ROUTING_FAILED, "no")

    app = Endpoint("::", 7000)
    with caplog.at_level(logging.WARNING):
        words.listen(app, print)
        monkeypatch.setattr(routing, "catch", refuse)
        words.forget(app, print)
        assert not words._catchers
        words.listen(app, print)
        assert not words._catchers
    assert [record.message for record in caplog.records] == [
        "no",
        "what is said first from [::]:7000 goes from here: no",
    ]
