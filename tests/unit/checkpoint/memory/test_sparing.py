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
from checkpoint.core.areas import BLOCK_BYTES
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
        said, _ = asking.communicate("now\n", timeout=20)
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
        assert survey.is_ahead(5.0)
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
import ctypes, os, sys
sys.stdin.readline()
libc = ctypes.CDLL(None)  # as CRIU does, and Python does not: without O_CLOEXEC
folder = os.open("/proc/" + sys.argv[1], os.O_PATH)
def read(name):
    with open(libc.openat(folder, name.encode(), os.O_RDONLY)) as file:
        return file.read()
print(sum("VmFlags" in line for line in read("smaps").splitlines()), flush=True)
print("Rss:" in read("smaps"), "Rss:" in open(f"/proc/{sys.argv[1]}/smaps").read(), flush=True)
print(read("status").splitlines()[5], flush=True)
"""


@pytest.mark.parametrize("much_bytes", [1, 1 << 40])
def test_what_areas_a_process_has_is_said_without_a_count_of_its_pages(sleeper, much_bytes, monkeypatch):
    """Of one with so much memory; of another the kernel says it."""
    monkeypatch.setattr(smaps, "MUCH_BYTES", much_bytes)
    areas = Path(f"/proc/{sleeper.pid}/smaps").read_text().count("VmFlags")
    said = reads(sleeper.pid)
    assert said == [str(areas), f"{much_bytes > 1} True", f"Pid:\t{sleeper.pid}"]


def test_a_kernel_that_gives_nobody_a_file_of_ours_says_it_itself(sleeper, monkeypatch):
    """SECCOMP_IOCTL_NOTIF_ADDFD came with Linux 5.9."""

    def refuse(*_: object) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(smaps, "MUCH_BYTES", 1)
    monkeypatch.setattr(questions, "give", refuse)
    areas = Path(f"/proc/{sleeper.pid}/smaps").read_text().count("VmFlags")
    assert reads(sleeper.pid) == [str(areas), "True True", f"Pid:\t{sleeper.pid}"]


def reads(pid: int) -> list[str]:
    """What a program behind the shade reads of this process, which was looked at before it stood still."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    python = [sys.executable, "-I", "-S"]
    argv = [*python, shade.__file__, str(theirs.fileno()), shade.AREAS, *python, "-c", _READER, str(pid)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with ours, subprocess.Popen(argv, pass_fds=[theirs.fileno()], text=True, **pipes) as reading:
        theirs.close()
        _, fds, _, _ = socket.recv_fds(ours, 16, 1)
        survey = Survey()
        survey.begin_ahead([pid])
        assert survey.is_ahead(5.0)
        _sparing = Sparing(fds[0], survey)
        survey.begin([pid])
        said, _ = reading.communicate("now\n", timeout=20)
    return said.splitlines()
