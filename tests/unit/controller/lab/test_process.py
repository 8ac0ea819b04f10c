"""A process told apart from a later one with its PID."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from controller.lab.process import Process


@pytest.fixture
def sleeper():
    with subprocess.Popen(["sleep", "100"]) as program:
        yield program
        program.kill()


def test_a_process_is_alive_until_it_ends_and_a_zombie_is_not(sleeper):
    process = Process.of(sleeper.pid)
    assert process.alive
    sleeper.kill()
    os.waitid(os.P_PID, sleeper.pid, os.WEXITED | os.WNOWAIT)
    assert not process.alive


def test_another_process_with_the_same_pid_is_not_it(sleeper):
    process = Process.of(sleeper.pid)
    earlier = Process(process.pid, process.start_ticks - 1)
    assert not earlier.alive
    earlier.end(0)
    assert process.alive


def test_no_process_is_never_alive():
    assert not Process(0, 0).alive
    with pytest.raises(ProcessLookupError):
        Process.of(1 << 22)
    Process(1 << 22, 0).end(0)


def test_it_is_asked_first_and_killed_after_the_grace():
    deaf = subprocess.Popen(["sh", "-c", 'trap "" TERM; echo; while :; do sleep 0.02; done'], stdout=subprocess.PIPE)
    assert deaf.stdout is not None
    deaf.stdout.readline()
    process, began = Process.of(deaf.pid), time.monotonic()
    process.end(0.1)
    assert 0.1 <= time.monotonic() - began < 20
    assert not process.alive
    deaf.communicate()


def test_its_name_may_hold_anything(tmp_path):
    program = tmp_path / "a) R 1 ("
    program.write_bytes(Path("/bin/sleep").read_bytes())
    program.chmod(0o755)
    with subprocess.Popen([program, "100"]) as running:
        process = Process.of(running.pid)
        assert process.alive
        process.end(1)
        assert not process.alive
