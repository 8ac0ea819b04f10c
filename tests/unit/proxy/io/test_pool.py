from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import AsyncIterator

import pytest

from proxy.api import Endpoint
from proxy.core.errors import Code, ProxyError
from proxy.core.wire import Bell, Join, Refused, encode
from proxy.io.context import Context
from proxy.io.dialling import Lost
from proxy.io.initiated import InitiatedLink
from proxy.io.pool import LinkPool
from proxy.io.relay import reset
from tests.harness import proxy_parts as parts
from tests.harness.link_ends import ACCEPTED, CHALLENGE, HELLO, TOKEN, Destination, User


async def test_connections_are_greeted_beforehand(context: Context, destination: Destination) -> None:
    pool, user = LinkPool(context, destination.endpoint, "m", TOKEN), User()
    preparing = asyncio.create_task(pool.prepare(2), name="preparing")
    for _ in range(2):
        (await destination.take()).send(ACCEPTED)
    await preparing
    assert pool.idle == 2
    pool.ask(Join(7, 1), user)
    assert user.dialled  # at once
    assert pool.idle == 1
    sock = destination.links[0]
    assert await destination.hear(sock, 2) == [HELLO, Join(7, 1)]
    sock.send(ACCEPTED[:5])
    await asyncio.sleep(0.01)
    sock.send(ACCEPTED[5:])
    await parts.eventually(lambda: user.accepted == (0, b""))
    pool.close()
    user.close(context)


async def test_only_so_many_are_dialled_at_once(
    context: Context, destination: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LinkPool, "AT_ONCE", 2)
    pool = LinkPool(context, destination.endpoint, "m", TOKEN)
    preparing = asyncio.create_task(pool.prepare(5), name="preparing")
    (await destination.take()).send(ACCEPTED)
    await parts.eventually(lambda: len(pool._greeting) == 2)
    for idle in range(1, 5):
        (await destination.take()).send(ACCEPTED)
        await parts.eventually(lambda idle=idle: pool.idle == idle + 1)  # type: ignore[misc]
        assert len(pool._greeting) <= 2
    await preparing
    assert pool.idle == 5
    pool.close()


@pytest.mark.parametrize(("quick_seconds", "most"), [(10.0, 4), (0.0, 2)])
async def test_more_are_dialled_at_once_where_they_are_quickly_greeted(
    context: Context, destination: Destination, monkeypatch: pytest.MonkeyPatch, quick_seconds: float, most: int
) -> None:
    """A slow machine, or one that may use but a part of a processor, would end none of too many in time."""
    for name, value in (("AT_FIRST", 2), ("AT_ONCE", 4), ("QUICK_SECONDS", quick_seconds)):
        monkeypatch.setattr(LinkPool, name, value)
    pool = LinkPool(context, destination.endpoint, "m", TOKEN)
    preparing = asyncio.create_task(pool.prepare(12), name="preparing")
    seen = 0
    for greeted in range(12):
        (await destination.take()).send(ACCEPTED)
        await parts.eventually(lambda greeted=greeted: pool.idle == greeted + 1)  # type: ignore[misc]
        await asyncio.sleep(0)  # for it to dial the next
        seen = max(seen, len(pool._greeting))
    await preparing
    assert seen == most
    pool.close()


async def test_one_that_nobody_answers_in_time_is_dialled_again(
    context: Context, destination: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the freeze there is time; a machine may be busy for a second. Without a descriptor it is given up."""
    pool, late = LinkPool(context, destination.endpoint, "m", TOKEN), Lost("no connection in time", late=True)
    preparing = asyncio.create_task(pool.prepare(1), name="preparing")
    await parts.eventually(lambda: pool._greeting)
    (first,) = pool._greeting
    first._lose(late)
    (second,) = pool._greeting
    assert second is not first
    monkeypatch.setattr(pool, "_dial", no_descriptor)
    second._lose(late)
    with pytest.raises(ProxyError, match="no connection in time"):
        await preparing


def no_descriptor() -> None:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


async def test_an_idle_connection_that_breaks_is_not_used(context: Context, destination: Destination) -> None:
    pool = LinkPool(context, destination.endpoint, "m", TOKEN)
    preparing = asyncio.create_task(pool.prepare(1), name="preparing")
    sock = await destination.take()
    sock.send(ACCEPTED)
    await preparing
    sock.close()
    await parts.eventually(lambda: pool.idle == 0)


async def test_standing_by_replaces_what_is_used_and_ends(
    context: Context, destination: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LinkPool, "SPARES", 2)
    monkeypatch.setattr(LinkPool, "SPARE_SECONDS", 60)
    pool, user = LinkPool(context, destination.endpoint, "m", TOKEN), User()
    preparing = asyncio.create_task(pool.prepare(3), name="preparing")
    for _ in range(3):
        (await destination.take()).send(ACCEPTED)
    await preparing
    pool.stand_by(3)
    assert pool.idle == 3
    pool.stand_by()
    assert pool.idle == 2
    pool.ask(Join(7, 1), user)
    assert user.dialled
    assert pool.idle == 1
    (await destination.take()).send(ACCEPTED)
    await parts.eventually(lambda: pool.idle == 2)
    monkeypatch.setattr(LinkPool, "SPARE_SECONDS", 0.05)
    pool.stand_by()
    await parts.eventually(lambda: pool.idle == 0)
    user.dialled.abandon()


async def test_one_made_anew_is_none_of_the_idle_ones(context: Context, destination: Destination) -> None:
    pool, user = LinkPool(context, destination.endpoint, "m", TOKEN), User()
    preparing = asyncio.create_task(pool.prepare(1), name="preparing")
    (await destination.take()).send(ACCEPTED)
    await preparing
    pool.ask(Join(7, 1), user, fresh=True)
    assert user.given
    user.given.abandon()
    assert pool.idle == 1
    pool.close()


async def refused_by(destination: Destination, context: Context, answer: bytes) -> ProxyError:
    pool = LinkPool(context, destination.endpoint, "m", TOKEN)
    preparing = asyncio.create_task(pool.prepare(1), name="preparing")
    sock = await destination.take(answer)
    if not answer:
        reset(sock)
    with pytest.raises(ProxyError) as raised:
        await preparing
    assert raised.value.code is Code.LINK_FAILED
    return raised.value


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (CHALLENGE + encode(Refused("forbidden", "go away")), "forbidden: go away"),
        (encode(Refused("forbidden", "go away")), "forbidden: go away"),
        (b"HTTP/1.0 400", "not a Midstream link"),
        (ACCEPTED, "out of turn"),
        (CHALLENGE + encode(Join(1, 1)), "out of turn"),
        (CHALLENGE + b"MIDS\x01\x04\x00\x00", "another version"),
        (b"", "reset"),
    ],
)
async def test_preparing_says_why_it_failed(
    context: Context, destination: Destination, answer: bytes, words: str
) -> None:
    assert words in (await refused_by(destination, context, answer)).message


async def test_nobody_there(context: Context, destination: Destination) -> None:
    destination.listener.close()
    with pytest.raises(ProxyError, match="Connection refused"):
        await LinkPool(context, destination.endpoint, "m", TOKEN).prepare(1)
    with pytest.raises(ProxyError, match="unreachable"):
        await LinkPool(context, Endpoint("255.255.255.255", 1), "m", TOKEN).prepare(1)


async def test_nobody_answers(context: Context, destination: Destination, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LinkPool, "PREPARE_SECONDS", 0.05)
    with pytest.raises(ProxyError, match="no answer in time"):
        await LinkPool(context, destination.endpoint, "m", TOKEN).prepare(1)


async def greeted(context: Context, destination: Destination, links: int) -> LinkPool:
    pool = LinkPool(context, destination.endpoint, "m", TOKEN)
    preparing = asyncio.create_task(pool.prepare(links), name="preparing")
    for _ in range(links):
        (await destination.take()).send(ACCEPTED)
    await preparing
    return pool


async def test_what_carries_nothing_any_more_comes_back_while_it_stands_by(
    context: Context, destination: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LinkPool, "SPARES", 1)
    pool = await greeted(context, destination, 3)
    users = [User(), User(), User()]
    for number, one in enumerate(users):
        pool.ask(Join(5, number), one)
        await destination.hear(destination.links[number], 2)
        destination.links[number].send(ACCEPTED)
        await parts.eventually(lambda one=one: one.accepted)  # type: ignore[misc]
    assert pool.idle == 0
    early, first, second = (one.dialled for one in users)
    assert early
    assert first
    assert second
    early.come_back()  # nobody stands by
    assert pool.idle == 0
    pool.stand_by()
    first.come_back()
    second.come_back()  # there is room for one
    assert pool.idle == 1
    user = User()
    pool.ask(Join(7, 1), user)
    assert user.dialled is first
    sock = destination.links[1]
    assert await destination.hear(sock, 1) == [Join(7, 1)]
    sock.send(ACCEPTED + b"stream")
    await parts.eventually(lambda: user.accepted == (0, b"stream"))
    pool.close()
    user.close(context)


async def test_standing_by_does_not_dial_for_ever_where_nobody_is(
    context: Context, destination: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LinkPool, "REFILL_SECONDS", 0.001)
    pool = await greeted(context, destination, 1)
    destination.listener.close()
    pool.stand_by()
    await parts.eventually(lambda: pool._refilling is None)
    assert pool.idle == 1
    pool.close()


Crowd = tuple[LinkPool, list[User]]


def gather(context: Context, destination: Destination) -> Crowd:
    """Three users of a pool that dials one at a time."""
    pool, users = LinkPool(context, destination.endpoint, "m", TOKEN), [User(), User(), User()]
    for number, user in enumerate(users):
        pool.ask(Join(5, number), user)
    assert [bool(user.given) for user in users] == [True, False, False]
    return pool, users


@pytest.fixture
async def crowd(context: Context, destination: Destination, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Crowd]:
    monkeypatch.setattr(LinkPool, "BUSY", 1)
    pool, users = gather(context, destination)
    yield pool, users
    pool.close()


async def test_who_comes_while_many_are_dialled_waits_for_his_turn(
    context: Context, destination: Destination, crowd: Crowd
) -> None:
    _, users = crowd
    for number, user in enumerate(users):
        sock = await destination.take()
        assert not any(later.dialled for later in users[number + 1 :])
        assert await destination.hear(sock, 2) == [HELLO, Join(5, number)]
        sock.send(ACCEPTED + ACCEPTED)
        await parts.eventually(lambda user=user: user.accepted)  # type: ignore[misc]
        user.close(context)


async def test_who_waits_has_the_next_connection_that_comes_back(
    context: Context, destination: Destination, crowd: Crowd
) -> None:
    pool, (first, second, third) = crowd
    sock = await destination.take()
    assert await destination.hear(sock, 2) == [HELLO, Join(5, 0)]
    sock.send(ACCEPTED + ACCEPTED)
    await parts.eventually(lambda: first.accepted)
    assert first.dialled
    first.dialled.come_back()  # nobody stands by, and the second's is still dialled
    assert third.dialled is first.dialled
    assert second.dialled is None
    assert await destination.hear(sock, 1) == [Join(5, 2)]
    pool.withdraw(second, second.given)
    third.close(context)


async def test_who_has_gone_is_not_dialled_for(context: Context, destination: Destination, crowd: Crowd) -> None:
    pool, (first, second, third) = crowd
    pool.withdraw(second, None)
    pool.withdraw(first, first.given)
    await destination.take(b"")
    assert await destination.hear(await destination.take(), 2) == [HELLO, Join(5, 2)]
    assert (first.dialled, second.dialled) == (None, None)
    third.close(context)


class Nobody:
    """Who asks for a link and does not care."""

    def link_ready(self, link: InitiatedLink) -> None: ...
    def link_accepted(self, link: InitiatedLink) -> None: ...
    def link_denied(self, link: InitiatedLink, lost: Lost) -> None: ...


async def test_a_link_that_ends_takes_the_connection_along_that_is_dialled_for_it_by_now(
    context: Context, destination: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LinkPool, "BUSY", 1)
    pool, first = LinkPool(context, destination.endpoint, "m", TOKEN), User()
    pool.ask(Join(5, 0), first)
    link = InitiatedLink(context, pool, Join(7, 1), Nobody())
    link.dial(10)
    (await destination.take()).send(ACCEPTED + ACCEPTED)
    await parts.eventually(lambda: first.accepted)
    sock = await destination.take(b"")
    link.close()
    assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(sock, 1), parts.PATIENCE_SECONDS) == b""
    first.close(context)
    pool.close()


async def test_one_that_is_lost_speaks_for_its_share_of_those_who_wait(
    context: Context, destination: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LinkPool, "BUSY", 1)
    destination.listener.close()
    pool, users = gather(context, destination)
    await parts.eventually(lambda: all(user.lost for user in users))
    assert all(user.lost and user.lost.port_closed for user in users)
    pool.close()


class Carrying:
    """A link that could lend its connection."""

    may_rest = is_idle = is_unused = True

    def __init__(self, pool: LinkPool) -> None:
        self.group = pool
        self.asked = 0

    def rest(self) -> None:
        self.asked += 1


async def test_without_a_descriptor_whoever_asks_waits_until_there_is_one(
    context: Context, destination: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And somebody is asked to give up his."""
    spare = [0]
    monkeypatch.setattr(context.lending, "_count", lambda: spare[0])
    pool, user = LinkPool(context, destination.endpoint, "m", TOKEN), User()
    link = Carrying(pool)
    context.lending.add(link)
    pool.ask(Join(7, 1), user)
    await parts.eventually(lambda: link.asked)
    assert pool.wanted == 1
    assert user.given is None
    spare[0] = 1000
    await destination.take()
    await parts.eventually(lambda: user.given is not None)
    assert pool.wanted <= 0
    pool.withdraw(user, user.given)
    context.lending.close()


async def test_where_the_other_end_has_no_descriptors_few_are_dialled(
    context: Context, destination: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LinkPool, "TRY_SECONDS", 60.0)
    pool, users = LinkPool(context, destination.endpoint, "m", TOKEN), [User(), User(), User()]
    link = Carrying(pool)
    context.lending.add(link)
    pool.be_crowded()
    for number, user in enumerate(users):
        pool.ask(Join(7, number + 1), user)
    assert len(pool._asked) == 0
    await parts.eventually(lambda: link.asked)
    pool._tries_at = 0.0  # one now and then
    await parts.eventually(lambda: pool._asked)
    assert len(pool._asked) == 1
    context.lending.discard(link)  # nobody could lend: then it is tried with all of them
    await parts.eventually(lambda: all(user.given for user in users))
    for user in users:
        pool.withdraw(user, user.given)
    context.lending.close()


async def test_a_bell_waits_for_nobody(
    context: Context, destination: Destination, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(context.lending, "_count", lambda: 0)
    pool, user = LinkPool(context, destination.endpoint, "m", TOKEN), User()
    pool.ask(Bell(0, 1), user)
    assert user.given
    pool.withdraw(user, user.given)
