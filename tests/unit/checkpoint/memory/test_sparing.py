"""A program behind the shade asks which pages a process has, and is told that the large areas have none.

The twin of `checkpoint.criu.shade`, `questions` and `sparing`: the real filter, the real kernel.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from checkpoint.core import smaps
from checkpoint.core.areas import AREA_BYTES, BLOCK_BYTES
from checkpoint.criu import questions, shade
from checkpoint.memory import scan
from checkpoint.memory.sparing import Sparing
from checkpoint.memory.survey import Survey
from tests.harness.bpf import refuse_ioctl
from tests.unit.checkpoint.memory.conftest import AREA, SMALL

_ASKER = """
import array, fcntl, os, struct, sys
pid, *spans = map(int, sys.argv[1:])
sys.stdin.readline()
fd = os.open(f"/proc/{pid}/pagemap", os.O_RDONLY)
for start, end, category in zip(spans[::3], spans[1::3], spans[2::3]):
    vector = array.array("Q", bytes(24 * 64))
    inverted = 0x24 if category == 0x18 else 0
    args = bytearray(struct.pack("<12Q", 96, 0, start, end, 0, vector.buffer_info()[0], 64, 0,
                                 inverted, inverted, category, category))
    count = fcntl.ioctl(fd, 0xC0606610, args)
    print(count, struct.unpack("<12Q", args)[4] - start, flush=True)
"""
THERE = 0x18


Told = tuple[Sparing, list[list[int]]]


def ask(sleeper, *spans: tuple[int, int, int], ahead: Callable[[Survey], None] = lambda _: None) -> Told:
    """What a program behind the shade is told, and who told it, after what is done `ahead` of it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    words = [str(number) for span in spans for number in span]
    fd = theirs.fileno()
    argv = [
        sys.executable,
        "-I",
        "-S",
        shade.__file__,
        str(fd),
        shade.PAGES,
        "0",
        sys.executable,
        "-c",
        _ASKER,
        str(sleeper.pid),
        *words,
    ]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with ours, subprocess.Popen(argv, pass_fds=[fd], text=True, **pipes) as asking:
        theirs.close()
        _, fds, _, _ = socket.recv_fds(ours, 16, 1)
        survey = Survey()
        sparing = Sparing(fds[0], survey)
        ahead(survey)
        survey.begin([sleeper.pid])
        said, _ = asking.communicate("now\n", timeout=60)
    assert asking.returncode == 0
    return sparing, [[int(word) for word in line.split()] for line in said.splitlines()]


def test_a_large_area_seems_empty_and_is_on_the_map_instead(sleeper, tmp_path):
    large, small = sleeper.large, sleeper.small
    sparing, said = ask(sleeper, (large, large + AREA, THERE), (small, small + SMALL, THERE))
    assert said[0] == [0, AREA]
    assert said[1][0] > 0
    sparing.write(tmp_path / "map")
    found = json.loads((tmp_path / "map").read_text())
    assert list(found) == [str(sleeper.pid)]
    pieces = found[str(sleeper.pid)]
    assert pieces[0][0] == large
    assert pieces[-1][1] == large + AREA
    assert any(start <= large + 4 * BLOCK_BYTES and large + 6 * BLOCK_BYTES <= end for start, end in pieces)
    assert sum(end - start for start, end in pieces) <= 6 * BLOCK_BYTES


def test_what_was_seen_ahead_is_on_the_map_with_what_has_come_since(sleeper, tmp_path):
    large, new = sleeper.large, sleeper.large + 12 * BLOCK_BYTES

    def look(survey: Survey) -> None:
        survey.begin_ahead([1 << 22, sleeper.pid])  # the first has ended
        assert survey.is_ahead(30.0)
        with open(f"/proc/{sleeper.pid}/mem", "r+b", buffering=0) as memory:
            memory.seek(new)
            memory.write(b"d")

    sparing, _ = ask(sleeper, (large, large + AREA, THERE), ahead=look)
    sparing.write(tmp_path / "map")
    [pieces] = json.loads((tmp_path / "map").read_text()).values()
    assert pieces[0][0] == large
    assert pieces[-1][1] == large + AREA
    assert any(start <= new < end for start, end in pieces)
    assert any(start <= large + 4 * BLOCK_BYTES and large + 6 * BLOCK_BYTES <= end for start, end in pieces)
    assert sum(end - start for start, end in pieces) <= 7 * BLOCK_BYTES


def test_what_nobody_asked_for_is_on_no_map(sleeper, tmp_path):
    sparing, said = ask(sleeper, (sleeper.small, sleeper.small + SMALL, THERE))
    assert said[0][0] > 0
    sparing.write(tmp_path / "map")
    assert json.loads((tmp_path / "map").read_text()) == {}


def test_another_question_or_a_part_of_an_area_is_the_kernels_to_answer(sleeper):
    large = sleeper.large
    _, said = ask(
        sleeper, (large, large + AREA - 4096, THERE), (0, large + AREA, 1 << 3), (large, large + AREA, 1 << 1)
    )
    assert said[0][0] > 0
    assert said[1][0] > 0
    assert said[2] != [0, AREA]


def test_a_kernel_that_cannot_be_asked_spares_criu_nothing(sleeper, tmp_path):
    """PAGEMAP_SCAN came with Linux 6.7: an older one is asked by CRIU in another way, which nobody answers but it."""
    read, write = os.pipe()
    os.close(write)  # nobody asks: its end is there at once
    survey = Survey()
    sparing = Sparing(read, survey)

    def begin():
        refuse_ioctl(scan.REQUEST)
        survey.begin([sleeper.pid])

    thread = threading.Thread(target=begin)  # the filter's, and who looks is started by it
    thread.start()
    thread.join()
    sparing.write(tmp_path / "map")
    assert json.loads((tmp_path / "map").read_text()) == {}


_READER = """
import array, ctypes, fcntl, os, struct, sys
sys.stdin.readline()
libc = ctypes.CDLL(None)  # as CRIU does, and Python does not: without O_CLOEXEC
folder = os.open("/proc/" + sys.argv[1], os.O_PATH)
def read(name):
    with open(libc.openat(folder, name.encode(), os.O_RDONLY)) as file:
        return file.read()
lines = read("smaps").splitlines()
print(sum("VmFlags" in line for line in lines), flush=True)
span = next(line for line in lines if line.startswith(sys.argv[2])).split()[0]
vector = array.array("Q", bytes(24))
args = struct.pack("<12Q", 96, 0, *(int(end, 16) for end in span.split("-")), 0, vector.buffer_info()[0], 1, 0,
                   0x24, 0x24, 0x18, 0x18)
with open("/proc/" + sys.argv[1] + "/pagemap", "rb", buffering=0) as pagemap:
    print(span, fcntl.ioctl(pagemap, 0xC0606610, bytearray(args)), flush=True)
print("Rss:" in read("smaps"), "Rss:" in open(f"/proc/{sys.argv[1]}/smaps").read(), flush=True)
print(read("status").splitlines()[5], flush=True)
"""


@pytest.mark.parametrize("much_bytes", [1, 1 << 40])
def test_what_areas_a_process_has_is_said_without_a_count_of_its_pages(sleeper, much_bytes, monkeypatch):
    """Of one with so much memory; of another the kernel says it."""
    monkeypatch.setattr(smaps, "MUCH_BYTES", much_bytes)
    areas = Path(f"/proc/{sleeper.pid}/smaps").read_text().count("VmFlags")
    _, said = reads(sleeper)
    assert said[:1] + said[2:] == [str(areas), f"{much_bytes > 1} True", f"Pid:\t{sleeper.pid}"]


@pytest.mark.parametrize(("much_bytes", "size"), [(1, AREA_BYTES), (1 << 40, AREA)])
def test_of_a_large_area_as_much_is_shown_as_needs_be_and_all_is_on_the_map(
    sleeper, tmp_path, much_bytes, size, monkeypatch
):
    monkeypatch.setattr(smaps, "MUCH_BYTES", much_bytes)
    sparing, said = reads(sleeper)
    assert said[1] == f"{sleeper.large:x}-{sleeper.large + size:x} 0"  # and nothing in it
    assert sparing.shortened == [sleeper.pid] * (size < AREA)
    sparing.write(tmp_path / "map")
    pieces = json.loads((tmp_path / "map").read_text())[str(sleeper.pid)]
    assert any(start <= sleeper.large + AREA - 4096 < end for start, end in pieces)


def test_where_the_kernel_cannot_be_asked_what_is_in_them_they_are_shown_whole(sleeper, monkeypatch):
    monkeypatch.setattr(smaps, "MUCH_BYTES", 1)
    monkeypatch.setattr(scan, "is_known", lambda: False)
    sparing, said = reads(sleeper)
    assert said[1].startswith(f"{sleeper.large:x}-{sleeper.large + AREA:x} ")
    assert sparing.shortened == []


def test_a_kernel_that_gives_nobody_a_file_of_ours_says_it_itself(sleeper, monkeypatch):
    """SECCOMP_IOCTL_NOTIF_ADDFD came with Linux 5.9."""

    def refuse(*_: object) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(smaps, "MUCH_BYTES", 1)
    monkeypatch.setattr(questions, "give", refuse)
    areas = Path(f"/proc/{sleeper.pid}/smaps").read_text().count("VmFlags")
    sparing, said = reads(sleeper)
    assert said[:1] + said[2:] == [str(areas), "True True", f"Pid:\t{sleeper.pid}"]
    assert sparing.shortened == []


def reads(sleeper) -> tuple[Sparing, list[str]]:
    """What a program behind the shade reads of this process, which was looked at before it stood still, and who told
    it."""
    pid = sleeper.pid
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    python = [sys.executable, "-I", "-S"]
    argv = [
        *python,
        shade.__file__,
        str(theirs.fileno()),
        shade.AREAS,
        "0",
        *python,
        "-c",
        _READER,
        str(pid),
        f"{sleeper.large:x}-",
    ]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with ours, subprocess.Popen(argv, pass_fds=[theirs.fileno()], text=True, **pipes) as reading:
        theirs.close()
        _, fds, _, _ = socket.recv_fds(ours, 16, 1)
        survey = Survey()
        survey.begin_ahead([pid])
        assert survey.is_ahead(30.0)
        sparing = Sparing(fds[0], survey)
        survey.begin([pid])
        said, _ = reading.communicate("now\n", timeout=60)
    return sparing, said.splitlines()
