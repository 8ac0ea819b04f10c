"""The edits that make a dumped socket restorable in another pod. Pure: numbers in, numbers out.

Addresses in CRIU's images are u32 words that hold network order as the machine lays it out (criu: sk-inet.c, pb_addr).
"""

from __future__ import annotations

import functools
import ipaddress
import sys
from collections.abc import Mapping, Sequence

import msgspec
from msgspec.structs import replace

ESTABLISHED, SYN_SENT, SYN_RECV, FIN_WAIT1, FIN_WAIT2, TIME_WAIT, CLOSE, CLOSE_WAIT, LAST_ACK, LISTEN, CLOSING = range(
    1, 12
)
"""TCP states, include/net/tcp_states.h."""

FIN_RECEIVED = frozenset({CLOSE_WAIT, LAST_ACK, CLOSING})
FIN_SENT = frozenset({FIN_WAIT1, FIN_WAIT2, LAST_ACK, CLOSING})

_MAPPED_PREFIX = bytes(10) + b"\xff\xff"
_U32 = 1 << 32


def host_of(words: Sequence[int]) -> str:
    """The address that u32 words hold, as text; an IPv4-mapped IPv6 address is given as the IPv4 address it is."""
    return _host_of(tuple(words))


@functools.lru_cache(maxsize=4096)  # a thousand connections have few different addresses, and text is slow to make
def _host_of(words: tuple[int, ...]) -> str:
    raw = b"".join(word.to_bytes(4, sys.byteorder) for word in words)
    if len(raw) == 16 and raw.startswith(_MAPPED_PREFIX):
        raw = raw[12:]
    return str(ipaddress.ip_address(raw))


@functools.lru_cache(maxsize=4096)
def words_of(host: str, count: int) -> tuple[int, ...]:
    """The 1 or 4 words for `host`: an IPv4 address in an IPv6 socket becomes the mapped one."""
    raw = ipaddress.ip_address(host).packed
    if count == 4 and len(raw) == 4:
        raw = _MAPPED_PREFIX + raw
    if len(raw) != 4 * count:
        raise ValueError(f"{host} does not fit a socket with {count} address words")
    return tuple(int.from_bytes(raw[at : at + 4], sys.byteorder) for at in range(0, len(raw), 4))


def readdress(words: Sequence[int], mapping: Mapping[str, str]) -> tuple[int, ...]:
    """Exchange an address for its counterpart in `mapping`; one that is not in it (0.0.0.0, 127.0.0.1) stays."""
    host = host_of(words)
    return words_of(mapping[host], len(words)) if host in mapping else tuple(words)


class Numbers(msgspec.Struct, frozen=True):
    """The sequence numbers and windows of tcp_stream_entry that an edit touches; all modulo 2**32."""

    inq_seq: int
    inq_len: int
    outq_seq: int
    outq_len: int
    rcv_wnd: int
    rcv_wup: int


def without_fins(state: int, numbers: Numbers) -> Numbers:
    """Take the FINs out of the sequence numbers, as if neither side had closed.

    A FIN takes one sequence number (RFC 9293, 3.4). CRIU's image counts a received one in inq_seq and rcv_wup and a
    sent one in outq_seq, but neither in inq_len nor outq_len (criu: soccr/soccr.c, refresh_sk, libsoccr_restore).
    """
    if state in FIN_RECEIVED:
        numbers = replace(
            numbers,
            inq_seq=(numbers.inq_seq - 1) % _U32,
            rcv_wup=(numbers.rcv_wup - 1) % _U32,
            rcv_wnd=(numbers.rcv_wnd + 1) % _U32,
        )
    if state in FIN_SENT:
        numbers = replace(numbers, outq_seq=(numbers.outq_seq - 1) % _U32)
    return numbers


def without_unsent(numbers: Numbers) -> Numbers:
    """Empty the send queue: the adopted socket still holds those bytes and delivers them itself."""
    return replace(numbers, outq_len=0) if numbers.outq_len else numbers


def reading_from(numbers: Numbers, inq_seq: int) -> Numbers:
    """The next byte that the restored socket expects is this one: the proxy knows better (`proxy.core.ledger.whole`).

    What lies between was announced to the peer as a window; its right edge stays where it is.
    """
    late = (numbers.inq_seq - inq_seq) % _U32
    if not late:
        return numbers
    wup, wnd = (numbers.rcv_wup - late) % _U32, (numbers.rcv_wnd + late) % _U32
    return replace(numbers, inq_seq=inq_seq, rcv_wup=wup, rcv_wnd=wnd)
