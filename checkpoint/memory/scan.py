"""PAGEMAP_SCAN (Linux 6.7; K: Documentation/admin-guide/mm/pagemap.rst): which pages a process has, and the argument
of whoever asks for that."""

from __future__ import annotations

import array
import fcntl
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from checkpoint.core.areas import Area, blocks, large
from checkpoint.criu import shade
from checkpoint.criu.questions import Question

REQUEST = shade.PAGEMAP_SCAN
_ARGUMENT = struct.Struct("<12Q")
ARGUMENT_BYTES = _ARGUMENT.size
WALK_END_AT = 32
"""Where in the argument the kernel says how far it has come."""

_FILE, _PRESENT, _SWAPPED, _ZERO = 1 << 2, 1 << 3, 1 << 4, 1 << 5
_UNTOUCHED = _ZERO | _FILE
_THERE = _PRESENT | _SWAPPED


class Argument(NamedTuple):
    """struct pm_scan_arg."""

    size: int
    flags: int
    start: int
    end: int
    walk_end: int
    vector: int
    vector_length: int
    max_pages: int
    inverted: int
    mask: int
    any_of: int
    wanted: int

    @property
    def asks_what_is_there(self) -> bool:
        """That is what CRIU's dump asks; it asks for guard pages too, for one."""
        return self.flags == 0 and bool(self.any_of & _PRESENT)


def decode(raw: bytes) -> Argument:
    return Argument(*_ARGUMENT.unpack(raw))


def answer(question: Question, spared: Callable[[int, int, int], object]) -> bool:
    """Whether CRIU asks what is in an area that it is to be spared, by what `spared` has of this PID from here to
    there; then its argument says from now on that all of it was walked through, and nothing found."""
    if question.name != "pagemap":
        return False
    try:
        memory = os.open(f"/proc/{question.asker}/mem", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        _, address, *_ = question.arguments
        asked = decode(os.pread(memory, ARGUMENT_BYTES, address))
        if not asked.asks_what_is_there or spared(question.about, asked.start, asked.end) is None:
            return False
        os.pwrite(memory, struct.pack("<Q", asked.end), address + WALK_END_AT)
        return True
    except (OSError, struct.error):
        return False
    finally:
        os.close(memory)


def is_known() -> bool:
    """Whether this kernel has it: it is asked about no memory at all."""
    try:
        with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
            fcntl.ioctl(pagemap, REQUEST, bytearray(_ARGUMENT.pack(ARGUMENT_BYTES, *[0] * 11)))
    except OSError:
        return False
    return True


def large_areas(pid: int) -> list[Area]:
    """Those that a process has now. Raises OSError where it has ended."""
    folder = Path(f"/proc/{pid}")
    return large((folder / "maps").read_text(), (folder / "status").read_text())


def written(pagemap: int, area: Area) -> Iterator[tuple[int, int]]:
    """The blocks of an area in which a page was ever written, in rising order; they may touch. Raises OSError.

    `pagemap` is a descriptor of the process's /proc/<pid>/pagemap. One region is asked for at a time: behind it the
    next block begins, so that scattered pages take a call for each block and not a region for each page.
    """
    region = array.array("Q", (0, 0, 0))
    address, _ = region.buffer_info()
    at = area.start
    while at < area.end:
        args = bytearray(
            _ARGUMENT.pack(ARGUMENT_BYTES, 0, at, area.end, 0, address, 1, 0, _UNTOUCHED, _UNTOUCHED, _THERE, _THERE)
        )
        if not fcntl.ioctl(pagemap, REQUEST, args):
            return
        start, end = blocks(area, region[0], region[1])
        yield start, end
        at = end
