"""The address a relayed flow's workload end gets when it moves on: none of the pod's own.

At the pod that the flow's peer leg is in, the workload's end and the peer leg would have the same two ends (and a
connection that ended there a minute ago is still in TIME_WAIT): so each migration has an address of its own for the
flows that it inherits, and the destination's proxy puts it on `lo` while they last. Nobody but the workload can see it.
"""

from __future__ import annotations

from hashlib import blake2s

FIRST, LAST = 0xA9FE0100, 0xA9FE9FFF
"""169.254.1.0 to 169.254.159.255: link-local (RFC 3927), below the metadata services' 169.254.169.254."""

PREFIX6 = "fd6d:6964:7374:ffff"
"""A unique local prefix (RFC 4193) that no pod has."""


def alias(migration: str, like: str) -> str:
    """The migration's address of the family that `like` has."""
    digest = int.from_bytes(blake2s(migration.encode(), digest_size=8).digest(), "big")
    if ":" in like:
        words = [digest >> shift & 0xFFFF | 0x1000 for shift in (48, 32, 16, 0)]
        return ":".join([PREFIX6, *(f"{word:x}" for word in words)])
    number = FIRST + digest % (LAST - FIRST + 1)
    return ".".join(str(number >> shift & 0xFF) for shift in (24, 16, 8, 0))


def is_alias(host: str) -> bool:
    """Whether an address, as the kernel writes it, is one of these."""
    if ":" in host:
        return host.startswith(PREFIX6 + ":")
    try:
        parts = [int(part) for part in host.split(".")]
    except ValueError:
        return False
    number = sum(part << shift for part, shift in zip(parts, (24, 16, 8, 0), strict=False))
    return len(parts) == 4 and FIRST <= number <= LAST
