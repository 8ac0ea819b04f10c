"""Room for images: taken before they come, given back as they arrive, and no more of it than others can spare."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from checkpoint.api import ReserveRoom
from checkpoint.core.errors import AgentError, Code
from checkpoint.core.parcel import Parcel, Piece
from checkpoint.kernel import Kernel
from checkpoint.transfer.reserve import GROUP_BYTES, LARGE_PART, LOOK_BYTES, SPARE_BYTES, Reserve
from checkpoint.transfer.unpacking import Unpacking

MIB = 1 << 20
SIZE = 16 * MIB
PLENTY = 1 << 50


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs that has room for what the tests take, and for no more than a spare."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE + SPARE_BYTES}", "tmpfs", tmp_path], check=True)
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


@pytest.fixture
def reserve(folder: Path) -> Iterator[Reserve]:
    made = Reserve(folder, Kernel(), lambda: PLENTY)
    yield made
    made.close()
    made.close()
    assert used(folder) == on_disk(folder)


def used(folder: Path) -> int:
    found = os.statvfs(folder)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def taken(reserve: Reserve, size: int = SIZE, leave: int = 0) -> int:
    """How much there is of it when it is there."""
    reserve.begin(ReserveRoom(size, leave))
    reserve.begin(ReserveRoom(size, leave))
    (thread,) = [one for one in threading.enumerate() if one.name == "reserve room"] or [threading.current_thread()]
    if thread is not threading.current_thread():
        thread.join(30)
    found = reserve.state()
    assert found.state == "there"
    return found.size_bytes


def spend(reserve: Reserve, size: int) -> None:
    """On an image that is not large."""
    assert reserve.room(Path("core-1.img"), -1, 1, size) == -1


def put(unpacking: Unpacking, name: str, at: int, data: bytes, *, last: bool = False, attempt: int = 0) -> None:
    """As one parcel; it comes in two slices."""
    half = len(data) // 2
    slices = [memoryview(data)[:half], memoryview(data)[half:]] if half else [memoryview(data)]
    unpacking.take(Parcel(at, attempt, (Piece(name, at, len(data), last),)), slices)


def put_whole(unpacking: Unpacking, name: str, data: bytes, *, attempt: int = 0) -> None:
    for at in range(0, len(data), MIB):
        put(unpacking, name, at, data[at : at + MIB], last=at + MIB >= len(data), attempt=attempt)


def on_disk(folder: Path) -> int:
    """What the files that are seen there take."""
    return sum(path.stat().st_blocks * 512 for path in folder.iterdir())


def test_what_is_taken_is_in_no_folder_and_goes_as_images_come(reserve: Reserve, folder: Path) -> None:
    assert taken(reserve) == used(folder) == SIZE
    assert list(folder.iterdir()) == []
    spend(reserve, 1)
    assert used(folder) == SIZE - GROUP_BYTES
    spend(reserve, GROUP_BYTES - 1)
    assert used(folder) == SIZE - GROUP_BYTES
    spend(reserve, 3 * MIB)
    assert used(folder) == SIZE - 3 * GROUP_BYTES
    spend(reserve, 10 * SIZE)
    assert used(folder) == 0


def test_small_images_find_the_room_that_was_kept_for_them(reserve: Reserve, folder: Path) -> None:
    taken(reserve)
    unpacking = Unpacking(folder, reserve)
    size = SIZE // LARGE_PART // 2
    for at in range(2 * LARGE_PART):
        put(unpacking, f"core-{at}.img", 0, os.urandom(size), last=True)
    assert on_disk(folder) == used(folder) == SIZE


def test_a_file_system_that_is_full_is_said_and_has_its_room_again(reserve: Reserve, folder: Path) -> None:
    (folder / "another's").write_bytes(bytes(LOOK_BYTES))
    with pytest.raises(AgentError, match="no room for the images at the destination") as caught:
        taken(reserve)
    assert caught.value.code is Code.NO_SPACE
    assert used(folder) == LOOK_BYTES
    spend(reserve, MIB)


def test_no_more_is_taken_than_leaves_the_memory_that_others_need(folder: Path) -> None:
    reserve = Reserve(folder, Kernel(), lambda: SIZE - used(folder))
    try:
        assert taken(reserve, leave=LOOK_BYTES) == LOOK_BYTES
        assert taken(reserve, leave=0) == LOOK_BYTES, "it was begun before"
    finally:
        reserve.close()
    assert used(folder) == 0


def test_who_closes_it_while_it_is_taken_waits_for_no_more_than_a_step(folder: Path) -> None:
    asked, go_on = threading.Event(), threading.Event()

    def slow() -> int:
        asked.set()
        go_on.wait(30)
        return PLENTY

    reserve = Reserve(folder, Kernel(), slow)
    reserve.begin(ReserveRoom(SIZE))
    assert asked.wait(30)
    assert reserve.state().state == "coming"
    closing = threading.Thread(target=reserve.close)
    closing.start()
    go_on.set()
    closing.join(30)
    assert (reserve.state().state, reserve.state().size_bytes, used(folder)) == ("there", 0, 0)
    reserve.begin(ReserveRoom(SIZE))
    assert used(folder) == 0, "nobody needs it any more"


def test_where_files_are_not_in_memory_there_is_nothing_to_take(folder: Path) -> None:
    class OnDisk(Kernel):
        def is_tmpfs(self, path: str) -> bool:
            return False

    reserve = Reserve(folder, OnDisk())
    assert (taken(reserve), used(folder)) == (0, 0)
    assert Kernel().is_tmpfs(str(folder))
    assert not Kernel().is_tmpfs("/proc")
    with pytest.raises(FileNotFoundError):
        Kernel().is_tmpfs(str(folder / "nowhere"))


def test_a_large_image_goes_on_in_the_memory_that_was_taken(reserve: Reserve, folder: Path) -> None:
    taken(reserve)
    unpacking, image = Unpacking(folder, reserve), folder / "pages-1.img"
    data = os.urandom(SIZE // 2 + 123)
    put(unpacking, image.name, 0, data[: SIZE // LARGE_PART - 1])
    small = image.stat()
    assert small.st_size == SIZE // LARGE_PART - 1, "a small one is written as any other"
    put_whole(unpacking, image.name, data)
    assert image.stat().st_ino != small.st_ino
    assert (image.stat().st_nlink, image.stat().st_mode & 0o777) == (1, 0o600)
    put(unpacking, "core-1.img", 0, b"c", last=True)
    reserve.settle()
    assert image.read_bytes() == data
    assert used(folder) < len(data) + MIB, "what it did not need is given back"
    put(unpacking, "core-2.img", 0, bytes(SIZE // 4), last=True)
    assert image.read_bytes() == data, "nothing is taken from it"


def test_an_image_that_takes_all_of_it_asks_for_nothing(reserve: Reserve, folder: Path) -> None:
    taken(reserve)
    data = os.urandom(SIZE)
    most, unpacking = [], Unpacking(folder, reserve)
    for at in range(0, SIZE, MIB):
        put(unpacking, "pages-1.img", at, data[at : at + MIB], last=at + MIB == SIZE)
        most.append(used(folder))
    assert set(most) == {SIZE}
    reserve.settle()
    assert (folder / "pages-1.img").read_bytes() == data


def test_an_image_may_become_longer_than_what_was_taken(reserve: Reserve, folder: Path) -> None:
    taken(reserve, SIZE // 2)
    data = os.urandom(SIZE)
    put_whole(Unpacking(folder, reserve), "pages-1.img", data)
    reserve.settle()
    assert (folder / "pages-1.img").read_bytes() == data


def test_what_other_images_need_comes_from_behind_the_large_one(reserve: Reserve, folder: Path) -> None:
    """There is no room for them otherwise, however soon the large one has ended."""
    taken(reserve)
    unpacking = Unpacking(folder, reserve)
    data = {"pages-1.img": os.urandom(SIZE // 4), "pages-2.img": os.urandom(SIZE // 2), "core-1.img": os.urandom(999)}
    for name, one in data.items():
        put_whole(unpacking, name, one)
        assert used(folder) >= SIZE - GROUP_BYTES, "no more is given back than is needed"
    reserve.settle()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == data


def test_whoever_is_writing_to_an_image_that_becomes_large_goes_on_in_its_new_place(
    reserve: Reserve, folder: Path
) -> None:
    taken(reserve)
    unpacking, image = Unpacking(folder, reserve), folder / "pages-1.img"
    data = os.urandom(2 * MIB)
    little = SIZE // LARGE_PART // 2

    def slices() -> Iterator[memoryview]:
        yield memoryview(data)[:little]
        inode = image.stat().st_ino
        put(unpacking, image.name, MIB, data[MIB:], last=True)
        assert image.stat().st_ino != inode, "another stream has made it large meanwhile"
        yield memoryview(data)[little:MIB]

    unpacking.take(Parcel(1, 0, (Piece(image.name, 0, MIB, False),)), slices())
    reserve.settle()
    assert image.read_bytes() == data


def test_a_parcel_of_an_earlier_attempt_that_is_half_there_ends_in_no_image(reserve: Reserve, folder: Path) -> None:
    taken(reserve)
    unpacking = Unpacking(folder, reserve)
    old, new = os.urandom(MIB), os.urandom(4 * MIB)

    def slices() -> Iterator[memoryview]:
        yield memoryview(old)[: MIB // 2]
        put_whole(unpacking, "pages-1.img", new, attempt=1)
        yield memoryview(old)[MIB // 2 :]

    unpacking.take(Parcel(1, 0, (Piece("pages-1.img", 0, MIB, True),)), slices())
    reserve.settle()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"pages-1.img": new}


def test_images_of_a_later_attempt_get_the_memory_of_an_earlier_one(reserve: Reserve, folder: Path) -> None:
    """There is no room for them otherwise."""
    taken(reserve)
    unpacking = Unpacking(folder, reserve)
    for attempt, size in enumerate([SIZE, SIZE // 2, SIZE - 1]):
        data = os.urandom(size)
        put_whole(unpacking, "pages-1.img", data, attempt=attempt)
        assert (folder / "pages-1.img").read_bytes()[:size] == data
    reserve.settle()
    assert (folder / "pages-1.img").read_bytes() == data


def test_an_image_that_is_all_holes_does_not_get_it(reserve: Reserve, folder: Path) -> None:
    """Its holes would be copied, and there may be more of them than a file system holds."""
    taken(reserve)
    unpacking = Unpacking(folder, reserve)
    far = 1 << 40
    put(unpacking, "pages-1.img", far, b"far away", last=True)
    put(unpacking, "pages-1.img", 0, bytes(MIB))
    assert (folder / "pages-1.img").stat().st_size == far + len(b"far away")
    assert on_disk(folder) < 2 * MIB
    put_whole(unpacking, "pages-2.img", data := os.urandom(MIB))
    reserve.settle()
    assert (folder / "pages-2.img").read_bytes() == data
