"""The twin of checkpoint/images/mappings.py."""

from __future__ import annotations

import pytest

from checkpoint.core.areas import AREA_BYTES, Area, shown
from checkpoint.core.errors import AgentError, Code
from checkpoint.images import mappings
from checkpoint.images.folder import entries
from tests.harness.made_images import MESSAGES, filled, write

REGULAR, PRIVATE, GUARD = 1 << 0, 1 << 9, 1 << 16
LARGE = [Area(1 << 30, (1 << 30) + 3 * AREA_BYTES), Area(5 << 30, (5 << 30) + AREA_BYTES)]


def listed(*areas: tuple[int, int, int]):
    """An mm_entry that has these."""
    one = MESSAGES.mm()
    for start, end, status in areas:
        one.vmas.add(start=start, end=end, pgoff=0, shmid=0, prot=3, flags=34, status=status, fd=-1)
    return filled(one)


def test_areas_that_were_shown_in_part_end_where_they_do(tmp_path):
    small = (4096, 8192, REGULAR | PRIVATE)
    guard = (shown(LARGE[0]).end - 4096, shown(LARGE[0]).end, GUARD)
    seen = [(*shown(area), REGULAR | PRIVATE) for area in LARGE]
    write(tmp_path, "mm-7", [listed(small, *seen, guard)])
    mappings.lengthen(tmp_path, MESSAGES, {7: LARGE})
    (found,) = entries(str(tmp_path / "mm-7.img"), MESSAGES.mm)
    ends = [(one.start, one.end, one.status) for one in found.vmas]
    assert ends == [small, *((*area, REGULAR | PRIVATE) for area in LARGE), guard]


def test_one_that_criu_has_not_listed_is_an_error(tmp_path):
    write(tmp_path, "mm-7", [listed((*shown(LARGE[0]), REGULAR | PRIVATE))])
    with pytest.raises(AgentError, match=r"mm-7\.img has not all") as caught:
        mappings.lengthen(tmp_path, MESSAGES, {7: LARGE})
    assert caught.value.code is Code.IMAGE_DAMAGED
