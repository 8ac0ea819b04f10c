"""One waiting CRIU: asked, aborted, and gone without a trace."""

from __future__ import annotations

import os

import pytest

from checkpoint.core.errors import AgentError, Code
from checkpoint.criu import swrk as swrks
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


@pytest.mark.parametrize(
    ("ending", "words"),
    [
        ("kill -9 $$", "CRIU ended without an answer: signal 9 (Killed) has ended it"),
        ("exit 7", "CRIU ended without an answer: its exit status is 7"),
        ("cat <&3 >/dev/null & exit 7", "CRIU ended without an answer: its exit status is 7"),
        ("exec 3>&-; exec sleep 1000", "CRIU ended without an answer: it has closed its socket"),
    ],
)
async def test_one_that_ends_without_an_answer_is_said_how(tmp_path, monkeypatch, ending, words):
    monkeypatch.setattr(swrks, "_END_SECONDS", 0.5 if "sleep" in ending else 60)
    program = tmp_path / "criu"
    program.write_text(f"#!/bin/bash\nhead -c1 <&3 >/dev/null\n{ending}\n")
    program.chmod(0o755)
    swrk = Swrk(Kernel(), str(program), MESSAGES)
    with pytest.raises(AgentError) as caught:
        await swrk.request(VERSION, {"images_dir_fd": -1})
    assert caught.value.problem.message == words
    swrk.abort()
    await swrk.close()


def test_a_missing_program_is_named(tmp_path):
    with pytest.raises(AgentError) as caught:
        Swrk(Kernel(), str(tmp_path / "none"), MESSAGES)
    assert caught.value.code is Code.CRIU_MISSING
