"""A pair: both ends of a connection at the destination, made before the freeze. One is the app leg, the proxy's; the
other is the agent's, and becomes the copy's. Numbers, and what the source says of those that it did not show CRIU."""

from __future__ import annotations

import msgspec

MOST = 16384
"""Whoever has more connections than that may be short of descriptors to make them with."""
UNREAD_BYTES = 16 << 10
"""More cannot be said to the copy's end at once: `proxy.io.adopted`, FORESEEN_WINDOW."""
ALL_UNREAD_BYTES = 4 << 20

FILE = "pairs.json"
"""A file of ours among the images, a `Left`."""


class Connection(msgspec.Struct, array_like=True, frozen=True):
    """One whose end at the destination the copy has to be given."""

    flow: int
    places: list[tuple[int, int, bool]]
    """The process, the number, and whether it is closed on exec, of each of its descriptors."""


class Watch(msgspec.Struct, array_like=True, frozen=True):
    """What of these connections an epoll watches."""

    pid: int
    fd: int
    """Where it is open."""
    targets: list[tuple[int, int, int]]
    """The number in that process, the events, and the data (epoll_ctl(2))."""


class Left(msgspec.Struct, frozen=True):
    """What is not in CRIU's images."""

    doors: list[tuple[int, int]] = []
    """The processes that are given to, and the number through which (`checkpoint.sockets.giving`)."""
    connections: list[Connection] = []
    watches: list[Watch] = []
