"""UDP sockets: what comes to the old address, and the answers to it."""

from __future__ import annotations

import asyncio
import socket
from contextlib import closing

import pytest

from controller.core.phases import Phase
from controller.lab.namespaces import in_network
from tests.harness.asking import Asking, answer
from tests.harness.journeys import Puppet, assert_nothing_lost, at_phase, cancelled_while_restoring, moved
from tests.harness.moving import ONE_LOOP, Scene

pytestmark = [*ONE_LOOP, pytest.mark.usefixtures("under_load")]

ASKED = {"every": 7350, "bound": 7351}
"""The puppet's sockets: one at every address of both families, one at its pod's own."""


class Talk:
    """The client's sockets, and the puppet's that they talk to: three that ask, and a server that the puppet asks."""

    def __init__(self, stage: Scene, told: Puppet, six: bool) -> None:
        self.stage, self.told, self.six = stage, told, six
        self.own, self.new, self.theirs = [
            pod.address6 if six else pod.address for pod in (stage.a, stage.b, stage.client)
        ]
        self.askers = [self.socket() for _ in range(3)]
        self.server = self.socket()
        self.bind(int(self.server.family))

    def socket(self) -> socket.socket:
        """One of the client's."""

        def make() -> socket.socket:
            sock = socket.socket(socket.AF_INET6 if self.six else socket.AF_INET, socket.SOCK_DGRAM)
            sock.bind((self.theirs, 0))
            sock.settimeout(30)
            return sock

        return in_network(self.stage.client, make)

    def bind(self, family: int) -> None:
        dgram = "socket.SOCK_DGRAM"
        self.told.do(f"every = socket.socket(socket.AF_INET6, {dgram}); every.bind(('::', {ASKED['every']}))")
        self.told.do(f"bound = socket.socket({family}, {dgram}); bound.bind(({self.own!r}, {ASKED['bound']}))")
        self.told.do(f"out = socket.socket({family}, {dgram}); out.connect({self.server.getsockname()[:2]!r})")
        self.told.do("for each in (every, bound, out): each.settimeout(30)")

    def ask(self, text: str) -> None:
        for asker in self.askers:
            for port in ASKED.values():
                asker.sendto(text.encode(), (self.own, port))

    async def hear(self, name: str, count: int) -> list[tuple[str, list]]:
        """So many datagrams that have come to one of the puppet's sockets: the words, and who said them."""
        code = f"(lambda said, peer: [said.decode(), peer[:2]])(*{name}.recvfrom(100))"
        return [await asyncio.to_thread(self.told.do, code) for _ in range(count)]

    def answered(self, name: str, asker: socket.socket) -> None:
        """The puppet's answers reach an asker, from the address that it asks, and it can go on asking."""
        host, asked_from = asker.getsockname()[:2]
        mapped = host if self.six or name == "bound" else f"::ffff:{host}"
        self.told.do(f"{name}.sendto(b'answer', ({mapped!r}, {asked_from}))")
        assert asker.recvfrom(100)[0] == b"answer"
        asker.sendto(b"again", (self.own, ASKED[name]))
        assert self.told.do(f"{name}.recv(100).decode()") == "again"
        self.told.do(f"{name}.sendto(b'from where?', ({mapped!r}, {asked_from}))")
        assert asker.recvfrom(100)[1][:2] == (self.own, ASKED[name])

    def close(self) -> None:
        for sock in (*self.askers, self.server):
            sock.close()


@pytest.mark.parametrize("six", [False, True])
async def test_datagrams_to_the_old_address_and_the_answers_to_them(stage, told, six):
    """Unread at the stop, sent during the hold, and sent afterwards: each comes once, in order, from its sender's
    address, and the answer comes from the address that was asked. What goes to the new address is native."""
    talk = Talk(stage, told, six)
    told.do("out.send(b'before')")
    assert talk.server.recv(100) == b"before"
    talk.ask("unread")
    cancelled = await stage.move("puppet", prepare=cancelled_while_restoring)  # it gives back what was unread
    assert cancelled.outcome == "rolled-back"
    result = await moved(stage, "puppet", at_phase(Phase.RESTORING, lambda: talk.ask("held")))
    talk.ask("late")
    for name in ASKED:
        heard = await talk.hear(name, 9)
        for asker in talk.askers:
            words = [
                said for said, (peer, at) in heard if (peer.removeprefix("::ffff:"), at) == asker.getsockname()[:2]
            ]
            assert words == ["unread", "held", "late"]
            talk.answered(name, asker)
    rows = [row for row in result.ledger if row.direction == "datagrams"]
    assert [row.dropped_datagrams for row in rows] == [0, 0, 0]
    assert {view.direction for view in await stage.flows(stage.a)} == {"inbound", "datagrams"}
    connected_and_native(talk)
    talk.close()


def connected_and_native(talk: Talk) -> None:
    """The connected socket goes on with its server, as if from the old address; the new address is asked directly."""
    assert sorted(talk.told.do("[bound.getsockname()[0], out.getsockname()[0]]")) == [talk.new, talk.new]
    talk.told.do("out.send(b'after')")
    said, at = talk.server.recvfrom(100)
    assert (said, at[0]) == (b"after", talk.own)
    talk.server.sendto(b"reply", at[:2])
    assert talk.told.do("out.recv(100).decode()") == "reply"
    with talk.socket() as fresh:
        fresh.sendto(b"native", (talk.new, ASKED["bound"]))
        talk.told.do("said, at = bound.recvfrom(100); bound.sendto(said, at)")
        assert fresh.recvfrom(100)[1][:2] == (talk.new, ASKED["bound"])


SEGMENT_BYTES, SEGMENTS = 1200, 10
MERGING = """
merged = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); merged.bind(("::", 7352)); merged.settimeout(30)
merged.setsockopt(socket.IPPROTO_UDP, 104, 1)  # UDP_GRO
def come(count):
    found = []
    while len(found) < count:
        data, control, _, _ = merged.recvmsg(65535, 100)
        size = struct.unpack("i", control[0][2])[0] if control else len(data)
        found += [data[at:at + size].decode() for at in range(0, len(data), size)]
    return found
"""


@pytest.mark.parametrize("six", [False, True])
async def test_datagrams_that_the_kernel_hands_over_as_one_stay_many(stage, told, six):
    """As of QUIC: the peer sends many at once (UDP_SEGMENT), and the workload has asked for them so (UDP_GRO)."""
    told.do(MERGING)
    sent = [str(at) * SEGMENT_BYTES for at in range(SEGMENTS)]
    with closing(Talk(stage, told, six)) as talk:
        talk.askers[0].setsockopt(socket.IPPROTO_UDP, 103, SEGMENT_BYTES)

        def send() -> None:
            talk.askers[0].sendto("".join(sent).encode(), (talk.own, 7352))

        await stage.move("puppet", prepare=at_phase(Phase.RESTORING, send))
        assert told.do(f"come({SEGMENTS})") == sent, "what came during the hold"
        send()
        assert told.do(f"come({SEGMENTS})") == sent, "what came afterwards"


@pytest.mark.parametrize("six", [False, True])
async def test_who_asks_all_the_time_is_answered_from_there_when_the_workload_is_home(stage, told, six):
    """Questions that were still under way by the other pod take nobody's answers away."""
    answer(told, ASKED["every"])
    with Asking(stage.client, stage.a.address6 if six else stage.a.address, ASKED["every"]) as asking:
        await asking.goes_on()
        await moved(stage, "puppet")
        await asking.goes_on()
        assert_nothing_lost(await stage.move("puppet", stage.b, stage.a))
        await asking.goes_on()
        # Of hundreds: at each move, what is in hand as an address changes hands.
        assert len(await asking.missing()) <= 2


GROUP = """
group = [socket.socket(type=socket.SOCK_DGRAM) for _ in range(3)]
for each in group:
    each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    each.bind(("", 7370))
def heard(count):
    found = []
    while len(found) < count and (ready := select.select(group, [], [], 10)[0]):
        found += [[each.recvfrom(9)[1][1], group.index(each)] for each in ready]
    return sorted(found)
"""


async def test_home_again_each_peer_of_sockets_that_share_a_port_is_heard_by_the_one_that_it_had(stage, told):
    """The kernel chooses by the peer, the address that it asks, and the order in which they were bound."""
    told.do(GROUP)
    socks = in_network(stage.client, lambda: [socket.socket(type=socket.SOCK_DGRAM) for _ in range(40)])
    try:

        def heard_by() -> list:
            for sock in socks:
                sock.sendto(b"hello", (stage.a.address, 7370))
            return told.do(f"heard({len(socks)})")

        at_first = heard_by()
        assert {at for _, at in at_first} == {0, 1, 2}
        for _ in range(2):
            await moved(stage, "puppet")
            assert [port for port, _ in heard_by()] == [port for port, _ in at_first]
            assert_nothing_lost(await stage.move("puppet", stage.b, stage.a))
            assert heard_by() == at_first
    finally:
        for sock in socks:
            sock.close()


@pytest.mark.parametrize("six", [False, True])
async def test_home_again_each_is_answered_by_the_way_it_asks(stage, told, six):
    """Who asks at the other pod's address hears from there, who asks directly is answered directly, whatever he did
    before, and what the workload says on a connected socket comes from where it was connected."""
    answer(told, 7360)
    with closing(Talk(stage, told, six)) as talk:
        from_new, from_both, _ = talk.askers
        await moved(stage, "puppet")
        assert asked(from_new, talk.new) == asked(from_both, talk.new) == talk.new
        assert_nothing_lost(await stage.move("puppet", stage.b, stage.a))
        for _ in range(3):
            assert asked(from_new, talk.new) == asked(from_both, talk.new) == talk.new
        assert asked(from_both, talk.own) == talk.own
        assert asked(from_both, talk.new) == talk.own  # one port asks at two addresses: the direct way wins
        assert asked(from_new, talk.new) == talk.new
        told.do("out.send(b'home')")
        said, at = talk.server.recvfrom(100)
        assert (said, at[0]) == (b"home", talk.own)


@pytest.mark.parametrize("six", [False, True])
async def test_who_was_relayed_and_asks_directly_now_is_answered_directly(stage, told, six):
    """A client with a port of its own that learns of the new address."""
    answer(told, 7360)
    with closing(Talk(stage, told, six)) as talk:
        await moved(stage, "puppet")
        asker = talk.askers[0]
        assert asked(asker, talk.own) == talk.own
        assert asked(asker, talk.new) == asked(asker, talk.new) == talk.new


def asked(sock: socket.socket, host: str) -> str:
    """The address that the answer comes from."""
    sock.sendto(b"where?", (host, 7360))
    return sock.recvfrom(100)[1][0]


@pytest.mark.parametrize("six", [False, True])
async def test_what_was_read_before_the_move_is_answered_from_where_it_was_asked(stage, told, six):
    """Whatever the socket is bound to. Who asks directly meanwhile is answered directly."""
    with closing(Talk(stage, told, six)) as talk:
        asker, direct, _ = talk.askers
        for port in ASKED.values():
            asker.sendto(b"where?", (talk.own, port))
        told.do("question, read = bound.recvfrom(100); question, read_too = every.recvfrom(100)")
        result = await moved(stage, "puppet")
        direct.sendto(b"and here?", (talk.new, ASKED["bound"]))
        told.do("question, direct = bound.recvfrom(100)")
        told.do("bound.sendto(b'there', read); every.sendto(b'there', read_too); bound.sendto(b'here', direct)")
        answers = sorted(asker.recvfrom(100)[:2] for _ in range(2))
        assert [(said, at[:2]) for said, at in answers] == sorted(
            (b"there", (talk.own, port)) for port in ASKED.values()
        )
        assert direct.recvfrom(100)[1][0] == talk.new
        assert [row.dropped_datagrams for row in result.ledger if row.direction == "datagrams"] == [0, 0, 0]
