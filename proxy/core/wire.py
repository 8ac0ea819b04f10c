"""The frames at the head of a link's connection; what follows them is `proxy.core.stream`'s.

    header    4s magic "MIDS"   u8 version   u8 kind   u16 length of the payload          (big-endian throughout)
    CHALLENGE 32s nonce                                          acceptor, at once
    HELLO     32s proof, then the migration's id                 initiator, in answer
    JOIN      u64 flow, u64 link                                 initiator, before the freeze, for no flow yet (0);
                                                                 or when the flow is repointed
    OPEN      u64 flow, u64 link, endpoint peer, endpoint app    initiator, for a connection the destination must open
    SWITCH    u64 flow, u64 link                                 initiator, for a flow that has a link: this one follows
    RESUME    u64 flow, u64 link, u64 offset                     initiator, for a link whose connection broke
    BELL      u64 flow (0), u64 link                             initiator, for a link on which the acceptor rings
    WATCH     nothing                                            initiator, for no link: until the workload ends
    ACCEPTED  u64 offset                                         acceptor, for the HELLO and again for the second frame
    REFUSED   u8 length of the code, code, text                  acceptor, instead; then it closes
    endpoint  u16 port, u8 length, the address as text

`link` is a random number of the initiator's: it names one link of the flow, whatever connections carry it. An offset
says how much of the other's stream has been received: from there on it is sent again. After JOIN or OPEN the
initiator's stream need not wait for the answer; after SWITCH and RESUME it must. After the second ACCEPTED comes the
acceptor's. An adopted flow takes a link that was made before the freeze, for no flow yet, and its `Leg` names it; a
JOIN with the flow's own number is for those that found none. The decoder keeps what came behind a frame: `rest` hands
it over, so no byte of the flow is lost.

A link that sleeps has no connection (`proxy.core.link`), and is woken by its initiator, with RESUME, or with JOIN where
it never had one. An acceptor that has something to carry rings: the stream of the BELL's link, towards the initiator,
are the numbers (u64) of the links that are to be woken.

A WATCH is answered when the migration's workload has ended, and not before: by REFUSED, with the code `workload_ended`.
"""

from __future__ import annotations

import struct
from enum import Enum, IntEnum
from ipaddress import ip_address

import msgspec

from proxy.api import Endpoint

MAGIC = b"MIDS"
VERSION = 5
HEADER = struct.Struct("!4sBBH")
TOKEN_BYTES = NONCE_BYTES = PROOF_BYTES = 32
MAX_PAYLOAD_BYTES = 512
"""The longest frame is a REFUSED with its text; longer is garbage, so refuse before storing it."""
NO_FLOW = 0
"""In a JOIN: a leg will say whose the link is. In a BELL: it is no flow's."""
MAX_MIGRATION_BYTES = 128
MAX_CODE_BYTES, MAX_TEXT_BYTES = 64, 400
_NAMED, _RESUMED = struct.Struct("!QQ"), struct.Struct("!QQQ")


class Kind(IntEnum):
    HELLO = 1
    JOIN = 2
    OPEN = 3
    ACCEPTED = 4
    REFUSED = 5
    SWITCH = 6
    CHALLENGE = 7
    RESUME = 8
    WATCH = 9
    BELL = 10


class Fault(Enum):
    MAGIC = "not a Midstream link"
    VERSION = "another version of the link protocol"
    KIND = "an unknown kind of frame"
    LENGTH = "a frame longer than any may be"
    PAYLOAD = "a frame whose contents make no sense"
    ORDER = "a frame out of turn"
    FLOOD = "more bytes than the window allows"
    OFFSET = "an offset that nothing was sent at"


class WireError(Exception):
    """The closed set of what the other end of a link can do wrong."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.value)
        self.fault = fault


class Challenge(msgspec.Struct, frozen=True):
    nonce: bytes


class Hello(msgspec.Struct, frozen=True):
    migration: str
    proof: bytes
    """That the initiator has the migration's token (`proxy.core.handshake.proof`); the token itself is never sent."""


class Named(msgspec.Struct, frozen=True):
    """What names a link."""

    flow: int
    link: int


class Join(Named, frozen=True):
    """The flow's first link."""


class Switch(Named, frozen=True):
    """It follows the one that the flow has."""


class Resume(Named, frozen=True):
    """The flow's, over another connection."""

    received: int


class Bell(Named, frozen=True):
    """No flow's: on it the acceptor says which sleeping links are to be woken."""


class Open(Named, frozen=True):
    """The first link of a flow that the destination has to open."""

    peer: Endpoint
    app: Endpoint


class Watch(msgspec.Struct, frozen=True):
    """It carries no link: the initiator wants to hear of the workload's end."""


class Accepted(msgspec.Struct, frozen=True):
    received: int = 0


class Refused(msgspec.Struct, frozen=True):
    code: str
    text: str


Naming = Join | Open | Switch | Resume | Bell
"""The second frame: which link it is that this connection carries."""
Asking = Naming | Watch
"""What a connection may be for."""
Frame = Challenge | Hello | Asking | Accepted | Refused


def encode(frame: Frame) -> bytes:
    """One frame as bytes. Raises WireError(PAYLOAD) when a field is too long to be sent."""
    match frame:
        case Challenge(nonce):
            kind, payload = Kind.CHALLENGE, nonce
        case Hello(migration, proof):
            kind, payload = Kind.HELLO, proof + migration.encode()
        case Join(flow, link):
            kind, payload = Kind.JOIN, _NAMED.pack(flow, link)
        case Switch(flow, link):
            kind, payload = Kind.SWITCH, _NAMED.pack(flow, link)
        case Bell(flow, link):
            kind, payload = Kind.BELL, _NAMED.pack(flow, link)
        case Resume(flow, link, received):
            kind, payload = Kind.RESUME, _RESUMED.pack(flow, link, received)
        case Open(flow, link, peer, app):
            kind, payload = Kind.OPEN, _NAMED.pack(flow, link) + _endpoint(peer) + _endpoint(app)
        case Watch():
            kind, payload = Kind.WATCH, b""
        case Accepted(received):
            kind, payload = Kind.ACCEPTED, struct.pack("!Q", received)
        case _:
            tag, said = frame.code.encode()[:MAX_CODE_BYTES], frame.text.encode()[:MAX_TEXT_BYTES]
            kind, payload = Kind.REFUSED, bytes([len(tag)]) + tag + said
    _parse(kind, payload)  # never send what the other side would refuse
    return HEADER.pack(MAGIC, VERSION, kind, len(payload)) + payload


class Decoder:
    """Takes bytes in any pieces, gives whole frames. After an error it is of no more use."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        self._buffer += data

    def next(self) -> Frame | None:
        """The next frame, or None while it is not whole. Raises WireError."""
        buffer = self._buffer
        if not MAGIC.startswith(buffer[: len(MAGIC)]):
            raise WireError(Fault.MAGIC)
        if len(buffer) < HEADER.size:
            return None
        _magic, version, kind, length = HEADER.unpack_from(buffer)
        if version != VERSION:
            raise WireError(Fault.VERSION)
        if length > MAX_PAYLOAD_BYTES:
            raise WireError(Fault.LENGTH)
        end = HEADER.size + length
        if len(buffer) < end:
            return None
        frame = _parse(kind, bytes(buffer[HEADER.size : end]))
        del buffer[:end]
        return frame

    def rest(self) -> bytes:
        """What came behind the last frame: the link's stream. It is the caller's now."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest


def _endpoint(endpoint: Endpoint) -> bytes:
    host = endpoint.host.encode()
    return struct.pack("!HB", endpoint.port, len(host)) + host


def _parse(kind: int, payload: bytes) -> Frame:
    try:
        return _PARSERS[Kind(kind)](payload)
    except ValueError as error:
        unknown = kind not in Kind.__members__.values()
        raise WireError(Fault.KIND if unknown else Fault.PAYLOAD) from error
    except (struct.error, IndexError) as error:
        raise WireError(Fault.PAYLOAD) from error


def _parse_challenge(payload: bytes) -> Frame:
    _require(len(payload) == NONCE_BYTES)
    return Challenge(payload)


def _parse_hello(payload: bytes) -> Frame:
    migration = payload[PROOF_BYTES:]
    _require(len(payload) > PROOF_BYTES and len(migration) <= MAX_MIGRATION_BYTES)
    return Hello(migration.decode(), payload[:PROOF_BYTES])


def _parse_join(payload: bytes) -> Frame:
    return Join(*_NAMED.unpack(payload))


def _parse_switch(payload: bytes) -> Frame:
    return Switch(*_NAMED.unpack(payload))


def _parse_bell(payload: bytes) -> Frame:
    return Bell(*_NAMED.unpack(payload))


def _parse_resume(payload: bytes) -> Frame:
    return Resume(*_RESUMED.unpack(payload))


def _parse_watch(payload: bytes) -> Frame:
    _require(not payload)
    return Watch()


def _parse_open(payload: bytes) -> Frame:
    peer, offset = _parse_endpoint(payload, _NAMED.size)
    app, offset = _parse_endpoint(payload, offset)
    _require(offset == len(payload))
    flow, link = _NAMED.unpack_from(payload)
    return Open(flow, link, peer, app)


def _parse_accepted(payload: bytes) -> Frame:
    return Accepted(*struct.unpack("!Q", payload))


def _parse_refused(payload: bytes) -> Frame:
    split = 1 + payload[0]
    _require(split <= len(payload) and payload[0] <= MAX_CODE_BYTES)
    return Refused(payload[1:split].decode(), payload[split:].decode(errors="replace"))


def _parse_endpoint(payload: bytes, offset: int) -> tuple[Endpoint, int]:
    port, length = struct.unpack_from("!HB", payload, offset)
    start = offset + 3
    host = payload[start : start + length]
    _require(len(host) == length)
    return Endpoint(str(ip_address(host.decode())), port), start + length


def _require(true: bool) -> None:
    if not true:
        raise ValueError


_PARSERS = {
    Kind.CHALLENGE: _parse_challenge,
    Kind.HELLO: _parse_hello,
    Kind.JOIN: _parse_join,
    Kind.OPEN: _parse_open,
    Kind.ACCEPTED: _parse_accepted,
    Kind.REFUSED: _parse_refused,
    Kind.SWITCH: _parse_switch,
    Kind.RESUME: _parse_resume,
    Kind.WATCH: _parse_watch,
    Kind.BELL: _parse_bell,
}
