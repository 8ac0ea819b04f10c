"""Against the real kernel: an end and the proxy's leg, made of the same numbers, are one connection.

In a network namespace of the test's: whatever TCP sends there is counted.
"""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from checkpoint.api import Socket
from checkpoint.core import pairs, sockopts
from checkpoint.kernel import Kernel
from checkpoint.sockets import ends, legs, live, profile
from checkpoint.sockets.profile import Profile
from proxy.api import Endpoint, Leg
from proxy.core.ledger import CIRCLE, modular
from proxy.io.adopted import FORESEEN_WINDOW, foresee_leg
from proxy.sys import address, repair
from proxy.sys.kernel import Kernel as ProxyKernel
from tests.harness.proxy_nets import Namespace
from tests.harness.talker import PATTERN

KERNEL, PROXY_KERNEL = Kernel(), ProxyKernel()
PEER_PORT, APP_PORT, MSS = 4711, 6379, 1460
OWNER = (1234, 5678)
SIZES = (sockopts.SEND_BUFFER, sockopts.RECEIVE_BUFFER, sockopts.BUFFER_LOCK)


class Pair:
    """Both ends of a connection, and what the proxy said of it. The application's may be an IPv4-mapped one."""

    def __init__(self, family: int, peer: str, app: str) -> None:
        self.family = family
        self.numbers(foresee_leg(7, Endpoint(peer, PEER_PORT), Endpoint(app, APP_PORT), MSS))

    def numbers(self, leg: Leg) -> None:
        """Go by these."""
        self.leg_numbers = leg
        (self.end_numbers,) = legs.numbers_of(msgspec.Raw(msgspec.json.encode([leg])))

    def leg(self) -> socket.socket:
        family = address.family(self.leg_numbers.peer.host)
        made = repair.build(PROXY_KERNEL, self.leg_numbers, repair.blank(PROXY_KERNEL, family))
        repair.leave(PROXY_KERNEL, made)
        made.setblocking(True)
        return made

    def end(
        self, options: list[sockopts.Option] = [], flags: int = os.O_RDWR, *, finished: bool = True  # noqa: B006
    ) -> socket.socket:  # fmt: skip
        made = ends.make(KERNEL, Socket(self.family, flags, OWNER, options, False), self.end_numbers)
        if finished:
            ends.finish(KERNEL, made, reuse_address=True)
        return made


def sent() -> list[str]:
    """How many segments, and resets, this thread's namespace has sent so far."""
    names, values = (line.split() for line in Path("/proc/thread-self/net/snmp").read_text().splitlines()
                     if line.startswith("Tcp:"))  # fmt: skip
    return [value for name, value in zip(names, values, strict=True) if name in ("OutSegs", "RetransSegs", "OutRsts")]


KINDS = {
    "ipv4": (socket.AF_INET, "127.0.0.9", "127.0.0.1"),
    "ipv6": (socket.AF_INET6, "::1", "::1"),
    "mapped": (socket.AF_INET6, "127.0.0.9", "127.0.0.1"),
}


@pytest.fixture
def namespace() -> Iterator[None]:
    made = Namespace()
    with made.entered():
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        yield
    made.close()


@pytest.fixture(params=KINDS)
def pair(request: pytest.FixtureRequest, namespace: None) -> Pair:
    return Pair(*KINDS[request.param])


def hear(sock: socket.socket, size: int) -> bytes:
    """So many bytes, or what there is until the end."""
    sock.settimeout(10)
    heard = b""
    while len(heard) < size and (some := sock.recv(size - len(heard))):
        heard += some
    return heard


def test_both_speak_to_each_other_and_making_them_sends_nothing(pair: Pair):
    before = sent()
    with pair.leg() as leg, pair.end() as end:
        assert sent() == before
        mapped = "::ffff:" if pair.family != leg.family else ""
        assert end.getsockname()[:2] == (mapped + leg.getpeername()[0], APP_PORT)
        assert end.getpeername()[:2] == (mapped + leg.getsockname()[0], PEER_PORT)
        end.send(b"from the end")
        assert hear(leg, 12) == b"from the end"
        leg.send(b"from the leg")
        assert hear(end, 12) == b"from the leg"
        assert sent() != before


@pytest.mark.parametrize("end_first", [True, False])
def test_either_may_be_made_first(pair: Pair, end_first):
    made = [pair.end(), pair.leg()] if end_first else [pair.leg(), pair.end()]
    with made[0], made[1]:
        made[0].send(b"hello")
        assert hear(made[1], 5) == b"hello"


@pytest.mark.parametrize(("snd", "rcv"), [(0, 0), (0, CIRCLE - 1), (CIRCLE - 1, 0), (CIRCLE - 5, 1 << 31)])
def test_the_numbers_may_be_any(pair: Pair, snd, rcv):
    leg = msgspec.structs.replace(
        pair.leg_numbers, snd_seq=snd, rcv_seq=rcv, snd_wl1=modular(rcv - 1), rcv_wup=rcv
    )  # fmt: skip
    pair.numbers(leg)
    with pair.leg() as leg, pair.end() as end:
        leg.send(bytes(100))
        end.send(bytes(100))
        assert hear(end, 100) == hear(leg, 100) == bytes(100)


def test_a_long_stream_goes_both_ways(pair: Pair):
    """More than any window that was said."""
    said = PATTERN * 8
    with pair.leg() as leg, pair.end() as end:
        threads = [threading.Thread(target=one.sendall, args=(said,)) for one in (leg, end)]
        heard: list[bytes] = []
        threads += [threading.Thread(target=lambda one=one: heard.append(hear(one, len(said)))) for one in (leg, end)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        assert heard == [said, said]


def test_segments_are_as_large_as_they_were(pair: Pair):
    """In repair mode TCP_MAXSEG is what was agreed on (K: tcp.c, do_tcp_getsockopt)."""
    with pair.leg() as leg, pair.end() as end:
        for one in (leg, end):
            repair.enter(PROXY_KERNEL, one)
            assert one.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) == MSS


@pytest.mark.parametrize("buffer", [0, 2304])
def test_what_was_unread_can_be_said_at_once(pair: Pair, buffer):
    """Also where the application's buffer is the smallest that there is: the rest waits in the leg's."""
    assert pairs.UNREAD_BYTES == FORESEEN_WINDOW
    options = [("SO_RCVBUF", socket.SOL_SOCKET, socket.SO_RCVBUF, buffer.to_bytes(4, "little").hex())] if buffer else []
    said = PATTERN[: pairs.UNREAD_BYTES]
    with pair.leg() as leg, pair.end(options) as end:
        leg.setblocking(False)
        assert leg.send(said) == len(said)
        assert hear(end, len(said)) == said


def test_the_end_of_one_is_the_others(pair: Pair):
    with pair.leg() as leg, pair.end() as end:
        end.send(b"bye")
        end.shutdown(socket.SHUT_WR)
        assert hear(leg, 100) == b"bye"
        leg.send(b"so long")
        leg.close()
        assert hear(end, 100) == b"so long"


def test_a_discarded_one_goes_without_a_word_wherever_it_is_open(pair: Pair):
    with pair.leg() as leg:
        before = sent()
        end = pair.end()
        with end.dup() as elsewhere:
            ends.discard(KERNEL, end)
            assert end.fileno() == -1
            assert elsewhere.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNABORTED
            assert live.state_of(elsewhere) == 7  # TCP_CLOSE
        leg.setblocking(False)
        with pytest.raises(BlockingIOError):
            leg.recv(1)
        repair.enter(PROXY_KERNEL, leg)
    assert sent() == before


def test_the_same_ends_can_be_made_again_at_once(pair: Pair):
    """Also where a duplicate of the first is open still."""
    with pair.leg() as first:
        repair.enter(PROXY_KERNEL, first)
    end = pair.end()
    with end.dup():
        ends.discard(KERNEL, end)
        with pair.leg() as leg, pair.end() as end:
            end.send(b"again")
            assert hear(leg, 5) == b"again"


@pytest.mark.parametrize("shares", [False, True])
def test_a_listener_of_the_same_port_may_stand_beside_it(pair: Pair, shares):
    """The copy's, which CRIU binds as it binds every one; and a connection that comes to it is another one."""
    one = sockopts.REUSE_PORT
    options = [(one.name, one.level, one.number, "01000000")] if shares else []
    with pair.leg() as leg, pair.end(options, finished=False) as end:
        assert end.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) == shares
        host = pair.leg_numbers.app.host
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shares)
            listener.bind((host, APP_PORT))
            listener.listen()
            ends.finish(KERNEL, end, reuse_address=False)
            assert end.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 0
            with socket.create_connection((host, APP_PORT)) as client, listener.accept()[0] as accepted:
                client.send(b"new")
                assert hear(accepted, 3) == b"new"
            leg.send(b"old")
            assert hear(end, 3) == b"old"


def test_everything_that_was_set_is_there(pair: Pair):
    """Though it was set before the connection was one."""
    ours = Profile(pair.family)
    with socket.socket(pair.family) as wanted:
        wanted.setblocking(False)
        for number, value in ((socket.SO_KEEPALIVE, 1), (socket.SO_RCVLOWAT, 3), (36, 0x55)):  # SO_MARK
            wanted.setsockopt(socket.SOL_SOCKET, number, value)
        for number, value in ((socket.TCP_NODELAY, 1), (socket.TCP_KEEPIDLE, 11), (socket.TCP_USER_TIMEOUT, 4321)):
            wanted.setsockopt(socket.IPPROTO_TCP, number, value)
        wanted.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
        wanted.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0x10)
        wanted.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 33)
        wanted.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 300_000)
        wanted.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 30_000)
        wanted.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, 2)
        flags, values = profile.flags_of(wanted), ours.read(wanted)
        sizes = {one: wanted.getsockopt(one.level, one.number) for one in SIZES}
    with pair.end(ours.differing(values), flags) as end:
        assert ours.read_watched(end) == ours.watched(values)
        assert {one: end.getsockopt(one.level, one.number) for one in SIZES} == sizes
        assert profile.flags_of(end) == flags
        assert (os.fstat(end.fileno()).st_uid, os.fstat(end.fileno()).st_gid) == OWNER
        assert end.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 1
        assert not KERNEL.in_repair(end)


def test_one_that_cannot_be_made_leaves_nothing(pair: Pair):
    before = sent()
    with pytest.raises(OSError, match="No such file"):
        pair.end([("TCP_CONGESTION", socket.IPPROTO_TCP, 13, b"nonsense".hex())])
    end = pair.end()
    with pytest.raises(OSError, match="Cannot assign"):
        pair.end()  # one of these ends is there
    ends.discard(KERNEL, end)
    assert sent() == before
