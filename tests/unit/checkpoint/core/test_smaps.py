"""What CRIU would read of smaps, made of an earlier smaps and of maps: the kernel's own files."""

from __future__ import annotations

from pathlib import Path

import pytest

from checkpoint.core import smaps
from checkpoint.core.areas import Area
from checkpoint.core.smaps import Mapping

ANON = "7f0000000000-7f0000100000 rw-p 00000000 00:00 0 "
FILE = "7f1000000000-7f1000100000 r-xp 00001000 08:01 77                         /usr/lib/a b.so"
KIND = ("rw-p", "00:00", "0")
FILE_KIND = ("r-xp", "08:01", "77", "/usr/lib/a b.so")


def area(start: int, end: int, flags: str = "VmFlags: rd wr", kind: tuple[str, ...] = KIND) -> Mapping:
    return Mapping(start, end, kind, flags)


def test_what_the_kernel_says_of_this_process_is_said_of_it():
    """Each line that CRIU reads, in its place, and none of the others."""
    kept = [line for line in Path("/proc/self/smaps").read_text().split("\n") if "VmFlags" in line or "-" in line]
    known = smaps.parse(Path("/proc/self/smaps").read_text().split("\n"))
    assert len(known) > 20
    own = "\n".join(line for line in kept if not line.startswith("VmFlags")) + "\n"
    assert smaps.text(own, known) == "\n".join([*kept, ""])


@pytest.mark.parametrize(
    "known",
    [
        [area(0x7F0000000000, 0x7F0000100000)],
        [area(0x7F0000000000, 0x7F0000001000)],  # it has grown
        [area(0x7EFFFFFFF000, 0x7F0000200000)],  # a part of it is left
        [area(0x7F0000000000, 0x7F0000001000), area(0x7F0000002000, 0x7F0000300000)],  # two have become one
    ],
)
def test_an_area_has_the_flags_of_what_it_was(known):
    assert smaps.text(ANON + "\n", known) == ANON + "\nVmFlags: rd wr\n"


def test_an_area_that_is_shown_in_part_ends_there():
    begun = Area(0x7F0000000000, 0x7F0000040000)
    known = [area(0x7F0000000000, 0x7F0000100000), area(0x7F1000000000, 0x7F1000100000, kind=FILE_KIND)]
    said = smaps.text(f"{ANON}\n{FILE}\n", known, [begun]).split("\n")
    assert said[0].split() == ["7f0000000000-7f0000040000", *ANON.split()[1:]]
    assert said[1:] == ["VmFlags: rd wr", FILE, "VmFlags: rd wr", ""]


@pytest.mark.parametrize(
    "known",
    [
        [],
        [area(0x7F0000100000, 0x7F0000200000)],  # beside it
        [area(0x7F0000000000, 0x7F0000100000, kind=("r--p", "00:00", "0"))],
        [area(0x7F0000000000, 0x7F0000100000, kind=("rw-p", "08:01", "77", "/usr/lib/a b.so"))],
        [area(0x7F0000000000, 0x7F0000001000), area(0x7F0000001000, 0x7F0000100000, "VmFlags: rd wr dd")],
    ],
)
def test_where_that_is_not_certain_nothing_is_said(known):
    assert smaps.text(ANON + "\n", known) is None
    file = area(0x7F1000000000, 0x7F1000100000, kind=FILE_KIND)
    assert smaps.text(f"{ANON}\n{FILE}\n", [*known, file]) is None
    assert smaps.text(FILE + "\n", [*known, file]) == FILE + "\nVmFlags: rd wr\n"
