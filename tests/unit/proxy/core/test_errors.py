from __future__ import annotations

import pytest

from proxy.api import Problem
from proxy.core.errors import Code, ProxyError


@pytest.mark.parametrize("code", Code)
def test_every_code_has_a_status_a_fault_and_a_hint(code: Code) -> None:
    assert 400 <= code.status < 600
    assert code.fault in {"request", "pod", "peer", "midstream"}
    assert code.hint
    assert (code.status < 500) == (code.fault in {"request", "pod"}) or code is Code.ROUTING_FAILED


def test_an_error_becomes_a_problem() -> None:
    error = ProxyError(Code.LINK_FAILED, "no answer")
    assert str(error) == "no answer"
    assert error.problem() == Problem("link_failed", "no answer", "peer", Code.LINK_FAILED.hint)
