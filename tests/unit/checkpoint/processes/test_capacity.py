"""The twin of checkpoint/processes/capacity.py."""

from __future__ import annotations

from checkpoint.processes import capacity


def test_there_is_room():
    assert 0 < capacity.room_bytes() < 1 << 50
