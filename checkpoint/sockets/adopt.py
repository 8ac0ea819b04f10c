"""What is said of the workload's sockets over the adoption protocol, by which the proxy gets duplicates of them.

JSON messages on a SOCK_SEQPACKET socket, the descriptors beside them (SCM_RIGHTS, unix(7)), in the order of `sockets`:

    {"op": "adopt", "migration": m, "sockets": [...], "flows": n}  >  {"adopted": n, "legs": [...]}
    {"op": "take", "migration": m, "sockets": [...], "flows": n}   >  {"pairs": [...]}   of sockets that were foreseen
    {"op": "foresee", "migration": m, "sockets": [...]}            >  {"legs": [...]}    without descriptors
    {"op": "release", "migration": m}                              >  {"released": n}
    {"op": "end", "migration": m}                                  >  {"told": n}          or any: {"error": Problem}

The connection stays open while the proxy holds. End of file from the proxy means that it died.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from socket import SocketType
from typing import Literal, NamedTuple

import msgspec

from checkpoint.core import flows, readdress
from checkpoint.core.errors import AgentError, Code
from checkpoint.images.folder import Stream
from checkpoint.sockets.legs import End

FLOW_BYTES = 6
Kind = Literal["flow", "listener", "datagrams"]


class AdoptedSocket(msgspec.Struct):
    """One socket as the protocol names it; sequence numbers are those of the image before the edit, without FINs."""

    flow: int
    kind: Kind
    local: End
    peer: End
    direction: Literal["inbound", "outbound"]
    inq_seq: int = 0
    inq_len: int = 0
    outq_seq: int = 0
    outq_len: int = 0
    fin_received: bool = False
    fin_sent: bool = False
    given_up: str = ""
    """Why it cannot be kept; "" as a rule."""


class ForeseenSocket(msgspec.Struct):
    """A connection that will be adopted, most likely."""

    flow: int
    local: End
    peer: End
    direction: Literal["inbound", "outbound"]
    mss: int


class PairedSocket(NamedTuple):
    """One that was foreseen, and both ends of which stand at the destination; and our duplicate."""

    flow: int
    unread: int
    """Bytes that the workload has received and not read."""
    sock: SocketType


class Adopt(msgspec.Struct, tag_field="op", tag="adopt"):
    migration: str
    sockets: list[AdoptedSocket]
    flows: int
    """How many flows all messages of this hold have together."""


class Take(msgspec.Struct, tag_field="op", tag="take"):
    migration: str
    sockets: list[tuple[int, int]]
    """Number, and bytes unread."""
    flows: int


class Foresee(msgspec.Struct, tag_field="op", tag="foresee"):
    migration: str
    sockets: list[ForeseenSocket]


class Release(msgspec.Struct, tag_field="op", tag="release"):
    migration: str


class Farewell(msgspec.Struct, tag_field="op", tag="end"):
    """The workload that the migration has brought here has ended."""

    migration: str


class ProxyProblem(msgspec.Struct):
    message: str
    hint: str = ""


class Answer(msgspec.Struct):
    adopted: int = 0
    released: int = 0
    legs: list[msgspec.Raw] = []
    pairs: list[msgspec.Raw] = []
    error: ProxyProblem | None = None


class Given(NamedTuple):
    """One socket to give: what is said of it, and our duplicate."""

    say: AdoptedSocket
    sock: SocketType


class Taken(NamedTuple):
    """One message's sockets, which the proxy has, and the legs of the flows among them, in the same order."""

    given: Sequence[Given]
    legs: list[msgspec.Raw]
    pairs: list[msgspec.Raw]
    """Instead of legs, of sockets that were foreseen (`proxy.api.PairedLeg`)."""


def describe(held: flows.Held, stream: Stream | None, kind: Kind = "listener") -> AdoptedSocket:
    """What the proxy must know of one socket; `stream` is None for one that is no flow, which is of `kind`."""
    one = held.socket
    say = AdoptedSocket(
        flow=int.from_bytes(os.urandom(FLOW_BYTES)),
        kind=kind if stream is None else "flow",
        local=one.local,
        peer=one.peer,
        direction=held.direction,
    )
    if stream is not None:
        numbers = readdress.without_fins(one.state, stream.numbers)
        say.inq_seq, say.inq_len = numbers.inq_seq, numbers.inq_len
        say.outq_seq, say.outq_len = numbers.outq_seq, numbers.outq_len
        say.fin_received = one.state in readdress.FIN_RECEIVED
        say.fin_sent = one.state in readdress.FIN_SENT
    return say


def understood(raw: bytes) -> Answer:
    """The proxy's answer. Raises AgentError for a refusal, what makes no sense, and the proxy's end."""
    if not raw:
        raise AgentError(Code.PROXY_UNREACHABLE, "the proxy hung up")
    try:
        answer = msgspec.json.decode(raw, type=Answer)
    except msgspec.DecodeError as error:
        raise AgentError(Code.PROXY_REFUSED, f"the proxy's answer makes no sense: {error}") from error
    if answer.error is not None:
        raise AgentError(Code.PROXY_REFUSED, f"the proxy refused: {answer.error.message}", hint=answer.error.hint)
    return answer
