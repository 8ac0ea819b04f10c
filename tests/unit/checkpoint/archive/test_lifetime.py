"""What is over is collected, what is in use is left alone."""

from __future__ import annotations

import pytest

from checkpoint.archive import lease, lifetime, reader
from checkpoint.archive.objects import Objects
from checkpoint.core.errors import AgentError, Code
from tests.harness.archived import KEK, get, put, refused


async def test_the_collection_takes_what_is_over_and_nothing_else(local, images, monkeypatch):
    for name, ttl in (("old", 1.0), ("used", 1.0), ("kept", 0.0), ("young", 1e6)):
        await put(local, images, name, ttl)
    await local.put("migrations/half/data/small", b"x")
    await local.put("migrations/later/ready", b'{"version": 2}')
    now = await lease.archive_clock(local)

    async def in_an_hour(_: Objects) -> float:
        return now + 3600

    monkeypatch.setattr(lifetime, "archive_clock", in_an_hour)
    async with lease.lease(local, "used", 7200):
        assert await lifetime.collect(local, dry_run=True) == ["half", "old"]
        assert await lifetime.collect(local) == ["half", "old"]
    states = {one.image: one.state for one in await lifetime.catalogue(local)}
    assert states == {"kept": "ready", "later": "unreadable", "used": "ready", "young": "ready"}
    assert await lifetime.collect(local) == ["used"]


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "-", "x" * 65])
async def test_what_is_no_name_leads_nowhere(local, images, tmp_path, name):
    await put(local, images)
    await refused(Code.IMAGE_MISSING, lifetime.delete(local, name, force=True), "is no image's name")
    await refused(Code.IMAGE_MISSING, reader.read_manifest(local, name, KEK), "is no image's name")
    await refused(Code.IMAGE_MISSING, get(local, tmp_path / "there", name), "is no image's name")
    assert [one.image for one in await lifetime.catalogue(local)] == ["i"]


async def test_a_reader_that_comes_between_the_two_looks_keeps_its_image(local, images, tmp_path, monkeypatch):
    await put(local, images)
    original = Objects.delete
    entered = lease.lease(local, "i", 60)

    async def a_reader_came_first(self, *paths):
        if paths == ("migrations/i/ready",):
            await entered.__aenter__()
        await original(self, *paths)

    monkeypatch.setattr(Objects, "delete", a_reader_came_first)
    await refused(Code.IMAGE_IN_USE, lifetime.delete(local, "i"))
    await entered.__aexit__(None, None, None)
    assert (await get(local, tmp_path / "x")).image == "i"


async def test_a_lease_that_cannot_be_given_back_spoils_nothing(local, images, tmp_path, monkeypatch):
    await put(local, images)

    async def down(self, *paths):
        raise AgentError(Code.ARCHIVE_UNREACHABLE, "down")

    monkeypatch.setattr(Objects, "delete", down)
    assert (await get(local, tmp_path / "x")).image == "i"


async def test_delete_says_what_is_not_there_and_does_as_it_is_forced(local, images):
    await refused(Code.IMAGE_MISSING, lifetime.delete(local, "i"))
    await put(local, images)
    async with lease.lease(local, "i", 60):
        await lifetime.delete(local, "i", force=True)
    assert await lifetime.catalogue(local) == []
