"""The proxy between real namespaces, with real sockets on both sides and no CRIU."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import proxy_rig as rigs
from tests.harness.proxy_rig import Image, Rig, Talker, eventually


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with contextlib.closing(Rig(tmp_path)) as made:
        made.start_proxies()
        yield made


def positions(image: Image, base: tuple[int, int]) -> dict[str, int]:
    """How much the frozen workload had sent and read, by the image's numbers."""
    fin_sent = image.live.state in (4, 5, 9, 11)
    sent = (image.live.write_seq - fin_sent - base[0]) % 2**32
    read = (image.live.rcv_nxt - image.fin_received - image.live.unread - base[1]) % 2**32
    return {"sent": sent, "got": read}


def bases(client: socket.socket) -> tuple[int, int]:
    """The sequence numbers of the workload's first bytes, out and in, before anything flows: the peer's, mirrored."""
    live = rigs.repair.read(rigs.KERNEL, client)
    rigs.repair.leave(rigs.KERNEL, client)
    return live.rcv_nxt, live.write_seq


class Move:
    """The whole move of one workload, step by step."""

    def __init__(self, rig: Rig, clients: int = 1, **more: object) -> None:
        self.rig = rig
        self.workload = rig.workload(**more)
        self.bases: dict[tuple[str, int], tuple[int, int]] = {}
        self.clients: list[Talker] = []
        for _ in range(clients):
            self.clients.append(self.join())

    def join(self, **more: bool) -> Talker:
        sock = self.rig.connect()
        self.bases[sock.getsockname()] = bases(sock)
        sock.sendall(rigs.slice_at(0, 1))
        return self.rig.talker(sock, sent=1, **more)

    def freeze(self) -> None:
        self.workload.freeze()
        self.images = [Image(sock) for sock in self.workload.sockets()]
        self.agent = self.rig.agent()

    def adopt(self) -> None:
        self.legs = self.rig.adopt(self.agent, self.images)
        for image in self.images:
            image.sock.close()

    def restore(self) -> None:
        self.rig.b.ok("POST", f"/v1/inbound/{self.rig.migration}/legs", {"legs": self.legs})
        self.socks = [(image, self.rig.restored(image)) for image in self.images if not image.listener]
        self.server = self.rig.server_in_b()

    def commit(self) -> dict[str, int]:
        self.workload.kill()
        for image, sock in self.socks:
            image.resume(sock)
        answer = self.rig.repoint()
        self.apps = [self.rig.talker(sock, **positions(image, self.bases[image.peer])) for image, sock in self.socks]
        return answer

    def run(self) -> dict[str, int]:
        self.rig.prepare(links=len(self.clients))
        self.freeze()
        self.adopt()
        self.restore()
        return self.commit()


def ends(talkers: list[Talker]) -> list[str]:
    for talker in talkers:
        talker.finish()
    return [talker.verdict_after_end() for talker in talkers]


def states(rig: Rig, side: str) -> list[str]:
    proxy = rig.a if side == "outbound" else rig.b
    return sorted(line["state"] for line in proxy.ok("GET", f"/v1/{side}/{rig.migration}/ledger"))


def test_streams_move_without_losing_a_byte(rig: Rig) -> None:
    move = Move(rig, clients=4)
    eventually(lambda: all(client.got > 1 << 20 for client in move.clients), "a megabyte each")
    answer = move.run()
    assert answer["flows"] == 4
    before = [client.got for client in move.clients]
    eventually(lambda: all(c.got > n + (8 << 20) for c, n in zip(move.clients, before, strict=True)), "it goes on")
    assert ends([*move.clients, *move.apps]) == ["ended"] * 8
    assert sorted(app.got for app in move.apps) == sorted(client.sent for client in move.clients)
    assert sorted(app.sent for app in move.apps) == sorted(client.got for client in move.clients)
    eventually(lambda: states(rig, "outbound") == ["closed"] * 4, "closed at the source")
    eventually(lambda: states(rig, "inbound") == ["closed"] * 4, "closed at the destination")
    lines = rig.a.ok("GET", f"/v1/outbound/{rig.migration}/ledger")
    there = {line["flow"]: line for line in rig.b.ok("GET", f"/v1/inbound/{rig.migration}/ledger")}
    for line in lines:
        assert there[line["flow"]]["to_app_bytes"] == line["to_app_bytes"] >= line["held_bytes"]
        assert there[line["flow"]]["to_peer_bytes"] == line["to_peer_bytes"]
    assert "0 flows" not in str(rig.a.ok("DELETE", f"/v1/outbound/{rig.migration}"))
    assert rig.b.ok("DELETE", f"/v1/inbound/{rig.migration}") == {"flows": 4}


def test_slow_readers_keep_megabytes_on_both_sides(rig: Rig) -> None:
    """Bytes unread by the workload travel in the image, bytes unsent stay with the peer leg; none comes twice."""
    move = Move(rig, clients=0)
    move.clients = [move.join(slow=True), move.join(slow=True, quiet=True)]
    eventually(lambda: all(client.got > 1 << 18 for client in move.clients), "a start")
    move.run()
    lines = rig.a.ok("GET", f"/v1/outbound/{rig.migration}/ledger")
    assert any(line["unsent_bytes"] > 1 << 16 for line in lines)
    assert ends([*move.apps, *move.clients]) == ["ended"] * 4
    assert sorted(app.sent for app in move.apps) == sorted(client.got for client in move.clients)


@pytest.mark.parametrize("who", ["peer", "workload"])
def test_a_half_closed_flow_moves(rig: Rig, who: str) -> None:
    """A FIN sent or received before the move counts one sequence number and is passed on after it."""
    move = Move(rig, clients=0)
    client = move.join(quiet=who == "workload")
    eventually(lambda: client.got > 1 << 16, "a start")
    if who == "peer":
        client.finish()
        eventually(lambda: b"08" in tcp_states(rig, "a"), "CLOSE_WAIT")
    move.clients.append(client)
    rig.prepare()
    move.freeze()
    if who == "workload":
        # the image would be in FIN_WAIT: the workload itself shuts down, before it is frozen
        pytest.skip("see test_a_workload_that_has_shut_down_moves")
    move.adopt()
    move.restore()
    move.commit()
    (app,) = move.apps
    assert app.verdict_after_end() == "ended"
    assert app.got == client.sent
    app.finish()
    assert client.verdict_after_end() == "ended"
    assert client.got == app.sent


def tcp_states(rig: Rig, pod: str) -> list[bytes]:
    with rig.namespaces[pod].entered():
        return [line.split()[3] for line in Path("/proc/thread-self/net/tcp").read_bytes().splitlines()[1:]]
