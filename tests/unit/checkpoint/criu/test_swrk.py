"""One waiting CRIU: asked, aborted, and gone without a trace."""

from __future__ import annotations

import os

import pytest

from checkpoint.core.errors import AgentError, Code
from checkpoint.criu.swrk import Swrk
from checkpoint.kernel import Kernel
from tests.harness.made_images import MESSAGES
from tests.harness.solo_agent import CRIU

VERSION = 10  # rpc.proto, criu_req_type


async def test_it_answers_and_ends():
    swrk = Swrk(Kernel(), str(CRIU), MESSAGES)
    response = await swrk.request(VERSION, {"images_dir_fd": -1})
    assert response.success
    assert response.version.major_number == 4
    await swrk.close()
    await swrk.close()
    swrk.abort()


async def test_one_that_is_never_asked_ends_when_we_hang_up():
    swrk = Swrk(Kernel(), str(CRIU), MESSAGES)
    await swrk.close()
    with pytest.raises(ProcessLookupError):
        os.kill(swrk.pid, 0)


async def test_one_that_is_aborted_fails_its_request():
    swrk = Swrk(Kernel(), str(CRIU), MESSAGES)
    swrk.abort()
    with pytest.raises(AgentError) as caught:
        await swrk.request(VERSION, {"images_dir_fd": -1})
    assert caught.value.code is Code.CRIU_FAILED
    await swrk.close()


def test_a_missing_program_is_named(tmp_path):
    with pytest.raises(AgentError) as caught:
        Swrk(Kernel(), str(tmp_path / "none"), MESSAGES)
    assert caught.value.code is Code.CRIU_MISSING
