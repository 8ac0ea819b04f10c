"""The twin of checkpoint/inspection/mappings.py, on this process's own memory."""

from __future__ import annotations

import ctypes
import mmap
import os
import socket

import pytest

from checkpoint.inspection import mappings
from checkpoint.processes import capacity, procfd, procfs

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
MFD_HUGETLB, MAP_HUGETLB, MAP_NORESERVE = 4, 0x40000, 0x4000
HUGE_BYTES = 2 << 20
RING = (263, 5, b"".join(one.to_bytes(4, "little") for one in (4096, 4, 2048, 8)))  # PACKET_RX_RING


def of_this_process():
    pid = os.getpid()
    return list(procfs.file_areas(pid)), list(procfd.open_files(pid))


@pytest.fixture
def area():
    """Maps so much of a file, or of none, without a descriptor of its own."""
    made = []

    def map_it(size, flags, file=-1):
        made.append((LIBC.mmap(None, size, mmap.PROT_READ, flags, file, 0), size))
        if made[-1][0] == ctypes.c_void_p(-1).value:
            pytest.fail(os.strerror(ctypes.get_errno()))

    yield map_it
    for address, size in made:
        LIBC.munmap(address, size)


def test_a_packet_ring_wants_its_socket(area):
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
        sock.setsockopt(*RING)
        area(4 * 4096, mmap.MAP_SHARED, sock.fileno())
        target = procfs.link(f"/proc/self/fd/{sock.fileno()}")
        assert list(mappings.problems(*of_this_process())) == []
    (found,) = mappings.problems(*of_this_process())
    assert found.message == f"process {os.getpid()} has mapped into its memory what cannot be saved: {target}"


def test_huge_pages_are_counted_once_however_they_are_asked_for(area):
    """Where nothing is reserved there need be none to show them."""
    file = os.memfd_create("mine", MFD_HUGETLB)
    os.ftruncate(file, 2 * HUGE_BYTES)
    area(HUGE_BYTES, mmap.MAP_SHARED | MAP_NORESERVE, file)
    area(2 * HUGE_BYTES, mmap.MAP_SHARED | MAP_NORESERVE, file)
    area(HUGE_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_HUGETLB | MAP_NORESERVE)
    area(HUGE_BYTES, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
    assert mappings.huge_pages(*of_this_process()) == {HUGE_BYTES: 3 * HUGE_BYTES}
    os.close(file)


def test_criu_knows_huge_pages_by_one_that_it_gets(monkeypatch):
    monkeypatch.setattr(capacity, "free_huge_bytes", lambda: {HUGE_BYTES: HUGE_BYTES, 1 << 30: 0})
    assert list(mappings.huge_page_problems({HUGE_BYTES: 8 * HUGE_BYTES})) == []
    (found,) = mappings.huge_page_problems({1 << 30: 1 << 30})
    assert "has huge pages of 1048576 kB, and CRIU" in found.message
