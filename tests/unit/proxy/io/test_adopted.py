from __future__ import annotations

import socket

import msgspec
import pytest

from proxy.api import Endpoint
from proxy.core.errors import Code, ProxyError
from proxy.io.adopted import examine, make_leg
from proxy.sys import options
from tests.harness import proxy_parts as parts
from tests.harness.proxy_image import Image

pytestmark = parts.NEEDS_ROOT


def in_repair(sock: socket.socket) -> bool:
    return bool(sock.getsockopt(options.SOL_TCP, options.TCP_REPAIR))


def test_image_and_socket_agree() -> None:
    peer, app = parts.tcp_pair()
    with peer, app:
        image = Image(app)
        assert in_repair(app)
        snapshot, live = examine(parts.KERNEL, parts.wanted(image), app)
        assert not in_repair(app)
        assert (snapshot.inq_seq, snapshot.outq_seq) == (live.rcv_nxt, live.write_seq)
        leg = make_leg(7, Endpoint("192.0.2.1", 1), Endpoint("192.0.2.2", 2), snapshot, live, 9)
        assert (leg.flow, leg.link, leg.given_up) == (7, 9, False)
        assert (leg.snd_seq, leg.rcv_seq) == (live.rcv_nxt, live.write_seq)


def test_what_the_workload_wrote_behind_its_image_is_found() -> None:
    peer, app = parts.tcp_pair()
    with peer, app:
        wanted = parts.wanted(Image(app))
        with pytest.raises(ProxyError, match=r"flow from 127.0.0.1:\d+: the workload wrote") as raised:
            examine(parts.KERNEL, msgspec.structs.replace(wanted, outq_seq=(wanted.outq_seq - 3) % 2**32), app)
        assert raised.value.code is Code.LEDGER_VIOLATED


def test_a_socket_that_is_no_tcp_socket() -> None:
    peer, app = parts.tcp_pair()
    with peer, app, socket.socket(socket.AF_UNIX) as other:
        wanted = parts.wanted(Image(app))
        with pytest.raises(ProxyError, match="flow from") as raised:
            examine(parts.KERNEL, wanted, other)
        assert raised.value.code is Code.SOCKET_UNUSABLE
