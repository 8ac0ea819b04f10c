"""Whole files, read and written."""

from __future__ import annotations

import pytest

from checkpoint import files
from checkpoint.core.errors import AgentError, Code


@pytest.mark.parametrize("size", [0, 1, 256 << 10, (256 << 10) + 1, 1_000_000])
def test_any_size_reads_back_and_replaces_a_longer_one(tmp_path, size):
    path = str(tmp_path / "f")
    files.write(path, b"y" * 1_200_000)
    files.write(path, b"x" * size)
    assert files.read(path) == b"x" * size


def test_a_missing_image_is_named(tmp_path):
    with pytest.raises(AgentError, match=r"gone\.img cannot be read: No such file") as caught:
        files.read(str(tmp_path / "gone.img"))
    assert caught.value.code is Code.IMAGE_DAMAGED
