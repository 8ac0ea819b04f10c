"""The commands about images, as far as they need no pod; the rest: tests/system/test_images.py."""

from __future__ import annotations

import asyncio
import re

import pytest

from checkpoint.api import KeySource
from controller.commands import images
from controller.core.errors import Answered


def request(copies: int) -> images.RestoreRequest:
    return images.RestoreRequest("i", "b", "copy", copies, "/x", KeySource("/k"), 0.0, 1.0)


def test_each_copy_has_a_pod_of_its_own():
    assert images.pod_names(request(1)) == ["b"]
    assert images.pod_names(request(3)) == ["b", "b-2", "b-3"]


def test_an_images_name_is_a_files_name_and_nobody_elses():
    names = {images.image_name("w" * 64) for _ in range(10)}
    assert len(names) == 10
    assert all(re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name) for name in names)


def test_the_default_archive_may_not_be_there_yet_but_one_that_is_named_is(tmp_path, monkeypatch, capsys):
    place = str(tmp_path / "none")
    with pytest.raises(Answered, match="No such file or directory"):
        asyncio.run(images.list_images(place, as_json=True))
    monkeypatch.setattr(images, "DEFAULT", place)
    asyncio.run(images.list_images(place, as_json=True))
    asyncio.run(images.collect_images(place, dry_run=True))
    assert capsys.readouterr().out == "[]\n"
    assert not (tmp_path / "none").exists()


def test_an_archive_without_images(tmp_path, capsys):
    place = str(tmp_path / "archive")
    (tmp_path / "archive").mkdir()
    asyncio.run(images.list_images(place, as_json=True))
    asyncio.run(images.collect_images(place, dry_run=True))
    asyncio.run(images.make_key(tmp_path / "key"))
    out = capsys.readouterr().out
    assert out.startswith("[]\n")
    assert (tmp_path / "key").read_bytes().hex() not in out
