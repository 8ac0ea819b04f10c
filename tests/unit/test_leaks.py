"""The check that runs after every test sees what it is there to see."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from controller.lab import cgroup
from controller.lab.home import IMAGES
from tests.harness import leaks
from tests.harness.standing import until


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(leaks, "SETTLE_SECONDS", 0.05)


def after_all(before, *, machine):
    """What is left, with the patience that there is after a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(leaks, "SETTLE_SECONDS", 30.0)
        return leaks.left_since(before, machine=machine)


def test_a_descriptor():
    before = leaks.take(machine=False)
    reading, writing = os.pipe()
    left = leaks.left_since(before, machine=False)
    assert [line.split()[0] for line in left] == ["descriptor", "descriptor"]
    os.close(reading)
    os.close(writing)
    assert after_all(before, machine=False) == []


def test_an_orphan_of_a_process_that_has_ended():
    before = leaks.take(machine=False)
    argv = ["sh", "-c", "setsid sleep 100 >&- 2>&- & echo $!"]
    orphan = int(subprocess.run(argv, capture_output=True, check=True).stdout)
    until(lambda: Path(f"/proc/{orphan}/cmdline").read_bytes() == b"sleep\x00100\x00")
    assert leaks.left_since(before, machine=False) == [f"process {orphan}: sleep 100 "]
    os.kill(orphan, 9)
    assert after_all(before, machine=False) == []


@pytest.mark.parametrize("program", sorted(leaks.PODS_OWN))
def test_a_process_of_a_pod_but_not_the_one_that_takes_its_place(program):
    with named(program):
        before = leaks.take(machine=False)
    there = sum(line.startswith(f"process of a pod: {program},") for line in before)  # pods that other tests share, too
    with named(program):
        assert after_all(before, machine=False) == []
        with named(program):
            assert leaks.left_since(before, machine=False) == [f"process of a pod: {program}, {there + 1}"]


@contextmanager
def named(word: str) -> Iterator[None]:
    """A process with this word in its command line."""
    with subprocess.Popen([word, "60"], executable="/bin/sleep") as process:
        try:
            until(lambda: Path(f"/proc/{process.pid}/cmdline").read_bytes())  # not for a moment after the exec
            yield
        finally:
            process.kill()


def test_a_home_a_link_a_mount_a_table_and_an_image():
    before = leaks.take(machine=True)
    home = leaks.fresh_home()
    home.mkdir()
    image = IMAGES / home.name
    image.touch()
    subprocess.run(["ip", "link", "add", "left", "type", "bridge"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", home], check=True)
    subprocess.run(["nft", "add", "table", "inet", "left"], check=True)
    left = leaks.left_since(before, machine=True)
    subprocess.run(["nft", "delete", "table", "inet", "left"], check=True)
    subprocess.run(["ip", "link", "delete", "left"], check=True)
    subprocess.run(["umount", home], check=True)
    home.rmdir()
    image.unlink()
    assert left == [f"home {home}", f"images {image}", "link left", f"mount {home}", "nft table inet left"]
    assert after_all(before, machine=True) == []


def test_a_control_group_that_nobody_is_in():
    controller = cgroup.find(Path("/proc/self/mounts").read_text())
    assert controller is not None
    group = controller.root / f"midstream-0-left-{os.getpid()}"
    before = leaks.take(machine=True)
    cgroup.create(group, 64 << 20)
    empty = leaks.left_since(before, machine=True)
    with subprocess.Popen(["sleep", "100"]) as sleeper:
        (group / "cgroup.procs").write_text(str(sleeper.pid))
        used = leaks.left_since(before, machine=True)
        sleeper.kill()
    cgroup.remove(group)
    assert f"group {group}" in empty
    assert f"group {group}" not in used
    assert after_all(before, machine=True) == []


ANOTHER = """
import subprocess, sys
from tests.harness import leaks, machine
machine.enter()
before = leaks.take(machine=True)
home = leaks.fresh_home()
home.mkdir()
(leaks.IMAGES / "another").touch()
made = f"ip link add another type bridge; mount -t tmpfs none {home}; nft add table inet another"
subprocess.run(["sh", "-ec", made], check=True)
print(len(leaks.take(machine=True) - before), flush=True)
sys.stdin.read()
subprocess.run(["umount", home], check=True)
home.rmdir()
"""


def test_what_another_run_has_is_not_ours():
    before = leaks.take(machine=True)
    argv, checkout = [sys.executable, "-c", ANOTHER], Path(__file__).parents[2]
    with subprocess.Popen(argv, cwd=checkout, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as another:
        assert another.stdout is not None
        seen_there = another.stdout.readline()
        seen_here = leaks.left_since(before, machine=True)
    assert seen_there == b"5\n", "home, image, link, mount and table"
    assert {line.split()[0] for line in seen_here} == {"process", "descriptor"}, "itself, and its pipes"
    assert another.returncode == 0
