"""The order of frames on a link, for either end: who may say what when."""

from __future__ import annotations

from enum import Enum

from proxy.core.wire import Accepted, Fault, Frame, Hello, Join, Open, Refused, Switch, WireError


class Accepting(Enum):
    """The acceptor's side."""

    NEW = "new"
    GREETED = "greeted"
    """Its token was right; it may name a flow now, or later."""
    ROUTED = "routed"
    """It named its flow: what follows is payload."""


class Dialling(Enum):
    """The initiator's side."""

    GREETING = "greeting"
    """HELLO said, not answered."""
    IDLE = "idle"
    ASKING_EARLY = "asking_early"
    """JOIN or OPEN said before the HELLO was answered: two answers are due."""
    ASKING = "asking"
    """JOIN or OPEN said, one answer due."""
    OPEN = "open"
    REFUSED = "refused"


ACCEPTING: dict[tuple[Accepting, type[Frame]], Accepting] = {
    (Accepting.NEW, Hello): Accepting.GREETED,
    (Accepting.GREETED, Join): Accepting.ROUTED,
    (Accepting.GREETED, Open): Accepting.ROUTED,
    (Accepting.GREETED, Switch): Accepting.ROUTED,
}

ANSWERED: dict[tuple[Dialling, type[Frame]], Dialling] = {
    (Dialling.GREETING, Accepted): Dialling.IDLE,
    (Dialling.ASKING_EARLY, Accepted): Dialling.ASKING,
    (Dialling.ASKING, Accepted): Dialling.OPEN,
    (Dialling.GREETING, Refused): Dialling.REFUSED,
    (Dialling.ASKING_EARLY, Refused): Dialling.REFUSED,
    (Dialling.ASKING, Refused): Dialling.REFUSED,
}

ASKED: dict[Dialling, Dialling] = {
    Dialling.GREETING: Dialling.ASKING_EARLY,
    Dialling.IDLE: Dialling.ASKING,
}


def accepting(state: Accepting, frame: Frame) -> Accepting:
    """The acceptor's next state. Raises WireError(ORDER)."""
    try:
        return ACCEPTING[state, type(frame)]
    except KeyError:
        raise WireError(Fault.ORDER) from None


def answered(state: Dialling, frame: Frame) -> Dialling:
    """The initiator's next state after an answer. Raises WireError(ORDER)."""
    try:
        return ANSWERED[state, type(frame)]
    except KeyError:
        raise WireError(Fault.ORDER) from None


def asked(state: Dialling) -> Dialling:
    """The initiator's next state after it has named its flow. Raises WireError(ORDER)."""
    try:
        return ASKED[state]
    except KeyError:
        raise WireError(Fault.ORDER) from None
