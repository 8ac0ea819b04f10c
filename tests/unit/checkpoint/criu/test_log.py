"""CRIU's log: what of it is read, and what goes with the error."""

from __future__ import annotations

from pathlib import Path

import pytest

from checkpoint.api import CriuLog
from checkpoint.core.errors import AgentError, Code
from checkpoint.criu import log

CAUSE = "Error (criu/mem.c:9): Something odd"
FILLER = b"Warn (criu/a.c:1): more of the same\n"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "dump.log"


def test_what_fails_has_the_log_with_it(path):
    path.write_text(f"{CAUSE}\n(00.1) nothing special\n")
    with pytest.raises(AgentError) as caught, log.told(path):
        raise log.failure(path, restoring=False)
    error = caught.value
    assert (error.code, error.problem.message) == (Code.CRIU_FAILED, "the dump failed. CRIU said: Something odd")
    assert error.criu_log == CriuLog("", [CAUSE])
    assert error.log_tail == path.read_bytes()


def test_where_there_is_no_log_there_is_none_to_keep(path):
    with pytest.raises(AgentError) as caught, log.told(path):
        raise AgentError(Code.PID_TAKEN, "taken")
    assert caught.value.criu_log is None


def test_of_a_large_one_both_ends_are_read(path):
    """The cause is at the beginning, however much follows from it; the end is what is kept."""
    path.write_bytes(CAUSE.encode() + b"\n" + FILLER * 100_000 + b"the end\n")
    with pytest.raises(AgentError, match="Something odd") as caught, log.told(path):
        raise log.failure(path, restoring=True)
    assert len(log.read(path)) <= 1 + (1 << 20)
    assert len(caught.value.log_tail) == log.KEPT_BYTES
    assert caught.value.log_tail.endswith(b"the end\n")


def test_where_the_images_space_is_full_there_is_no_log_either():
    """/proc has no room for anybody (statfs(2)), as a full tmpfs has not."""
    found = log.failure(Path("/proc/dump.log"), restoring=False)
    assert (found.code, found.problem.fault) == (Code.NO_SPACE, "machine")


@pytest.mark.parametrize("name", ["dump.log", "gone/dump.log"])
def test_a_log_that_is_not_there_explains_nothing(tmp_path, name):
    found = log.failure(tmp_path / name, restoring=False)
    assert found.problem.message == "the dump failed. CRIU said: nothing that would explain it"
