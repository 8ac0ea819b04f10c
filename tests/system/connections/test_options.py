"""Socket options are the same before and after, those too that CRIU does not save."""

from __future__ import annotations

import socket

import pytest

from tests.harness.connected import PORT, accepted
from tests.harness.journeys import assert_nothing_lost, moved
from tests.harness.moving import ONE_LOOP

pytestmark = [*ONE_LOOP, pytest.mark.usefixtures("either_way", "under_load")]

TCP = socket.IPPROTO_TCP
BY_NUMBER = {
    "TCP_NODELAY": (TCP, 1, 1), "TCP_CORK": (TCP, 3, 1), "TCP_KEEPIDLE": (TCP, 4, 77), "TCP_KEEPINTVL": (TCP, 5, 7),
    "TCP_KEEPCNT": (TCP, 6, 3), "TCP_SYNCNT": (TCP, 7, 4), "TCP_LINGER2": (TCP, 8, 33),
    "TCP_USER_TIMEOUT": (TCP, 18, 4321),
    "TCP_NOTSENT_LOWAT": (TCP, 25, 16384), "TCP_THIN_LINEAR_TIMEOUTS": (TCP, 16, 1),
    "SO_KEEPALIVE": (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), "SO_MARK": (socket.SOL_SOCKET, 36, 5),
    "SO_PRIORITY": (socket.SOL_SOCKET, 12, 4), "SO_RCVLOWAT": (socket.SOL_SOCKET, socket.SO_RCVLOWAT, 3),
    "SO_OOBINLINE": (socket.SOL_SOCKET, socket.SO_OOBINLINE, 1), "SO_TIMESTAMP": (socket.SOL_SOCKET, 29, 1),
    "SO_MAX_PACING_RATE": (socket.SOL_SOCKET, 47, 90_000_000), "SO_BUSY_POLL": (socket.SOL_SOCKET, 46, 20),
    "IP_TOS": (socket.IPPROTO_IP, 1, 0x28), "IP_TTL": (socket.IPPROTO_IP, 2, 55),
    "IP_MTU_DISCOVER": (socket.IPPROTO_IP, 10, 2),
    "IP_RECVTOS": (socket.IPPROTO_IP, 13, 1), "IP_BIND_ADDRESS_NO_PORT": (socket.IPPROTO_IP, 24, 1),
    "IP_FREEBIND": (socket.IPPROTO_IP, 15, 1), "IP_TRANSPARENT": (socket.IPPROTO_IP, 19, 1),
    "SO_SNDBUF": (socket.SOL_SOCKET, socket.SO_SNDBUF, 50_000),
    "SO_RCVBUF": (socket.SOL_SOCKET, socket.SO_RCVBUF, 60_000),
}  # fmt: skip
OPTIONS = """
def options(sock, numbers):
    found = {name: sock.getsockopt(level, number) for name, (level, number, _) in numbers.items()}
    found["TCP_CONGESTION"] = sock.getsockopt(6, 13, 16).rstrip(b"\\0").decode()
    found["SO_LINGER"] = sock.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8).hex()
    found["SO_RCVTIMEO"] = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16).hex()
    found["blocking"] = sock.getblocking()
    if sock.family == socket.AF_INET6:
        found["IPV6_TCLASS"] = sock.getsockopt(41, 67)
        found["IPV6_UNICAST_HOPS"] = sock.getsockopt(41, 16)
    if sock.getsockopt(1, 30):
        found["TCP_DEFER_ACCEPT"] = sock.getsockopt(6, 9)
        found["TCP_FASTOPEN"] = sock.getsockopt(6, 23)
    if sock.getsockopt(6, 11, 1)[0] in (7, 10):  # TCP_INFO's state: a connection's is the path's
        found["TCP_MAXSEG"] = sock.getsockopt(6, 2)
    found["TCP_WINDOW_CLAMP"] = sock.getsockopt(6, 10)
    return found
def set_options(sock, numbers):
    for name, (level, number, value) in numbers.items():
        sock.setsockopt(level, number, value)
    sock.setsockopt(6, 13, b"reno")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 9))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("qq", 8, 0))
    if sock.family == socket.AF_INET6:
        sock.setsockopt(41, 67, 0x30)
        sock.setsockopt(41, 16, 44)
    if sock.getsockopt(1, 30):
        sock.setsockopt(6, 9, 5)
        sock.setsockopt(6, 23, 6)
    sock.setsockopt(6, 10, 20_000)
    sock.setsockopt(6, 2, 700)
"""


async def test_socket_options_are_the_same_before_and_after(stage, told):
    told.do(OPTIONS)
    told.do(f"numbers = {BY_NUMBER!r}")
    sock = accepted(stage, told, "plain")
    four = accepted(stage, told, "four")
    told.do(f"server6 = socket.create_server(('::', {PORT + 2}), family=socket.AF_INET6)")
    six = stage.connect(stage.client, stage.a.address6, PORT + 2)
    told.do("six = server6.accept()[0]")
    told.do(f"quiet, bound = socket.create_server(('', {PORT + 3})), socket.socket()")
    told.do("every = [four, six, server6, quiet, bound]; [set_options(one, numbers) for one in every]")
    before = told.do("[options(one, numbers) for one in [plain, *every]]")
    del before[0]["TCP_WINDOW_CLAMP"]  # the kernel's own, with which the copy begins anew
    await moved(stage, "puppet")
    after = told.do("[options(one, numbers) for one in [plain, *every]]")
    differing = [
        f"{place} {name}: {was} -> {now[name]}"
        for place, (then, now) in enumerate(zip(before, after, strict=True))
        for name, was in then.items()
        if now[name] != was
    ]
    assert not differing, "\n".join(differing)
    for name, one in (("plain", sock), ("four", four), ("six", six)):
        one.sendall(b"there")
        assert told.do(f"{name}.recv(9).decode()") == "there"
        told.do(f"{name}.sendall(b'and back')")
        assert one.recv(9) == b"and back"


DATAGRAM_NUMBERS = {
    "SO_TIMESTAMPNS": (socket.SOL_SOCKET, 35, 1), "SO_TIMESTAMPING": (socket.SOL_SOCKET, 37, 0x10),
    "SO_RXQ_OVFL": (socket.SOL_SOCKET, 40, 1), "SO_MAX_PACING_RATE": (socket.SOL_SOCKET, 47, 90_000_000),
    "IP_TOS": (socket.IPPROTO_IP, 1, 0x28), "IP_TTL": (socket.IPPROTO_IP, 2, 55),
    "IP_PKTINFO": (socket.IPPROTO_IP, 8, 1), "IP_MTU_DISCOVER": (socket.IPPROTO_IP, 10, 3),
    "IP_RECVERR": (socket.IPPROTO_IP, 11, 1), "IP_RECVTTL": (socket.IPPROTO_IP, 12, 1),
    "IP_RECVTOS": (socket.IPPROTO_IP, 13, 1), "IP_MULTICAST_TTL": (socket.IPPROTO_IP, 33, 7),
    "IP_MULTICAST_LOOP": (socket.IPPROTO_IP, 34, 0), "IP_MULTICAST_ALL": (socket.IPPROTO_IP, 49, 0),
    "UDP_SEGMENT": (socket.IPPROTO_UDP, 103, 1200), "UDP_GRO": (socket.IPPROTO_UDP, 104, 1),
}  # fmt: skip
SIX_NUMBERS = {
    "IPV6_RECVERR": (socket.IPPROTO_IPV6, 25, 1), "IPV6_RECVPKTINFO": (socket.IPPROTO_IPV6, 49, 1),
    "IPV6_RECVHOPLIMIT": (socket.IPPROTO_IPV6, 51, 1), "IPV6_RECVTCLASS": (socket.IPPROTO_IPV6, 66, 1),
    "IPV6_TCLASS": (socket.IPPROTO_IPV6, 67, 0x30), "IPV6_MTU_DISCOVER": (socket.IPPROTO_IPV6, 23, 3),
    "IPV6_MULTICAST_HOPS": (socket.IPPROTO_IPV6, 18, 7), "IPV6_DONTFRAG": (socket.IPPROTO_IPV6, 62, 1),
}  # fmt: skip
DATAGRAMS = """
four, six = socket.socket(type=socket.SOCK_DGRAM), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
four.bind(("", 7310)); six.bind(("::", 7311)); os.fchown(four.fileno(), 1234, 5678)
wanted = [(four, numbers), (six, numbers | six_numbers)]
for sock, every in wanted:
    for level, number, value in every.values(): sock.setsockopt(level, number, value)
def now(): return [{name: sock.getsockopt(*each[:2]) for name, each in every.items()} for sock, every in wanted]
"""


async def test_options_and_owners_of_datagram_sockets_are_the_same_before_and_after(stage, told):
    told.do(f"numbers, six_numbers = {DATAGRAM_NUMBERS!r}, {SIX_NUMBERS!r}")
    told.do(DATAGRAMS)
    before = told.do("now()")
    for there, back in ((stage.a, stage.b), (stage.b, stage.a)):
        result = await stage.move("puppet", there, back)
        assert_nothing_lost(result)
        assert result.not_carried == []
        assert told.do("now()") == before
    assert told.do("os.fstat(four.fileno())[4:6]") == [1234, 5678]
