"""The move of one workload between the pods of a `Rig`, step by step, with its peers and the restored application."""

from __future__ import annotations

import socket
from typing import Any

from proxy.sys import options, repair
from tests.harness import proxy_rig as rigs
from tests.harness.proxy_image import KERNEL, Image, is_listener
from tests.harness.proxy_process import eventually
from tests.harness.proxy_rig import Rig
from tests.harness.talker import Talker


class Move:
    def __init__(self, rig: Rig, clients: int = 0, host: str = "0.0.0.0", dial: str = "", backlog: int = 16) -> None:
        self.rig = rig
        self.host = host
        self.workload = rig.workload(host, backlog, dial=dial)
        self.bases: dict[int, tuple[int, int]] = {}
        self.clients = [self.join() for _ in range(clients)]

    def join(self, host: str = rigs.ADDRESS["a"], first: bytes = b"\0", **more: bool) -> Talker:
        """A peer; its first byte says what the workload shall do (see `talker.SAID_BYTES`)."""
        sock = self.rig.connect(host)
        self.bases[sock.getsockname()[1]] = bases(sock)
        sock.sendall(first)
        return self.rig.talker(sock, sent=1, **more)

    def is_heard(self) -> bool:
        """Whether the workload has accepted every peer, and read all that they have said."""
        socks = self.workload.sockets()
        try:
            flows = [sock for sock in socks if not is_listener(sock)]
            unread = sum(KERNEL.queued(sock, options.SIOCINQ) for sock in flows)
            return (len(flows), unread) == (len(self.clients), 0)
        finally:
            for sock in socks:
                sock.close()

    def hold(self, links: int = 0) -> None:
        """Until its sockets are adopted, with so many links dialled before."""
        self.rig.prepare(links=links)
        self.freeze()
        self.adopt()

    def freeze(self) -> None:
        self.workload.freeze()
        self.images = [Image(sock) for sock in self.workload.sockets()]
        self.agent = self.rig.agent()

    def adopt(self) -> None:
        try:
            self.legs = self.rig.adopt(self.agent, self.images)
        finally:
            for image in self.images:
                image.sock.close()

    def restore(self) -> None:
        self.rig.b.ok("POST", f"/v1/inbound/{self.rig.migration}/legs", {"legs": self.legs})
        self.socks = [(image, self.rig.restored(image)) for image in self.images if not image.listener]
        self.server = self.rig.server_in_b(self.host)

    def commit(self) -> Any:
        self.workload.kill()
        for image, sock in self.socks:
            image.resume(sock)
        answer = self.rig.repoint()
        self.apps = [
            self.rig.talker(sock, **positions(image, self.bases[image.peer[1]]), quiet=image.fin_sent)
            for image, sock in self.socks
        ]
        return answer

    def run(self) -> Any:
        self.hold(len(self.clients))
        self.restore()
        return self.commit()

    def check_whole(self) -> None:
        """End it all, and compare what was sent with what was received."""
        assert set(ends([*self.clients, *self.apps])) == {"ended"}
        assert sorted(app.got for app in self.apps) == sorted(client.sent for client in self.clients)
        assert sorted(app.sent for app in self.apps) == sorted(client.got for client in self.clients)


def positions(image: Image, base: tuple[int, int]) -> dict[str, int]:
    """How much the frozen workload had sent and read, by the image's numbers."""
    sent = (image.live.write_seq - image.fin_sent - base[0]) % 2**32
    read = (image.live.rcv_nxt - image.fin_received - image.live.unread - base[1]) % 2**32
    return {"sent": sent, "got": read}


def bases(peer: socket.socket) -> tuple[int, int]:
    """The sequence numbers of the workload's first bytes, out and in: the peer's, mirrored, before anything flows."""
    live = repair.read(KERNEL, peer)
    repair.leave(KERNEL, peer)
    return (live.rcv_nxt - live.unread) % 2**32, live.write_seq


def ends(talkers: list[Talker]) -> list[str]:
    for talker in talkers:
        talker.finish()
    return [talker.verdict_after_end() for talker in talkers]


def ledger(rig: Rig, side: str) -> list[dict[str, Any]]:
    proxy = rig.a if side == "outbound" else rig.b
    lines: list[dict[str, Any]] = proxy.ok("GET", f"/v1/{side}/{rig.migration}/ledger")
    return lines


def become(rig: Rig, side: str, *states: str) -> None:
    """Wait for the flows to be in these states."""
    eventually(lambda: sorted(line["state"] for line in ledger(rig, side)) == sorted(states), f"{side} {states}")


def goes_on(talkers: list[Talker], more_bytes: int = 4 << 20) -> None:
    before = [talker.got for talker in talkers]
    eventually(lambda: all(t.got >= n + more_bytes for t, n in zip(talkers, before, strict=True)), "it goes on")


def has_begun(talkers: list[Talker]) -> None:
    eventually(lambda: all(talker.got > 1 << 18 for talker in talkers), "a start")
