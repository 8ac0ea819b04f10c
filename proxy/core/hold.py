"""How much the peers may add while the flows are held.

The kernel keeps what arrives, so the bound is the socket's receive buffer: a smaller one makes the kernel offer the
peer no more window once the share is used up, and TCP pushes back. (TCP_WINDOW_CLAMP does not bound it: it limits the
window offered beyond the last byte received, so each acknowledgement would offer as much again.)
"""

from __future__ import annotations

LEAST_RATIO, MOST_RATIO = 0.25, 1.0
"""Payload per byte of buffer memory: the kernel's own estimate is 1/2 to begin with (K: TCP_DEFAULT_SCALING_RATIO)."""


def share(max_held_bytes: int, flows: int) -> int:
    """Bytes one flow may add, of what all of them may."""
    return max_held_bytes // max(1, flows)


def left(offered: int, share_bytes: int, arrived: int) -> tuple[int, int]:
    """What is left, after `arrived` bytes, of what a peer was offered when the hold began, and of its share."""
    return max(0, offered - arrived), max(0, share_bytes - max(0, arrived - offered))


def receive_buffer(allocated: int, buffer: int, window_clamp: int, offered: int, share_bytes: int) -> int | None:
    """The receive buffer size (SO_RCVBUF as the kernel reports it) with room for what is left of offer and share.

    `allocated` is the memory in use and `buffer` the size before the hold (SO_MEMINFO); `window_clamp` is the most the
    kernel would ever offer with that size, hence its ratio of payload to memory. What was offered gets room at that
    ratio, since it will be sent and should not be dropped; the share is counted in memory, so that however well the
    bytes pack, a peer adds no more than that by it. None: the buffer is no larger anyway, leave it alone.
    """
    ratio = min(MOST_RATIO, max(LEAST_RATIO, window_clamp / buffer if buffer else LEAST_RATIO))
    size = allocated + int(offered / ratio) + share_bytes
    return size if size < buffer else None
