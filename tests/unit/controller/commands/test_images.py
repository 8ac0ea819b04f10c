"""The commands about images, as far as they need no pod; the rest: tests/system/test_images.py."""

from __future__ import annotations

import asyncio
import re

import msgspec
import pytest

from checkpoint.api import Inspection, KeySource, Workload
from controller import rates
from controller.commands import images
from controller.core.errors import Answered, Refused
from controller.core.predict import Rates
from tests.harness.stand_ins import stands


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


@pytest.mark.parametrize(
    ("hold_seconds", "refused", "warned"), [(600.0, False, False), (1.0, False, True), (0.01, True, False)]
)
async def test_a_checkpoint_whose_freeze_does_not_fit_is_refused_before_it_and_one_that_may_not_is_warned_of(
    capsys, hold_seconds, refused, warned
):
    async with stands("a") as (home, (a,)):
        (home / rates.NAME).write_bytes(msgspec.json.encode(Rates(1e9)))
        workload = Workload("w", 20_001, ["server"], "running")
        a.agent.answers |= {"GET /v1/workloads": [workload], "GET /v1/workloads/w": inspection(workload)}
        asked = images.CheckpointRequest("w", None, "/x", KeySource("/k"), 0.0, hold_seconds, 1.0, "auto")
        with pytest.raises(Refused if refused else Answered) as caught:  # the agent has no answer to the checkpoint
            await images.checkpoint(home, asked, as_json=True)
    assert caught.value.code == ("hold-too-short" if refused else "not-put-down")
    assert ("the freeze is predicted to take 2.05 s" in capsys.readouterr().err) == warned


def inspection(workload: Workload) -> Inspection:
    return Inspection(workload, [workload.pid], 4_000_000_000, 0, [], [])


def test_an_archive_without_images(tmp_path, capsys):
    place = str(tmp_path / "archive")
    (tmp_path / "archive").mkdir()
    asyncio.run(images.list_images(place, as_json=True))
    asyncio.run(images.collect_images(place, dry_run=True))
    asyncio.run(images.make_key(tmp_path / "key"))
    out, err = capsys.readouterr()
    assert out.startswith("[]\n")
    assert err == "no image is past its time, and none was left half stored\n"
    assert (tmp_path / "key").read_bytes().hex() not in out
