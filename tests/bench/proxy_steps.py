"""What each of the proxy's steps costs a flow: python -m tests.bench.proxy_steps [FLOWS]

One process in a namespace of its own is peer, workload, both proxies and restored workload, so the numbers are the work
and no waiting. Run as root.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import ctypes
import gc
import json
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import msgspec
import uvloop

from proxy.api import Endpoint, Legs, PrepareInbound, PrepareOutbound
from proxy.io.adoption import AdoptionServer
from proxy.io.context import Context
from proxy.io.plane import Plane
from proxy.main import GC_THRESHOLDS
from proxy.sys.kernel import Kernel
from proxy.sys.nftables import flow_key
from proxy.sys.routing import Routing
from tests.harness.proxy_image import Image

SOURCE, DESTINATION, PEER = "10.7.0.1", "10.7.0.2", "10.7.0.3"
MESSAGE_FLOWS = 40


class Steps:
    def __init__(self, flows: int) -> None:
        self.flows = flows
        self.lines: list[tuple[str, float]] = []

    @contextlib.contextmanager
    def time(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.lines.append((name, time.perf_counter() - start))

    def show(self) -> None:
        for name, seconds in self.lines:
            print(f"{name:34} {seconds * 1e3:8.2f} ms {seconds / self.flows * 1e6:8.1f} us a flow")


async def measure(flows: int) -> None:
    steps = Steps(flows)
    plane = await _prepared(steps)
    peers, workload = _connections(flows)
    images = [Image(sock) for sock in workload]
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    _build(steps, plane, _adopt(steps, plane, images))
    restored = [image.restore(DESTINATION) for image in images]
    for sock in workload:
        sock.close()
    for image, sock in zip(images, restored, strict=True):
        image.resume(sock)
    with steps.time("resume (with window probe)"):
        plane.resume("m")
    with steps.time("repoint"):
        plane.repoint("m")
    with steps.time("a byte to each workload"):
        await _send_a_byte(plane, peers)
    for sock in (*peers, *restored):
        sock.close()
    plane.close()
    steps.show()


async def _prepared(steps: Steps) -> Plane:
    """Source's proxy and destination's in one, with its links dialled."""
    kernel = Kernel()
    links = socket.create_server((DESTINATION, 15008), backlog=4096)
    plane = Plane(Context.here(kernel), Routing(kernel), links)
    plane.start()
    token = secrets.token_hex(32)
    plane.prepare_inbound("m", PrepareInbound(token))
    with steps.time("dial links (before the freeze)"):
        plan = PrepareOutbound(Endpoint(DESTINATION, 15008), token, {SOURCE: DESTINATION}, steps.flows)
        await plane.prepare_outbound("m", plan)
    return plane


def _adopt(steps: Steps, plane: Plane, images: list[Image]) -> bytes:
    """Gives the legs, as the controller says them to the destination."""
    messages = _messages(images)
    adoption = AdoptionServer(plane, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
    legs = []
    with steps.time("adopt, JSON and all"):
        for data, descriptors in messages:
            answer = adoption._handle(data, descriptors, False)
            legs += msgspec.json.decode(msgspec.json.encode(answer))["legs"]
    with steps.time("make the flows (after the answer)"):
        made = plane.outbound["m"].flows
    assert len(made) == steps.flows
    with steps.time("limit the hold (a long one)"):
        plane.outbound["m"]._limit.set(64 << 20)
    adoption.close()
    return json.dumps({"legs": legs}).encode()


def _build(steps: Steps, plane: Plane, body: bytes) -> None:
    with steps.time("decode legs"):
        wanted = msgspec.json.decode(body, type=Legs)
    with steps.time("routes into nft sets"):
        plane.inbound["m"]._retirement.use([flow_key(leg.app, leg.peer) for leg in wanted.legs])
    with steps.time("build app legs"):
        plane.build("m", wanted)


async def _send_a_byte(plane: Plane, peers: list[socket.socket]) -> None:
    """From each peer, all the way."""
    for peer in peers:
        peer.send(b"x")
    wanted_bytes = len(peers) + sum(flow.held_bytes for flow in plane.outbound["m"].flows.values())
    while sum(flow.to_app_bytes for flow in plane.inbound["m"].flows.values()) < wanted_bytes:  # noqa: ASYNC110
        await asyncio.sleep(0)


def _connections(flows: int) -> tuple[list[socket.socket], list[socket.socket]]:
    peers, workload = [], []
    with socket.create_server((SOURCE, 7000), backlog=4096) as listener:
        for _ in range(flows):
            peers.append(socket.create_connection((SOURCE, 7000), source_address=(PEER, 0)))
            workload.append(listener.accept()[0])
            peers[-1].send(bytes(1000))
    return peers, workload


def _messages(images: list[Image]) -> list[tuple[bytes, list[int]]]:
    made = []
    for start in range(0, len(images), MESSAGE_FLOWS):
        some = images[start : start + MESSAGE_FLOWS]
        data = json.dumps({"op": "adopt", "migration": "m", "sockets": [image.request() for image in some]}).encode()
        made.append((data, list(array.array("i", [image.sock.dup().detach() for image in some]))))
    return made


def main() -> None:
    if ctypes.CDLL(None, use_errno=True).unshare(0x40000000):
        raise OSError(ctypes.get_errno(), "unshare")
    for address in (SOURCE, DESTINATION, PEER):
        subprocess.run(["ip", "addr", "add", f"{address}/32", "dev", "lo"], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    flows = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(measure(flows))


if __name__ == "__main__":
    main()
