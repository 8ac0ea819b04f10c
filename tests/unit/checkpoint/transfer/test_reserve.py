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
from checkpoint.transfer.reserve import GROUP_BYTES, LOOK_BYTES, SPARE_BYTES, Reserve
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
    assert used(folder) == sum(path.stat().st_blocks * 512 for path in folder.iterdir())


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


def test_what_is_taken_is_in_no_folder_and_goes_as_images_come(reserve: Reserve, folder: Path) -> None:
    assert taken(reserve) == used(folder) == SIZE
    assert list(folder.iterdir()) == []
    reserve.spend(1)
    assert used(folder) == SIZE - GROUP_BYTES
    reserve.spend(GROUP_BYTES - 1)
    assert used(folder) == SIZE - GROUP_BYTES
    reserve.spend(3 * MIB)
    assert used(folder) == SIZE - 3 * GROUP_BYTES
    reserve.spend(10 * SIZE)
    assert used(folder) == 0


def test_images_find_the_room_that_was_kept_for_them(reserve: Reserve, folder: Path) -> None:
    taken(reserve)
    unpacking = Unpacking(folder, reserve)
    data = memoryview(os.urandom(MIB))
    for at in range(SIZE // MIB):
        unpacking.take(Parcel(at, 0, (Piece("pages-1.img", at * MIB, MIB, False),)), [data])
    assert (folder / "pages-1.img").stat().st_size == SIZE


def test_a_file_system_that_is_full_is_said_and_has_its_room_again(reserve: Reserve, folder: Path) -> None:
    (folder / "another's").write_bytes(bytes(LOOK_BYTES))
    with pytest.raises(AgentError, match="no room for the images at the destination") as caught:
        taken(reserve)
    assert caught.value.code is Code.NO_SPACE
    assert used(folder) == LOOK_BYTES
    reserve.spend(MIB)


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
