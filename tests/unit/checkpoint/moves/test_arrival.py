"""The workload's files before the freeze: `Shipping` sends or stores them, `Arrival` receives or fetches them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from checkpoint.api import (
    Archive,
    FetchImages,
    Packed,
    ReceiveImages,
    ReserveRoom,
    RestoreWorkload,
    SendImages,
    StoreImages,
)
from checkpoint.core.custody import State
from checkpoint.core.errors import AgentError, Code
from checkpoint.core.journal import MigrationRecord
from checkpoint.core.stored import Machine
from checkpoint.images import store
from checkpoint.kernel import Kernel
from checkpoint.moves.arrival import Arrival
from checkpoint.moves.shipping import Shipping
from checkpoint.transfer.sending import Sending
from tests.harness.keys import key_file
from tests.harness.moving import until

KEY = bytes(32)
HOST = "127.0.0.1"
HERE = Machine("4.2.1", "6.12", "x86_64", [])


@pytest.fixture
async def arrival(tmp_path):
    made = Arrival("m", tmp_path / "own", tmp_path / "beside", HERE, Kernel())
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


async def test_images_are_as_long_as_they_were_however_much_room_was_taken(arrival, tmp_path):
    (own := tmp_path / "own").mkdir()
    (images := tmp_path / "images").mkdir()
    for name, size in {"pages-1.img": (3 << 20) + 5, "pages-2.img": 2 << 20, "core-1.img": 99}.items():
        (images / name).write_bytes(os.urandom(size))
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=18m", "tmpfs", own], check=True)
    try:
        await until(lambda: arrival.reserve(ReserveRoom(16 << 20)).state == "there", "the room is not there")
        said = arrival.listen(KEY, ReceiveImages(HOST))
        sending = await Sending.open(Kernel(), KEY, images, SendImages(HOST, said.port, 2))
        await sending.finish(store.listing(images))
        await sending.close()
        folder = await arrival.folder(RestoreWorkload("", ""))
        assert folder == own
        there = {path.name: path.read_bytes() for path in folder.iterdir()}
        assert there == {path.name: path.read_bytes() for path in images.iterdir()}
        await arrival.close()
    finally:
        subprocess.run(["umount", own], check=True)


async def test_by_way_of_an_archive_they_are_there_until_the_move_is_over(arrival, packed, tmp_path):
    place = Archive(str(tmp_path / "archive")), key_file(tmp_path / "key"), 60.0
    record = MigrationRecord("m", "w", "source", State.PREPARED)
    shipping = Shipping(tmp_path / "images")
    for _ in range(2):
        await shipping.store(StoreImages(*place, files=True), record, HERE, packed)
    assert not shipping.agreed, "the images go nowhere yet"
    there = await arrival.files(Packed("not seen there", stored=FetchImages(*place)))
    assert there == tmp_path / "beside"
    assert {path.name: path.read_bytes() for path in there.iterdir()} == {
        path.name: path.read_bytes() for path in packed.iterdir()
    }
    await shipping.close()
    assert not [path for path in (tmp_path / "archive").rglob("*") if path.is_file()]


async def test_an_archive_that_cannot_be_written_is_an_error_each_time(packed, tmp_path):
    (tmp_path / "file").touch()
    wanted = StoreImages(Archive(str(tmp_path / "file/archive")), key_file(tmp_path / "key"), 60.0, files=True)
    shipping = Shipping(tmp_path / "images")
    for _ in range(2):
        with pytest.raises(AgentError) as caught:
            await shipping.store(wanted, MigrationRecord("m", "w", "source", State.PREPARED), HERE, packed)
        assert caught.value.code is Code.ARCHIVE_REFUSED


async def test_a_destination_that_is_gone_is_an_error_in_words(arrival, packed, tmp_path):
    said = arrival.listen(KEY, ReceiveImages(HOST, files=True))
    await arrival.close()
    with pytest.raises(AgentError) as caught:
        await Shipping(tmp_path / "images").send(Kernel(), KEY, SendImages(HOST, said.port, 1, files=True), packed)
    assert caught.value.code is Code.TRANSFER_BROKEN
