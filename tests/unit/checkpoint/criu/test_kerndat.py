"""CRIU's survey of the kernel, in a mount namespace of the test's own."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.harness.solo_agent import CRIU, REPOSITORY

SCRIPT = (
    "import sys; from pathlib import Path; from checkpoint.criu import kerndat\n"
    "folder = Path(sys.argv[2])\n"
    "said = [kerndat.ensure(sys.argv[1], folder) for _ in range(2)]\n"
    "print(*said, Path(kerndat.CACHE).stat().st_size > 100)\n"
)


def run(criu: Path, before: str) -> str:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        script = f'{before} exec "$0" -c "$1" "$2" "$3"'
        inner = ["sh", "-c", script, sys.executable, SCRIPT, str(criu), folder]
        argv = ["unshare", "--mount", "--propagation", "private", *inner]
        return subprocess.run(argv, check=True, capture_output=True, text=True, cwd=REPOSITORY).stdout


@pytest.mark.parametrize("before", ["", "mount -t tmpfs tmpfs /run;"])
def test_criu_finds_a_survey_whatever_run_is(before):
    assert run(CRIU, before) == "True True True\n"


def test_a_criu_that_cannot_look_is_no_reason_to_fail():
    assert run(Path("/bin/false"), "touch /run/criu.kdat;").startswith("False False")
