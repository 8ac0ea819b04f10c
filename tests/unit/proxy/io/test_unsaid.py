from __future__ import annotations

import asyncio

import pytest

from proxy.io.unsaid import Unsaid
from tests.harness import proxy_parts as parts


class Link:
    def __init__(self) -> None:
        self.said = 0

    def acknowledge(self) -> None:
        self.said += 1


@pytest.fixture
async def unsaid(monkeypatch: pytest.MonkeyPatch) -> Unsaid:
    monkeypatch.setattr(Unsaid, "SECONDS", 0.01)
    return Unsaid(asyncio.get_running_loop())


async def test_each_link_says_it_once_a_little_later(unsaid: Unsaid) -> None:
    one, two = Link(), Link()
    for link in (one, two, one):
        unsaid.add(link)
    unsaid.discard(two)
    assert not one.said
    await parts.eventually(lambda: one.said)
    unsaid.add(two)
    await parts.eventually(lambda: two.said)
    assert (one.said, two.said) == (1, 1)


async def test_after_the_end_nothing_is_said(unsaid: Unsaid) -> None:
    link = Link()
    unsaid.add(link)
    unsaid.close()
    await asyncio.sleep(0.03)
    assert not link.said
