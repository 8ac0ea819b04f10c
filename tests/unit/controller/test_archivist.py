"""What the archive program answers, and what is told where it does not."""

from __future__ import annotations

import pytest

import checkpoint.api as agent_api
from controller import archivist
from controller.archive import archive_at
from controller.core.errors import Answered, MidstreamError


async def test_the_program_answers_and_refuses(tmp_path):
    place = archive_at(str(tmp_path))
    assert await archivist.carry_out(agent_api.ListImages(place), list[agent_api.StoredImage]) == []
    with pytest.raises(Answered, match="no image"):
        await archivist.carry_out(agent_api.DeleteImage(place, "none"), type(None))


@pytest.mark.parametrize("line", [b"", b"{", b'{"answer": 1}'])
def test_an_answer_that_is_none_is_told(line):
    with pytest.raises(MidstreamError):
        archivist._decoded(line, str)
