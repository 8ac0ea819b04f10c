"""The ledger of a migration: both proxies' accounts of every flow, held against each other.

The two proxies are asked one after the other while bytes go on flowing, so their counts differ by what is on its way.
That is bounded exactly by asking the giver before and after the taker: what has arrived cannot be more than what was
given when asked last, and once it is at least what was given when asked first, nothing of that is missing.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

import msgspec

from proxy.api import LedgerLine


class Standing(StrEnum):
    EQUAL = "equal"
    """All that was given had arrived."""
    ON_ITS_WAY = "on-its-way"
    """Some of what was given has not arrived yet: its reader is slow, or the bytes are in a socket's queue."""
    CUT = "cut"
    """One party reset the flow: what was on its way then is gone, as it is without us."""
    UNEQUAL = "unequal"
    """More arrived than was given, or the flow ended in order and less did: bytes were lost or made up."""
    MISSING = "missing"
    """The destination's proxy does not know the flow."""


class Account(msgspec.Struct, frozen=True):
    """One flow: the source's line, the destination's (None: unknown there), and how they stand to each other."""

    source: LedgerLine
    destination: LedgerLine | None
    standing: Standing

    @property
    def lost(self) -> bool:
        """Whether we broke the flow or its bytes."""
        return self.standing in (Standing.UNEQUAL, Standing.MISSING)

    @property
    def lost_bytes(self) -> int:
        """Bytes that were given and will not arrive any more, or arrived and were never given."""
        if self.standing is Standing.MISSING:
            return max(self.source.to_app_bytes, self.source.held_bytes)
        if self.standing is not Standing.UNEQUAL or self.destination is None:
            return 0
        towards_app = abs(self.source.to_app_bytes - self.destination.to_app_bytes)
        return towards_app + abs(self.source.to_peer_bytes - self.destination.to_peer_bytes)


def reconcile(
    before: Iterable[LedgerLine], destination: Iterable[LedgerLine], after: Iterable[LedgerLine]
) -> list[Account]:
    """Each flow's account, from the source's ledger, then the destination's, then the source's again.

    A flow that began after the first reading is left for the next one.
    """
    first = {line.flow: line for line in before}
    there = {line.flow: line for line in destination}
    return [
        Account(last, there.get(last.flow), _standing(first[last.flow], there.get(last.flow), last))
        for last in after
        if last.flow in first
    ]


def latest(known: Iterable[Account], now: Iterable[Account]) -> list[Account]:
    """The accounts of a new reading; one that was equal before stays so while its bytes are merely on their way."""
    balanced = {account.source.flow: account for account in known if account.standing is Standing.EQUAL}
    return [
        balanced.get(account.source.flow, account) if account.standing is Standing.ON_ITS_WAY else account
        for account in now
    ]


def settled(accounts: Iterable[Account]) -> bool:
    """Whether no account is open any more."""
    return all(account.standing is not Standing.ON_ITS_WAY for account in accounts)


def _standing(first: LedgerLine, there: LedgerLine | None, last: LedgerLine) -> Standing:
    cut = bool(last.error or (there and there.error))
    if there is None:
        return Standing.CUT if cut else Standing.MISSING
    if there.to_app_bytes > last.to_app_bytes or first.to_peer_bytes > there.to_peer_bytes:
        return Standing.UNEQUAL
    if there.to_app_bytes >= first.to_app_bytes and last.to_peer_bytes >= there.to_peer_bytes:
        return Standing.EQUAL
    if cut:
        return Standing.CUT
    return Standing.UNEQUAL if last.state == there.state == "closed" else Standing.ON_ITS_WAY
