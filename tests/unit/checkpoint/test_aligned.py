"""The twin of checkpoint/aligned.py."""

from __future__ import annotations

import ctypes
import mmap

import pytest

from checkpoint import aligned


@pytest.mark.parametrize(("size", "before"), [(1, 0), (256 << 10, 40), ((1 << 20) + 1, 0), (1 << 20, 5000)])
def test_what_is_behind_the_beginning_is_on_a_page(size, before):
    room = aligned.room(size, before)
    assert len(room) == before + size
    assert not any(room)
    room[-1] = 1
    address = ctypes.addressof(ctypes.c_char.from_buffer(room))
    assert (address + before) % mmap.PAGESIZE == 0
