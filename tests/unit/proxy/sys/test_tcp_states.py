from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from proxy.api import Endpoint
from proxy.core.ledger import TcpState
from proxy.io.relay import reset
from proxy.sys import nftables, options, tcp_states
from proxy.sys.netlink import Netlink
from proxy.sys.tcp_states import Ends
from tests.harness import proxy_parts as parts

NOBODY = nftables.flow_key(Endpoint("127.0.0.1", 1), Endpoint("127.0.0.1", 2))


@pytest.fixture
def netlink() -> Iterator[Netlink]:
    made = Netlink(options.NETLINK_SOCK_DIAG)
    yield made
    made.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_the_ends_of_a_connection_as_the_kernel_has_them(netlink: Netlink, host: str) -> None:
    with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        peer = socket.create_connection(listener.getsockname()[:2])
        app, _ = listener.accept()
        key = nftables.flow_key(Endpoint(*app.getsockname()[:2]), Endpoint(*peer.getsockname()[:2]))

        def ends() -> Ends:
            """The listener, which would take the workload's end's next segment, is none."""
            found, other = tcp_states.ends(netlink, [key, NOBODY])
            assert other == Ends(None, None)
            return found

        assert ends() == Ends(TcpState.ESTABLISHED, TcpState.ESTABLISHED)
        peer.shutdown(socket.SHUT_WR)
        await parts.eventually(lambda: ends() == Ends(TcpState.CLOSE_WAIT, TcpState.FIN_WAIT2))
        app.close()
        await parts.eventually(lambda: ends() == Ends(None, TcpState.TIME_WAIT))
        peer.close()


async def test_a_connection_that_was_reset_has_none(netlink: Netlink) -> None:
    peer, app = parts.tcp_pair()
    key = nftables.flow_key(Endpoint(*app.getsockname()), Endpoint(*peer.getsockname()))
    reset(app)
    await parts.eventually(lambda: list(tcp_states.ends(netlink, [key])) == [Ends(None, None)])
    peer.close()


def test_of_more_than_fit_one_question_each_is_told(netlink: Netlink) -> None:
    peer, app = parts.tcp_pair()
    key = nftables.flow_key(Endpoint(*app.getsockname()), Endpoint(*peer.getsockname()))
    keys = [NOBODY] * tcp_states.MAX_KEYS_AT_ONCE + [key, NOBODY]
    open_ends = Ends(TcpState.ESTABLISHED, TcpState.ESTABLISHED)
    assert [number for number, one in enumerate(tcp_states.ends(netlink, keys)) if one == open_ends] == [len(keys) - 2]
    for sock in (peer, app):
        sock.close()


@parts.NEEDS_ROOT
def test_the_workloads_end_is_aborted_and_its_listener_is_not(netlink: Netlink) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peers = [socket.create_connection(listener.getsockname()) for _ in range(2)]
        apps = [listener.accept()[0] for _ in peers]
        keys = [nftables.flow_key(Endpoint(*app.getsockname()), Endpoint(*app.getpeername())) for app in apps]
        reset(apps[1])
        assert tcp_states.abort(netlink, [*[NOBODY] * tcp_states.MAX_KEYS_AT_ONCE, *keys]) == 1
        with pytest.raises(ConnectionAbortedError):
            apps[0].recv(1)
        apps[0].close()
        assert tcp_states.abort(netlink, keys) == 0
        for peer in peers:
            peer.close()
        socket.create_connection(listener.getsockname()).close()
