"""What a workload has mapped into its memory that CRIU (4.2.1) cannot save, and its huge pages of hugetlbfs."""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Collection, Iterator
from contextlib import suppress

from checkpoint.api import Problem
from checkpoint.core.errors import Code, problem
from checkpoint.processes import capacity
from checkpoint.processes.procfd import OpenFile
from checkpoint.processes.procfs import FileArea

_HUGE = ("/anon_hugepage", "/memfd:", "/SYSV")
"""What hugetlbfs is asked for without a mount of it: MAP_HUGETLB, MFD_HUGETLB, SHM_HUGETLB."""
_DEVICES, _ORDINARY = "/dev/", ("/dev/zero", "/dev/shm/")  # of /dev/zero a shared area is anonymous memory
_BLOCK_BYTES = 512  # stat(2), st_blocks


def problems(areas: Collection[FileArea], files: Collection[OpenFile]) -> Iterator[Problem]:
    """Of `areas`, all that the tree has, once each; `files` are what it has open."""
    opened = {file.target for file in files}
    for pid, path in dict.fromkeys((area.pid, area.path) for area in areas if _is_strange(area, opened)):
        message = f"process {pid} has mapped into its memory what cannot be saved: {path}"
        yield problem(Code.UNSUPPORTED_FILE, message, hint="Let the workload unmap it.")


def _is_strange(area: FileArea, opened: Collection[str]) -> bool:
    """Of a packet ring CRIU wants the socket, too (criu: sk-packet.c, dump_socket_map)."""
    if area.path.startswith("socket:["):
        return area.path not in opened
    if not area.path.startswith(_DEVICES) or area.path.startswith(_ORDINARY):
        return area.path.startswith("anon_inode:")
    try:
        return not stat.S_ISREG(os.stat(area.link).st_mode)  # noqa: PTH116 - of the very file
    except OSError:
        return False  # unmapped meanwhile


def huge_pages(areas: Collection[FileArea], files: Collection[OpenFile]) -> dict[int, int]:
    """How many bytes the copy will ask hugetlbfs for, by the size of its pages."""
    found: dict[tuple[int, int], int] = {}
    """Of each file, by the size of its pages and its inode: even a private area has one, and its process's children,
    who have the same pages."""
    for page, inode, size in (*_mapped(areas), *_opened(files)):
        found[page, inode] = max(found.get((page, inode), 0), size)
    return {page: sum(size for (other, _), size in found.items() if other == page) for page, _ in sorted(found)}


def _mapped(areas: Collection[FileArea]) -> Iterator[tuple[int, int, int]]:
    for area in areas:
        if area.path.startswith(_HUGE) and (page := _page_bytes(area.link)):
            yield page, area.inode, area.end - area.start


def _opened(files: Collection[OpenFile]) -> Iterator[tuple[int, int, int]]:
    for file in files:
        link = f"/proc/{file.pid}/fd/{file.fd}"
        if file.target.startswith("/memfd:") and (page := _page_bytes(link)):
            with suppress(OSError):  # closed meanwhile
                seen = os.stat(link)  # noqa: PTH116
                yield page, seen.st_ino, seen.st_blocks * _BLOCK_BYTES


def _page_bytes(link: str) -> int:
    """0: its pages are ordinary ones."""
    try:
        size = os.statvfs(link).f_bsize
    except OSError:
        return 0  # gone meanwhile
    return size if size > mmap.PAGESIZE else 0


def huge_page_problems(wanted: dict[int, int]) -> Iterator[Problem]:
    """CRIU knows hugetlbfs by a page that it gets of it (criu: kerndat.c, kerndat_get_hugetlb_dev)."""
    free = capacity.free_huge_bytes()
    for page in wanted:
        if free.get(page, 0) < page:
            size = f"{page >> 10} kB"
            message = f"the workload has huge pages of {size}, and CRIU, which needs one to know them by, gets none"
            hint = f"Allow for one more: /sys/kernel/mm/hugepages/hugepages-{page >> 10}kB/nr_hugepages."
            yield problem(Code.NO_MEMORY, message, hint=hint)
