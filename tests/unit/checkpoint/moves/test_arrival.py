"""The workload's files from agent to agent before the freeze: `Shipping` sends them, `Arrival` receives them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from checkpoint.api import ReceiveImages, RestoreWorkload, SendImages
from checkpoint.core.errors import AgentError, Code
from checkpoint.core.stored import Machine
from checkpoint.kernel import Kernel
from checkpoint.moves.arrival import Arrival
from checkpoint.moves.shipping import Shipping

KEY = bytes(32)
HOST = "127.0.0.1"
HERE = Machine("4.2.1", "6.12", "x86_64", [])


@pytest.fixture
async def arrival(tmp_path):
    made = Arrival("m", tmp_path / "own", tmp_path / "beside", HERE)
    yield made
    await made.close()
    assert not (tmp_path / "beside").exists()


@pytest.fixture
def packed(tmp_path) -> Path:
    folder = tmp_path / "packed"
    folder.mkdir()
    (folder / "files.json").write_bytes(b"[]")
    (folder / "files-0.tar").write_bytes(os.urandom(3 << 20))
    return folder


async def test_they_are_in_a_folder_of_their_own_once_they_are_sent(arrival, packed, tmp_path):
    said = arrival.listen(KEY, ReceiveImages(HOST, files=True))
    assert arrival.listen(KEY, ReceiveImages(HOST, files=True)) == said
    assert Path(said.folder).stat().st_mode & 0o777 == 0o700
    shipping = Shipping(tmp_path / "images")
    await shipping.send(Kernel(), KEY, SendImages(HOST, said.port, 2, files=True), packed)
    assert not shipping.agreed, "the images go nowhere yet"
    await arrival.hang_up()
    there = {path.name: path.read_bytes() for path in Path(said.folder).iterdir()}
    assert there == {path.name: path.read_bytes() for path in packed.iterdir()}
    await arrival.clear()
    with pytest.raises(AgentError) as caught:
        await arrival.folder(RestoreWorkload("", ""))
    assert caught.value.code is Code.WRONG_STATE, "they are no images"


async def test_a_destination_that_is_gone_is_an_error_in_words(arrival, packed, tmp_path):
    said = arrival.listen(KEY, ReceiveImages(HOST, files=True))
    await arrival.close()
    with pytest.raises(AgentError) as caught:
        await Shipping(tmp_path / "images").send(Kernel(), KEY, SendImages(HOST, said.port, 1, files=True), packed)
    assert caught.value.code is Code.TRANSFER_BROKEN
