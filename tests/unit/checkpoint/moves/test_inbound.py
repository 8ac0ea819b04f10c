"""The destination's side where CRIU has no part."""

from __future__ import annotations

import asyncio
import os
import subprocess

from checkpoint.core.custody import State
from checkpoint.core.journal import MigrationRecord
from checkpoint.images.store import Store
from checkpoint.kernel import Kernel
from checkpoint.moves.inbound import Inbound
from checkpoint.moves.surroundings import Surroundings
from tests.unit.checkpoint.baggage.test_incoming import Folders, seen


async def test_a_file_that_cannot_be_taken_back_is_no_reason_not_to_start(tmp_path, caplog):
    """It is looked after at an agent's start, which would fail, and fail again."""
    folders = Folders(tmp_path)
    for top, text in ((folders.source, "new"), (folders.there, "old")):
        (top / "file").write_text(text)
    os.utime(folders.there / "file", (1, 1))
    folders.pack()
    folders.place()
    store = Store(tmp_path / "store")
    around = Surroundings(
        Kernel(), None, None, store, "", lambda: None, None, lambda name: None, folders.agent
    )  # fmt: skip
    one = Inbound(around, None, MigrationRecord("m", "w", "destination", State.RESTORING))
    subprocess.run(["mount", "--bind", str(folders.source / "file"), str(folders.there / "file")], check=True)
    try:
        await one.take_files_back()
        assert "not all files are as they were" in caplog.text
    finally:
        subprocess.run(["umount", str(folders.there / "file")], check=True)
    await one.take_files_back()
    assert seen(folders.there) == {"file": "old"}
    store.close()


async def test_what_is_forgotten_while_it_is_prepared_leaves_nothing(tmp_path):
    class Slow:
        async def prepare(self, **_):
            forgetting.append(asyncio.create_task(destination.forget()))
            await asyncio.sleep(0.05)
            return self

        async def close(self):
            closed.append(self)

    engine, closed, forgetting = Slow(), [], []
    store = Store(tmp_path / "store")
    around = Surroundings(Kernel(), engine, None, store, "", lambda: None, None, lambda name: None, tmp_path)
    destination = Inbound(around, None, MigrationRecord("m", "w", "destination", State.WAITING))
    await destination.prepare()
    assert (await forgetting[0]).state == "discarded"
    assert closed == [engine]
    assert not list((tmp_path / "store").iterdir())
    store.close()
