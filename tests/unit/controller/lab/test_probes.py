"""The probes: what they say of a kernel that refuses, and of this one."""

from __future__ import annotations

import json
import subprocess
import sys

from controller.core.check import PROBES
from controller.lab import probes


def test_a_complaint_is_what_the_error_says():
    def fail() -> None:
        raise OSError(1, "Operation not permitted")

    def fail_silently() -> None:
        raise ValueError

    assert probes.complaint(fail) == "[Errno 1] Operation not permitted"
    assert probes.complaint(fail_silently) == "ValueError"
    assert probes.complaint(lambda: None) == ""


def test_all_of_them_are_tried_and_this_machine_passes():
    done = subprocess.run([sys.executable, "-m", "controller.lab.probes"], capture_output=True, check=True, timeout=30)
    assert json.loads(done.stdout) == dict.fromkeys(PROBES, "")


def test_without_privileges_each_says_no():
    argv = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    done = subprocess.run(
        [*argv, sys.executable, "-m", "controller.lab.probes"], capture_output=True, check=True, timeout=30
    )
    complaints = json.loads(done.stdout)
    assert {name for name, complaint in complaints.items() if complaint} == PROBES.keys() - {"pidfd_getfd"}
    assert "not permitted" in complaints["namespaces"]
