"""The types of the proxy's control API: JSON over HTTP on a unix socket, served by `proxy.io.control`.

| call | body | answer |
|---|---|---|
| GET /healthz | | `Health` |
| GET /metrics | | Prometheus text |
| GET /v1/flows | | `list[FlowView]` |
| PUT /v1/outbound/{migration} | `PrepareOutbound` | `Prepared` |
| POST /v1/outbound/{migration}/repoint | | `Repointed` |
| GET /v1/outbound/{migration}/ledger | | `list[LedgerLine]` |
| DELETE /v1/outbound/{migration} | | `Released` |
| PUT /v1/inbound/{migration} | `PrepareInbound` | `Prepared` |
| POST /v1/inbound/{migration}/ahead | `Legs` (of connections that the workload still has) | `LegsBuilt` |
| POST /v1/inbound/{migration}/legs | `Legs` | `LegsBuilt` |
| POST /v1/inbound/{migration}/resume | | `Resumed` |
| GET /v1/inbound/{migration}/ledger | | `list[LedgerLine]` |
| POST /v1/inbound/{migration}/takeover | `TakeOver` | `TakenOver` |
| POST /v1/inbound/{migration}/orphan | `Orphan` | `Orphaned` (what came from a proxy that is gone is reset) |
| DELETE /v1/inbound/{migration} | | `Released` |
| GET /v1/listeners | | `list[ListenerView]` |
| POST /v1/switch | `Switch` | `Switched` |

Every call is idempotent: said twice, it is done once and answered twice. An error is an `ErrorBody` with the HTTP
status of its kind. Nothing here does I/O; the controller imports this module and no other of the proxy's.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

LINK_PORT = 15008
METRICS_PORT = 15020
MAX_BODY_BYTES = 32 << 20  # 10,000 legs are about 4 MB of JSON


MAX_LINKS = 20_000  # of one migration, dialled beforehand; the descriptors a process may have end there

DIAL_SECONDS, DIAL_SECONDS_EACH = 15.0, 0.05
"""So long links may take to be had beforehand, and so much longer for each: most of that is TLS's, on both machines."""

RELINK_SECONDS = 10.0
"""So long a link whose connection breaks is made again, before its flow is reset."""

Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]
U32 = Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFF)]
Port = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]
FlowNumber = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
LinkNumber = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class Endpoint(msgspec.Struct, frozen=True, array_like=True, order=True):
    """One end of a TCP connection: a literal IPv4 or IPv6 address and a port."""

    host: str
    port: Port

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Problem(msgspec.Struct, frozen=True):
    """What went wrong, whose fault it is, and what to do about it."""

    code: str
    message: str
    fault: Literal["request", "pod", "peer", "midstream"]
    hint: str = ""


class ErrorBody(msgspec.Struct, frozen=True):
    error: Problem


class Health(msgspec.Struct, frozen=True):
    version: str
    uid: int
    capabilities: list[str]
    flows: int
    held_flows: int
    held_bytes: int
    spare_descriptors: int = 1 << 20
    """So many more it could have, with no link that has a connection: a relayed flow takes one always, and one more
    while there is something to carry."""
    cleartext_links: bool = False
    """It neither encrypts its links nor shows a certificate, and wants none."""


class HoldPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many bytes all peers together may add to what they were already allowed to send when the hold began."""

    max_held_bytes: Annotated[int, msgspec.Meta(ge=0)] = 64 << 20


class PrepareOutbound(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Make ready to give flows away: make `links` links to the destination's proxy now, not inside the freeze."""

    destination: Endpoint
    token: str
    """64 hexadecimal digits, the migration's own; the destination's proxy knows the same."""
    readdress: dict[str, str]
    """The pod's address -> the destination pod's, one entry for each family."""
    links: Annotated[int, msgspec.Meta(ge=0, le=MAX_LINKS)] = 0
    """As many as there are flows, or fewer: no more are made than there are descriptors for, beside the legs."""
    policy: HoldPolicy = HoldPolicy()
    relink_seconds: Seconds = RELINK_SECONDS
    flows: Annotated[int, msgspec.Meta(ge=0)] = 0
    """So many are to be adopted: descriptors are kept for their legs. Where there are fewer links, these are lent."""
    spare_links: Annotated[int, msgspec.Meta(ge=0, le=MAX_LINKS)] = 0
    """So many connections more, for flows that come later: each becomes a link when it is needed."""


class PrepareInbound(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Make ready to receive flows: routing in place, links that carry `token` welcome."""

    token: str
    follows: str = ""
    """The migration that brought the workload to where it is now; "" when it was started there.

    Listeners that this pod holds for that workload make room for the restored ones.
    """

    relink_seconds: Seconds = RELINK_SECONDS
    flows: Annotated[int, msgspec.Meta(ge=0)] = 0
    """So many are to come: descriptors are kept for their legs."""


class Prepared(msgspec.Struct, frozen=True):
    links: int = 0
    """Source: so many are there. Destination: for so many there are descriptors."""


class TakeOver(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A new controller drives the migration. The token went with the old one, nobody gives it out: here is another."""

    token: str
    """Welcome from now on, beside those that were: links that are there are made again with theirs."""


class TakenOver(msgspec.Struct, frozen=True):
    follows: str
    """See `PrepareInbound`."""


class Leg(msgspec.Struct, frozen=True, array_like=True):
    """What the destination's proxy needs to build one app leg: the state of the other end of a restored socket."""

    flow: FlowNumber
    peer: Endpoint
    """The other party: the leg's own (foreign) address."""
    app: Endpoint
    """The restored socket's address, in the destination pod."""
    snd_seq: U32
    rcv_seq: U32
    tcp_options: U32
    """TCP_INFO's tcpi_options bits: 1 timestamps, 2 SACK, 4 window scale."""
    snd_wscale: Annotated[int, msgspec.Meta(ge=0, le=14)]
    rcv_wscale: Annotated[int, msgspec.Meta(ge=0, le=14)]
    mss: U32
    timestamp: U32
    snd_wl1: U32
    snd_wnd: U32
    max_window: U32
    rcv_wnd: U32
    rcv_wup: U32
    given_up: bool = False
    """The connection cannot be kept: the leg resets it when the workload is resumed."""
    datagrams: bool = False
    """A UDP socket: the numbers mean nothing, `peer` has the port 0 unless it is connected."""
    link: LinkNumber = 0
    """Which of the links that were made before is the flow's; 0: one joins it later."""


class PairedLeg(msgspec.Struct, frozen=True, array_like=True):
    """One that was built ahead of the freeze, as was the workload's socket that it is the other end of:
    its flow was adopted."""

    flow: FlowNumber
    link: LinkNumber = 0
    """As a leg's."""
    unread: bytes = b""
    """What the workload had received and not read, for the leg to say."""


class Legs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    legs: list[Leg]
    paired: list[PairedLeg] = []


class LegsBuilt(msgspec.Struct, frozen=True):
    built: int


class Resumed(msgspec.Struct, frozen=True):
    resumed: int


class Orphan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The proxy that the migration's flows have come from is gone for good."""

    source: str
    """Its address."""


class Orphaned(msgspec.Struct, frozen=True):
    flows: int
    """So many were reset: they went by no other way."""


class Switch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The workload that `follows` had brought somewhere was brought on by `migration`: relay straight to there.

    Concerns the peer legs and listeners that this proxy relays to where `follows` went; none is fine.
    """

    follows: str
    migration: str
    token: str
    """The token of `migration`."""
    destination: Endpoint
    readdress: dict[str, str]
    """This pod's address -> the destination pod's, one entry for each family."""
    relink_seconds: Seconds = RELINK_SECONDS


class Switched(msgspec.Struct, frozen=True):
    flows: int
    """So many are relayed over a link straight to the destination now."""
    left: int
    """So many still take the longer way: they go on working, by one more proxy."""


class ListenerView(msgspec.Struct, frozen=True):
    """An adopted listener: the workload's, at an address that it has left."""

    migration: str
    target: str
    """The migration that brought the workload to where its connections are relayed to."""
    local: Endpoint


class Repointed(msgspec.Struct, frozen=True):
    flows: int
    held_bytes: int
    accepted: int
    """Connections that the adopted listeners completed during the hold."""


class Released(msgspec.Struct, frozen=True):
    flows: int


class LedgerLine(msgspec.Struct, frozen=True):
    """One flow's account, as one proxy sees it. Bytes are counted from the snapshot on."""

    flow: int
    peer: Endpoint
    local: Endpoint
    direction: Literal["inbound", "outbound", "accepted", "datagrams"]
    """Who opened it: the peer, the workload, or the peer during or after the hold."""
    state: str
    unread_bytes: int
    """Received before the snapshot and not read by the application: they travel in the image."""
    unsent_bytes: int
    """Written before the snapshot and not acknowledged by the peer: the peer leg delivers them."""
    held_bytes: int
    """Received from the peer between the snapshot and the repointing."""
    to_app_bytes: int
    """Source: read from the peer leg and given to the link. Destination: from the link to the app leg."""
    to_peer_bytes: int
    """Source: taken from the link and given to the peer leg. Destination: from the app leg to the link."""
    error: str = ""
    link_unacked_bytes: int = 0
    """Given to the link and not yet acknowledged by the other proxy's kernel (SIOCOUTQ, tcp(7))."""
    given_up: str = ""
    """Why the connection could not be kept, as it was allowed to be lost."""
    dropped_datagrams: int = 0
    """Lost since the adoption, for want of room or of an address: UDP may."""
    link_waiting_bytes: int = 0
    """Arrived over the link and not yet given on: in the socket (SIOCINQ) or kept by the proxy."""
    turned_away: str = ""
    """Source: why a connection that waited to be accepted before the move could not be opened again after it."""


class FlowView(msgspec.Struct, frozen=True):
    migration: str
    flow: int
    side: Literal["source", "destination"]
    peer: Endpoint
    local: Endpoint
    via: str
    """The other proxy, or "" while none."""
    direction: Literal["inbound", "outbound", "accepted", "datagrams"]
    state: str
    held_bytes: int
    to_app_bytes: int
    to_peer_bytes: int
    links: int = 1
    """Its own and, after switches, the older ones that are not read to their end yet."""
    link: str = ""
    """What its own is doing (`proxy.core.link`); "" while there is none."""
