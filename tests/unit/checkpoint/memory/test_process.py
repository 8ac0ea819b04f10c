"""Pages put into a process by userfaultfd, here into our own: the twin of `process` and `uffd`."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import platform
import select
import struct
import threading

import pytest

from checkpoint.core.early import Part
from checkpoint.core.pages import CHUNK_BYTES, PAGE_BYTES, Ask, Space
from checkpoint.memory import uffd
from checkpoint.memory.process import Process

PAGES = CHUNK_BYTES // PAGE_BYTES
_API, _REGISTER = 0xC018AA3F, 0xC020AA00
_NUMBER = {"x86_64": 323, "aarch64": 282}[platform.machine()]
_LIBC = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def watched():
    """A descriptor, and the address of a chunk of ours that nobody has touched: all of its pages are neighbours."""
    fd = _LIBC.syscall(_NUMBER, os.O_CLOEXEC | os.O_NONBLOCK)
    assert fd >= 0, os.strerror(ctypes.get_errno())
    memory = mmap.mmap(-1, 2 * CHUNK_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    anchor = ctypes.c_char.from_buffer(memory)
    address = -(-ctypes.addressof(anchor) // CHUNK_BYTES) * CHUNK_BYTES
    fcntl.ioctl(fd, _API, struct.pack("<QQQ", 0xAA, 0, 0))
    fcntl.ioctl(fd, _REGISTER, struct.pack("<QQQQ", address, CHUNK_BYTES, 1, 0))
    yield fd, address
    os.close(fd)
    del anchor
    memory.close()


def read(address: int, size: int) -> bytes:
    """As C would: without Python's lock, so that a page may be waited for."""
    into = ctypes.create_string_buffer(size)
    _LIBC.memcpy(into, ctypes.c_void_p(address), size)
    return into.raw


def test_an_answer_is_put_where_its_pages_belong_and_the_rest_are_zeros(watched):
    fd, address = watched
    one = Process(1, 5, fd, Space([(address, address + PAGES * PAGE_BYTES)]))
    found = one.space.next(4 * PAGE_BYTES)
    assert isinstance(found, Ask)
    buffer = uffd.Buffer()
    buffer.view[: 2 * PAGE_BYTES] = b"1" * PAGE_BYTES + b"3" * PAGE_BYTES
    uffd.zero(fd, address + 2 * PAGE_BYTES)  # one that is there already stays
    one.put(found.number, buffer.address, 0b1010)
    one.put(found.number, buffer.address, 0b1111)  # an answer that came twice
    expected = [b"\0", b"1", b"\0", b"3"]
    assert read(address, 4 * PAGE_BYTES) == b"".join(page * PAGE_BYTES for page in expected)
    assert one.space.left_bytes == (PAGES - 4) * PAGE_BYTES
    del buffer.view


def test_what_was_kept_is_put_where_it_was_and_is_wanted_and_nothing_else(watched):
    fd, address = watched
    one = Process(1, 5, fd, Space([(address, address + 6 * PAGE_BYTES)]))
    one.space.removed(address + PAGE_BYTES, address + 2 * PAGE_BYTES)
    kept = uffd.Buffer(2 << 20)
    kept.view[: 5 * PAGE_BYTES] = b"".join(bytes([value]) * PAGE_BYTES for value in b"12345")
    rows = [(address, 0, 3 * PAGE_BYTES), (address + 4 * PAGE_BYTES, 4 * PAGE_BYTES, PAGE_BYTES)]
    one.fill(Part(5, address, 5 * PAGE_BYTES, rows), kept.address)
    assert one.space.left_bytes == PAGE_BYTES
    kept.forget(0, 2 << 20)
    assert kept.view[0] == 0
    one.fill(Part(5, address, 5 * PAGE_BYTES, rows), kept.address)  # said again, over another connection
    uffd.unregister(fd, address, address + CHUNK_BYTES)
    assert read(address, 6 * PAGE_BYTES) == b"".join(bytes([value]) * PAGE_BYTES for value in b"1\0" + b"3\0" + b"5\0")
    del kept.view


def test_a_fault_on_what_was_never_written_is_answered_with_its_neighbours_too(watched):
    fd, address = watched
    one = Process(1, 5, fd, Space([(address, address + PAGE_BYTES)]))
    faults: list[int] = []
    one.on_fault = lambda process, where: faults.append(where)
    got: list[bytes] = []
    waiting = threading.Thread(target=lambda: got.append(read(address + 9 * PAGE_BYTES, 1)), daemon=True)
    waiting.start()
    assert select.select([fd], [], [], 10)[0]
    one.take_events()
    assert faults == [address + 9 * PAGE_BYTES]
    assert one.fault(faults[0]) is None
    waiting.join(10)
    assert got == [b"\0"]
    assert read(address + 10 * PAGE_BYTES, 1) == b"\0"
    assert uffd.events(fd) == []
    asked = one.fault(address)
    assert isinstance(asked, Ask)
    assert one.fault(address) is None  # it is on its way


def test_memory_that_is_given_back_is_watched_no_more_and_skipped(watched):
    fd, address = watched
    uffd.unregister(fd, address, address + 2 * PAGE_BYTES)
    assert read(address, 1) == b"\0"
    uffd.unregister(fd, 0, PAGE_BYTES)
    uffd.zero(fd, address, 4 * PAGE_BYTES)
    assert read(address, 4 * PAGE_BYTES) == bytes(4 * PAGE_BYTES)


def test_a_range_that_reaches_beyond_the_area_is_done_as_far_as_it_lies_in_it(watched):
    fd, address = watched
    uffd.zero(fd, address - 16 * PAGE_BYTES, (PAGES + 32) * PAGE_BYTES)
    assert read(address, PAGES * PAGE_BYTES) == bytes(PAGES * PAGE_BYTES)
