"""Keeps the application's packets of inherited flows inside the pod.

A packet of a flow in the nft sets gets a mark; a rule sends marked packets to a table whose only route is "everything
is local, on lo"; so they reach the app leg, whose address is the peer's. Packets of every other connection stay native.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence

from proxy.core.alias import is_alias
from proxy.core.errors import Code, ProxyError
from proxy.sys import nftables, options, tcp_states
from proxy.sys.kernel import Kernel
from proxy.sys.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, Message, Netlink, attribute, native32

MARK = TABLE = 0x6D73  # "ms": one number for the packets' mark and the routing table
PRIORITY = 100  # of the rule: after the local table (0), before main (32766)
_NEWADDR, _DELADDR, _NODAD = 20, 21, 2
_NEWRULE, _DELRULE, _NEWROUTE, _DELROUTE = 32, 33, 24, 25
_CONF4 = "/proc/sys/net/ipv4/conf"


class Routing:
    """The destination's routing: set up once, then keys in and out. Everything is synchronous and quick."""

    def __init__(self, kernel: Kernel, netlink: Callable[[int], Netlink] = Netlink) -> None:
        self._kernel = kernel
        self._nft = netlink(options.NETLINK_NETFILTER)
        self._route = netlink(options.NETLINK_ROUTE)
        self._sockets = netlink(options.NETLINK_SOCK_DIAG)
        self._up = False
        self.catches = False
        """Whether this kernel can have what a socket says first heard by the proxy (`catch`)."""
        self._keys: set[bytes] = set()
        self._aliases: set[bytes] = set()

    @property
    def flows(self) -> int:
        return len(self._keys)

    def set_up(self) -> None:
        """Sysctls, rule, route and table; done once. Raises ROUTING_FAILED."""
        if self._up:
            return
        with _translated("set up"):
            open_loopback(self._kernel)
            for family in (socket.AF_INET, socket.AF_INET6):
                self._install(family)
            self._nft.send(nftables.create(MARK))
        with contextlib.suppress(OSError):  # CONFIG_NFT_TPROXY
            self._nft.send(nftables.catch(MARK))
            self.catches = True
        self._up = True

    def clear_away(self) -> int:
        """What a proxy before this one has left. Its app legs went with it, those without a word that the workload was
        not resumed with: so their other ends are aborted. Gives how many. Raises ROUTING_FAILED.
        """
        with _translated("clear away what was left of"):
            keys = [
                key for each in nftables.listings() for part in self._nft.dump(each) for key in nftables.listed(part)
            ]
            aborted = tcp_states.abort(self._sockets, keys)
            with contextlib.suppress(FileNotFoundError):
                self._nft.send(nftables.delete())
        return aborted

    def tear_down(self) -> None:
        """Remove table, rule and route; the sysctls stay (they only make the kernel accept more on lo)."""
        if not self._up:
            return
        with _translated("take down"):
            self._nft.send(nftables.delete())
            for family in (socket.AF_INET, socket.AF_INET6):
                for message in (rule(_DELRULE, family), local_route(_DELROUTE, family)):
                    with contextlib.suppress(OSError):
                        self._route.send([message])
            self._alias(_DELADDR, self._aliases)
        self._keys.clear()
        self._aliases.clear()
        self._up = False

    def change(self, added: Iterable[bytes], removed: Iterable[bytes] = ()) -> None:
        """Put keys (`nftables.flow_key`) in and take others out, in one transaction. Raises ROUTING_FAILED."""
        new = set(added) - self._keys
        old = set(removed) & self._keys
        if not new and not old:
            return
        with _translated(f"change {len(new) + len(old)} flows of"):
            self._alias(_NEWADDR, _aliases(new) - self._aliases)
            self._aliases |= _aliases(new)
            self._nft.send(nftables.change(sorted(new), sorted(old)))
            self._keys |= new
            self._keys -= old
            unused = _aliases(old) - _aliases(self._keys) if _aliases(old) else set()
            self._alias(_DELADDR, unused)
            self._aliases -= unused

    def _alias(self, kind: int, hosts: set[bytes]) -> None:
        """The kernel's word that an address is there already, or gone, is no trouble."""
        for message in itertools.chain.from_iterable(alias_messages(kind, host) for host in sorted(hosts)):
            try:
                self._route.send([message])
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.EADDRNOTAVAIL, errno.ESRCH):
                    raise

    def catch(self, port: int, *, wanted: bool) -> None:
        """Have the proxy hear what a UDP socket of the workload's says, at that port. Raises ROUTING_FAILED."""
        if self._up:
            with _translated("change"):
                self._nft.send(nftables.words(port, wanted=wanted))

    def ends(self, keys: Sequence[bytes]) -> list[tcp_states.Ends]:
        """In which states the kernel has the two ends of each flow. Raises ROUTING_FAILED."""
        with _translated(f"look at {len(keys)} flows of"):
            return list(tcp_states.ends(self._sockets, keys))

    def close(self) -> None:
        self._nft.close()
        self._route.close()
        self._sockets.close()

    def _install(self, family: int) -> None:
        for message in (rule(_NEWRULE, family), local_route(_NEWROUTE, family)):
            try:
                self._route.send([message])
            except OSError as error:
                absent = family == socket.AF_INET6 and error.errno in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP)
                if error.errno != errno.EEXIST and not absent:
                    raise


def open_loopback(kernel: Kernel) -> None:
    """Let lo take packets whose source is elsewhere: rp_filter off on lo, and as strict as before on the others.

    The kernel uses the greater of `all` and the device's own (Documentation/networking/ip-sysctl.rst), so `all` must be
    0 and each device gets what was in force.
    """
    everywhere = _get(kernel, "all", "rp_filter")
    if everywhere:
        for device in kernel.names_in(_CONF4):
            if device not in ("all", "lo"):
                _set(kernel, device, "rp_filter", max(everywhere, _get(kernel, device, "rp_filter")))
        _set(kernel, "all", "rp_filter", 0)
    _set(kernel, "lo", "rp_filter", 0)
    _set(kernel, "lo", "accept_local", 1)


def rule(kind: int, family: int) -> Message:
    """ip rule: fwmark MARK lookup TABLE (struct fib_rule_hdr, FRA_*; action 1 is FR_ACT_TO_TBL)."""
    header = struct.pack("=BBBBBBBBI", family, 0, 0, 0, 0, 0, 0, 1, 0)
    body = native32(10, MARK) + native32(16, 0xFFFFFFFF) + native32(15, TABLE) + native32(6, PRIORITY)
    return Message(kind, _flags(kind == _NEWRULE), header + body)


def local_route(kind: int, family: int) -> Message:
    """ip route: local default dev lo table TABLE (struct rtmsg; protocol 4 is static, scope 254 host, type 2 local)."""
    header = struct.pack("=BBBBBBBBI", family, 0, 0, 0, 0, 4, 254, 2, 0)
    body = native32(15, TABLE) + native32(4, socket.if_nametoindex("lo"))
    return Message(kind, _flags(kind == _NEWROUTE), header + body)


def alias_messages(kind: int, host: bytes) -> list[Message]:
    """An alias on lo, put there (RTM_NEWADDR) or taken away (RTM_DELADDR).

    An IPv6 address gets its local route from a kernel worker, later (K: addrconf_dad_completed); a leg that connects
    before has the route of the prefix instead, whose packets lo forwards, and keeps it: every byte would be lost. So
    the route is made here.
    """
    messages = [address_on_loopback(kind, host)]
    if len(host) == 16:
        messages.append(local_host_route(_NEWROUTE if kind == _NEWADDR else _DELROUTE, host))
    return messages


def local_host_route(kind: int, host: bytes) -> Message:
    """ip -6 route: local HOST dev lo table local (255)."""
    header = struct.pack("=BBBBBBBBI", socket.AF_INET6, 128, 0, 0, 255, 4, 254, 2, 0)
    return Message(
        kind, _flags(kind == _NEWROUTE), header + attribute(1, host) + native32(4, socket.if_nametoindex("lo"))
    )


def address_on_loopback(kind: int, host: bytes) -> Message:
    """ip address HOST/32 dev lo scope host nodad (struct ifaddrmsg; attributes IFA_ADDRESS and IFA_LOCAL).

    Without IFA_F_NODAD an IPv6 address is tentative until a kernel worker has had its turn (K: addrconf_dad_begin).
    """
    family = socket.AF_INET if len(host) == 4 else socket.AF_INET6
    header = struct.pack("=BBBBI", family, 8 * len(host), _NODAD, 254, socket.if_nametoindex("lo"))
    return Message(kind, _flags(kind == _NEWADDR), header + attribute(1, host) + attribute(2, host))


def _aliases(keys: Iterable[bytes]) -> set[bytes]:
    """The workload's addresses in the keys that are no pod's (`proxy.core.alias`)."""
    found: set[bytes] = set()
    for host in {nftables.app_host(key) for key in keys}:
        family = socket.AF_INET if len(host) == 4 else socket.AF_INET6
        if is_alias(socket.inet_ntop(family, host)):
            found.add(host)
    return found


def _flags(new: bool) -> int:
    return NLM_F_ACK | (NLM_F_CREATE | NLM_F_EXCL if new else 0)


def _get(kernel: Kernel, device: str, name: str) -> int:
    return int(kernel.read_text(f"{_CONF4}/{device}/{name}"))


def _set(kernel: Kernel, device: str, name: str, value: int) -> None:
    """Written only where it differs: in a container /proc/sys is often read-only, and set by whoever made the pod."""
    if _get(kernel, device, name) != value:
        kernel.write_text(f"{_CONF4}/{device}/{name}", f"{value}\n")


@contextlib.contextmanager
def _translated(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ProxyError(Code.ROUTING_FAILED, f"could not {what} the pod's routing: {error.strerror}") from error
