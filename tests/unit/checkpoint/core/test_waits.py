"""The twin of checkpoint/core/waits.py."""

from __future__ import annotations

import pytest

from checkpoint.core import waits
from checkpoint.kernel import Registers

EINTR, EAGAIN = -4 % (1 << 64), -11 % (1 << 64)
POLL, RECV, FUTEX, EPOLL_WAIT, CONNECT, NANOSLEEP, CLOCK_NANOSLEEP = 7, 45, 202, 232, 42, 35, 230
WAIT, WAIT_BITSET_PRIVATE = 0, 9 | 128


@pytest.mark.parametrize(("call", "arguments", "again"), [
    (POLL, {}, True),
    (RECV, {}, True),
    (CONNECT, {}, False),  # it goes on by itself: another one would be told so
    (FUTEX, {"si": WAIT_BITSET_PRIVATE}, True),
    (FUTEX, {"si": WAIT}, False),
    (EPOLL_WAIT, {"r10": (1 << 32) - 1}, True),
    (EPOLL_WAIT, {"r10": -1 % (1 << 64)}, True),
    (EPOLL_WAIT, {"r10": 1000}, False),
    (NANOSLEEP, {"di": 4096, "si": 4096}, True),
    (NANOSLEEP, {"di": 4096, "si": 0}, False),
    (CLOCK_NANOSLEEP, {"dx": 4096, "r10": 4096}, True),
    (CLOCK_NANOSLEEP, {"dx": 4096, "r10": 8192}, False),
])  # fmt: skip
def test_which_calls_are_made_again(call, arguments, again):
    one = Registers(orig_ax=call, ax=EINTR, ip=1002, **arguments)
    assert waits.go_on(one) is again
    assert (one.ax, one.ip) == ((call, 1000) if again else (EINTR, 1002))
    assert again <= (call in waits.CALLS)


@pytest.mark.parametrize("result", [EAGAIN, 1, -516 % (1 << 64)])
def test_what_had_another_result_stays(result):
    assert not waits.go_on(Registers(orig_ax=POLL, ax=result))


@pytest.mark.parametrize(
    ("call", "limit", "may"), [(FUTEX, 4096, True), (FUTEX, 0, False), (POLL, 0, True), (CONNECT, 1, False)]
)
def test_a_futex_without_a_limit_begins_again_by_itself(call, limit, may):
    assert waits.may_end_early(call, limit) is may
