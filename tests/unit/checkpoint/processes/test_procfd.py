"""The descriptors of this very process, as /proc has them."""

from __future__ import annotations

import fcntl
import os
import subprocess

from checkpoint.processes import procfd, procfs


def test_an_open_file_shows_its_mount_and_its_lock(tmp_path):
    with open(tmp_path / "f", "w") as file:
        (found,) = [one for one in procfd.open_files(os.getpid()) if one.fd == file.fileno()]
        assert (found.target, found.locks) == (str(tmp_path / "f"), ())
        assert found.mount in procfs.mount_ids(os.getpid())
        fcntl.flock(file, fcntl.LOCK_EX)
        (found,) = [one for one in procfd.open_files(os.getpid()) if one.fd == file.fileno()]
        assert found.locks == (procfd.HeldLock("FLOCK", True),)


def test_a_process_that_is_gone_has_none():
    with subprocess.Popen(["true"]) as process:
        process.wait()
    assert list(procfd.open_files(process.pid)) == []
