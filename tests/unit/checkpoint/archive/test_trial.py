"""An archive and a key are tried out as an image will use them, and nobody takes the trial for an image."""

from __future__ import annotations

import pytest

from checkpoint.api import Archive
from checkpoint.archive import lifetime, trial
from checkpoint.archive.keys import Secret
from checkpoint.archive.objects import Objects
from checkpoint.core.errors import AgentError, Code
from tests.harness.archived import KEK, put


async def test_what_a_writer_leaves_a_reader_finds_and_the_image_is_stored_beside_it(local, images):
    await trial.leave(local, "i", KEK)
    await trial.find(local, "i", KEK)
    assert await lifetime.collect(local) == [], "it is in use"
    await put(local, images)
    (view,) = await lifetime.catalogue(local)
    assert (view.state, view.in_use) == ("ready", True)
    await lifetime.delete(local, "i", force=True)
    assert await local.below("") == []


async def test_another_key_or_another_archive_is_found_out(local, tmp_path):
    await trial.leave(local, "i", KEK)
    with pytest.raises(AgentError) as caught:
        await trial.find(local, "i", Secret.fresh())
    assert caught.value.code is Code.WRONG_KEY
    elsewhere = Objects(Archive(str(tmp_path / "elsewhere")), make=True)
    with pytest.raises(AgentError) as caught:
        await trial.find(elsewhere, "i", KEK)
    assert caught.value.code is Code.IMAGE_MISSING
    assert str(tmp_path / "elsewhere") in caught.value.problem.message
    await trial.take_away(local, "i")
    assert await local.below("") == []
