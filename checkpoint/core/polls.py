"""A poll(2) that CRIU has interrupted, as the registers of x86-64 have it, and how it is made again. Pure."""

from __future__ import annotations

POLL = 7
"""The call's number."""
_INTERRUPTED, _SYSCALL_BYTES = (1 << 64) - 4, 2  # -EINTR


def again(call: int, result: int, at: int) -> tuple[int, int] | None:
    """What the result and the place in the program have to be, for the call to be made once more when the thread goes
    on; None: it was another call, or not interrupted. `at`: where it would go on, behind the instruction."""
    if call != POLL or result != _INTERRUPTED:
        return None
    return POLL, at - _SYSCALL_BYTES
