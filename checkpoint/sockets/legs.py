"""Legs, as far as the agent looks at them: what the proxies build at the destination (`proxy.api.Leg`)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from checkpoint.core.errors import AgentError, Code

End = tuple[str, int]
"""An address and a port."""


class LegEnds(msgspec.Struct, array_like=True):
    """The head of a leg (`proxy.api.Leg`): all of it that the agent looks at."""

    flow: int
    peer: End | None = None
    app: End | None = None
    """The restored socket's address and port: the proxy decides them, for it knows which ends are taken."""
    snd_seq: int | None = None
    """The next byte that the restored socket is to expect: the proxy has seen the live one."""


class LegNumbers(msgspec.Struct, array_like=True):
    """A leg (`proxy.api.Leg`), as far as its other end must know it."""

    flow: int
    peer: End
    app: End
    snd_seq: int
    rcv_seq: int
    tcp_options: int
    snd_wscale: int
    rcv_wscale: int
    mss: int
    timestamp: int
    snd_wl1: int
    snd_wnd: int
    max_window: int
    rcv_wnd: int
    rcv_wup: int


def ends_of(legs: Sequence[msgspec.Raw]) -> list[LegEnds]:
    """Raises AgentError PROXY_REFUSED."""
    try:
        return [msgspec.json.decode(leg, type=LegEnds) for leg in legs]
    except msgspec.DecodeError as error:
        raise AgentError(Code.PROXY_REFUSED, f"the proxy's legs make no sense: {error}") from error


def numbers_of(legs: msgspec.Raw) -> list[LegNumbers]:
    """Of a JSON list of legs. Raises AgentError PROXY_REFUSED."""
    try:
        return msgspec.json.decode(legs, type=list[LegNumbers])
    except msgspec.DecodeError as error:
        raise AgentError(Code.PROXY_REFUSED, f"the legs make no sense: {error}") from error
