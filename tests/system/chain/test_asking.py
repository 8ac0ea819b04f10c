"""UDP: who asks is answered from where he asks, wherever the workload has been meanwhile."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests.harness.asking import Asking, answer
from tests.harness.chained import move_all
from tests.harness.journeys import start_puppet
from tests.harness.moving import ONE_LOOP

pytestmark = ONE_LOOP
PORT = 7360


@pytest.mark.parametrize("six", [False, True])
@pytest.mark.parametrize("way", ["aba", "abab", "abcb", "abca"])
async def test_who_keeps_asking_the_first_address_is_answered_from_there(stage, way, six):
    """What it asks passes pods that the workload comes back to. It may miss, at each move, what is in hand as the
    workload stops or an address changes hands."""
    answer(await start_puppet(stage), PORT)
    with Asking(stage.client, stage.a.address6 if six else stage.a.address, PORT) as asking:
        await asking.goes_on()
        for source, destination in pairwise(getattr(stage, name) for name in way):
            await move_all(stage, "puppet", source, destination)
            await asking.goes_on()
        assert len(await asking.missing()) <= len(way) - 1
