"""The nft table that marks the application's packets of inherited flows, as netlink messages.

A peer whose datagrams are relayed may ask the application directly, too: it is answered directly then, and until it has
not done so for a minute. The kernel sees to that, before the application reads the question.

What `nft list table inet midstream` shows:

    table inet midstream {
        set flows4 { type ipv4_addr . inet_service . ipv4_addr . inet_service }
        set flows6 { type ipv6_addr . inet_service . ipv6_addr . inet_service }
        set datagrams4, set datagrams6: the same
        set direct4 { type ipv4_addr . inet_service . ipv4_addr . inet_service; flags dynamic,timeout; timeout 1m; }
        set direct6: likewise
        set words { type inet_service }
        chain input {
            type filter hook input priority mangle; policy accept;
            meta mark != 0x6d74 ip daddr . udp dport . ip saddr . udp sport @datagrams4
                update @direct4 { ip daddr . udp dport . ip saddr . udp sport }
            likewise of datagrams6 and direct6
            meta mark != 0x6d74 udp dport @words update @direct4 { <the same> }
            likewise of IPv6 and direct6
        }
        chain output {
            type route hook output priority mangle; policy accept;
            ip saddr . tcp sport . ip daddr . tcp dport @flows4 meta mark set 0x6d73
            ip6 saddr . tcp sport . ip6 daddr . tcp dport @flows6 meta mark set 0x6d73
            ip saddr . udp sport . ip daddr . udp dport @datagrams4 <the same> != @direct4 meta mark set 0x6d73
            likewise of datagrams6 and direct6
            meta oif != "lo" ip daddr < 224.0.0.0 udp sport @words <the same> != @direct4 meta mark set 0x6d73
            likewise of IPv6 (below fe00::) and direct6
        }
        chain prerouting {
            type filter hook prerouting priority mangle; policy accept;
            meta mark 0x6d73 udp sport @words tproxy ip to 127.0.0.1:15008
            meta mark 0x6d73 udp sport @words tproxy ip6 to [::1]:15008
        }
    }

`words` has the ports of sockets whose first words after a move are heard by the proxy (`proxy.io.first_words`).

Constants are of include/uapi/linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from proxy.api import Endpoint
from proxy.sys import datagrams
from proxy.sys.netlink import NLM_F_ACK, NLM_F_CREATE, Message, attribute, attributes, big32, nested, text

TABLE, CHAIN, INPUT, PREROUTING = "midstream", "output", "input", "prerouting"
DIRECT_SECONDS = 60
"""A peer that has not asked directly for so long is answered by the way that its relayed questions come."""
MAX_ELEMENTS_A_MESSAGE = 800  # an attribute is at most 64 KiB and an IPv6 element 56 bytes
_SUBSYSTEM = 10  # NFNL_SUBSYS_NFTABLES
_INET, _IPV4, _IPV6 = 1, 2, 10  # NFPROTO_*
_HEAD = struct.pack("!BBH", _INET, 0, 0)  # struct nfgenmsg
_NEWTABLE, _DELTABLE, _NEWCHAIN, _NEWRULE, _NEWSET = 0, 2, 3, 6, 9
_NEWSETELEM, _GETSETELEM, _DELSETELEM = 12, 13, 14
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11  # include/uapi/linux/netfilter/nfnetlink.h
_PRE_ROUTING, _LOCAL_IN, _LOCAL_OUT, _MANGLE = 0, 1, 3, -150  # NF_INET_*, NF_IP_PRI_MANGLE
_META_MARK, _META_OIF, _META_NFPROTO, _META_L4PROTO = 3, 5, 15, 16
_FIRST_REGISTER = 8  # NFT_REG32_00: sixteen registers of four bytes
_NETWORK, _TRANSPORT = 1, 2  # NFT_PAYLOAD_*_HEADER
_EQ, _NEQ, _LT = 0, 1, 2  # NFT_CMP_*
_LOOPBACK = 1  # lo's index, in every network namespace
_INVERTED, _UPDATE = 1, 1  # NFT_LOOKUP_F_INV, NFT_DYNSET_OP_UPDATE
_TIMEOUT, _EVAL = 0x10, 0x20  # NFT_SET_*
_IPV4_TYPE, _IPV6_TYPE, _PORT_TYPE = 7, 8, 13  # nft's own numbers of types, so that `nft list` can show the sets


class Family(NamedTuple):
    """How one address family looks in a packet."""

    set_name: str
    set_id: int
    protocol: int
    address_type: int
    address_bytes: int
    source_offset: int
    destination_offset: int
    transport: int = socket.IPPROTO_TCP

    @property
    def key_bytes(self) -> int:
        return 2 * (self.address_bytes + 4)

    @property
    def key_type(self) -> int:
        """A concatenation: six bits for each part."""
        pair = self.address_type << 6 | _PORT_TYPE
        return pair << 12 | pair


FAMILIES = {
    socket.AF_INET: Family("flows4", 1, _IPV4, _IPV4_TYPE, 4, 12, 16),
    socket.AF_INET6: Family("flows6", 2, _IPV6, _IPV6_TYPE, 16, 8, 24),
}
_DATAGRAMS = {
    family: found._replace(set_name=name, set_id=number, transport=socket.IPPROTO_UDP)
    for (family, found), name, number in zip(FAMILIES.items(), ("datagrams4", "datagrams6"), (3, 4), strict=True)
}
_SETS = (*FAMILIES.values(), *_DATAGRAMS.values())
_DIRECT = {
    each: each._replace(set_name=name, set_id=number)
    for each, name, number in zip(_DATAGRAMS.values(), ("direct4", "direct6"), (5, 6), strict=True)
}
"""Beside each set of datagrams: whose peers ask directly, too. The kernel fills it, and it forgets by itself."""
_WORDS, _WORDS_ID = "words", 7
_UDP = b"\x11\0\0\0"
"""At the end of a key: it is one of datagrams. (The kernel is not told: it has another set for them.)"""
_SET_BY_LENGTH = {
    **{each.key_bytes: each for each in FAMILIES.values()},
    **{each.key_bytes + len(_UDP): each for each in _DATAGRAMS.values()},
}
"""Keys differ in length by family, and by the end of those of datagrams."""
_PORT = struct.Struct("!HH")


def datagram_key(app: Endpoint, peer: Endpoint) -> bytes:
    """The same for datagrams."""
    return flow_key(app, peer) + _UDP


def flow_key(app: Endpoint, peer: Endpoint) -> bytes:
    """A set's key: the flow as the application's own packets have it, each part padded to four bytes."""
    family = socket.AF_INET6 if ":" in app.host else socket.AF_INET
    app_host, peer_host = socket.inet_pton(family, app.host), socket.inet_pton(family, peer.host)
    return b"%b%b%b%b" % (app_host, _PORT.pack(app.port, 0), peer_host, _PORT.pack(peer.port, 0))


class End(NamedTuple):
    """One end of a flow, as packets have it."""

    host: bytes
    port: bytes


def ends_of(key: bytes) -> tuple[End, End]:
    """The workload's and the peer's in a key."""
    host_bytes = _SET_BY_LENGTH[len(key)].address_bytes
    app, peer = key[: host_bytes + 4], key[host_bytes + 4 : 2 * (host_bytes + 4)]
    return End(app[:host_bytes], app[host_bytes:-2]), End(peer[:host_bytes], peer[host_bytes:-2])


def app_host(key: bytes) -> bytes:
    """The workload's own address in a key, as packets have it."""
    return key[: _SET_BY_LENGTH[len(key)].address_bytes]


def is_of_datagrams(key: bytes) -> bool:
    return _SET_BY_LENGTH[len(key)].transport == socket.IPPROTO_UDP


def create(mark: int) -> list[Message]:
    """The whole table, afresh: what an earlier proxy left is gone with the same transaction."""
    table = text(1, TABLE)
    return batch(
        _message(_NEWTABLE, table),
        _message(_DELTABLE, table),
        _message(_NEWTABLE, table),
        *(_message(_NEWSET, _set(family)) for family in _SETS),
        *(_message(_NEWSET, _set(family, DIRECT_SECONDS)) for family in _DIRECT.values()),
        _message(_NEWSET, _set_of(_WORDS, _WORDS_ID, _PORT_TYPE, 2)),
        _message(_NEWCHAIN, _chain(INPUT, _LOCAL_IN, "filter")),
        _message(_NEWCHAIN, _chain(CHAIN, _LOCAL_OUT, "route")),
        *(_message(_NEWRULE, _note_rule(family)) for family in _DIRECT),
        *(_message(_NEWRULE, _note_words_rule(family)) for family in _DIRECT),
        *(_message(_NEWRULE, _mark_rule(family, mark)) for family in _SETS),
        *(_message(_NEWRULE, _mark_words_rule(family, mark)) for family in _DIRECT),
    )


def catch(mark: int) -> list[Message]:
    """What sockets at the ports in `words` say, to the proxy's own (`datagrams.catcher`). Not every kernel can."""
    return batch(
        _message(_NEWCHAIN, _chain(PREROUTING, _PRE_ROUTING, "filter")),
        *(_message(_NEWRULE, _catch_rule(family, mark)) for family in _DIRECT),
    )


def words(port: int, *, wanted: bool) -> list[Message]:
    """The first words of the socket at this port are heard, or not any more."""
    kind = _NEWSETELEM if wanted else _DELSETELEM
    element = nested(1, nested(1, attribute(1, port.to_bytes(2, "big"))))
    return batch(_message(kind, text(1, TABLE) + text(2, _WORDS) + nested(3, element)))


def delete() -> list[Message]:
    return batch(_message(_DELTABLE, text(1, TABLE)))


def change(added: Sequence[bytes], removed: Sequence[bytes]) -> list[Message]:
    """Keys in and out of the sets, in one transaction; their length says which set."""
    messages = []
    for kind, keys in ((_DELSETELEM, removed), (_NEWSETELEM, added)):
        for family in _SETS:
            own = [key[: family.key_bytes] for key in keys if _SET_BY_LENGTH[len(key)] is family]
            messages += [
                _elements(kind, family, own[start : start + MAX_ELEMENTS_A_MESSAGE])
                for start in range(0, len(own), MAX_ELEMENTS_A_MESSAGE)
            ]
    return batch(*messages)


def listings() -> list[Message]:
    """What asks, to be dumped, for the elements of each set of flows."""
    return [
        Message(_SUBSYSTEM << 8 | _GETSETELEM, 0, _HEAD + text(1, TABLE) + text(2, family.set_name))
        for family in FAMILIES.values()
    ]


def listed(answer: bytes) -> Iterator[bytes]:
    """The keys in one part of such a dump: each is wrapped as in `_elements`."""
    for kind, elements in attributes(answer[len(_HEAD) :]):
        if kind == 3:
            for _, element in attributes(elements):
                yield dict(attributes(dict(attributes(element))[1]))[1]


def batch(*messages: Message) -> list[Message]:
    """A transaction: all of it or nothing."""
    border = struct.pack("!BBH", 0, 0, _SUBSYSTEM)
    return [Message(_BATCH_BEGIN, 0, border), *messages, Message(_BATCH_END, 0, border)]


def _message(kind: int, body: bytes) -> Message:
    return Message(_SUBSYSTEM << 8 | kind, NLM_F_CREATE | NLM_F_ACK, _HEAD + body)


def _chain(name: str, hook: int, kind: str) -> bytes:
    return text(1, TABLE) + text(3, name) + nested(4, big32(1, hook), big32(2, _MANGLE)) + text(7, kind)


def _set(family: Family, seconds: int = 0) -> bytes:
    """With `seconds`: rules put keys into it, and each is in it for so long."""
    return _set_of(family.set_name, family.set_id, family.key_type, family.key_bytes, seconds)


def _set_of(name: str, number: int, key_type: int, key_bytes: int, seconds: int = 0) -> bytes:
    return b"".join(
        (
            text(1, TABLE),
            text(2, name),
            big32(3, _TIMEOUT | _EVAL if seconds else 0),
            big32(4, key_type),
            big32(5, key_bytes),
            big32(10, number),
            attribute(11, (1000 * seconds).to_bytes(8, "big")) if seconds else b"",
        )
    )


def _elements(kind: int, family: Family, keys: Sequence[bytes]) -> Message:
    # element: list item { key { value } }; keys are multiples of four bytes long, so no padding inside
    size = family.key_bytes
    head = struct.pack("=HHHHHH", size + 12, 1 | 0x8000, size + 8, 1 | 0x8000, size + 4, 1)
    items = head + head.join(keys)
    return _message(kind, text(1, TABLE) + text(2, family.set_name) + nested(3, items))


def _note_rule(family: Family) -> bytes:
    """What a relayed peer asks directly: it is in the set of those for the next minute."""
    return _rule(INPUT, *_NOT_A_SPEAKER, *_protocols(family), *_asked(family), _lookup(family), _note(family))


def _note_words_rule(family: Family) -> bytes:
    """The same of any peer, while the first words are heard."""
    return _rule(INPUT, *_NOT_A_SPEAKER, *_protocols(family), *_among_words(2), *_asked(family), _note(family))


def _note(family: Family) -> bytes:
    direct = _DIRECT[family]
    return _expression(
        "dynset", text(1, direct.set_name), big32(2, direct.set_id), big32(3, _UPDATE), big32(4, _FIRST_REGISTER)
    )


def _mark_rule(family: Family, mark: int) -> bytes:
    """What the application says in a flow of the set; not to a peer that asks directly."""
    direct = _DIRECT.get(family)
    said = (*_protocols(family), *_said(family), _lookup(family))
    return _rule(CHAIN, *said, *((_lookup(direct, _INVERTED),) if direct else ()), *_set_mark(mark))


def _mark_words_rule(family: Family, mark: int) -> bytes:
    """What a socket in `words` says to one peer elsewhere that has not asked directly."""
    return _rule(
        CHAIN,
        *_require(_META_OIF, struct.pack("=I", _LOOPBACK), _NEQ),
        *_protocols(family),
        _payload(_FIRST_REGISTER, _NETWORK, family.destination_offset, 1),
        _compare(b"\xe0" if family.protocol == _IPV4 else b"\xfe", _LT),  # from there on: multicast, link-local
        *_among_words(0),
        *_said(family),
        _lookup(_DIRECT[family], _INVERTED),
        *_set_mark(mark),
    )


def _catch_rule(family: Family, mark: int) -> bytes:
    host = socket.inet_pton(*((socket.AF_INET, "127.0.0.1") if family.protocol == _IPV4 else (socket.AF_INET6, "::1")))
    behind = _FIRST_REGISTER + family.address_bytes // 4
    return _rule(
        PREROUTING,
        *_require(_META_MARK, struct.pack("=I", mark)),
        *_protocols(family),
        *_among_words(0),
        _load(_FIRST_REGISTER, host),
        _load(behind, datagrams.CATCHER_PORT.to_bytes(2, "big")),
        _expression("tproxy", big32(1, family.protocol), big32(2, _FIRST_REGISTER), big32(3, behind)),
    )


def _rule(chain: str, *expressions: bytes) -> bytes:
    return text(1, TABLE) + text(2, chain) + nested(4, *expressions)


def _said(family: Family) -> list[bytes]:
    """The key of what the workload says into the registers."""
    return _ends(family, (family.source_offset, 0), (family.destination_offset, 2))


def _asked(family: Family) -> list[bytes]:
    """The key of what it is asked."""
    return _ends(family, (family.destination_offset, 2), (family.source_offset, 0))


def _among_words(port_offset: int) -> tuple[bytes, bytes]:
    load = _payload(_FIRST_REGISTER, _TRANSPORT, port_offset, 2)
    return load, _expression("lookup", text(1, _WORDS), big32(2, _FIRST_REGISTER), big32(4, _WORDS_ID))


def _set_mark(mark: int) -> tuple[bytes, bytes]:
    load = _load(_FIRST_REGISTER, struct.pack("=I", mark))
    return load, _expression("meta", big32(2, _META_MARK), big32(3, _FIRST_REGISTER))


def _load(register: int, value: bytes) -> bytes:
    return _expression("immediate", big32(1, register), nested(2, attribute(1, value)))


def _protocols(family: Family) -> tuple[bytes, ...]:
    return (
        *_require(_META_NFPROTO, bytes([family.protocol])),
        *_require(_META_L4PROTO, bytes([family.transport])),
    )


def _ends(family: Family, app: tuple[int, int], peer: tuple[int, int]) -> list[bytes]:
    """A set's key into the registers; of each end, where a packet has its address and its port."""
    loads, register = list[bytes](), _FIRST_REGISTER
    for address_offset, port_offset in (app, peer):
        loads.append(_payload(register, _NETWORK, address_offset, family.address_bytes))
        register += family.address_bytes // 4
        loads.append(_payload(register, _TRANSPORT, port_offset, 2))
        register += 1
    return loads


def _lookup(family: Family, flags: int = 0) -> bytes:
    """Go on with the rule only where the key is in the set."""
    return _expression(
        "lookup", text(1, family.set_name), big32(2, _FIRST_REGISTER), big32(4, family.set_id), big32(5, flags)
    )


def _require(key: int, value: bytes, operation: int = _EQ) -> tuple[bytes, bytes]:
    """Go on with the rule only where a property of the packet has this value."""
    return _expression("meta", big32(2, key), big32(1, _FIRST_REGISTER)), _compare(value, operation)


def _compare(value: bytes, operation: int = _EQ) -> bytes:
    """Go on with the rule only where the first register compares so."""
    return _expression("cmp", big32(1, _FIRST_REGISTER), big32(2, operation), nested(3, attribute(1, value)))


def _payload(register: int, base: int, offset: int, length: int) -> bytes:
    return _expression("payload", big32(1, register), big32(2, base), big32(3, offset), big32(4, length))


def _expression(name: str, *data: bytes) -> bytes:
    return nested(1, text(1, name), nested(2, *data))


_NOT_A_SPEAKER = _require(_META_MARK, struct.pack("=I", datagrams.MARK), _NEQ)
