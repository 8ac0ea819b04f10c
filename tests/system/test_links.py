"""The network between two pods breaks, in several ways, while flows are relayed: every byte arrives, once."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import subprocess
from functools import partial

import pytest_asyncio

from proxy.api import LINK_PORT
from tests.harness.clients import Echo, Stream
from tests.harness.moving import ONE_LOOP, PORT, until, within

RESETTING = f"""
table inet breaking {{
  chain input {{ type filter hook input priority 0; tcp dport {LINK_PORT} tcp flags & syn == 0 reject with tcp reset; }}
}}
"""


pytestmark = ONE_LOOP


@pytest_asyncio.fixture(loop_scope="session")
async def stage(stage):
    """With the test server in a, and what its pods' proxies have counted before the test began."""
    await stage.run_server()
    stage.counted = {(pod.name, what): counted(pod, what) for pod in (stage.a, stage.b) for what in COUNTED}
    return stage


@pytest_asyncio.fixture(loop_scope="session")
async def third(stage):
    yield await stage.lab.create("c")
    await stage.lab.delete("c")


@pytest_asyncio.fixture(loop_scope="session")
async def plain(stage):
    """A pod whose links are not encrypted."""
    yield await stage.lab.create("plain", cleartext_links=True)
    await stage.lab.delete("plain")


def sever(pod) -> None:
    """Ends all of the pod's connections between proxies, with a reset."""
    within(pod, "ss", "-K", "-tn", f"( dport = :{LINK_PORT} or sport = :{LINK_PORT} )")


def cable(pod, state: str) -> None:
    subprocess.run(["ip", "link", "set", pod.link, state], check=True)


async def go_on(clients) -> None:
    """Each gets something that it had not got yet."""
    before = [client.got for client in clients]
    await until(lambda: all(c.got > b for c, b in zip(clients, before, strict=True)), "it does not go on")


COUNTED = ("broken", "resumed")


def counted(pod, what: str) -> int:
    """How often links of the pod's proxy broke, or were made again, since it was started."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(pod.proxy_socket))
        sock.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        text = sock.makefile().read()
    name = f'midstream_proxy_link_breaks_total{{what="{what}"}}'
    found = [line for line in text.splitlines() if line.startswith(name)]
    return int(float(found[0].split()[1])) if found else 0


def breaks(stage, pod, what: str = "broken") -> int:
    """The same since the test began."""
    return counted(pod, what) - stage.counted[pod.name, what]


async def broken_and_made_again(stage, pod) -> None:
    """Severs the pod's links; returns when they, and those of a, which dials, broke, and all are there again."""
    before = [(one, breaks(stage, one)) for one in (pod, stage.a)]
    await asyncio.to_thread(sever, pod)
    await until(lambda: all(breaks(stage, one) > was for one, was in before), "nothing broke")
    made = partial(breaks, stage, stage.a, "resumed")
    await until(lambda: made() == breaks(stage, stage.a), "not all links were made again")


OUT_SECONDS, HOLD_SECONDS = 12, 20
"""A cable, and a hold at most: so long a link is made again, which takes a second itself, or some on a busy machine. By
default it is 10 s."""


async def test_flows_survive_whatever_happens_to_their_links(stage):
    clients = [Echo(stage.client, stage.a.address, PORT) for _ in range(3)]
    clients += [Stream(stage.client, stage.a.address, PORT, pause_seconds=each) for each in (0, 0.005)]
    ended = stage.connect(stage.client, stage.a.address, PORT)
    ended.sendall(b"Ehello")
    assert ended.recv(5) == b"hello"
    result = await stage.move("server", max_hold_seconds=HOLD_SECONDS)
    assert result.outcome == "succeeded", result.error
    await go_on(clients)
    for pod in (stage.a, stage.b, stage.a):  # the initiator's, the acceptor's
        await broken_and_made_again(stage, pod)
        await go_on(clients)

    # A firewall that loses its mind for a moment: the initiator hears of it, the acceptor does not.
    await asyncio.to_thread(within, stage.b, "nft", "-f", "-", text=RESETTING)
    ended.sendall(b" world")
    ended.shutdown(socket.SHUT_WR)
    await asyncio.sleep(0.3)
    await asyncio.to_thread(within, stage.b, "nft", "delete", "table", "inet", "breaking")
    await go_on(clients)
    assert await asyncio.to_thread(ended.recv, 100, socket.MSG_WAITALL) == b" world"

    # The cable is out for longer than the initiator believes in its connections, and than a hold lasts by default.
    await asyncio.to_thread(cable, stage.b, "down")
    try:
        await asyncio.sleep(OUT_SECONDS)
    finally:
        await asyncio.to_thread(cable, stage.b, "up")
    await go_on(clients)
    for client in clients:
        await asyncio.to_thread(client.finish)


async def test_links_that_break_while_flows_switch_to_new_ones(stage, third):
    clients = [Echo(stage.client, stage.a.address, PORT) for _ in range(3)]
    clients.append(Stream(stage.client, stage.a.address, PORT))
    result = await stage.move("server")
    assert result.outcome == "succeeded", result.error
    pods = (stage.a, stage.b, third)
    stop = asyncio.Event()

    async def sabotage() -> None:
        while not stop.is_set():
            for pod in pods:
                await asyncio.to_thread(sever, pod)
            await asyncio.sleep(0.1)

    def begin(driver):
        started = driver.observer.phase_started

        def phase_started(name, at):
            started(name, at)
            if name == "Draining":
                sabotaging.append(asyncio.create_task(sabotage(), name="sabotage"))

        driver.observer.phase_started = phase_started

    sabotaging: list[asyncio.Task[None]] = []
    moving = asyncio.create_task(stage.move("server", stage.b, third, prepare=begin), name="the second move")
    await asyncio.wait([moving], timeout=3)
    stop.set()
    result = await moving
    await asyncio.gather(*sabotaging)
    assert result.outcome == "succeeded", result.error
    assert result.flows.lost == result.bytes.lost == 0
    await go_on(clients)
    for client in clients:
        await asyncio.to_thread(client.finish)


async def test_a_reset_is_a_reset_and_no_broken_link(stage):
    client = stage.connect(stage.client, stage.a.address, PORT)
    client.sendall(b"Ehello")
    assert client.recv(5) == b"hello"
    result = await stage.move("server")
    assert result.outcome == "succeeded", result.error
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    for _ in range(600):
        if not [*await stage.flows(stage.a), *await stage.flows(stage.b)]:
            break
        await asyncio.sleep(0.05)
    assert not [*await stage.flows(stage.a), *await stage.flows(stage.b)]
    assert breaks(stage, stage.a) == breaks(stage, stage.b) == 0


async def test_links_are_encrypted_and_pods_with_cleartext_links_are_told_apart(stage, plain):
    result = await stage.move("server", stage.a, plain)
    assert result.outcome == "rolled-back"
    assert "TLS" in result.error.message
    status, out, _ = await stage.midstream("pod", "list")
    assert status == 0
    assert "cleartext" in out
    stranger = stage.connect(stage.client, stage.b.address, LINK_PORT)
    stranger.sendall(b"PING\r\n")
    with contextlib.suppress(ConnectionResetError):
        assert stranger.recv(100)[:1] in (b"\x15", b"")  # an alert of TLS's, and no word of ours


async def test_pods_whose_links_do_not_go_together_are_told_apart_at_once(stage, plain):
    """In either direction, before anything is touched."""
    result = await stage.move("server", stage.a, plain)
    assert (result.outcome, result.error.code, result.freeze_seconds) == ("rolled-back", "links-differ", 0)
    assert "the links of pod plain are in cleartext, those of pod a are TLS" in result.error.message
    assert [phase.name for phase in result.phases] == ["Pending", "Preflight", "RollingBack"]
    client = Echo(stage.client, stage.a.address, PORT)
    await go_on([client])
    await asyncio.to_thread(client.finish)
