"""How many ways lead to a workload that has moved again and again: what slow readers leave behind.

After a further move a flow takes a new way, straight to where the workload is, but what its reader has not read yet
goes to its end by the old ways first. Each of them keeps what the sockets along it hold: some megabytes of the
kernel's memory for TCP, which all pods of a machine share (`net.ipv4.tcp_mem`). Moves that follow each other faster
than a reader reads pile them up, until the kernel drops what comes for anybody. So there is a bound. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import msgspec

from proxy.api import FlowView

FEW = 1
"""As many old ways of a flow are nothing to wait for: those of the last move end while the next one is prepared."""

MOST = 8
"""With so many old ways of one flow no further move begins. Seen on a machine with 24 GiB: 8 MB each, and timeouts for
everybody from 200 on, at 1.5 GiB."""


class Pile(msgspec.Struct, frozen=True):
    """What the proxies together say of the flows that a migration is about to move."""

    flows: int = 0
    """So many flows have more than FEW old ways."""
    ways: int = 0
    """The flow that has most of them has so many."""

    @property
    def is_small(self) -> bool:
        return self.ways <= FEW

    @property
    def is_too_large(self) -> bool:
        return self.ways >= MOST

    def __str__(self) -> str:
        who = "1 flow is" if self.flows == 1 else f"{self.flows} flows are"
        return f"{who} read so slowly that up to {self.ways} ways of earlier moves are not empty yet"


def pile(views: Iterable[FlowView], migration: str) -> Pile:
    """`views`: what every proxy relays. `migration`: the one that brought the workload to where it is."""
    views = list(views)
    ours = {view.flow for view in views if view.side == "destination" and view.migration == migration}
    peers = [view for view in views if view.side == "source" and view.flow in ours]
    ways = Counter(view.flow for view in peers)
    for view in peers:  # a way that no proxy relays any more may still be full: it is read at its end
        ways[view.flow] = max(ways[view.flow], view.links)
    old = [count - 1 for count in ways.values()]
    return Pile(sum(count > FEW for count in old), max(old, default=0))
