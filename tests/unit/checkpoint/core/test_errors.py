"""The agent's errors: every code has its row, and what is given overrides it."""

from __future__ import annotations

import pytest

from checkpoint.core.errors import AgentError, Code, from_problem, problem


@pytest.mark.parametrize("code", list(Code))
def test_every_code_has_a_status_a_fault_and_a_hint(code):
    error = AgentError(code, "what")
    assert 400 <= error.status < 600
    assert (error.problem.code, error.problem.message, str(error)) == (code.value, "what", "what")
    assert error.problem.hint
    assert error.problem.fault in ("request", "workload", "pod", "machine", "midstream")


def test_what_is_given_overrides_the_row():
    found = problem(Code.INTERNAL, "what", hint="do this", fault="pod")
    assert (found.hint, found.fault) == ("do this", "pod")


def test_a_problem_becomes_the_error_that_carries_it():
    found = problem(Code.TRACED, "what", hint="h", fault="pod")
    assert from_problem(found).problem == found
