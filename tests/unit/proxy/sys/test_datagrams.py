from __future__ import annotations

import socket
import struct

import pytest

from proxy.api import Endpoint
from proxy.sys import datagrams
from proxy.sys.kernel import Kernel
from tests.harness import proxy_parts as parts

pytestmark = parts.NEEDS_ROOT
KERNEL = Kernel()


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_speaker_has_the_peers_address_and_another_may_have_it_too(family: int, host: str) -> None:
    with socket.socket(family, socket.SOCK_DGRAM) as one, socket.socket(family, socket.SOCK_DGRAM) as other:
        peer = None
        for app in (one, other):
            app.bind((host, 0))
            app.settimeout(30)
            peer = peer or Endpoint(host, app.getsockname()[1] ^ 1)
            speaker = datagrams.speaker(KERNEL, peer, Endpoint(*app.getsockname()[:2]))
            with speaker:
                speaker.send(b"hello")
                assert app.recvfrom(10)[1][:2] == (peer.host, peer.port)


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_what_a_speaker_says_can_be_told_from_what_the_peer_says(family: int, host: str) -> None:
    with socket.socket(family, socket.SOCK_DGRAM) as app, socket.socket(family, socket.SOCK_DGRAM) as peer:
        for sock in (app, peer):
            sock.bind((host, 0))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # now: else both may get the same port
        app.settimeout(30)
        ends = [Endpoint(*sock.getsockname()[:2]) for sock in (peer, app)]
        with datagrams.speaker(KERNEL, ends[0], ends[1]) as speaker:
            speaker.send(b"speaker")
        peer.sendto(b"peer", app.getsockname())
        datagrams.tell_marks(KERNEL, app)  # of those, too, that wait already
        for who in (b"speaker", b"peer"):
            said, control, _, sender = app.recvmsg(99, datagrams.CONTROL_SPACE)
            assert (said, Endpoint(*sender[:2])) == (who, ends[0])
            assert datagrams.is_speakers(control) == (who == b"speaker")


def test_what_cannot_be_had_leaves_nothing_open() -> None:
    with pytest.raises(OSError, match="Permission denied"):
        datagrams.speaker(KERNEL, Endpoint("127.0.0.1", 4711), Endpoint("255.255.255.255", 9))


def test_what_found_no_room_is_counted() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as full, socket.socket(type=socket.SOCK_DGRAM) as sender:
        full.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)
        full.bind(("127.0.0.1", 0))
        assert datagrams.dropped(KERNEL, full) == 0
        for _ in range(20):
            sender.sendto(bytes(1000), full.getsockname())
        assert 0 < datagrams.dropped(KERNEL, full) < 20


def test_a_shared_address_can_be_had_twice() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as held, socket.socket(type=socket.SOCK_DGRAM) as restored:
        held.bind(("127.0.0.1", 0))
        datagrams.share(KERNEL, held, True)
        datagrams.share(KERNEL, restored, True)
        restored.bind(held.getsockname())
        datagrams.share(KERNEL, held, False)
        assert held.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 0


def test_datagrams_that_came_as_one_are_told_apart():
    merged = [(socket.IPPROTO_UDP, 104, struct.pack("=i", 4))]
    assert datagrams.segments(b"aaaabbbbcc", merged) == [b"aaaa", b"bbbb", b"cc"]
    assert datagrams.segments(b"aaaabbbbcc", [(socket.SOL_SOCKET, 36, bytes(4))]) == [b"aaaabbbbcc"]
    assert datagrams.segments(b"", merged) == [b""]
