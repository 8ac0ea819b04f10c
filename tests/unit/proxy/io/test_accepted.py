from __future__ import annotations

import socket

import pytest

from proxy.core.link import State
from proxy.core.stream import HEADER_BYTES, MAX_DATA_BYTES, Mark, header
from proxy.io.accepted import AcceptedLink
from proxy.io.context import Context
from proxy.io.relay import reset
from tests.harness import proxy_parts as parts
from tests.harness.broken import Broken, breaks


@parts.NEEDS_ROOT
@parts.BOTH_CARRIERS
@pytest.mark.parametrize("broken", [0.3], indirect=True)
async def test_a_link_that_cannot_be_made_again_is_given_up(
    broken: Broken, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(AcceptedLink, "GRACE_SECONDS", 0.5)
    broken.network.refusing = True
    broken.network.cut()
    for sock in (broken.flow.peer, broken.flow.app):
        with pytest.raises(ConnectionResetError):
            await parts.read(sock, 1)
    await broken.flow.become("reset", "reset")
    (line,) = broken.plane.inbound_ledger("m")
    assert line.error.endswith("and it was not made again")
    assert breaks(broken.plane)["lost"] == 2
    assert sum("lost" in record.message for record in caplog.records) == 2


async def test_one_that_breaks_as_it_is_made_again_has_all_its_time_again(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AcceptedLink, "GRACE_SECONDS", 0)
    ours, theirs = zip(*(parts.nonblocking_pair() for _ in range(3)), strict=True)
    link = AcceptedLink(context, 1, "the source", 60, lambda link: None)
    link.carry(ours[0], 0)
    link.end()
    for index in (0, 1):
        reset(theirs[index])
    await parts.eventually(lambda: link.is_broken)
    first = link._timer
    link.carry(ours[1], 0)
    assert link.is_broken
    second = link._timer
    assert first
    assert second
    assert (first.cancelled(), second.cancelled()) == (True, False)
    link.carry(ours[2], 0)
    assert link.state is State.CARRYING
    assert second.cancelled()
    link.close()
    theirs[2].close()


async def test_one_that_is_given_up_while_its_last_word_waits_to_be_sent_is_over(context: Context) -> None:
    ours, theirs = parts.nonblocking_pair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 12)
    link = AcceptedLink(context, 1, "the source", 0.1, lambda link: None)
    link.carry(ours, 0)
    while link.has_room:
        link.give(MAX_DATA_BYTES)
    theirs.send(header(Mark.SLEEP, 0, 0))
    await parts.eventually(lambda: not link.may_rest)
    assert not link.is_asleep
    link.lose("the bell is gone")
    link.detach()
    assert link.state is State.OVER
    theirs.close()


async def test_a_flow_that_is_reset_at_both_ends_leaves_no_link_that_waits(context: Context) -> None:
    """What is reset here after the other end's reset was acknowledged is no news to anybody."""
    ours, theirs = parts.nonblocking_pair()
    link = AcceptedLink(context, 1, "the source", 10, lambda link: None)
    link.carry(ours, 0)
    theirs.send(header(Mark.RESET, 0, 0))
    await parts.eventually(lambda: link.state is State.CLOSING)
    link.reset()
    assert link.state is State.CLOSING
    assert await parts.read(theirs, 2 * HEADER_BYTES) == header(Mark.ACK, 0, 1)  # and the end
    theirs.close()
    await parts.eventually(lambda: link.is_over)
