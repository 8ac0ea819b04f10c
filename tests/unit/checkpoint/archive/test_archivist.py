"""Orders to the real archive program: answers, refusals, and the end of a program whose order was called off."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from checkpoint.api import Archive, KeySource, ListImages, MakeKey, ShowImage, StoredImage
from checkpoint.archive import archivist, keys
from checkpoint.archive.orders import Read, Try
from checkpoint.core.errors import AgentError, Code
from checkpoint.core.stored import Machine


async def test_an_answer_and_a_refusal(tmp_path):
    archive = Archive(str(tmp_path / "archive"))
    key = KeySource(file=str(tmp_path / "key"))
    await archivist.carry_out(MakeKey(key.file), str)
    await archivist.carry_out(Try(archive, key, "i", "alone"), type(None))
    assert await archivist.carry_out(ListImages(archive), list[StoredImage]) == []
    with pytest.raises(AgentError) as caught:
        await archivist.carry_out(ShowImage(archive, key, "none"), dict)
    assert caught.value.code is Code.IMAGE_MISSING


async def test_an_order_that_is_called_off_ends_the_program(tmp_path):
    keys.make(tmp_path / "key")
    key, here = KeySource(file=str(tmp_path / "key")), Machine("1", "1", "x", [])
    order = Read(Archive(str(tmp_path / "archive")), key, "none", str(tmp_path / "x"), here, 60, 60)
    waiting = asyncio.create_task(archivist.carry_out(order, dict), name="order")
    async with asyncio.timeout(20):
        while not list(tmp_path.rglob("lease-*")):  # noqa: ASYNC110 - a folder tells nobody
            await asyncio.sleep(0.01)
    waiting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await waiting
    assert not list(tmp_path.rglob("lease-*"))


def test_an_object_stores_authorities_are_the_machines_where_the_agent_has_none(monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", "/dev/null")
    assert "SSL_CERT_FILE" not in archivist._environment()
    monkeypatch.setenv("SSL_CERT_FILE", "/etc/own.pem")
    assert archivist._environment()["SSL_CERT_FILE"] == "/etc/own.pem"


@pytest.mark.parametrize("line", [b"", b"[]", b"{"])
def test_a_program_that_dies_is_an_internal_error(line):
    with pytest.raises(AgentError) as caught:
        archivist._decoded(line, str)
    assert caught.value.code is Code.INTERNAL
