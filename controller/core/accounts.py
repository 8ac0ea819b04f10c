"""The ledger of a migration: both proxies' accounts of every flow, held against each other.

A flow's bytes pass from the giver's proxy over the link to the taker's, in each direction. The proxies are asked one
after the other while bytes go on flowing, so their counts differ by what is on its way; but that can be told to the
byte, for the kernel knows what has been acknowledged on the link. With three readings (source, destination, source
again) two things must hold in each direction, however fast the bytes go:

- what the giver's kernel knows to be acknowledged had arrived when the taker was asked afterwards;
- what had arrived at the taker had been given when the giver was asked afterwards.

Together: nothing is missing, and nothing was made up.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

import msgspec

from proxy.api import LedgerLine

ENDED = ("draining", "closed", "reset", "released")
"""States of a flow that has closed its link (`proxy.core.flow`): what is still under way it cannot tell."""


class Standing(StrEnum):
    EQUAL = "equal"
    """Every byte is accounted for."""
    CUT = "cut"
    """One party reset the flow: what was on its way then is gone, as it is without us."""
    ENDING = "ending"
    """One proxy has closed the link and the other has not seen it yet: to be asked again."""
    UNEQUAL = "unequal"
    """Bytes are missing, or were made up."""
    GIVEN_UP = "given-up"
    """It could not be kept, and was allowed to be lost."""
    COMING = "coming"
    """A connection that has just come: the destination's proxy does not know it yet, and has acknowledged nothing."""
    MISSING = "missing"
    """The destination's proxy does not know the flow."""
    TURNED_AWAY = "turned-away"
    """It waited to be accepted before the move, and could not be opened again after it."""


class Account(msgspec.Struct, frozen=True):
    """One flow: the source's line, the destination's (None: unknown there), and how they stand to each other."""

    source: LedgerLine
    destination: LedgerLine | None
    standing: Standing
    lost_bytes: int = 0
    """Bytes that are missing or were made up, in both directions together."""

    @property
    def lost(self) -> bool:
        """Whether we broke the flow or its bytes."""
        return self.standing in (Standing.UNEQUAL, Standing.MISSING, Standing.TURNED_AWAY)

    @property
    def settled(self) -> bool:
        """Whether nothing more will come of asking again: what was held is delivered, or there is nobody to take it."""
        if self.standing in (Standing.ENDING, Standing.COMING, Standing.MISSING):
            return False
        if self.standing in (Standing.CUT, Standing.GIVEN_UP, Standing.TURNED_AWAY) or self.destination is None:
            return True
        return self.destination.to_app_bytes >= self.source.held_bytes


def reconcile(
    before: Iterable[LedgerLine], destination: Iterable[LedgerLine], after: Iterable[LedgerLine]
) -> list[Account]:
    """Each flow's account, from the source's ledger, then the destination's, then the source's again.

    A flow that began after the first reading is left for the next one.
    """
    first = {line.flow: line for line in before}
    there = {line.flow: line for line in destination}
    return [_account(first[last.flow], there.get(last.flow), last) for last in after if last.flow in first]


def complaint(accounts: Iterable[Account]) -> str:
    """In words, what is lost; "" if nothing is. Names three connections at most."""
    gone = [f"{one.source.peer} ({one.source.turned_away or one.standing.value})" for one in accounts if one.lost]
    more = f" and {len(gone) - 3} more" if len(gone) > 3 else ""
    return f"the ledger does not balance: {', '.join(gone[:3])}{more}; see the flows in the result" if gone else ""


def _account(first: LedgerLine, there: LedgerLine | None, last: LedgerLine) -> Account:
    if last.given_up:
        return Account(last, there, Standing.GIVEN_UP)
    if last.turned_away:
        return Account(last, there, Standing.TURNED_AWAY, last.to_app_bytes)
    cut = bool(last.error or (there and there.error))
    if cut:
        return Account(last, there, Standing.CUT)
    if there is None:
        coming = first.direction == "accepted" and first.to_app_bytes <= first.link_unacked_bytes
        lost = 0 if coming else max(last.to_app_bytes, last.held_bytes)
        return Account(last, None, Standing.COMING if coming else Standing.MISSING, lost)
    lost = _off_towards_app(first, there, last) + _off_towards_peer(first, there, last)
    if lost and (first.state in ENDED) != (there.state in ENDED):
        return Account(last, there, Standing.ENDING)
    return Account(last, there, Standing.UNEQUAL if lost else Standing.EQUAL, lost)


def _off_towards_app(first: LedgerLine, there: LedgerLine, last: LedgerLine) -> int:
    """By how many bytes `acknowledged <= arrived <= given` does not hold: the source gives, the destination takes."""
    acknowledged = first.to_app_bytes - first.link_unacked_bytes
    arrived = there.to_app_bytes + there.link_waiting_bytes
    return max(0, acknowledged - arrived) + max(0, arrived - last.to_app_bytes)


def _off_towards_peer(first: LedgerLine, there: LedgerLine, last: LedgerLine) -> int:
    """The same where the destination gives and the source takes: so it is the taker that is asked twice."""
    acknowledged = there.to_peer_bytes - there.link_unacked_bytes
    arrived_before = first.to_peer_bytes + first.link_waiting_bytes
    arrived_after = last.to_peer_bytes + last.link_waiting_bytes
    return max(0, acknowledged - arrived_after) + max(0, arrived_before - there.to_peer_bytes)
