"""A folder goes from one agent to the other as it is written, whole or not at all."""

from __future__ import annotations

import asyncio
import time

import pytest

from checkpoint.core.errors import AgentError, Code
from checkpoint.core.manifest import CHUNK_BYTES
from checkpoint.core.throttle import BURST_SECONDS
from checkpoint.transfer import stream
from tests.harness.ferry import KEY, ferry, fill
from tests.harness.moving import until

SIZES = {"ids-1.img": 700, "empty.img": 0, "files.img": 3000, "pages-1.img": 3 * CHUNK_BYTES + 999,
         "pages-2.img": CHUNK_BYTES, "tcp-stream-1.img": 60}  # fmt: skip


@pytest.mark.parametrize("streams", [1, 3])
async def test_a_folder_arrives(tmp_path, streams):
    async with ferry(tmp_path, streams=streams) as one:
        one.sending.watch()
        fill(one.here, SIZES)
        report = await one.finish()
        one.assert_same()
    assert (report.way, report.image_bytes, report.streams, report.retries) == (
        "direct",
        sum(SIZES.values()),
        streams,
        0,
    )
    assert report.seconds > 0
    assert {path.stat().st_mode & 0o777 for path in one.there.iterdir()} == {0o600}


async def test_what_is_written_goes_at_once(tmp_path):
    async with ferry(tmp_path) as one:
        one.sending.watch()
        fill(one.here, {"ids-1.img": 10, "files.img": 10})
        with (one.here / "pages-1.img").open("wb", buffering=0) as growing:
            growing.write(b"a" * (CHUNK_BYTES + 5))
            await until(lambda: size(one.there / "pages-1.img") == CHUNK_BYTES, "no chunk came while the file grew")
            await until(lambda: size(one.there / "ids-1.img") == 10, "a closed file did not come")
            growing.write(b"b" * 7)
        await until(lambda: size(one.there / "pages-1.img") == CHUNK_BYTES + 12, "its end did not come")
        assert not (one.there / "files.img").exists()
        await one.finish()
        one.assert_same()


async def test_what_is_there_before_the_dump_has_arrived_when_that_is_said(tmp_path):
    """A round of pre-copy; one that is broken off is not waited for."""
    before = {"round-1.pages-1.img": 2 * CHUNK_BYTES + 3, "round-1.files.img": 5}
    async with ferry(tmp_path, streams=2) as one:
        fill(one.here, before)
        await one.sending.offer(before)
        assert {name: size(one.there / name) for name in before} == before
        one.sending.watch()
        fill(one.here, SIZES)
        report = await one.finish()
        one.assert_same()
        assert report.image_bytes == sum(before.values()) + sum(SIZES.values())
        one.sending.stop(AgentError(Code.TRANSFER_BROKEN, "taken back"))
        with pytest.raises(AgentError, match="taken back"):
            await one.sending.offer({"round-2.files.img": 5})


def size(path) -> int:
    return path.stat().st_size if path.exists() else -1


async def test_a_dump_that_is_made_once_more(tmp_path):
    async with ferry(tmp_path, streams=2) as one:
        one.sending.watch()
        fill(one.here, {"pages-1.img": 2 * CHUNK_BYTES, "ids-9.img": 10}, seed=2)
        await until(lambda: size(one.there / "ids-9.img") == 10, "nothing came")
        one.sending.restart()
        for path in one.here.iterdir():
            path.unlink()
        one.sending.watch()
        fill(one.here, SIZES)
        await one.finish()
        one.assert_same()


async def test_what_is_not_wanted_any_more_need_not_be_there(tmp_path):
    """Its parcels were taken already, and wait for their turn, when the folder is emptied."""
    async with ferry(tmp_path, bytes_per_second=4 * CHUNK_BYTES) as one:
        one.sending.watch()
        fill(one.here, {"pages-1.img": 4 * CHUNK_BYTES})
        await until(lambda: size(one.there / "pages-1.img") > 0, "nothing came")
        one.sending.restart()
        (one.here / "pages-1.img").unlink()
        one.sending.watch()
        fill(one.here, {"ids-1.img": 10})
        await one.finish()
        one.assert_same()


async def test_a_folder_that_nobody_saw_grow_arrives_too(tmp_path):
    async with ferry(tmp_path) as one:
        fill(one.here, SIZES)
        await one.finish()
        one.assert_same()


async def test_a_slow_transfer_is_as_slow_as_it_was_asked_to_be_and_compresses(tmp_path):
    async with ferry(tmp_path, streams=2, bytes_per_second=16 * CHUNK_BYTES) as one:
        (one.here / "pages-1.img").write_bytes(bytes(1000) * 1000 * 12)
        began = time.monotonic()
        report = await one.finish()
        one.assert_same()
    assert report.compressed_parcels > 0
    # The first parcel goes at once, and a burst.
    assert time.monotonic() - began >= (report.wire_bytes - 2 * CHUNK_BYTES) / (16 * CHUNK_BYTES) - BURST_SECONDS


async def test_stopped_it_ends_at_once_and_says_why(tmp_path):
    async with ferry(tmp_path, bytes_per_second=1000) as one:
        fill(one.here, SIZES)
        asyncio.get_running_loop().call_later(0.05, one.sending.stop, AgentError(Code.LEASE_EXPIRED, "too late"))
        with pytest.raises(AgentError, match="too late"):
            await one.finish()
        with pytest.raises(AgentError, match="too late"):
            one.sending.check()


async def test_another_key_is_not_let_in(tmp_path):
    with pytest.raises(AgentError) as caught:
        await transfer(tmp_path, key=KEY[::-1])
    assert caught.value.code is Code.TRANSFER_BROKEN
    assert list((tmp_path / "there").iterdir()) == []


async def transfer(folder, **more) -> None:
    async with ferry(folder, **more) as one:
        fill(one.here, SIZES)
        await one.finish()


async def test_nobody_there(tmp_path):
    with pytest.raises(AgentError, match="cannot be reached") as caught:
        await transfer(tmp_path, port=1)
    assert caught.value.code is Code.TRANSFER_BROKEN


async def test_an_agent_that_died_is_not_waited_for_long(tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "NOBODY_SECONDS", 0.1)
    async with ferry(tmp_path) as one:
        await one.receiving.close()
        fill(one.here, SIZES)
        with pytest.raises(AgentError, match="its agent has ended") as caught:
            await one.finish()
    assert caught.value.code is Code.TRANSFER_BROKEN
