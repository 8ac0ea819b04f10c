"""The commands about images, as far as they need no pod; the rest: tests/system/test_images.py."""

from __future__ import annotations

import asyncio
import re

from checkpoint.api import KeySource
from controller.commands import images


def request(copies: int) -> images.RestoreRequest:
    return images.RestoreRequest("i", "b", "copy", copies, "/x", KeySource("/k"), 0.0, 1.0)


def test_each_copy_has_a_pod_of_its_own():
    assert images.pod_names(request(1)) == ["b"]
    assert images.pod_names(request(3)) == ["b", "b-2", "b-3"]


def test_an_images_name_is_a_files_name_and_nobody_elses():
    names = {images.image_name("w" * 64) for _ in range(10)}
    assert len(names) == 10
    assert all(re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name) for name in names)


def test_an_archive_without_images(tmp_path, capsys):
    place = str(tmp_path / "archive")
    asyncio.run(images.list_images(place, as_json=True))
    asyncio.run(images.collect_images(place, dry_run=True))
    asyncio.run(images.make_key(tmp_path / "key"))
    out = capsys.readouterr().out
    assert out.startswith("[]\n")
    assert (tmp_path / "key").read_bytes().hex() not in out
