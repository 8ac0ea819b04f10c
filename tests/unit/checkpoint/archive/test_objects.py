"""Archives that are none, or are gone. (A real object store: test_main.)"""

from __future__ import annotations

import pytest
from obstore.store import AzureStore, GCSStore

from checkpoint.api import Archive
from checkpoint.archive.objects import Objects
from checkpoint.core.errors import AgentError, Code
from tests.harness.archived import put, refused


async def test_an_archive_that_is_gone_is_told(tmp_path, images):
    gone = Archive("s3://images", {"aws_endpoint_url": "http://127.0.0.1:9", "aws_access_key_id": "a",
                   "aws_secret_access_key": "b", "aws_region": "us-east-1"})  # fmt: skip
    await refused(Code.ARCHIVE_UNREACHABLE, put(Objects(gone, retry_seconds=0.3), images))


@pytest.mark.parametrize("url", ["relative/folder", "ftp://host/x", "file://host/x", "s3://"])
async def test_no_archive_is_told(url):
    with pytest.raises(AgentError) as caught:
        Objects(Archive(url))
    assert caught.value.code is Code.ARCHIVE_REFUSED


@pytest.mark.parametrize(
    ("url", "options", "kind"),
    [
        ("gs://bucket/prefix", {}, GCSStore),
        ("az://container/prefix", {"azure_storage_account_name": "a", "azure_storage_account_key": "aGk="}, AzureStore),
    ],
)
async def test_what_else_the_library_has_is_taken(url, options, kind):
    made = Objects(Archive(url, options))
    assert (type(made._store), made.is_local) == (kind, False)
