"""Which blocks of an area were ever written."""

from __future__ import annotations

import os
import threading

from checkpoint.core.areas import BLOCK_BYTES, Area, join
from checkpoint.memory import scan
from tests.harness.bpf import refuse_ioctl
from tests.unit.checkpoint.memory.conftest import AREA


def test_blocks_with_a_page_that_was_written_and_no_others(sleeper):
    fd = os.open(f"/proc/{sleeper.pid}/pagemap", os.O_RDONLY)
    try:
        found = join(scan.written(fd, Area(sleeper.large, sleeper.large + AREA)))
    finally:
        os.close(fd)

    def block_of(offset: int) -> int:
        """Blocks are aligned in memory, wherever the area begins."""
        return (sleeper.large + offset) // BLOCK_BYTES

    written = [(0, 8192), (4 * BLOCK_BYTES, 6 * BLOCK_BYTES), (AREA - 4096, AREA)]
    expected = {number for start, end in written for number in range(block_of(start), block_of(end - 1) + 1)}
    seen = {number for start, end in found for number in range(start // BLOCK_BYTES, (end - 1) // BLOCK_BYTES + 1)}
    assert seen == expected
    assert all(sleeper.large <= start < end <= sleeper.large + AREA for start, end in found)


def test_a_kernel_without_it_says_so():
    """It came with Linux 6.7."""
    found: list[bool] = []

    def look():
        refuse_ioctl(scan.REQUEST)
        found.append(scan.is_known())

    thread = threading.Thread(target=look)  # the filter's
    thread.start()
    thread.join()
    assert found == [False]


def test_only_a_question_what_is_there_is_that():
    asked = scan.Argument(96, 0, 0, 4096, 0, 0, 1, 0, 0x24, 0x24, 0x18, 0x18)
    assert asked.asks_what_is_there
    assert not asked._replace(any_of=0, mask=1 << 8, wanted=1 << 8).asks_what_is_there
    assert not asked._replace(flags=1).asks_what_is_there
