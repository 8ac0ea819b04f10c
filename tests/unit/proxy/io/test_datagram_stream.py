from __future__ import annotations

import pytest

from proxy.api import Endpoint
from proxy.core.datagram import Datagram, encode
from proxy.io.context import Context
from proxy.io.datagram_stream import DatagramStream
from tests.harness import proxy_parts as parts

ONE = Datagram(Endpoint("192.0.2.1", 4000), "192.0.2.9", b"ping")


class Seen:
    """A stream, and what became of it."""

    def __init__(self, context: Context) -> None:
        self.came: list[Datagram] = []
        self.ends = self.drains = 0
        self.stream = DatagramStream(context, self.came.append, self._end)
        self.leg = self.stream.leg

    def _end(self) -> None:
        self.ends += 1

    def drained(self) -> None:
        self.drains += 1


async def test_records_cross_it_both_ways_in_any_pieces(context: Context) -> None:
    seen = Seen(context)
    seen.stream.say(ONE, seen.drained)
    assert await parts.read(seen.leg, len(encode(ONE))) == encode(ONE)
    for byte in encode(ONE):
        seen.leg.send(bytes([byte]))
    await parts.eventually(lambda: seen.came == [ONE])
    seen.leg.close()
    seen.stream.close()
    assert seen.ends == 0  # it was closed, it did not end


async def test_what_has_no_room_is_kept_and_its_going_is_said(context: Context) -> None:
    seen = Seen(context)
    big = Datagram(ONE.peer, ONE.app, bytes(60_000))
    said = 0
    while not seen.stream.full:
        seen.stream.say(big, seen.drained)
        said += 1
    assert seen.drains == 0
    await parts.read(seen.leg, said * len(encode(big)))
    assert not seen.stream.full
    assert seen.drains == 1
    seen.leg.close()
    seen.stream.close()


@pytest.mark.parametrize("spoil", [lambda leg: leg.send(b"\x07 no record"), lambda leg: leg.close()])
async def test_nonsense_and_a_closed_leg_end_it(context: Context, spoil) -> None:
    seen = Seen(context)
    spoil(seen.leg)
    await parts.eventually(lambda: seen.ends)
    seen.stream.say(ONE, seen.drained)
    seen.leg.close()
    seen.stream.close()
