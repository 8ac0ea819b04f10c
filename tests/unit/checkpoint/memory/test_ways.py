"""Either end of memory that is in no image, as the agent sees it: what it tells the helper, and hears of it.

(What the two do together, over processes that move: tests/system/test_memory.py.)
"""

from __future__ import annotations

import json
import os
import signal

import msgspec
import pytest

from checkpoint.api import Memory, MemorySource
from checkpoint.core.errors import AgentError, Code
from checkpoint.images.folder import Images
from checkpoint.kernel import Kernel
from checkpoint.memory import taker
from checkpoint.memory.status import STATUS
from checkpoint.memory.ways import MAP, Giving, Taking
from tests.harness.made_images import MESSAGES, write

PAGE = 4096
LEFT, DUMPED = 2, 4  # PE_LAZY, PE_PRESENT (criu: pagemap.h)


@pytest.fixture
def taking(tmp_path):
    """That of an agent before this one; its helper has ended."""
    made = Taking.find(Kernel(), None, tmp_path)
    yield made
    made.let_go()


def leave_word(folder, state: str) -> None:
    (folder / STATUS).write_bytes(msgspec.json.encode(Memory(state, "", 10, 5)))


def test_a_helper_that_left_no_word_or_half_of_one_has_lost_the_memory(taking, tmp_path):
    assert taking.memory().state == "lost"
    (tmp_path / STATUS).write_text('{"state": "compl')
    assert taking.memory().state == "lost"
    leave_word(tmp_path, "complete")
    assert taking.memory() == Memory("complete", "", 10, 5)


@pytest.mark.parametrize(("state", "expected"), [("fetching", "lost"), ("complete", "complete"), ("lost", "lost")])
async def test_an_end_before_all_was_there_is_a_loss(taking, tmp_path, state, expected):
    leave_word(tmp_path, state)
    last = await taking.ended()
    assert (last.state, last.arrived_bytes) == (expected, 5)
    assert ("was killed" in last.reason) == (state == "fetching")


def test_nothing_runs_whose_memory_nobody_holds(taking, tmp_path):
    leave_word(tmp_path, "fetching")
    with pytest.raises(AgentError) as caught:
        taking.hold()
    assert caught.value.code is Code.MEMORY_LOST
    leave_word(tmp_path, "complete")
    taking.hold()
    assert taking.identity is None


def test_what_criu_left_and_what_it_was_spared_have_to_come(taking, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    write(images, "pstree", [MESSAGES.pstree(pid=7, ppid=0, pgid=7, sid=7, threads=[7])])
    maps = [
        MESSAGES.pagemap(vaddr=PAGE * at, compat_nr_pages=2, nr_pages=2, flags=flags)
        for at, flags in ((1, LEFT), (9, DUMPED))
    ]
    write(images, "pagemap-7", [MESSAGES.pagemap_head(pages_id=1), *maps])
    (images / MAP).write_text('{"7": [[1048576, 2097152]], "8": [[4096, 8192]]}')
    taking.want(MemorySource("10.0.0.1", 9), Images(str(images), MESSAGES))
    said = json.loads((tmp_path / taker.WANTED).read_bytes())
    assert (said["host"], said["port"]) == ("10.0.0.1", 9)
    assert said["pages"] == {"7": [[PAGE, 3 * PAGE], [1048576, 2097152]], "8": [[4096, 8192]]}


async def test_a_giver_is_started_found_again_and_missed(tmp_path):
    kernel = Kernel()
    giving = await Giving.start(kernel, b"k" * 32, "127.0.0.1")
    try:
        assert giving.port > 0
        await giving.limit(1e6)
        again = Giving.find(kernel, giving.identity)
        assert again is not None
        assert again.identity == giving.identity
        os.kill(giving.identity.pid, signal.SIGKILL)
        assert not await again.ended()
        listener, other = os.pipe()
        os.close(other)
        with pytest.raises(AgentError) as caught:
            await giving.spare(listener, [])
        assert caught.value.code is Code.MEMORY_HELPER
        with pytest.raises(OSError, match="Bad file descriptor"):  # CRIU would wait for an answer for ever
            os.fstat(listener)
    finally:
        await giving.close()
    assert Giving.find(kernel, giving.identity) is None
