"""A folder goes through an archive and comes out the same; what is broken off says why, and leaves nothing there."""

from __future__ import annotations

import asyncio

import pytest

from checkpoint.api import Archive, FetchImages, KeySource, StoreImages
from checkpoint.core import stored
from checkpoint.core.errors import AgentError, Code
from checkpoint.core.stored import Machine, Manifest
from checkpoint.transfer.storing import Fetching, Storing
from tests.harness.ferry import fill

HERE = Machine("4.2.1", "6.12", "x86_64", [])
DRAFT = Manifest(stored.VERSION, "m-1", "w", ["w"], 0.0, HERE, "", [], {}, "", 1, [], [], [])


@pytest.fixture
def place(tmp_path):
    key = tmp_path / "key"
    key.write_bytes(bytes(range(32)))
    key.chmod(0o600)
    for name in ("here", "there"):
        (tmp_path / name).mkdir(mode=0o700)
    fill(tmp_path / "here", {"pages-1.img": 100_000, "files.img": 10, "manifest": 50})
    return Archive(str(tmp_path / "archive")), KeySource(str(key)), 60.0


def left(tmp_path):
    return [path for path in (tmp_path / "archive").rglob("*") if path.is_file()]


async def test_there_and_nothing_is_left(tmp_path, place):
    storing = Storing(tmp_path / "here", StoreImages(*place), lambda: DRAFT)
    storing.watch()
    report = await storing.finish({"pages-1.img": 100_000})
    assert (report.way, report.image_bytes) == ("store", 100_000)
    fetching = Fetching()
    fetching.stop()
    await fetching.fetch("m-1", FetchImages(*place), tmp_path / "there", HERE)
    fetching.stop()
    for name in ("pages-1.img", "files.img", "manifest"):
        assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "here" / name).read_bytes()
    assert len(list((tmp_path / "there").iterdir())) == 3
    assert left(tmp_path)
    await storing.close()
    assert not left(tmp_path)
    await storing.close()


async def test_broken_off_it_says_why(tmp_path, place):
    storing = Storing(tmp_path / "here", StoreImages(*place), lambda: DRAFT)
    asyncio.get_running_loop().call_later(0.02, storing.stop, AgentError(Code.LEASE_EXPIRED, "too late"))
    with pytest.raises(AgentError, match="too late"):
        await storing.finish({})
    with pytest.raises(AgentError, match="too late"):
        storing.check()
    await storing.close()
    assert not left(tmp_path)


async def test_a_fetch_that_is_broken_off(tmp_path, place):
    fetching = Fetching()
    asyncio.get_running_loop().call_later(0.02, fetching.stop)
    with pytest.raises(AgentError, match="not wanted any more"):
        await fetching.fetch("m-1", FetchImages(*place), tmp_path / "there", HERE)
