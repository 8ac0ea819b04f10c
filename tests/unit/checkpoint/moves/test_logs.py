"""The logs of what failed: kept, for root alone, and the newest of them only."""

from __future__ import annotations

import os

import pytest

from checkpoint.api import CriuLog
from checkpoint.core.errors import AgentError, Code
from checkpoint.moves import logs

LINES = ["Error (criu/mem.c:9): Something odd"]


def failed(tail: bytes = b"the end of it\n") -> AgentError:
    error = AgentError(Code.CRIU_FAILED, "the dump failed", hint="Try again.")
    error.criu_log, error.log_tail = CriuLog("", LINES), tail
    return error


def test_the_error_says_where_it_is(tmp_path):
    with pytest.raises(AgentError) as caught, logs.keeping(tmp_path, "m.dump"):
        raise failed()
    path = tmp_path / "criu" / "m.dump.log"
    assert caught.value.criu_log == CriuLog(str(path), LINES)
    assert caught.value.problem.hint == f"Try again. CRIU's log: {path}"
    assert path.read_bytes() == b"the end of it\n"
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_what_criu_has_no_part_in_is_left_alone(tmp_path):
    with pytest.raises(AgentError) as caught, logs.keeping(tmp_path, "m.dump"):
        raise AgentError(Code.PID_TAKEN, "taken", hint="as it was")
    assert caught.value.problem.hint == "as it was"
    assert not list(tmp_path.iterdir())


def test_a_log_that_cannot_be_written_leaves_the_error_as_it_is(tmp_path, caplog):
    (tmp_path / "criu").touch()  # where the folder would be
    with pytest.raises(AgentError) as caught, logs.keeping(tmp_path, "m.dump"):
        raise failed()
    assert caught.value.criu_log == CriuLog("", LINES)
    assert caught.value.problem.hint == "Try again."
    assert "could not be kept" in caplog.text


def test_the_newest_stay(tmp_path):
    for number in range(logs.MOST + 3):
        with pytest.raises(AgentError), logs.keeping(tmp_path, f"m{number}.dump"):
            raise failed()
        os.utime(tmp_path / "criu" / f"m{number}.dump.log", ns=(number, number))
    left = {path.name for path in (tmp_path / "criu").iterdir()}
    assert left == {f"m{number}.dump.log" for number in range(3, logs.MOST + 3)}
