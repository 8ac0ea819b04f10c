"""What becomes of an error that no step has put into words; the calls themselves are in tests/system/agent."""

from __future__ import annotations

import errno
import json

import pytest
from aiohttp.test_utils import make_mocked_request

from checkpoint.agent import _errors


@pytest.mark.parametrize(
    ("error", "status", "code", "words"),
    [
        (OSError(errno.ENOSPC, "full"), 507, "no-space", "there is no space left for the images"),
        (OSError(errno.EDQUOT, "full", "/x/y"), 507, "no-space", "there is no space left for /x/y"),
        (OSError(errno.EIO, "broken"), 500, "internal", "OSError: [Errno 5] broken"),
    ],
)
async def test_a_full_disk_is_nobodys_mistake_in_the_program(error, status, code, words):
    async def fail(request):
        raise error

    answer = await _errors(make_mocked_request("PUT", "/v1/outbound/m"), fail)
    said = json.loads(answer.body)["error"]
    assert (answer.status, said["code"], said["message"]) == (status, code, words)
