"""A pair: both ends of a connection at the destination, made before the freeze. One is the app leg, the proxy's; the
other is the agent's, and becomes the copy's. Numbers."""

from __future__ import annotations

MOST = 16384
"""CRIU looks through a list of all for each (criu: files.c, inherit_fd_lookup_id): 9,000 take 0.1 ms each, not 0.05."""
UNREAD_BYTES = 16 << 10
"""More cannot be said to the copy's end at once: `proxy.io.adopted`, FORESEEN_WINDOW."""
ALL_UNREAD_BYTES = 4 << 20

FILE = "pairs.json"
"""A file of ours among the images: the numbers of the flows whose copy's ends they ask for."""
