"""Against the real kernel: a leg built from a socket's state takes the place of that socket's other end."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator

import msgspec
import pytest

from proxy.api import Endpoint, Leg
from proxy.core.errors import Code, ProxyError
from proxy.core.ledger import CIRCLE, Snapshot, TcpState
from proxy.io.adopted import make_leg
from proxy.sys import address, options, repair
from proxy.sys.kernel import Kernel

KERNEL = Kernel()
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="TCP_REPAIR needs CAP_NET_ADMIN")

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture(params=["127.0.0.1", "::1"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    """A peer and its workload's socket."""
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with socket.create_server((request.param, 0), family=family) as server:
        peer = socket.create_connection(server.getsockname()[:2])
        app, _ = server.accept()
    with peer, app:
        yield peer, app


def test_reading_tells_the_queues_and_leaves_no_trace(pair: Pair) -> None:
    peer, app = pair
    peer.sendall(b"12345")
    assert app.recv(5, socket.MSG_PEEK | socket.MSG_WAITALL) == b"12345"
    live = repair.read(KERNEL, app)
    assert live.state == TcpState.ESTABLISHED
    assert live.unread == 5
    assert live.tcp_options & options.INFO_WSCALE
    assert live.mss > 500
    again = repair.read(KERNEL, app)
    assert (again.write_seq, again.rcv_nxt) == (live.write_seq, live.rcv_nxt)
    repair.leave(KERNEL, app)
    assert app.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 1
    app.sendall(b"hello")
    assert peer.recv(10) == b"hello"
    assert app.recv(10) == b"12345"


def build(leg: Leg) -> socket.socket:
    return repair.build(KERNEL, leg, repair.blank(KERNEL, address.family(leg.peer.host)))


def leg_of(peer: socket.socket, app: socket.socket) -> Leg:
    live = repair.read(KERNEL, app)
    # This application remembers its peer's clock, as a restored one does not (its ts_recent is 0): go on from there.
    live = msgspec.structs.replace(live, timestamp=peer.getsockopt(options.SOL_TCP, options.TCP_TIMESTAMP) % CIRCLE)
    snapshot = Snapshot(live.rcv_nxt, live.unread, live.write_seq, 0)
    return make_leg(1, Endpoint(*peer.getsockname()[:2]), Endpoint(*app.getsockname()[:2]), snapshot, live)


def test_a_leg_takes_the_peers_place(pair: Pair) -> None:
    peer, app = pair
    leg = leg_of(peer, app)
    repair.leave(KERNEL, app)
    repair.enter(KERNEL, peer)
    peer.close()  # silently: the app does not know
    built = build(leg)
    with built:
        repair.leave(KERNEL, built, options.REPAIR_OFF)
        built.send(b"from the leg")
        assert app.recv(20) == b"from the leg"
        app.sendall(b"from the app")
        built.setblocking(True)
        assert built.recv(20) == b"from the app"
        assert built.getsockname()[:2] == (leg.peer.host, leg.peer.port)


def test_a_leg_in_repair_closes_silently(pair: Pair) -> None:
    peer, app = pair
    leg = leg_of(peer, app)
    repair.leave(KERNEL, app)
    repair.enter(KERNEL, peer)
    peer.close()
    build(leg).close()
    app.setblocking(False)
    with pytest.raises(BlockingIOError):
        app.recv(1)


def test_a_leg_that_cannot_be_built_says_which(pair: Pair) -> None:
    peer, app = pair
    leg = leg_of(peer, app)
    with pytest.raises(ProxyError, match=f"app leg .*{leg.peer.port} to .*") as raised:
        build(leg)  # the peer's own socket has these addresses
    assert raised.value.code is Code.LEG_NOT_BUILT
    repair.leave(KERNEL, app)


def test_a_fresh_leg_may_share_the_port_of_a_listener() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_server(("127.0.0.1", 0)) as app:
        peer = Endpoint(*listener.getsockname())
        with repair.fresh(KERNEL, peer) as leg:
            leg.setblocking(True)
            leg.connect(app.getsockname())
            there, seen = app.accept()
            there.close()
            assert seen == (peer.host, peer.port)


def test_a_foreign_address_may_be_bound_to() -> None:
    for host in ("192.0.2.77", "2001:db8::77"):
        with repair.fresh(KERNEL, Endpoint(host, 4711)) as leg:
            assert leg.getsockname()[:2] == (host, 4711)


class Restless(Kernel):
    """A socket whose rcv_nxt never stands still."""

    def __init__(self) -> None:
        self.rcv_nxt = 0

    def get_int(self, sock: socket.socket, level: int, option: int) -> int:
        if option == options.TCP_QUEUE_SEQ and level == options.SOL_TCP:
            self.rcv_nxt += 1
            return self.rcv_nxt
        return super().get_int(sock, level, option)


def test_numbers_that_do_not_stand_still_are_not_believed(pair: Pair) -> None:
    with pytest.raises(ProxyError, match="faster than") as raised:
        repair.read(Restless(), pair[1])
    assert raised.value.code is Code.SOCKET_UNUSABLE
    repair.leave(KERNEL, pair[1])


class Refusing(Kernel):
    def set_int(self, sock: socket.socket, level: int, option: int, value: int) -> None:
        raise PermissionError(1, "Operation not permitted")


def test_without_the_capability_it_says_so() -> None:
    with pytest.raises(ProxyError, match="not permitted") as raised:
        repair.fresh(Refusing(), Endpoint("192.0.2.7", 1))
    assert raised.value.code is Code.LEG_NOT_BUILT


def test_options_of_the_handshake_are_all_told(pair: Pair) -> None:
    peer, app = pair
    leg = leg_of(peer, app)
    repair.leave(KERNEL, app)
    pairs = list(struct.iter_unpack("=II", repair._negotiated(leg)))
    assert {code for code, _ in pairs} == {2, 3, 4, 8}
    assert dict(pairs)[3] == leg.snd_wscale | leg.rcv_wscale << 16
    unscaled = msgspec.structs.replace(leg, tcp_options=leg.tcp_options & ~options.INFO_WSCALE)
    assert dict(struct.iter_unpack("=II", repair._negotiated(unscaled)))[3] == 0
    with contextlib.closing(app):
        pass
