"""Which calls are made again."""

from __future__ import annotations

import pytest

from checkpoint.core.polls import POLL, again

EINTR, RESTART_BLOCK = (1 << 64) - 4, (1 << 64) - 516


@pytest.mark.parametrize(
    ("call", "result", "expected"),
    [(POLL, EINTR, (POLL, 98)), (POLL, RESTART_BLOCK, None), (POLL, 1, None), (35, EINTR, None)],
)
def test_a_poll_that_was_interrupted_and_nothing_else(call, result, expected):
    assert again(call, result, 100) == expected
