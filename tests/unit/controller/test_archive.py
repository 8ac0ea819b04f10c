"""Archives and keys as a person names them."""

from __future__ import annotations

from pathlib import Path

import pytest

import checkpoint.api as agent_api
from controller import archive
from controller.core.errors import Refused


def test_a_folder_is_made_absolute_and_needs_no_options(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_REGION", "here")
    assert archive.archive_at("images") == agent_api.Archive(str(tmp_path / "images"))


def test_a_url_has_its_options_from_the_environment_and_does_not_show_them(monkeypatch):
    for name in archive.OPTIONS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    monkeypatch.setenv("AWS_PAGER", "less")
    found = archive.archive_at("s3://bucket/prefix")
    assert found.options == {"aws_secret_access_key": "hush"}
    assert "hush" not in repr(found)


def test_one_key_and_no_more(tmp_path):
    assert archive.key_source(tmp_path / "k", None).file == str(tmp_path / "k")
    assert archive.key_source(None, "vault read x").command == "vault read x"
    for file, command, code in ((None, None, "no-key"), (None, "", "no-key"), (Path("k"), "c", "two-keys")):
        with pytest.raises(Refused) as caught:
            archive.key_source(file, command)
        assert caught.value.code == code


@pytest.mark.parametrize("place", ["", "s3:/bucket/prefix", "s3//bucket", "S3:bucket", "https:/host/x", "file:/x"])
def test_a_url_that_was_mistyped_is_no_folder(place):
    with pytest.raises(Refused, match="neither a folder nor a URL"):
        archive.archive_at(place)


@pytest.mark.parametrize("place", ["s3", "s3-copies/x", "a//b", "/s3//x", "./s3:x"])
def test_any_other_name_is_a_folders(place):
    assert archive.archive_at(place).url == str(Path(place).absolute())
