"""Pages put into a process by userfaultfd, here into our own: the twin of `process` and `uffd`."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import platform
import resource
import select
import struct
import threading
import time
from collections.abc import Callable

import pytest

from checkpoint.core.early import Part
from checkpoint.core.pages import CHUNK_BYTES, PAGE_BYTES, Ask, Space
from checkpoint.core.pagewire import GET, HURRY, NOW, SOON, Request
from checkpoint.memory import uffd
from checkpoint.memory.process import Process

PAGES = CHUNK_BYTES // PAGE_BYTES
_API, _REGISTER = 0xC018AA3F, 0xC020AA00
_NUMBER = {"x86_64": 323, "aarch64": 282}[platform.machine()]
_REMAP, _REMOVE, _UNMAP = 1 << 2, 1 << 3, 1 << 6  # UFFD_FEATURE_EVENT_…
_FIXED, _MOVE, _TO, _LEAVE = 0x10, 1, 2, 4  # MAP_FIXED; MREMAP_MAYMOVE, MREMAP_FIXED, MREMAP_DONTUNMAP
_LIBC = ctypes.CDLL(None, use_errno=True)


@pytest.fixture(params=[0])
def watched(request):
    """A descriptor, and the address of a chunk of ours that nobody has touched: all of its pages are neighbours."""
    fd = _LIBC.syscall(_NUMBER, os.O_CLOEXEC | os.O_NONBLOCK)
    assert fd >= 0, os.strerror(ctypes.get_errno())
    memory = mmap.mmap(-1, 2 * CHUNK_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    anchor = ctypes.c_char.from_buffer(memory)
    address = -(-ctypes.addressof(anchor) // CHUNK_BYTES) * CHUNK_BYTES
    fcntl.ioctl(fd, _API, struct.pack("<QQQ", 0xAA, request.param, 0))
    fcntl.ioctl(fd, _REGISTER, struct.pack("<QQQQ", address, CHUNK_BYTES, 1, 0))
    yield fd, address
    os.close(fd)
    for thread in threading.enumerate():
        if thread.daemon:  # who waited has zeros now
            thread.join(10)
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
    assert one.fault(faults[0]) == []
    waiting.join(10)
    assert got == [b"\0"]
    assert read(address + 10 * PAGE_BYTES, 1) == b"\0"
    assert uffd.events(fd) == []
    assert one.fault(address) == [Request(NOW, 5, 1, 1, address, PAGE_BYTES)]
    assert one.fault(address) == []  # it is on its way


def test_what_was_asked_for_in_the_background_is_hurried_and_said_so_again(watched):
    fd, address = watched
    one = Process(1, 5, fd, Space([(address, address + 2 * PAGE_BYTES)]))
    for _ in range(2):
        assert one.space.next(PAGE_BYTES) is not None
    ask, other = (Request(GET, 5, 1, number, address + (number - 1) * PAGE_BYTES, PAGE_BYTES) for number in (1, 2))
    assert one.outstanding() == [ask, other]
    assert one.fault(address) == [ask._replace(kind=HURRY)]
    assert one.outstanding() == [ask._replace(kind=NOW), other]


def test_what_lies_near_follows_what_somebody_waits_for(watched):
    fd, address = watched
    one = Process(1, 5, fd, Space([(address, address + CHUNK_BYTES)]))
    assert [request.kind for request in one.fault(address)] == [NOW]
    second = address + 8 * PAGE_BYTES
    assert one.fault(second) == [
        Request(NOW, 5, 1, 2, second, 4 * PAGE_BYTES),
        Request(SOON, 5, 1, 3, second + 4 * PAGE_BYTES, 4 * PAGE_BYTES),
    ]


def over(address: int) -> int:
    """Map something else there."""
    _LIBC.mmap.restype = ctypes.c_void_p
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _FIXED
    made = _LIBC.mmap(ctypes.c_void_p(address), ctypes.c_size_t(PAGE_BYTES), 3, flags, -1, ctypes.c_long(0))
    return 0 if made == address else -1


def give_back(address: int) -> int:
    """Of what there is one nobody wants any more."""
    return _LIBC.madvise(ctypes.c_void_p(address), ctypes.c_size_t(PAGE_BYTES), mmap.MADV_DONTNEED)


def move(address: int) -> int:
    """Into the chunk behind, and leave an empty page there."""
    _LIBC.mremap.restype = ctypes.c_void_p
    size, to = ctypes.c_size_t(PAGE_BYTES), address + CHUNK_BYTES
    made = _LIBC.mremap(ctypes.c_void_p(address), size, size, _MOVE | _TO | _LEAVE, ctypes.c_void_p(to))
    return 0 if made == to else -1


@pytest.mark.parametrize("watched", [_REMAP | _REMOVE | _UNMAP], indirect=True)
@pytest.mark.parametrize("change", [over, give_back, move])
def test_who_waits_for_what_another_thread_takes_away_waits_no_more(watched, change):
    """There are zeros, and what was asked for him comes no more, or comes elsewhere."""
    fd, address = watched
    one = Process(1, 5, fd, Space([(address, address + PAGE_BYTES)]))
    one.on_fault = lambda process, where: said.extend(process.fault(where))
    said: list[Request] = []
    got: list[bytes | int] = []
    reading = threading.Thread(target=lambda: got.append(read(address, 1)), daemon=True)
    reading.start()
    serve_until(lambda: bool(said), one)
    changing = threading.Thread(target=lambda: got.append(change(address)), daemon=True)
    changing.start()
    serve_until(lambda: not changing.is_alive() and not reading.is_alive(), one)
    assert sorted(got, key=str) == [0, b"\0"]
    assert said[0] == Request(NOW, 5, 1, 1, address, PAGE_BYTES)


def serve_until(done: Callable[[], bool], one: Process) -> None:
    """Take its events; fails after 10 s."""
    deadline = time.monotonic() + 10
    while not done():
        assert time.monotonic() < deadline, "somebody still waits"
        select.select([one.fd], [], [], 0.01)
        one.take_events()


def test_who_waits_where_nobody_watches_any_more_waits_no_more(watched):
    """As where memory is given back and used again at once: the kernel has woken others when it stopped to watch."""
    fd, address = watched
    one = Process(1, 5, fd, Space(()))
    got: list[bytes] = []
    waiting = threading.Thread(target=lambda: got.append(read(address, 1)), daemon=True)
    waiting.start()
    assert select.select([fd], [], [], 10)[0]
    assert over(address) == 0  # this descriptor does not ask to hear of that
    assert [event.b for event in uffd.events(fd)] == [address]
    assert one.fault(address) == []
    waiting.join(10)
    assert got == [b"\0"]


def test_who_is_in_the_middle_of_a_call_has_the_processor(watched):
    """A real-time thread that asked without a pause would keep it."""
    one = Process(1, 5, watched[0], Space(()))
    asked = 0

    def act() -> None:
        nonlocal asked
        asked += 1
        if asked <= 100:
            raise uffd.Changing

    before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
    one._insist(act)
    assert asked == 101
    assert resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw >= before + 100


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
