from __future__ import annotations

import asyncio

from checkpoint.images.progress import Progress
from checkpoint.kernel import Kernel


def dump(folder, *inodes: int) -> None:
    for inode in inodes:
        (folder / f"tcp-stream-{inode:x}.img").write_bytes(b"x")
        (folder / f"fdinfo-{inode}.img").write_bytes(b"x")


async def test_connections_come_in_order_by_so_many(tmp_path):
    progress = Progress(Kernel(), tmp_path)
    dump(tmp_path, 31, 4)
    async with asyncio.timeout(10):
        assert await progress.next(2) == [31, 4]
    waiting = asyncio.create_task(progress.next(2), name="waits for two")
    dump(tmp_path, 7)
    async with asyncio.timeout(10):
        while not progress._whole:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    assert not waiting.done()
    dump(tmp_path, 0xFFFFFFFF, 8)
    progress.end()
    assert await waiting == [7, 0xFFFFFFFF]
    assert await progress.next(2) == [8]
    assert await progress.next(2) == []


async def test_of_a_dump_in_vain_nothing_is_told(tmp_path):
    progress = Progress(Kernel(), tmp_path)
    dump(tmp_path, 1)
    progress.forget()
    assert await progress.next(2) == []
    progress.end()
