"""The twin of checkpoint/inspection/processes.py, with real processes."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from checkpoint.inspection import processes
from checkpoint.kernel import Kernel, Shared
from checkpoint.processes import procfs, tree

MEANS = """
import ctypes, os, signal, subprocess, sys, time
libc = ctypes.CDLL(None, use_errno=True)
def sure(found):
    assert found >= 0, os.strerror(ctypes.get_errno())
"""


KSM = pytest.mark.skipif(
    not Path("/proc/self/ksm_stat").exists() or "ksm_merge_any" not in Path("/proc/self/ksm_stat").read_text(),
    reason="this kernel does not say it",
)


@contextmanager
def running(code: str):
    """A process that has done that."""
    source = MEANS + code + "\nprint('up', flush=True); sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", source], **pipes) as process:
        assert process.stdout.read(3) == b"up\n"
        yield process.pid
        process.communicate()


def warned_of(code: str) -> list[str]:
    with running(code) as pid:
        return [one.message for one in processes.warnings([pid])]


def test_an_ordinary_process_loses_nothing():
    assert warned_of("") == []


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("sure(libc.personality(0x0040000))", "its personality 00040000 (setarch(8))"),
        pytest.param("sure(libc.prctl(67, 1, 0, 0, 0))", "its merging of equal pages", marks=KSM),
        ("sure(libc.syscall(238, 3, ctypes.byref(ctypes.c_ulong(1)), 2))", "its NUMA policy, interleave:0"),
        ("sure(libc.mlockall(3))", "its promise that memory to come is locked too"),
    ],
)
def test_what_a_process_will_not_have(code, words):
    (said,) = warned_of(code)
    assert words in said


def test_what_passes_is_nobodys_problem():
    """Before it execs a child has its parent's memory, and a thread that ends has no descriptors."""

    class Passing(Kernel):
        def is_shared(self, one, other, what):
            seen.append(what)
            return (seen.count(what) == 1) is (what is Shared.MEMORY)

    seen: list[Shared] = []
    with running("subprocess.Popen(['sleep', '1000'], stdin=subprocess.DEVNULL)") as pid:
        found = [*processes.problems(Passing(), tree.descendants(pid))]
        for child in tree.descendants(pid)[1:]:
            os.kill(child, 9)
    assert [one.message for one in found if "in common" in one.message or "of its own" in one.message] == []
    assert (seen.count(Shared.MEMORY), seen.count(Shared.DESCRIPTORS)) == (2, 3)  # it has a thread, its child another


def test_a_process_that_is_gone_has_nothing():
    with running("") as pid:
        pass
    assert [*processes.warnings([pid])] == []
    assert procfs.read_start("/proc/self/comm", 3) == procfs.read("/proc/self/comm")[:3]
