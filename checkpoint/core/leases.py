"""Who may take an image away, and when. Pure: names and times in, decisions out. All times are the archive's clock's.

An image is **in use** while a lease of somebody who writes or reads it has not run out. Whoever collects it

1. looks at the leases, and stops where one is live;
2. deletes `ready`, so that nobody begins to read it any more;
3. looks at the leases again: a reader writes its lease *before* it looks for `ready`, so one that still found it is
   seen now, and gets it put back;
4. deletes the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from checkpoint.core.stored import Ready

ROOT = "migrations"
READY, MANIFEST, DATA, LEASE = "ready", "manifest", "data/", "lease-"
MARGIN_SECONDS = 60.0
"""On top of a lease: its holder's last request may be under way when its deadline has come."""


def folder(image: str) -> str:
    return f"{ROOT}/{image}"


def lease_name(token: str, seconds: float) -> str:
    """The name says how long the lease lasts, so that a listing tells all; its age is the object's own."""
    return f"{LEASE}{int(seconds + MARGIN_SECONDS)}-{token}"


def lease_seconds(name: str) -> int | None:
    """How long the lease of that name lasts; None where it is no lease's name."""
    length = name.removeprefix(LEASE).split("-", 1)[0]
    return int(length) if name.startswith(LEASE) and length.isdecimal() else None


def live(found: Mapping[str, float], now: float) -> list[str]:
    """The leases among the objects of an image (name -> when it was written) that have not run out."""
    return [
        name
        for name, written in sorted(found.items())
        if (seconds := lease_seconds(name)) is not None and now <= written + seconds
    ]


def expires(ready: Ready, written: float) -> float:
    """When an image may be collected; 0: never."""
    return written + ready.ttl_seconds if ready.ttl_seconds else 0.0


def collectable(ready: Ready | None, written: float, leases: Iterable[str], now: float) -> bool:
    """An image that nobody uses and that is either past its time or not whole: its writer's lease has run out."""
    if any(True for _ in leases):
        return False
    if ready is None:
        return True
    end = expires(ready, written)
    return bool(end) and now > end
