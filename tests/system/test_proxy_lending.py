"""More flows than descriptors/2: links are lent. Real processes whose RLIMIT_NOFILE is low, real sockets."""

from __future__ import annotations

import random
import re
import resource
import select
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from proxy.io import relay
from proxy.io.lending import KEPT
from tests.harness import proxy_rig as rigs
from tests.harness.proxy_move import Move, become, ledger
from tests.harness.proxy_process import ProxyProcess, eventually
from tests.harness.proxy_rig import Rig
from tests.harness.talker import PATIENCE_SECONDS, slice_at

FLOWS = 200
DESCRIPTORS = FLOWS + KEPT + 60
"""For each leg, what links leave alone, and what a proxy has open anyway: some 35 are left for links."""


@pytest.fixture
def crowd(tmp_path: Path) -> Iterator[Crowd]:
    with closing(Rig(tmp_path)) as rig:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, hard))
        try:
            rig.start_proxies(tls=True)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        yield Crowd(rig)


class Pair:
    """One connection: its peer's end and the restored workload's, and what each has said and heard."""

    def __init__(self, ends: tuple[socket.socket, socket.socket]) -> None:
        self.ends = ends
        self.said, self.heard = [0, 0], [0, 0]
        for sock in ends:
            sock.setblocking(False)

    def say(self, end: int, size: int) -> None:
        self.said[end] += self.ends[end].send(slice_at(self.said[end], size))

    def hear(self, end: int) -> None:
        data = self.ends[end].recv(1 << 18)
        assert data, "ended"
        assert data == slice_at(self.heard[end], len(data))
        self.heard[end] += len(data)

    @property
    def owed(self) -> bool:
        return self.said != self.heard[::-1]


class Crowd:
    """FLOWS connections, idle, moved."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        move = Move(rig, backlog=FLOWS)
        move.clients = self.peers = [self._connect() for _ in range(FLOWS)]
        eventually(move.is_heard, "all are accepted")
        room = rig.b.ok("PUT", f"/v1/inbound/{rig.migration}", {"token": rig.token, "flows": FLOWS})["links"]
        self.links = rig.a.ok("PUT", f"/v1/outbound/{rig.migration}", rig.plan(min(FLOWS, room), flows=FLOWS))["links"]
        move.freeze()
        move.adopt()
        move.restore()
        move.workload.kill()
        for image, sock in move.socks:
            image.resume(sock)
        rig.repoint()
        self.server = move.server
        by_port = {peer.getsockname()[1]: peer for peer in self.peers}
        self.pairs = [Pair((by_port[image.peer[1]], sock)) for image, sock in move.socks]

    def _connect(self) -> socket.socket:
        """To a workload that is to say nothing."""
        sock = self.rig.connect()
        self.rig._close.append(sock.close)
        sock.sendall(b"q")
        return sock

    def settle(self) -> None:
        """Until everything that was said is heard."""
        ends = {sock.fileno(): (pair, number) for pair in self.pairs for number, sock in enumerate(pair.ends)}
        poll = select.poll()
        for descriptor in ends:
            poll.register(descriptor, select.POLLIN)
        while owed := [pair for pair in self.pairs if pair.owed]:
            ready = poll.poll(PATIENCE_SECONDS * 1000)
            assert ready, f"{len(owed)} wait: {self.links_of(self.rig.a)}, {self.links_of(self.rig.b)}"
            for descriptor, _ in ready:
                pair, number = ends[descriptor]
                pair.hear(number)

    def asleep(self) -> list[Pair]:
        """Those whose links sleep."""
        ports = {view["peer"][1] for view in self.rig.a.ok("GET", "/v1/flows") if view["link"] == "asleep"}
        return [pair for pair in self.pairs if pair.ends[0].getsockname()[1] in ports]

    def links_of(self, proxy: ProxyProcess) -> dict[str, int]:
        states = [view["link"] for view in proxy.ok("GET", "/v1/flows")]
        return {state: states.count(state) for state in states}


def test_many_more_flows_than_links_talk_both_ways(crowd: Crowd) -> None:
    assert 8 < crowd.links < FLOWS // 3
    assert crowd.links_of(crowd.rig.b)["asleep"] >= FLOWS - crowd.links
    chance = random.Random(1)
    for _ in range(10):
        for pair in chance.sample(crowd.pairs, 50):
            pair.say(chance.randrange(2), chance.randrange(1, 20_000))
        crowd.settle()
    for end in (0, 1):  # all of them at once
        for pair in crowd.pairs:
            pair.say(end, 3000)
        crowd.settle()
    there = {line["flow"]: line for line in ledger(crowd.rig, "inbound")}
    for line in ledger(crowd.rig, "outbound"):
        assert line["to_app_bytes"] == there[line["flow"]]["to_app_bytes"]
        assert line["to_peer_bytes"] == there[line["flow"]]["to_peer_bytes"]
        assert line["state"] == there[line["flow"]]["state"] == "relaying"
    assert counted(crowd.rig.a) == counted(crowd.rig.b) == set()
    assert metric(crowd.rig.a, "midstream_proxy_links_lent_total") > 200


@pytest.mark.parametrize("end", [0, 1], ids=["peer", "workload"])
def test_a_sleeping_flow_ends_from_either_end(crowd: Crowd, end: int) -> None:
    half, whole, reset = crowd.asleep()[:3]
    half.ends[end].shutdown(socket.SHUT_WR)
    assert heard_last(half.ends[1 - end]) == b""
    half.ends[1 - end].send(b"!")
    assert heard_last(half.ends[end]) == b"!"
    whole.ends[end].shutdown(socket.SHUT_WR)
    assert heard_last(whole.ends[1 - end]) == b""
    whole.ends[1 - end].shutdown(socket.SHUT_WR)
    assert heard_last(whole.ends[end]) == b""
    relay.reset(reset.ends[end])
    with pytest.raises(ConnectionResetError):
        heard_last(reset.ends[1 - end])
    ended = ["leg_ended", "link_ended"]
    for side, state in (("outbound", ended[end]), ("inbound", ended[1 - end])):
        become(crowd.rig, side, "closed", "reset", state, *["relaying"] * (FLOWS - 3))


def test_newcomers_are_served_though_nothing_is_left(crowd: Crowd) -> None:
    for number in range(40):
        with closing(crowd.rig.connect()) as peer:
            peer.sendall(b"hello")
            app, _ = crowd.server.accept()
            with app:
                assert app.recv(5) == b"hello"
                crowd.pairs[number].say(number % 2, 10)
    crowd.settle()


def test_a_network_that_breaks_breaks_neither_those_that_carry_nor_those_that_sleep(crowd: Crowd) -> None:
    for number in range(4):
        for pair in crowd.pairs[::2]:
            pair.say(number % 2, 2000)
        sever(crowd.rig, "ab"[number % 2])
        crowd.settle()
    assert {"broken", "resumed"} <= counted(crowd.rig.a)
    assert "lost" not in counted(crowd.rig.a) | counted(crowd.rig.b)


def test_a_proxy_that_dies_takes_sleeping_flows_along(crowd: Crowd) -> None:
    crowd.rig.b.process.kill()
    crowd.rig.b.process.wait()
    for pair in crowd.pairs:
        pair.ends[0].settimeout(PATIENCE_SECONDS)
        with pytest.raises(ConnectionResetError):
            pair.ends[0].recv(1)


def test_what_does_not_fit_is_not_taken(crowd: Crowd) -> None:
    """Of descriptors that legs are to have some are missing: links of flows that are relayed give theirs back."""
    health = crowd.rig.a.ok("GET", "/healthz")
    assert health["spare_descriptors"] >= crowd.links
    before = crowd.links_of(crowd.rig.a)["carrying"]
    flows = room(crowd.rig.b) + 10
    crowd.rig.b.ok("PUT", "/v1/inbound/other", {"token": crowd.rig.token, "flows": flows})
    eventually(lambda: room(crowd.rig.b) >= flows, "there is room for all of them")
    eventually(lambda: crowd.links_of(crowd.rig.a)["carrying"] < before, "others sleep instead")
    for pair in crowd.pairs[:50]:
        pair.say(1, 100)
    crowd.settle()
    crowd.rig.b.ok("DELETE", "/v1/inbound/other")


def room(proxy: ProxyProcess) -> int:
    """For so many descriptors more, beside those that it keeps. Nobody talks to it for this: that would take one."""
    return DESCRIPTORS - KEPT - len(list(Path(f"/proc/{proxy.process.pid}/fd").iterdir()))


def heard_last(sock: socket.socket) -> bytes:
    sock.settimeout(PATIENCE_SECONDS)
    try:
        return sock.recv(1)
    finally:
        sock.setblocking(False)


def counted(proxy: ProxyProcess) -> set[str]:
    """What has happened to links."""
    text = proxy.call("GET", "/metrics")[1]
    return set(re.findall(r'midstream_proxy_link_breaks_total{what="(\w+)"}', text))


def metric(proxy: ProxyProcess, name: str) -> float:
    return float(re.findall(rf"^{name} (.*)$", proxy.call("GET", "/metrics")[1], re.MULTILINE)[0])


def sever(rig: Rig, pod: str) -> None:
    """End all connections between the proxies with a reset."""
    with rig.namespaces[pod].entered():
        links = f"( dport = :{rigs.LINK_PORT} or sport = :{rigs.LINK_PORT} )"
        subprocess.run(["ss", "-K", "-tn", links], check=True, stdout=subprocess.DEVNULL)
