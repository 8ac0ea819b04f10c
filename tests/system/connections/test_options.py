"""Socket options are the same before and after, those too that CRIU does not save."""

from __future__ import annotations

import socket

from tests.harness.connected import PORT, accepted
from tests.harness.journeys import moved
from tests.harness.moving import ONE_LOOP

pytestmark = ONE_LOOP

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
    for one in (sock, four, six):
        one.close()
