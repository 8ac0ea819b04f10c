from __future__ import annotations

from itertools import product

import pytest

from proxy.api import Endpoint
from proxy.core.handshake import (
    ACCEPTING,
    ANSWERED,
    ASKED,
    FREED,
    Accepting,
    Dialling,
    accepting,
    answered,
    asked,
    freed,
    proof,
    proves,
)
from proxy.core.wire import (
    Accepted,
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

HERE = Endpoint("10.0.0.1", 1)
FRAMES: list[Frame] = [
    Hello("m", bytes(32)),
    Join(1, 2),
    Switch(1, 2),
    Resume(1, 2, 3),
    Open(1, 2, HERE, HERE),
    Watch(),
    Challenge(bytes(32)),
    Accepted(),
    Refused("no", "no"),
]
REFUSABLE = [Dialling.CONNECTING, Dialling.GREETING, Dialling.ASKING_EARLY, Dialling.ASKING]


def test_a_connection_greets_then_names_its_link() -> None:
    state = accepting(Accepting.NEW, FRAMES[0])
    assert state is Accepting.GREETED
    for frame in FRAMES[1:5]:
        assert accepting(state, frame) is Accepting.ROUTED
    assert accepting(state, Watch()) is Accepting.WATCHING


def test_a_link_may_be_named_before_the_greeting_is_answered() -> None:
    state = answered(Dialling.CONNECTING, Challenge(bytes(32)))
    assert state is Dialling.GREETING
    state = asked(state)
    assert state is Dialling.ASKING_EARLY
    state = answered(state, Accepted())
    assert state is Dialling.ASKING
    assert answered(state, Accepted()) is Dialling.OPEN


def test_or_after() -> None:
    state = answered(Dialling.GREETING, Accepted())
    assert state is Dialling.IDLE
    assert asked(state) is Dialling.ASKING


@pytest.mark.parametrize("state", REFUSABLE)
def test_a_refusal_ends_it(state: Dialling) -> None:
    assert answered(state, Refused("no", "no")) is Dialling.REFUSED


@pytest.mark.parametrize(("state", "frame"), list(product(Accepting, FRAMES)))
def test_the_acceptor_takes_no_frame_out_of_turn(state: Accepting, frame: Frame) -> None:
    if (state, type(frame)) not in ACCEPTING:
        with pytest.raises(WireError) as raised:
            accepting(state, frame)
        assert raised.value.fault is Fault.ORDER


@pytest.mark.parametrize(("state", "frame"), list(product(Dialling, FRAMES)))
def test_the_initiator_takes_no_frame_out_of_turn(state: Dialling, frame: Frame) -> None:
    if (state, type(frame)) not in ANSWERED:
        with pytest.raises(WireError) as raised:
            answered(state, frame)
        assert raised.value.fault is Fault.ORDER


@pytest.mark.parametrize("state", sorted(set(Dialling) - set(ASKED), key=str))
def test_a_connection_serves_one_link(state: Dialling) -> None:
    with pytest.raises(WireError):
        asked(state)


def test_a_connection_whose_link_is_over_may_carry_another() -> None:
    assert freed(Accepting.ROUTED) is Accepting.GREETED
    assert freed(Dialling.OPEN) is Dialling.IDLE
    assert asked(freed(Dialling.OPEN)) is Dialling.ASKING


@pytest.mark.parametrize("state", [*Accepting, *Dialling])
def test_and_in_no_other_state(state: Accepting | Dialling) -> None:
    if state not in FREED:
        with pytest.raises(WireError) as raised:
            freed(state)
        assert raised.value.fault is Fault.ORDER


def test_a_proof_is_good_for_one_token_challenge_and_migration() -> None:
    token, nonce = b"t" * 32, b"n" * 32
    hello = Hello("m", proof(token, nonce, "m"))
    assert proves(token, nonce, hello)
    assert not proves(b"u" * 32, nonce, hello)
    assert not proves(token, b"o" * 32, hello)
    assert not proves(token, nonce, Hello("n", hello.proof))
