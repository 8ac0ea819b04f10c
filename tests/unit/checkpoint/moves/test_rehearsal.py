"""The rehearsal goes through, and leaves nothing."""

from __future__ import annotations

import tempfile
from pathlib import Path

from checkpoint.images.store import Store
from checkpoint.moves.rehearsal import rehearse
from tests.harness.made_images import MESSAGES


async def test_it_goes_through_and_leaves_nothing():
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        store = Store(Path(name))
        await rehearse(MESSAGES, store)
        assert list(Path(name).iterdir()) == []
        store.close()
