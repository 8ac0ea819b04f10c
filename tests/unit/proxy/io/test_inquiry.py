"""A link has broken: does the proxy that it came from still have it?"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator

import pytest

from proxy.api import PrepareInbound
from proxy.io.inquiry import Inquiries, Inquiry
from proxy.io.plane import Plane
from tests.harness import proxy_parts as parts

pytestmark = parts.NEEDS_ROOT

TOKEN = bytes.fromhex(parts.TOKEN)


class BrokenLink:
    via = "127.0.0.1:40000"

    def __init__(self) -> None:
        self.is_broken = True
        self.why = ""

    def lose(self, why: str) -> None:
        self.why = why


@pytest.fixture
async def plane(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Plane]:
    monkeypatch.setattr(Inquiry, "SOONEST_SECONDS", 0.01)
    monkeypatch.setattr(Inquiry, "LATEST_SECONDS", 0.02)
    async with parts.plane() as made:
        yield made


@pytest.fixture
async def inquiries(plane: Plane) -> AsyncIterator[Inquiries]:
    made = Inquiries(plane.context, parts.link_endpoint(plane).port)
    yield made
    made.close()


def begin(inquiries: Inquiries) -> BrokenLink:
    link = BrokenLink()
    inquiries.begin("m", TOKEN, link)  # type: ignore[arg-type]
    return link


async def test_a_proxy_that_knows_nothing_of_the_migration_has_none_of_its_links(inquiries: Inquiries) -> None:
    links = [begin(inquiries) for _ in range(2)]
    await parts.eventually(lambda: all(link.why for link in links))
    assert not inquiries._running


async def test_while_it_lives_it_is_asked_again_until_the_links_are_made_again(
    plane: Plane, inquiries: Inquiries
) -> None:
    plane.prepare_inbound("m", PrepareInbound(parts.TOKEN))
    await stays(inquiries)


async def stays(inquiries: Inquiries) -> None:
    link = begin(inquiries)
    (inquiry,) = inquiries._running.values()
    asked = []
    dial = inquiry._dial
    inquiry._dial = lambda: asked.append(1) or dial()  # type: ignore[func-returns-value, method-assign]
    await parts.eventually(lambda: len(asked) > 3)
    assert not link.why
    link.is_broken = False
    await parts.eventually(lambda: not inquiries._running)
    assert not link.why


async def test_a_proxy_that_still_has_such_links_is_waited_for(plane: Plane, inquiries: Inquiries) -> None:
    await parts.prepared(plane)
    moved = parts.Moved(plane)
    moved.move()
    here = plane.inbound.pop("m")
    await stays(inquiries)
    plane.inbound["m"] = here
    moved.close()


async def test_where_nobody_listens_nobody_is_waited_for_long(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Inquiry, "GONE_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    inquiries = Inquiries(plane.context, port)
    link = begin(inquiries)
    await parts.eventually(lambda: link.why)
    inquiries.close()


async def test_a_question_under_way_can_be_dropped(plane: Plane, inquiries: Inquiries) -> None:
    link = begin(inquiries)
    (inquiry,) = inquiries._running.values()
    await parts.eventually(lambda: inquiry._asking or link.why)
    inquiries.close()
    assert not inquiries._running
