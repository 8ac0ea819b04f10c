"""Every kind of connection, in every state it can be in when its workload moves: each byte checked, ledgers equal."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from contextlib import contextmanager

import pytest
import pytest_asyncio

from checkpoint.processes import procfs
from controller.core.phases import Phase
from controller.lab.namespaces import in_network
from controller.migrate import Driver
from tests.harness.journeys import Puppet, at_phase, moved, puppet
from tests.harness.moving import Scene, scene
from tests.harness.programs.puppet import PATTERN, Duplex, fill, read_all, write_all

pytestmark = pytest.mark.asyncio(loop_scope="module")

PORT = 7300
LINGER_NOT = struct.pack("ii", 1, 0)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stage():
    async with scene() as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def told(stage):
    async with puppet(stage) as made:
        yield made


@contextmanager
def listener_of(stage: Scene):
    """A server in the client's pod."""
    server = in_network(stage.client, lambda: socket.create_server((stage.client.address, PORT)))
    server.settimeout(10)
    with server:
        yield server


def accepted(stage: Scene, told: Puppet, name: str = "sock", port: int = PORT, address: str = "") -> socket.socket:
    """A connection of the client's that the puppet has accepted as `name`."""
    if not told.do(f"'server{port}' in globals()"):
        told.do(f"server{port} = socket.create_server(('', {port}))")
    sock = stage.connect(stage.client, address or stage.a.address, port)
    told.do(f"{name} = server{port}.accept()[0]")
    return sock


async def test_both_directions_at_once(stage, told):
    client = Duplex(accepted(stage, told))
    told.do("pump = Duplex(sock)")
    await asyncio.sleep(0.2)  # so that both queues are full of bytes on their way
    await moved(stage, "puppet")
    await finish(told, client)


async def finish(told: Puppet, client: Duplex) -> None:
    """Lets both ends flow on, then ends both and compares what was said with what was heard."""
    before = client.got
    for _ in range(1000):
        if client.got > before + 100_000:
            break
        await asyncio.sleep(0.01)
    assert client.got > before, client.trouble
    await asyncio.to_thread(client.end)
    await asyncio.to_thread(told.do, "pump.end()")
    theirs = await asyncio.to_thread(told.do, "pump.counts()")
    ours = await asyncio.to_thread(client.counts)
    assert ours[2] == theirs[2] == ""
    assert (ours[0], ours[1]) == (theirs[1], theirs[0])


async def test_bytes_that_keep_coming_while_the_queues_are_read(stage, told):
    """A few at a time, on many connections: CRIU stumbles over such, and is asked again."""
    told.do(f"server = socket.create_server(('', {PORT}), backlog=64)")
    socks = [stage.connect(stage.client, stage.a.address, PORT) for _ in range(24)]
    told.do("socks = [server.accept()[0] for _ in range(24)]")
    sent, over = [0] * len(socks), threading.Event()

    def drip() -> None:
        while not over.is_set():
            for number, sock in enumerate(socks):
                sent[number] += sock.send(PATTERN[sent[number] % 251 :][:10])
            over.wait(0.0005)

    thread = threading.Thread(target=drip, name="drip")
    thread.start()
    try:
        await moved(stage, "puppet")
    finally:
        over.set()
        thread.join()
    for number, sock in enumerate(socks):
        sock.shutdown(socket.SHUT_WR)
        assert told.do(f"read_all(socks[{number}])") == [sent[number], True]


async def test_a_connection_that_the_workload_opened(stage, told):
    with listener_of(stage) as server:
        told.do(f"sock = socket.create_connection(({stage.client.address!r}, {PORT}))")
        client = Duplex(server.accept()[0])
        told.do("pump = Duplex(sock)")
        result = await moved(stage, "puppet")
        assert {row.direction for row in result.ledger} == {"inbound", "outbound"}
        await finish(told, client)


async def test_established_but_not_accepted(stage, told):
    told.do(f"server = socket.create_server(('', {PORT}))")
    waiting = [stage.connect(stage.client, stage.a.address, PORT) for _ in range(5)]
    for sock in waiting:
        write_all(sock, 3000)
    result = await moved(stage, "puppet")
    assert result.flows.accepted_during_hold == 5
    for sock in waiting:
        sock.shutdown(socket.SHUT_WR)
        told.do("sock = server.accept()[0]")
        assert told.do("read_all(sock)") == [3000, True]
        told.do("write_all(sock, 10); sock.close()")
        assert read_all(sock) == [10, True]


@pytest.mark.parametrize("read_before", [0, 1000, 5000])
async def test_half_closed_by_the_peer_before_the_hold(stage, told, read_before):
    """With the end of the stream unread, or read already (5000: recv has given the end to the workload)."""
    sock = accepted(stage, told)
    write_all(sock, 2000)
    sock.shutdown(socket.SHUT_WR)
    if read_before:
        assert told.do(f"len(sock.recv({min(read_before, 2000)}, socket.MSG_WAITALL))") == min(read_before, 2000)
    if read_before > 2000:
        assert told.do("sock.recv(1) == b''")
    await moved(stage, "puppet")
    rest = b"".join(iter(lambda: bytes.fromhex(told.do("sock.recv(4096).hex()")), b""))
    assert rest == (bytes(range(251)) * 8)[:2000][read_before:]
    told.do("write_all(sock, 100000); sock.close()")
    assert await asyncio.to_thread(read_all, sock) == [100000, True]


@pytest.mark.parametrize("phase", [Phase.CHECKPOINTING, Phase.ADOPTING, Phase.RESTORING, None])
async def test_half_closed_by_the_peer_during_the_hold_or_after_it(stage, told, phase):
    sock = accepted(stage, told)

    def end():
        write_all(sock, 2000)
        sock.shutdown(socket.SHUT_WR)

    await moved(stage, "puppet", at_phase(phase, end) if phase else lambda driver: None)
    if phase is None:
        end()
    assert await asyncio.to_thread(told.do, "read_all(sock)") == [2000, True]
    told.do("write_all(sock, 100000); sock.close()")
    assert await asyncio.to_thread(read_all, sock) == [100000, True]


async def test_idle_for_longer_than_either_end_waits_for_a_sign_of_life(stage, told):
    """Before the move and after it: keepalive's probes are answered by whoever stands for the other end."""
    sock = accepted(stage, told)
    alive = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), (TCP, 4, 1), (TCP, 5, 1), (TCP, 6, 1)]
    told.do(f"[sock.setsockopt(*each) for each in {alive!r}]")
    for each in alive:
        sock.setsockopt(*each)
    for text in ("before", "after"):
        await asyncio.sleep(2.3)  # a second, a probe, and a second without its answer
        sock.sendall(text.encode())
        assert told.do("sock.recv(9).decode()") == text
        told.do("sock.send(b'yes')")
        assert sock.recv(9) == b"yes"
        if text == "before":
            await moved(stage, "puppet")


@pytest.mark.parametrize("peer_reads_first", [True, False])
async def test_half_closed_by_the_workload_before_the_hold(stage, told, peer_reads_first):
    """FIN_WAIT2 when the peer has acknowledged all, FIN_WAIT1 when it has not: its window is full."""
    sock = accepted(stage, told)
    count = 1000 if peer_reads_first else told.do("fill(sock)")
    told.do(("write_all(sock, 1000); " if peer_reads_first else "") + "sock.shutdown(socket.SHUT_WR)")
    if peer_reads_first:
        assert await asyncio.to_thread(read_all, sock) == [1000, True]
    await moved(stage, "puppet")
    assert "BrokenPipe" in told.attempt("sock.send(b'x')")["error"]
    if not peer_reads_first:
        assert await asyncio.to_thread(read_all, sock) == [count, True]
    write_all(sock, 5000)
    sock.close()
    assert await asyncio.to_thread(told.do, "read_all(sock)") == [5000, True]


@pytest.mark.parametrize("phase", [Phase.CHECKPOINTING, Phase.RESTORING])
async def test_ended_by_both_at_once(stage, told, phase):
    """The workload's end waits behind bytes that the peer's window has no room for; the peer's comes in the hold."""
    sock = accepted(stage, told)
    count = told.do("fill(sock)")
    told.do("sock.shutdown(socket.SHUT_WR)")

    def end():
        write_all(sock, 2000)
        sock.shutdown(socket.SHUT_WR)

    await moved(stage, "puppet", at_phase(phase, end))
    assert await asyncio.to_thread(read_all, sock) == [count, True]
    assert await asyncio.to_thread(told.do, "read_all(sock)") == [2000, True]
    told.do("sock.close()")


async def test_closed_by_the_peer_during_the_hold(stage, told):
    sock = accepted(stage, told)

    def end():
        write_all(sock, 2000)
        sock.close()

    await moved(stage, "puppet", at_phase(Phase.RESTORING, end))
    assert await asyncio.to_thread(told.do, "read_all(sock)") == [2000, True]


@pytest.mark.parametrize("phase", [None, Phase.CHECKPOINTING, Phase.ADOPTING, Phase.TRANSFERRING, Phase.RESTORING])
@pytest.mark.parametrize("unread", [0, 3000])
async def test_reset_by_the_peer_before_the_move_or_during_the_hold(stage, told, phase, unread):
    """The workload reads what had come before, then sees the reset, and everything else moves on.

    CHECKPOINTING begins when the workload stands, and before CRIU has looked; None: the reset waits for it already.
    """
    sock, other = accepted(stage, told), Duplex(accepted(stage, told, "other"))
    told.do("pump = Duplex(other)")

    def reset():
        write_all(sock, unread)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
        sock.close()

    if phase is None:
        reset()
        told.do("poll = select.poll(); poll.register(sock, 0); poll.poll(10000)")  # until POLLERR
    await moved(stage, "puppet", at_phase(phase, reset) if phase else lambda driver: None)
    if unread:
        assert await asyncio.to_thread(told.do, "len(sock.recv(5000, socket.MSG_WAITALL))") == unread
    assert "ConnectionReset" in (await asyncio.to_thread(told.attempt, "sock.recv(1)")).get("error", "no error")
    told.do("sock.close()")
    await finish(told, other)


async def test_ended_by_both_before_the_move_and_not_closed_by_the_workload(stage, told):
    sock, other = accepted(stage, told), accepted(stage, told, "other")
    write_all(sock, 2000)
    sock.close()
    told.do("write_all(other, 10); other.shutdown(socket.SHUT_WR)")
    assert read_all(other) == [10, True]
    other.close()
    told.do("sock.recv(500, socket.MSG_WAITALL); sock.shutdown(socket.SHUT_WR)")
    told.do("poll = select.poll(); [poll.register(one, select.POLLHUP) for one in (sock, other)]")
    told.do("while len(poll.poll(10000)) < 2: pass")
    await moved(stage, "puppet")
    assert await asyncio.to_thread(told.do, "len(sock.recv(5000, socket.MSG_WAITALL))") == 1500
    assert await asyncio.to_thread(told.do, "[sock.recv(1), other.recv(1)] == [b'', b'']")
    told.do("sock.close(); other.close()")


async def test_zero_windows_in_each_direction(stage, told):
    """Neither side reads: both send queues are full, both windows closed."""
    sock = accepted(stage, told)
    unread, unsent = fill(sock), told.do("fill(sock)")
    await moved(stage, "puppet")
    sock.shutdown(socket.SHUT_WR)
    assert await asyncio.to_thread(told.do, "read_all(sock)") == [unread, True]
    told.do("sock.shutdown(socket.SHUT_WR)")
    assert await asyncio.to_thread(read_all, sock) == [unsent, True]


async def test_bound_to_the_address_to_every_address_and_to_both_families(stage, told):
    """A listener on the pod's own address follows it; an IPv4 peer of an IPv6 listener stays an IPv4-mapped one."""
    told.do(f"own = socket.create_server(({stage.a.address!r}, {PORT}))")
    told.do(f"any4 = socket.create_server(('0.0.0.0', {PORT + 1}))")
    told.do(f"both = socket.create_server(('::', {PORT + 2}), family=socket.AF_INET6, dualstack_ipv6=True)")
    told.do(f"own6 = socket.create_server(({stage.a.address6!r}, {PORT + 3}), family=socket.AF_INET6)")
    ends = [(stage.a.address, PORT), (stage.a.address, PORT + 1), (stage.a.address, PORT + 2)]
    ends += [(stage.a.address6, PORT + 2), (stage.a.address6, PORT + 3)]
    socks = [stage.connect(stage.client, *end) for end in ends]
    told.do("socks = [one.accept()[0] for one in (own, any4, both, both, own6)]")
    peers = told.do("[one.getpeername()[0] for one in socks]")
    await moved(stage, "puppet")
    assert told.do("[one.getpeername()[0] for one in socks]") == peers
    mapped = f"::ffff:{stage.b.address}"
    expected = [stage.b.address, stage.b.address, mapped, stage.b.address6, stage.b.address6]
    assert told.do("[one.getsockname()[0] for one in socks]") == expected
    for number, sock in enumerate(socks):
        sock.sendall(b"%d" % number)
        assert told.do(f"socks[{number}].recv(10).decode()") == str(number)
    moved_ends = [(stage.b.address if host == stage.a.address else stage.b.address6, port) for host, port in ends]
    for end, name in zip(moved_ends, ("own", "any4", "both", "both", "own6"), strict=True):
        fresh = stage.connect(stage.client, *end)
        assert told.do(f"{name}.accept()[1][0].replace('::ffff:', '')") == fresh.getsockname()[0]


async def test_a_group_of_listeners_on_one_port(stage, told):
    """SO_REUSEPORT: both go on listening, and connections that waited in either are accepted by one of them."""
    told.do(f"group = [socket.create_server(('', {PORT}), reuse_port=True) for _ in range(2)]")
    waiting = [stage.connect(stage.client, stage.a.address, PORT) for _ in range(12)]
    await moved(stage, "puppet")
    # From ports that the kernel gives to nobody: one of a relayed connection's would be the same connection there.
    waiting += [stage.connect(stage.client, stage.b.address, PORT, own_port=20000 + each) for each in range(12)]
    told.do("got = []; [one.setblocking(False) for one in group]")
    for _ in range(500):
        told.do("for one in select.select(group, [], [], 0.1)[0]: got.append(one.accept()[0])")
        if told.do("len(got)") == 24:
            break
    assert told.do("[one.send(b'x') for one in got]") == [1] * 24
    for sock in waiting:
        assert sock.recv(1) == b"x"


async def test_a_connection_shared_by_a_parent_and_its_child(stage, told):
    """One flow, two processes; it ends when both have closed it."""
    sock = accepted(stage, told)
    told.do("ours, theirs = socket.socketpair()")
    told.do(
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    ours.close()\n"
        "    while theirs.recv(1):\n"
        "        sock.send(b'child')\n"
        "    os._exit(0)\n"
    )
    told.do("theirs.close()")
    result = await moved(stage, "puppet")
    assert result.flows.adopted == 2
    told.do("sock.send(b'parent')")
    assert sock.recv(6, socket.MSG_WAITALL) == b"parent"
    told.do("sock.close(); ours.send(b'x')")
    assert sock.recv(5, socket.MSG_WAITALL) == b"child"
    told.do("ours.close(); os.waitpid(pid, 0)")
    assert sock.recv(1) == b""


async def test_one_port_of_the_peer_to_several_ports_of_the_workload(stage, told):
    told.do(f"servers = [socket.create_server(('', {PORT} + n)) for n in range(3)]")

    def dial() -> list[socket.socket]:
        socks = [socket.socket() for _ in range(3)]
        for number, sock in enumerate(socks):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.settimeout(10)
            sock.bind((stage.client.address, 17300))
            sock.connect((stage.a.address, PORT + number))
        return socks

    socks = in_network(stage.client, dial)
    told.do("socks = [one.accept()[0] for one in servers]")
    await moved(stage, "puppet")
    for number, sock in enumerate(socks):
        sock.sendall(b"%d" % number)
        assert told.do(f"socks[{number}].recv(10).decode()") == str(number)
        assert told.do(f"socks[{number}].getpeername()[1]") == 17300
        sock.close()


INSIDE = """
import array, ctypes
libc = ctypes.CDLL(None)
def loop(host, family=socket.AF_INET):
    server = socket.create_server((host, 0), family=family)
    one = socket.create_connection(server.getsockname()[:2])
    return server, one, server.accept()[0]
loops = [loop('127.0.0.1'), loop('::1', socket.AF_INET6), loop(OWN)]
for _, one, other in loops: one.send(b'there'); other.send(b'back')
pair = socket.socketpair(); pair[0].send(b'stream')
grams = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM); grams[0].send(b'one'); grams[0].send(b'two')
named = socket.socket(socket.AF_UNIX); named.bind(FOLDER + '/sock'); named.listen()
caller = socket.socket(socket.AF_UNIX); caller.connect(FOLDER + '/sock'); callee = named.accept()[0]
caller.send(b'called')
carrier = socket.socketpair(); hidden_read, hidden_write = os.pipe(); os.write(hidden_write, b'hidden')
pipe = os.pipe(); os.write(pipe[1], b'pipe')
event = os.eventfd(5)
timer = libc.timerfd_create(1, 0)
libc.timerfd_settime(timer, 0, struct.pack('qqqq', 0, 50_000_000, 0, 50_000_000), None)
poll = select.epoll(); poll.register(timer, select.EPOLLIN); poll.register(event, select.EPOLLIN)
"""


async def test_what_is_inside_the_workload_moves_with_it(stage, told, tmp_path):
    """Loopback connections (CRIU's own), unix sockets, pipes, eventfd, timerfd, epoll: with what is in them."""
    told.do(f"OWN, FOLDER = {stage.a.address!r}, {str(tmp_path)!r}")
    told.do(INSIDE)
    result = await moved(stage, "puppet")
    assert result.flows.adopted == 1
    assert told.do("[[b.recv(9).decode(), a.recv(9).decode()] for _, a, b in loops]") == [["there", "back"]] * 3
    assert told.do("[one.getsockname()[0] for _, one, _ in loops]") == ["127.0.0.1", "::1", stage.b.address]
    assert told.do("loops[2][1].send(b'again'), loops[2][2].recv(9).decode()") == [5, "again"]
    assert told.do("pair[1].recv(9).decode(), grams[1].recv(9).decode(), grams[1].recv(9).decode()") == [
        "stream", "one", "two",
    ]  # fmt: skip
    assert told.do("callee.recv(9).decode(), os.read(pipe[0], 9).decode()") == ["called", "pipe"]
    assert told.do("os.read(hidden_read, 9).decode(), os.eventfd_read(event)") == ["hidden", 5]
    assert told.do("[poll.poll(5) == [(timer, 1)], os.read(timer, 8) != bytes(8)]") == [True, True]
    assert told.do("poll.poll(5) == [(timer, 1)]")


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


CANNOT = {
    "multipath": ("it = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262); it.bind(('', 7399)); it.listen()",
                  "unsupported-socket", "the socket 0.0.0.0:7399 is Multipath TCP"),
    "multicast": ("it = socket.socket(type=socket.SOCK_DGRAM); it.setsockopt(0, 35, socket.inet_aton('239.1.2.3') "
                  "+ socket.inet_aton('127.0.0.1'))",
                  "unsupported-socket", "has joined the multicast group 239.1.2.3"),
    "kernel-tls": ("sock.setsockopt(6, 31, b'tls')", "unsupported-socket", "has kernel TLS"),
    "urgent": ("", "connection-state", "has urgent data that nobody has read"),
    "locked": ("it = open('/tmp/midstream-lock', 'w'); fcntl.flock(it, fcntl.LOCK_EX); os.unlink(it.name)",
               "lock-held", "/tmp/midstream-lock"),
    "users": (
        "pid = os.fork() or (os.setuid(65534), signal.pause())", "no-capability", "belong to different users",
    ),
    "io-uring": ("it = ctypes.CDLL(None).syscall(425, 4, ctypes.create_string_buffer(120))",
                 "unsupported-file", "io_uring"),
}  # fmt: skip


@pytest.mark.parametrize("kind", CANNOT)
async def test_what_cannot_be_kept_is_refused_by_name_before_anything_is_touched(stage, told, kind):
    """And the workload, with all its connections, goes on as if nobody had asked."""
    code, expected, words = CANNOT[kind]
    sock, other = accepted(stage, told), accepted(stage, told, "other")
    if kind == "urgent":
        sock.send(b"!", socket.MSG_OOB)
        told.do("select.select([], [], [sock], 10)")
    answer = told.attempt(code) if code else {}
    if "No such file" in answer.get("error", "") or "not available" in answer.get("error", ""):
        pytest.skip(f"this kernel has none: {answer['error']}")
    assert "error" not in answer, answer
    if kind == "users" and procfs.may_read_limits():
        pytest.skip("this machine has CAP_SYS_RESOURCE, and can")
    if kind == "io-uring" and told.do("it") < 0:
        pytest.skip("this kernel has no io_uring")
    result = await stage.move("puppet")
    assert result.outcome == "rolled-back"
    assert result.error is not None
    assert (result.error.code, result.freeze_seconds) == (expected, 0)
    assert words in result.error.message
    other.sendall(b"on?")
    assert told.do("other.recv(9).decode()") == "on?"


@pytest.mark.parametrize("kind", ["urgent", "signed"])
async def test_what_cannot_be_kept_is_reset_where_that_is_allowed_and_the_rest_moves(stage, told, kind):
    """Both ends see a reset once the workload has moved, and not before; the result names the connection."""
    other = Duplex(accepted(stage, told, "other"))
    told.do("pump = Duplex(other)")
    if kind == "signed":
        told.do(SIGN)
        told.do(f"server = socket.create_server(('', {PORT + 1})); sign(server, {stage.client.address!r}, 0)")
        sock = in_network(stage.client, socket.socket)
        exec(SIGN, names := {"socket": socket, "struct": struct})
        names["sign"](sock, stage.a.address, PORT + 1)
        sock.settimeout(10)
        sock.connect((stage.a.address, PORT + 1))
        told.do("sock = server.accept()[0]")
    else:
        sock = accepted(stage, told)
        sock.send(b"!", socket.MSG_OOB)
        told.do("select.select([], [], [sock], 10)")
    refused = await stage.move("puppet")
    assert (refused.outcome, refused.freeze_seconds) == ("rolled-back", 0)
    assert "--allow-loss" in refused.error.hint
    cancelled = await stage.move("puppet", allow_loss=True, prepare=cancelled_while_restoring)
    assert cancelled.outcome == "rolled-back"
    told.do("sock.send(b'still here')")
    assert sock.recv(10, socket.MSG_WAITALL) == b"still here"
    result = await stage.move("puppet", allow_loss=True)
    assert (result.outcome, result.error, result.flows.lost, result.bytes.lost) == ("succeeded", None, 1, 0)
    (row,) = [row for row in result.ledger if not row.offsets_equal]
    assert row.peer == "{}:{}".format(*sock.getsockname())
    assert f"{sock.getsockname()[1]} {'is signed' if kind == 'signed' else 'has urgent data'}" in row.given_up
    with pytest.raises(ConnectionResetError):
        await asyncio.to_thread(sock.recv, 1)
    assert "ConnectionReset" in (await asyncio.to_thread(told.attempt, "sock.recv(1)")).get("error", "no error")
    await finish(told, other)
    sock.close()


SIGN = """
def sign(sock, host, port):
    end = struct.pack("=H", socket.AF_INET) + struct.pack("!H4s120x", port, socket.inet_aton(host))
    sock.setsockopt(6, 14, end + struct.pack("=BBHi80s", 0, 0, 4, 0, b"key!"))
"""


def cancelled_while_restoring(driver: Driver) -> None:
    at_phase(Phase.RESTORING, driver.cancel)(driver)


@pytest.mark.parametrize("six", [False, True])
async def test_datagrams_to_the_old_address_and_the_answers_to_them(stage, told, six):
    """Unread at the stop, sent during the hold, and sent afterwards: each comes once, in order, from its sender's
    address, and the answer comes from the address that was asked. What goes to the new address is native."""
    own, new, theirs = [pod.address6 if six else pod.address for pod in (stage.a, stage.b, stage.client)]
    family = socket.AF_INET6 if six else socket.AF_INET
    told.do("every = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); every.bind(('::', 7350)); every.settimeout(10)")
    told.do(
        f"bound = socket.socket({int(family)}, socket.SOCK_DGRAM); bound.bind(({own!r}, 7351)); bound.settimeout(10)"
    )
    askers = [datagram_socket(stage, family, theirs) for _ in range(3)]
    server = datagram_socket(stage, family, theirs)
    told.do(f"out = socket.socket({int(family)}, socket.SOCK_DGRAM); out.connect({server.getsockname()[:2]!r})")
    told.do("out.settimeout(10); out.send(b'before')")
    assert server.recv(100) == b"before"

    def ask(text: str) -> None:
        for asker in askers:
            asker.sendto(text.encode(), (own, 7350))
            asker.sendto(text.encode(), (own, 7351))

    ask("unread")
    cancelled = await stage.move("puppet", prepare=cancelled_while_restoring)  # it gives back what was unread
    assert cancelled.outcome == "rolled-back"
    result = await moved(stage, "puppet", at_phase(Phase.RESTORING, lambda: ask("held")))
    ask("late")
    for name, port in (("every", 7350), ("bound", 7351)):
        heard = [await asyncio.to_thread(told.do, f"[each.decode() if n == 0 else each[:2] for n, each in enumerate("
                                                  f"({name}.recvfrom(100)))]") for _ in range(9)]  # fmt: skip
        for asker in askers:
            host, asked_from = asker.getsockname()[:2]
            words = [text for text, (peer, at) in heard if (peer.removeprefix("::ffff:"), at) == (host, asked_from)]
            assert words == ["unread", "held", "late"]
            mapped = host if six or name == "bound" else f"::ffff:{host}"
            told.do(f"{name}.sendto(b'answer', ({mapped!r}, {asked_from}))")
            assert asker.recvfrom(100)[0:2][0] == b"answer"
            asker.sendto(b"again", (own, port))
            assert told.do(f"{name}.recv(100).decode()") == "again"
            told.do(f"{name}.sendto(b'from where?', ({mapped!r}, {asked_from}))")
            assert asker.recvfrom(100)[1][:2] == (own, port)
    assert sorted(told.do("[bound.getsockname()[0], out.getsockname()[0]]")) == [new, new]
    told.do("out.send(b'after')")
    said, at = server.recvfrom(100)
    assert (said, at[0]) == (b"after", own)
    server.sendto(b"reply", at[:2])
    assert told.do("out.recv(100).decode()") == "reply"
    fresh = datagram_socket(stage, family, theirs)
    fresh.sendto(b"native", (new, 7351))
    told.do("said, at = bound.recvfrom(100); bound.sendto(said, at)")
    assert fresh.recvfrom(100)[1][:2] == (new, 7351)
    rows = [row for row in result.ledger if row.direction == "datagrams"]
    assert [row.dropped_datagrams for row in rows] == [0, 0, 0]
    assert {view.direction for view in await stage.flows(stage.a)} == {"inbound", "datagrams"}
    for sock in (*askers, server, fresh):
        sock.close()


def datagram_socket(stage: Scene, family: int, host: str) -> socket.socket:
    """One of the client's."""

    def make() -> socket.socket:
        sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.bind((host, 0))
        sock.settimeout(10)
        return sock

    return in_network(stage.client, make)
