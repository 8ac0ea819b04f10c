"""Room in pipes: made where it is missing, left alone where it is not, and refused in words where it cannot be made."""

from __future__ import annotations

import pytest

from checkpoint.core.errors import AgentError, Code
from checkpoint.criu import pipes


@pytest.fixture
def limits(tmp_path):
    soft, largest = tmp_path / "soft", tmp_path / "largest"
    soft.write_text("16384\n")
    largest.write_text("1048576\n")
    return soft, largest


def test_limits_in_the_way_are_raised(limits):
    pipes.make_room(*limits, privileged=False)
    assert [path.read_text() for path in limits] == ["0", str(pipes.PIPE_BYTES)]


def test_limits_that_are_not_are_left(limits):
    limits[0].write_text("0\n")
    limits[1].write_text("99999999\n")
    pipes.make_room(*limits, privileged=False)
    assert [path.read_text() for path in limits] == ["0\n", "99999999\n"]


def test_who_has_the_capability_needs_none(limits):
    pipes.make_room(*limits, privileged=True)
    assert limits[0].read_text() == "16384\n"


def test_limits_that_cannot_be_changed_are_told(tmp_path, limits):
    with pytest.raises(AgentError) as caught:
        pipes.make_room(tmp_path / "none" / "soft", limits[1], privileged=False)
    assert caught.value.code is Code.MEMORY_WAY
    assert "pipe-user-pages-soft" in caught.value.problem.hint


def test_so_much_memory_fits_into_the_files_that_may_be_open():
    assert pipes.most_bytes() % pipes.PIPE_BYTES == 0
