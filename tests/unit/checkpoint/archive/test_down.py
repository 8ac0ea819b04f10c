"""An archive that goes down at any step of ours: that is told, and what is there afterwards is whole or nothing.

Each call of `Objects` is a step. From one of them on none is answered; with `late` that one is still carried out.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from checkpoint.archive import lease, lifetime
from checkpoint.archive.objects import Objects
from checkpoint.core.errors import AgentError, Code
from tests.harness.archived import CONTENT, get, put

CALLS = ("put", "put_stream", "get", "below", "modified", "delete", "settle")
LATER_SECONDS = 7200.0
"""Every lease has run out by then."""


class Outage:
    """Counts the steps; `at` is when it goes down."""

    def __init__(self, *, late: bool) -> None:
        self.at, self._late = -1, late
        self.steps: list[str] = []

    def begin(self, at: int) -> None:
        self.at, self.steps = at, []

    def end(self) -> None:
        self.at = -1

    def step(self, name: str, path: str) -> bool:
        """Whether this one is carried out; raises where it is not even heard."""
        self.steps.append(f"{name} {path.rpartition('/')[2].partition('-')[0]}")
        if self.at < 0 or len(self.steps) <= self.at:
            return True
        if self._late and len(self.steps) == self.at + 1:
            return False
        raise down()


def down() -> AgentError:
    return AgentError(Code.ARCHIVE_UNREACHABLE, "down")


@pytest.fixture(params=[False, True], ids=["not heard", "not answered"])
def outage(request, monkeypatch) -> Outage:
    made = Outage(late=request.param)
    for name in CALLS:
        monkeypatch.setattr(Objects, name, counted(made, name, getattr(Objects, name)))
    read = Objects.get_stream

    async def get_stream(self, path):
        answered = made.step("get_stream", path)
        async for piece in read(self, path):
            yield piece
            if not answered:
                raise down()

    monkeypatch.setattr(Objects, "get_stream", get_stream)
    return made


def counted(outage: Outage, name: str, really: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def call(self, *arguments, **options):
        answered = outage.step(name, arguments[0])
        found = await really(self, *arguments, **options)
        if not answered:
            raise down()
        return found

    return call


async def told(call: Awaitable[Any]) -> Code | None:
    """What is said of it; None where it went well."""
    try:
        await call
    except AgentError as error:
        return error.code
    return None


async def each_step(outage: Outage, work: Callable[[int], Awaitable[Any]]) -> list[str]:
    """Has `work` done with the archive going down at its first step, its second, …, until it needs no more of them; the
    steps that it has. Whichever is not answered, it says so; but a lease that cannot be given back harms nobody."""
    for at in count():
        outage.begin(at)
        found = await told(work(at))
        steps = list(outage.steps)
        outage.end()
        if len(steps) <= at:
            assert found is None
            return steps
        assert found is (None if steps[at] == "delete lease" else Code.ARCHIVE_UNREACHABLE), steps[at]
    raise AssertionError


async def is_whole(local: Objects, folder: Path, image: str) -> bool:
    """Whether it is there, as it was stored; otherwise it is no image at all."""
    found = await told(get(local, folder, image))
    assert found in (None, Code.IMAGE_MISSING)
    assert found is not None or content(folder) == CONTENT
    return found is None


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


async def collect_later(local: Objects, monkeypatch) -> None:
    now = await lease.archive_clock(local)

    async def later(_: Objects) -> float:
        return now + LATER_SECONDS

    monkeypatch.setattr(lifetime, "archive_clock", later)
    await lifetime.collect(local)


async def test_while_an_image_is_written(local, images, outage, tmp_path, monkeypatch):
    steps = await each_step(outage, lambda at: put(local, images, f"i-{at}"))
    assert steps == ["below i", "put lease", "put_stream small", "put_stream file", "put manifest", "settle i",
                     "put ready", "delete lease"]  # fmt: skip
    there = [await is_whole(local, tmp_path / f"{at}", f"i-{at}") for at in range(len(steps) + 1)]
    first = there.index(True)
    assert steps[first] in ("put ready", "delete lease"), "an image is there with the last object that is written"
    assert all(there[first:])
    await collect_later(local, monkeypatch)
    assert [one.state for one in await lifetime.catalogue(local)] == ["ready"] * sum(there)


async def test_while_an_image_is_read(local, images, outage, tmp_path):
    await put(local, images)

    async def read(at: int) -> None:
        try:
            await get(local, tmp_path / f"{at}")
        except AgentError:
            assert not (tmp_path / f"{at}").exists(), "half an image is left"
            raise
        assert content(tmp_path / f"{at}") == CONTENT

    steps = await each_step(outage, read)
    assert steps == ["put lease", "get ready", "get manifest", "below data", "get_stream small", "get_stream file",
                     "delete lease"]  # fmt: skip
    assert await is_whole(local, tmp_path / "after", "i")


async def test_while_an_image_is_deleted(local, images, outage, tmp_path, monkeypatch):
    async def delete(at: int) -> None:
        outage.end()
        await put(local, images, f"i-{at}")
        outage.begin(at)
        await lifetime.delete(local, f"i-{at}")

    steps = await each_step(outage, delete)
    assert steps.count("delete ready") == 1
    there = [await is_whole(local, tmp_path / f"{at}", f"i-{at}") for at in range(len(steps) + 1)]
    assert there == sorted(there, reverse=True), "it was there again"
    assert not any(there[steps.index("delete ready") + 1 :])
    await collect_later(local, monkeypatch)
    assert [one.state for one in await lifetime.catalogue(local)] == ["ready"] * sum(there)
