"""Buffers that begin where a page of memory does.

The kernel copies files and processes' memory by the page, with `rep movsb`. On AMD's Zen 3 that takes three times as
long into a place a few bytes further in its page than where it comes from; and malloc(3), by which Python gets a
bytearray, puts a large one 16 bytes into a page. Measured by 256 KiB: from a file on tmpfs 6.2 GB/s and 1.9, from
/proc/<pid>/mem 3.6 and 1.2.
"""

from __future__ import annotations

import mmap


def room(size: int, before: int = 0) -> memoryview:
    """`before` and `size` bytes, of zeros; the latter begin on a page. It takes memory as it is written."""
    start = -before % mmap.PAGESIZE
    return memoryview(mmap.mmap(-1, start + before + size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))[start:]
