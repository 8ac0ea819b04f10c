from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from proxy.io import lending
from proxy.io.lending import KEPT, LEAST, Lending
from tests.harness import proxy_parts as parts


class Link:
    """One that rests when it is asked to, and then has no connection any more: its descriptor is free."""

    def __init__(self, pool: Pool, *, is_idle: bool = True, is_unused: bool = False, may_rest: bool = True) -> None:
        self.is_idle, self.is_unused, self.may_rest = is_idle, is_unused, may_rest
        self.asked = 0
        self.group = pool
        self.stays = False
        self._pool = pool
        pool.lending.add(self)

    def rest(self) -> None:
        self.asked += 1
        self.may_rest = False
        if not self.stays:
            self._pool.spare += 1
            self._pool.lending.discard(self)


class Pool:
    """Has links, and those who wait for one."""

    def __init__(self) -> None:
        self.spare = KEPT
        self.wanted = 0
        self.served = 0
        self.is_crowded = False
        self.lending = Lending(asyncio.get_running_loop(), lambda: self.spare)

    def links(self, count: int, **more: bool) -> list[Link]:
        return [Link(self, **more) for _ in range(count)]

    def want(self, count: int) -> None:
        self.wanted += count
        self.lending.seek(self)

    def go_on(self) -> None:
        while self.wanted and self.lending.take():
            self.spare -= 1
            self.wanted -= 1
            self.served += 1


@pytest.fixture(autouse=True)
def fresh_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lending, "COUNT_SECONDS", -1.0)


@pytest.fixture
async def pool() -> Iterator[Pool]:
    made = Pool()
    yield made
    made.lending.close()


def asked(links: list[Link]) -> int:
    return sum(link.asked for link in links)


async def test_with_room_nobody_is_asked(pool: Pool) -> None:
    links = pool.links(4)
    pool.spare = KEPT + 3
    pool.want(3)
    await parts.eventually(lambda: pool.served == 3)
    assert asked(links) == 0


async def test_who_waits_has_the_connections_of_those_who_have_never_used_theirs(pool: Pool) -> None:
    used, unused = pool.links(3), pool.links(3, is_unused=True)
    pool.want(3)
    await parts.eventually(lambda: pool.served == 3)
    assert (asked(used), asked(unused)) == (0, 3)
    assert pool.lending.lendable == 3


async def test_then_of_others_that_are_idle(pool: Pool) -> None:
    ending, idle = pool.links(2, may_rest=False), pool.links(2)
    pool.want(2)
    await parts.eventually(lambda: pool.served == 2)
    assert (asked(ending), asked(idle)) == (0, 2)


async def test_and_of_busy_ones_only_after_they_have_had_their_turn(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lending, "LOOK_SECONDS", 60.0)
    busy = pool.links(2, is_idle=False)
    pool.want(1)
    await asyncio.sleep(0.02)
    assert asked(busy) == 0
    monkeypatch.setattr(lending, "LOOK_SECONDS", 0.01)
    pool.lending.look()
    await parts.eventually(lambda: pool.served == 1)
    assert asked(busy) == 1


async def test_one_that_does_not_come_to_rest_is_not_waited_for(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lending, "REST_SECONDS", 0.05)
    (stuck,) = pool.links(1)
    stuck.stays = True
    pool.want(1)
    await parts.eventually(lambda: stuck.asked)
    pool.links(1)
    await parts.eventually(lambda: pool.served == 1)
    assert stuck.asked == 1


async def test_descriptors_that_were_promised_are_had_from_links(pool: Pool) -> None:
    links = pool.links(8)
    pool.lending.promise("m", 5)
    await parts.eventually(lambda: pool.spare == KEPT + 5)
    assert asked(links) == 5
    assert not pool.lending.take()
    pool.lending.promise("m", 4)
    assert pool.lending.room == 1
    assert pool.lending.take()


async def test_those_that_nobody_has_announced_take_what_is_kept_for_them_and_no_more(pool: Pool) -> None:
    pool.lending.promise("m", 5)
    pool.spare = 5 + LEAST + 1
    assert pool.lending.take_for_leg()
    pool.spare -= 1
    assert not pool.lending.take_for_leg()


async def test_what_was_taken_makes_links_rest(pool: Pool) -> None:
    pool.links(4)
    assert pool.lending.take_for_leg()
    pool.spare -= 1
    await parts.eventually(lambda: pool.spare == KEPT)


@pytest.mark.parametrize("discarded", range(3))
async def test_one_that_has_gone_is_not_asked(pool: Pool, discarded: int) -> None:
    links = pool.links(3)
    pool.lending.add(links[0])  # said twice
    pool.lending.discard(links[discarded])
    pool.lending.discard(links[discarded])
    pool.want(3)
    await parts.eventually(lambda: pool.served == 2)
    assert [link.asked for link in links] == [int(number != discarded) for number in range(3)]


async def test_a_count_is_good_for_a_moment(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lending, "COUNT_SECONDS", 60.0)
    pool.spare = KEPT + 3
    taken: Callable[[], bool] = pool.lending.take
    assert [taken() for _ in range(3)] == [True, True, False]  # each may have a leg
    pool.lending.promise("m", 0)
    assert taken()
