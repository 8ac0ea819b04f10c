"""The order of frames at the head of a link's connection, for either end: who may say what when."""

from __future__ import annotations

import hmac
from enum import Enum
from typing import TypeVar

from proxy.core.wire import (
    Accepted,
    Bell,
    Challenge,
    Fault,
    Frame,
    Hello,
    Join,
    Open,
    Refused,
    Resume,
    Switch,
    Watch,
    WireError,
)


class Accepting(Enum):
    """The acceptor's side."""

    NEW = "new"
    """CHALLENGE said, not answered."""
    GREETED = "greeted"
    """It has proved that it has the token; it may name a link now, or later."""
    ROUTED = "routed"
    """It named its link: what follows is the link's stream."""
    WATCHING = "watching"
    """It will have no link: it waits to hear of the workload's end."""


class Dialling(Enum):
    """The initiator's side."""

    CONNECTING = "connecting"
    """The CHALLENGE is awaited."""
    GREETING = "greeting"
    """HELLO said, not answered."""
    IDLE = "idle"
    ASKING_EARLY = "asking_early"
    """The link was named before the HELLO was answered: two answers are due."""
    ASKING = "asking"
    """The link was named, one answer due."""
    OPEN = "open"
    REFUSED = "refused"


ACCEPTING: dict[tuple[Accepting, type[Frame]], Accepting] = {
    (Accepting.NEW, Hello): Accepting.GREETED,
    (Accepting.GREETED, Join): Accepting.ROUTED,
    (Accepting.GREETED, Open): Accepting.ROUTED,
    (Accepting.GREETED, Switch): Accepting.ROUTED,
    (Accepting.GREETED, Resume): Accepting.ROUTED,
    (Accepting.GREETED, Bell): Accepting.ROUTED,
    (Accepting.GREETED, Watch): Accepting.WATCHING,
}

ANSWERED: dict[tuple[Dialling, type[Frame]], Dialling] = {
    (Dialling.CONNECTING, Challenge): Dialling.GREETING,
    (Dialling.GREETING, Accepted): Dialling.IDLE,
    (Dialling.ASKING_EARLY, Accepted): Dialling.ASKING,
    (Dialling.ASKING, Accepted): Dialling.OPEN,
    (Dialling.CONNECTING, Refused): Dialling.REFUSED,
    (Dialling.GREETING, Refused): Dialling.REFUSED,
    (Dialling.ASKING_EARLY, Refused): Dialling.REFUSED,
    (Dialling.ASKING, Refused): Dialling.REFUSED,
}

ASKED: dict[Dialling, Dialling] = {
    Dialling.GREETING: Dialling.ASKING_EARLY,
    Dialling.IDLE: Dialling.ASKING,
}

FREED: dict[Accepting | Dialling, Accepting | Dialling] = {
    Accepting.ROUTED: Accepting.GREETED,
    Dialling.OPEN: Dialling.IDLE,
}
"""Its link is over at both ends."""

State = TypeVar("State", Accepting, Dialling)


def accepting(state: Accepting, frame: Frame) -> Accepting:
    """The acceptor's next state. Raises WireError(ORDER)."""
    try:
        return ACCEPTING[state, type(frame)]
    except KeyError:
        raise WireError(Fault.ORDER) from None


def answered(state: Dialling, frame: Frame) -> Dialling:
    """The initiator's next state after a frame from the acceptor. Raises WireError(ORDER)."""
    try:
        return ANSWERED[state, type(frame)]
    except KeyError:
        raise WireError(Fault.ORDER) from None


def asked(state: Dialling) -> Dialling:
    """The initiator's next state after it has named its link. Raises WireError(ORDER)."""
    try:
        return ASKED[state]
    except KeyError:
        raise WireError(Fault.ORDER) from None


def freed(state: State) -> State:
    """Either's next state when its link is over and has left it. Raises WireError(ORDER)."""
    after = FREED.get(state)
    if not isinstance(after, type(state)):
        raise WireError(Fault.ORDER)
    return after


def proof(token: bytes, nonce: bytes, migration: str) -> bytes:
    """What a HELLO shows: it needs the token, and is good for this connection only, so to hear it is of no use."""
    return hmac.digest(token, b"midstream link 5" + nonce + migration.encode(), "sha256")


def proves(token: bytes, nonce: bytes, hello: Hello) -> bool:
    return hmac.compare_digest(proof(token, nonce, hello.migration), hello.proof)
