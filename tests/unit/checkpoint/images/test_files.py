"""Whole files, read and written."""

from __future__ import annotations

import pytest

from checkpoint.core.errors import AgentError, Code
from checkpoint.images import files


@pytest.mark.parametrize("size", [0, 1, 256 << 10, (256 << 10) + 1, 1_000_000])
def test_any_size_reads_back_and_replaces_a_longer_one(tmp_path, size):
    path = str(tmp_path / "f")
    files.write(path, b"y" * 1_200_000)
    files.write(path, b"x" * size)
    assert files.read(path) == b"x" * size


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 1_000_000])
def test_the_head_comes_with_the_size_of_the_whole(tmp_path, size):
    path = str(tmp_path / "f")
    files.write(path, b"x" * size)
    assert files.head(path) == (b"x" * min(size, 4096), size)


@pytest.mark.parametrize("read", [files.read, files.head])
def test_a_missing_image_is_named(tmp_path, read):
    with pytest.raises(AgentError, match=r"gone\.img cannot be read: No such file") as caught:
        read(str(tmp_path / "gone.img"))
    assert caught.value.code is Code.IMAGE_DAMAGED
