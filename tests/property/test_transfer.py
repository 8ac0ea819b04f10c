"""A connection that is cut anywhere is made again, and the folder arrives whole."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from checkpoint.api import TransferReport
from checkpoint.core.manifest import CHUNK_BYTES
from tests.harness.ferry import ferry, fill

SIZES = {"pages-1.img": 3 * CHUNK_BYTES + 999, "mm-1.img": 700, "empty.img": 0, "tcp-stream-1.img": 60}
HANDSHAKE_BYTES = 4096
"""Of one connection, at most. One that is cut in its handshake is none: it fails in Preparing."""
TOTAL_BYTES = sum(SIZES.values())


async def transfer(folder: Path, streams: int, cut_after: int) -> TransferReport:
    async with ferry(folder, streams=streams, cut_after=cut_after) as one:
        one.sending.watch()
        fill(one.here, SIZES)
        report = await one.finish()
        one.assert_same()
    return report


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(streams=st.integers(1, 3), cut_after=st.integers(3 * HANDSHAKE_BYTES, TOTAL_BYTES))
@example(streams=1, cut_after=TOTAL_BYTES)
@example(streams=2, cut_after=CHUNK_BYTES + HANDSHAKE_BYTES)
def test_a_connection_that_is_cut_anywhere(streams, cut_after):
    with tempfile.TemporaryDirectory() as name:
        report = asyncio.run(transfer(Path(name), streams, cut_after))
        assert report.retries > 0
