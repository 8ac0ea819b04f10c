"""Connections both ends of which were made at the destination before the freeze: whatever happens to them until the
workload stands still is at the destination as it was."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct

import pytest

from checkpoint.core.sockopts import INERT
from controller import pairs
from controller.core.phases import Phase
from tests.harness.connected import PORT, accepted, finish
from tests.harness.interposer import DESTINATION_REFUSES, Spoil, between
from tests.harness.journeys import assert_nothing_lost, at_phase, moved, start_puppet
from tests.harness.moving import ONE_LOOP, spoilt, until
from tests.harness.programs.puppet import PATTERN, Duplex
from tests.harness.sidecars import AGENT, PROXY, running, sidecar
from tests.system.connections.test_options import BY_NUMBER, OPTIONS

pytestmark = ONE_LOOP

LINGER_NOT = struct.pack("ii", 1, 0)
OWN = 1
"""The puppet's, over which it is told what to do."""
READ = """
def read_some(sock, count):
    sock.settimeout(30)
    heard = b""
    while len(heard) < count:
        heard += sock.recv(count - len(heard)) or 1 / 0
    return heard
"""


def listens_at(path):
    with socket.socket(socket.AF_UNIX) as sock:
        return sock.connect_ex(str(path)) == 0


def dumped_again(pod, result):
    """Whether a peer's bytes came between CRIU's two looks at their queue: of what is dumped anew all go by images."""
    lines = pod.log("agent").read_text().splitlines()
    return any(result.migration in line and line.endswith("dumping once more") for line in lines)


async def test_most_connections_are_made_ahead_and_speak_both_ways(stage, told):
    client = Duplex(accepted(stage, told))
    told.do("pump = Duplex(sock)")
    told.do(f"server6 = socket.create_server(('::', {PORT + 1}), family=socket.AF_INET6, dualstack_ipv6=True)")
    others = [stage.connect(stage.client, address, PORT + 1) for address in (stage.a.address, stage.a.address6)]
    told.do("others = [server6.accept()[0] for _ in range(2)]")
    ends = told.do("[[one.getpeername(), one.getsockname()[1]] for one in others]")
    told.do(READ)
    result = await moved(stage, "puppet")
    assert result.flows.adopted == OWN + 3
    # The stream may have too much unread.
    assert result.flows.made_ahead >= OWN + 2 or dumped_again(stage.a, result)
    for number, other in enumerate(others):
        other.sendall(b"there")
        assert told.do(f"read_some(others[{number}], 5).decode()") == "there"
        told.do(f"others[{number}].sendall(b'and back')")
        assert other.recv(8) == b"and back"
    assert told.do("[[one.getpeername(), one.getsockname()[1]] for one in others]") == ends
    await finish(told, client)


async def test_they_are_as_they_were_when_it_stood_still(stage, told):
    """Between the look at them and the stop: bytes come, options are set, and some of them end."""
    told.do(OPTIONS)
    numbers = {name: one for name, one in BY_NUMBER.items() if name not in INERT}
    told.do(f"numbers = {numbers!r}")
    told.do(READ)
    names = ("quiet", "little", "much", "changed", "half", "theirs", "ours", "gone")
    ends = {name: accepted(stage, told, name) for name in names}
    async with spoilt(stage.move("puppet"), stage.a.agent_socket, "/stop") as (moving, interposer):
        ends["little"].sendall(PATTERN[:100])
        ends["much"].sendall(bytes(50_000))
        told.do("for name, (level, number, value) in numbers.items(): changed.setsockopt(level, number, value)")
        told.do("changed.setblocking(False)")
        told.do("half.shutdown(socket.SHUT_WR)")
        ends["theirs"].shutdown(socket.SHUT_WR)
        told.do("ours.close()")
        ends["gone"].close()
        late = accepted(stage, told, "late")
        await asyncio.to_thread(told.do, "while len(much.recv(1 << 20, socket.MSG_PEEK)) < 50_000: pass")
        before = told.do("options(changed, numbers)")
        del before["TCP_WINDOW_CLAMP"]  # the kernel's own
        interposer.release.set()
        result = await moving
    assert_nothing_lost(result)
    assert result.flows.made_ahead == OWN + 3  # quiet, little, changed
    assert told.do("little.recv(1 << 20, socket.MSG_PEEK | socket.MSG_DONTWAIT).hex()") == PATTERN[:100].hex()
    assert told.do("len(read_some(much, 50_000))") == 50_000
    after = told.do("options(changed, numbers)")
    assert {name: after[name] for name in before} == before
    assert ends["half"].recv(10) == b"" == ends["ours"].recv(10)
    assert told.do("[theirs.recv(10).hex(), gone.recv(10).hex()]") == ["", ""]
    for name, end in (*ends.items(), ("late", late)):
        if name in ("quiet", "little", "changed", "late"):
            end.sendall(b"there")
            told.do(f"heard = {name}; heard.settimeout(30); heard.sendall(b'and back')")
            end.settimeout(30)
            assert end.recv(8) == b"and back"
    assert told.do("read_some(quiet, 5).decode()") == "there"
    assert told.do("[read_some(little, 105)[100:].decode(), read_some(late, 5).decode()]") == ["there", "there"]


@pytest.mark.parametrize("ended", ["before the stop", "during the hold"])
async def test_a_client_that_comes_again_from_the_same_port_in_the_hold_is_served(stage, told, ended):
    """The destination's proxy hears of it before it lets go of what it had made ahead for the connection before."""
    port = next(stage.own_ports)
    told.do(f"server = socket.create_server(('', {PORT}))")
    first = stage.connect(stage.client, stage.a.address, PORT, own_port=port)
    told.do("sock = server.accept()[0]")
    again = []

    def end():
        first.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
        first.close()

    def come_again():
        if ended == "during the hold":
            end()
        again.append(stage.connect(stage.client, stage.a.address, PORT, own_port=port))

    async with between(stage.a.agent_socket) as stop, between(stage.b.proxy_socket) as resume:
        stop.spoil("POST", "/stop", Spoil.HANG)
        resume.spoil("POST", "/resume", Spoil.HANG)
        moving = asyncio.create_task(stage.move("puppet", prepare=at_phase(Phase.COMMITTING, come_again)))
        await stop.reached.wait()
        if ended == "before the stop":
            end()
            told.do("sock.close()")
        stop.release.set()
        await resume.reached.wait()
        async with asyncio.timeout(30):
            while "connecting" not in {flow.state for flow in await stage.flows(stage.b)}:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        resume.release.set()
        result = await moving
    assert result.outcome == "succeeded", result.error
    assert result.flows.made_ahead == OWN + (ended == "during the hold")
    (sock,) = again
    sock.sendall(b"there")
    told.do(READ)
    told.do("server.settimeout(30); other = server.accept()[0]; other.sendall(b'and back')")
    assert told.do("read_some(other, 5).decode()") == "there"
    assert sock.recv(8) == b"and back"


async def test_they_wait_for_as_long_as_it_takes(stage, told):
    """What asks for life signs by itself gets them, though nobody runs at either end."""
    sock = accepted(stage, told)
    told.do("for name, value in ((4, 1), (5, 1), (6, 1), (18, 1500)): sock.setsockopt(6, name, value)")
    told.do("sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)")
    async with spoilt(stage.move("puppet"), stage.a.agent_socket, "/stop") as (moving, interposer):
        await asyncio.sleep(3)  # idle for a second, asked, and given up after another
        interposer.release.set()
        result = await moving
    assert_nothing_lost(result)
    assert result.flows.made_ahead == OWN + 1
    sock.sendall(b"x")
    assert told.do("sock.recv(1).decode()") == "x"


async def test_where_a_leg_cannot_be_built_ahead_they_go_by_their_images(stage, told):
    client = Duplex(accepted(stage, told))
    told.do("pump = Duplex(sock)")
    async with between(stage.b.proxy_socket) as interposer:
        interposer.spoil("POST", "/ahead", Spoil.REFUSE)
        result = await stage.move("puppet")
    assert_nothing_lost(result)
    assert result.flows.made_ahead == 0
    await finish(told, client)


async def test_taken_back_they_leave_nothing_and_are_made_anew(stage, told):
    """A client's ends may be made again at once: nothing was said by those that were for nothing."""
    client = Duplex(accepted(stage, told))
    told.do("pump = Duplex(sock)")
    quiet = accepted(stage, told, "quiet")
    for place in ("Adopting", "Restoring"):
        party, method, ending, spare = DESTINATION_REFUSES[place]
        async with between(stage.b.agent_socket if party == "agent" else stage.b.proxy_socket) as interposer:
            interposer.spoil(method, ending, Spoil.REFUSE, spare)
            assert (await stage.move("puppet")).outcome == "rolled-back"
        assert not await stage.flows(stage.b)
    result = await moved(stage, "puppet")
    # The stream may have too much unread.
    assert result.flows.made_ahead >= OWN + 1 or dumped_again(stage.a, result)
    told.do("quiet.sendall(b'here')")
    assert quiet.recv(4) == b"here"
    await finish(told, client)


async def test_few_go_by_their_images(stage, told, monkeypatch):
    monkeypatch.setattr(pairs, "FEWEST_PAIRS", 3)
    sock = accepted(stage, told)
    assert (await moved(stage, "puppet")).flows.made_ahead == 0
    sock.sendall(b"x")
    assert told.do("sock.recv(1).decode()") == "x"


@pytest.mark.parametrize("module", [AGENT, PROXY])
async def test_a_sidecar_that_is_killed_takes_its_ends_along(mended, module):
    """In silence: the next move needs the same addresses and ports."""
    told = await start_puppet(mended)
    sock = accepted(mended, told)
    b = mended.b
    # The other one is what the move hangs in meanwhile.
    path, other, ending = {
        AGENT: (b.agent_socket, b.proxy_socket, "/legs"), PROXY: (b.proxy_socket, b.agent_socket, "/restore"),
    }[module]  # fmt: skip
    async with spoilt(mended.move("puppet"), other, ending) as (moving, interposer):
        victim = running(b, module)
        os.kill(victim, signal.SIGKILL)
        await until(lambda: sidecar(b, module) not in (None, victim) and listens_at(path), "nobody is there anew")
        interposer.release.set()
        assert (await moving).outcome == "rolled-back"
    result = await moved(mended, "puppet")
    assert result.flows.made_ahead == OWN + 1
    sock.sendall(b"x")
    assert told.do("sock.recv(1).decode()") == "x"
