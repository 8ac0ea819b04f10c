"""The check that runs after every test sees what it is there to see."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.harness import leaks


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(leaks, "SETTLE_SECONDS", 0.05)


def test_a_descriptor():
    before = leaks.take(machine=False)
    reading, writing = os.pipe()
    left = leaks.left_since(before, machine=False)
    assert [line.split()[0] for line in left] == ["descriptor", "descriptor"]
    os.close(reading)
    os.close(writing)
    assert leaks.left_since(before, machine=False) == []


def test_an_orphan_of_a_process_that_has_ended():
    before = leaks.take(machine=False)
    argv = ["sh", "-c", "setsid sleep 100 >&- 2>&- & echo $!"]
    orphan = int(subprocess.run(argv, capture_output=True, check=True).stdout)
    assert leaks.left_since(before, machine=False) == [f"process {orphan}: sleep 100 "]
    os.kill(orphan, 9)
    assert leaks.left_since(before, machine=False) == []


def test_a_home_a_link_a_mount_and_a_table():
    before = leaks.take(machine=True)
    home = leaks.fresh_home()
    home.mkdir()
    bridge = f"mst{os.getpid()}"
    subprocess.run(["ip", "link", "add", bridge, "type", "bridge"], check=True)
    subprocess.run(["ip", "link", "set", bridge, "alias", str(home)], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", home], check=True)
    subprocess.run(["nft", "add", "table", "inet", home.name], check=True)
    left = leaks.left_since(before, machine=True)
    subprocess.run(["nft", "delete", "table", "inet", home.name], check=True)
    subprocess.run(["ip", "link", "delete", bridge], check=True)
    subprocess.run(["umount", home], check=True)
    home.rmdir()
    # Others may work on this machine, and a lab of theirs be half-way taken away: that settles, but not at once.
    assert [line for line in left if home.name in line] == [
        f"home {home}",
        f"link {bridge} of {home}",
        f"mount {home}",
        f"nft table inet {home.name}",
    ]
    assert not [line for line in leaks.left_since(before, machine=True) if home.name in line]


def test_what_another_run_has_is_not_ours(tmp_path):
    before = leaks.take(machine=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path], check=True)
    subprocess.run(["nft", "add", "table", "inet", "mst-1-another"], check=True)
    left = leaks.left_since(before, machine=True)
    subprocess.run(["nft", "delete", "table", "inet", "mst-1-another"], check=True)
    subprocess.run(["umount", tmp_path], check=True)
    assert not [line for line in left if tmp_path.name in line or "another" in line]
