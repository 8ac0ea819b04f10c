"""The proxy between real namespaces, with real sockets on both sides and no CRIU."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import pytest

from proxy.sys import repair
from tests.harness import proxy_rig as rigs
from tests.harness.proxy_image import KERNEL, is_listener
from tests.harness.proxy_move import Move, become, goes_on, has_begun, ledger
from tests.harness.proxy_process import eventually
from tests.harness.proxy_rig import Rig
from tests.harness.talker import SAID_BYTES

# --- streams


def test_streams_move_without_losing_a_byte(rig: Rig) -> None:
    move = Move(rig, clients=4)
    has_begun(move.clients)
    assert move.run()["flows"] == 4
    goes_on([*move.clients, *move.apps])
    move.check_whole()
    become(rig, "outbound", *["closed"] * 4)
    become(rig, "inbound", *["closed"] * 4)
    there = {line["flow"]: line for line in ledger(rig, "inbound")}
    for line in ledger(rig, "outbound"):
        assert there[line["flow"]]["to_app_bytes"] == line["to_app_bytes"] >= line["held_bytes"]
        assert there[line["flow"]]["to_peer_bytes"] == line["to_peer_bytes"]
    assert rig.a.ok("DELETE", f"/v1/outbound/{rig.migration}") == {"flows": 4}
    assert rig.b.ok("DELETE", f"/v1/inbound/{rig.migration}") == {"flows": 4}


def test_slow_readers_keep_megabytes_on_both_sides(rig: Rig) -> None:
    """Bytes unread by the workload travel in the image, bytes unsent stay with the peer leg; none comes twice."""
    move = Move(rig)
    move.clients = [move.join(slow=True), move.join(slow=True, quiet=True)]
    has_begun(move.clients)
    move.run()
    assert any(line["unsent_bytes"] > 1 << 16 for line in ledger(rig, "outbound"))
    move.check_whole()


@pytest.mark.parametrize("host", [rigs.ADDRESS6["a"], rigs.ADDRESS["a"]], ids=["ipv6", "mapped"])
def test_a_dual_stack_workload_moves(rig: Rig, host: str) -> None:
    move = Move(rig, host="::")
    move.clients = [move.join(host)]
    has_begun(move.clients)
    move.run()
    goes_on([*move.clients, *move.apps])
    late = rig.connect(host)
    late.sendall(b"hello")
    sock, peer = move.server.accept()
    with late, sock:
        seen = f"::ffff:{rigs.ADDRESS['c']}" if "." in host else rigs.ADDRESS6["c"]
        assert peer[:2] == (seen, late.getsockname()[1])
        assert sock.recv(10) == b"hello"
    move.check_whole()


def test_a_connection_that_the_workload_opened_moves(rig: Rig) -> None:
    with rig.namespaces["c"].entered():
        server = socket.create_server((rigs.ADDRESS["c"], rigs.PORT + 1))
    with server:
        server.settimeout(rigs.PATIENCE_SECONDS)
        move = Move(rig, dial=rigs.ADDRESS["c"])
        sock, _ = server.accept()
    live = repair.read(KERNEL, sock)
    repair.leave(KERNEL, sock)
    move.bases[rigs.PORT + 1] = ((live.rcv_nxt - live.unread) % 2**32, live.write_seq)
    move.clients = [rig.talker(sock)]
    has_begun(move.clients)
    move.run()
    assert move.legs[0][1] == [rigs.ADDRESS["c"], rigs.PORT + 1]
    goes_on([*move.clients, *move.apps])
    move.check_whole()


# --- ends


def test_a_flow_whose_peer_has_ended_moves(rig: Rig) -> None:
    """A FIN received before the move counts one sequence number and is passed on after it."""
    move = Move(rig)
    move.clients = [move.join()]
    has_begun(move.clients)
    (client,) = move.clients
    client.finish()
    eventually(lambda: b"08" in tcp_states(rig, "a"), "CLOSE_WAIT")
    move.run()
    (app,) = move.apps
    assert app.verdict_after_end() == "ended"
    assert app.got == client.sent
    move.check_whole()


def tcp_states(rig: Rig, pod: str) -> list[bytes]:
    with rig.namespaces[pod].entered():
        return [line.split()[3] for line in Path("/proc/thread-self/net/tcp").read_bytes().splitlines()[1:]]


def test_a_flow_whose_peer_ends_during_the_hold_moves(rig: Rig) -> None:
    move = Move(rig)
    move.clients = [move.join(quiet=True)]
    has_begun(move.clients)
    move.hold()
    move.restore()
    move.clients[0].shutdown()
    move.commit()
    (app,) = move.apps
    assert app.verdict_after_end() == "ended"
    move.check_whole()


@pytest.mark.parametrize("quiet", [False, True], ids=["peer talks", "peer silent"])
def test_a_flow_that_the_workload_has_ended_moves(rig: Rig, quiet: bool) -> None:
    """A FIN sent before the move: the restored socket sends it again, the peer sees one end of stream."""
    move = Move(rig)
    move.clients = [move.join(first=b"f", quiet=quiet)]
    (client,) = move.clients
    assert client.verdict_after_end() == "ended"
    move.run()
    (app,) = move.apps
    if not quiet:
        goes_on(move.apps)
    become(rig, "outbound", "link_ended")
    client.finish()
    assert app.verdict_after_end() == "ended"
    assert app.got == client.sent
    assert client.got == SAID_BYTES
    become(rig, "outbound", "closed")
    become(rig, "inbound", "closed")


def test_a_flow_that_the_workload_has_ended_and_its_peer_since_the_snapshot_moves(rig: Rig) -> None:
    move = Move(rig)
    move.clients = [move.join(first=b"f", quiet=True)]
    (client,) = move.clients
    assert client.verdict_after_end() == "ended"
    rig.prepare()
    move.freeze()
    client.finish()
    eventually(lambda: b"06" in tcp_states(rig, "a"), "TIME_WAIT: the socket itself is CLOSE")
    move.adopt()
    move.restore()
    move.commit()
    assert move.apps[0].verdict_after_end() == "ended"
    become(rig, "outbound", "closed")
    become(rig, "inbound", "closed")


@pytest.mark.parametrize("who", ["peer", "workload"])
def test_a_half_close_after_the_move_leaves_the_other_half(rig: Rig, who: str) -> None:
    move = Move(rig, clients=1)
    has_begun(move.clients)
    move.run()
    (client,), (app,) = move.clients, move.apps
    ending, other = (client, app) if who == "peer" else (app, client)
    ending.finish()
    assert other.verdict_after_end() == "ended"
    assert other.got == ending.sent
    goes_on([ending])
    become(rig, "outbound", "leg_ended" if who == "peer" else "link_ended")
    move.check_whole()


@pytest.mark.parametrize("who", ["peer", "workload"])
def test_a_reset_after_the_move_is_passed_on(rig: Rig, who: str) -> None:
    move = Move(rig, clients=1)
    has_begun(move.clients)
    move.run()
    (client,), (app,) = move.clients, move.apps
    resetting, other = (client, app) if who == "peer" else (app, client)
    resetting.reset()
    assert other.verdict_after_end() == "ConnectionResetError"
    become(rig, "outbound", "reset")
    become(rig, "inbound", "reset")


def test_a_reset_during_the_hold_reaches_the_workload(rig: Rig) -> None:
    move = Move(rig, clients=1)
    has_begun(move.clients)
    move.hold()
    move.clients[0].reset()
    move.restore()
    move.commit()
    (app,) = move.apps
    assert app.verdict_after_end() == "ConnectionResetError"


def test_a_silent_half_closed_flow_still_hears_of_a_reset(rig: Rig) -> None:
    """The peer has ended its stream, nothing is written: only the kernel's hang-up tells of the reset."""
    move = Move(rig)
    move.clients = [move.join(first=b"q", quiet=True)]
    eventually(move.is_heard, "the workload knows what is asked of it")
    move.run()
    (client,), (app,) = move.clients, move.apps
    app.stop_writing()
    eventually(lambda: client.got == app.sent, "all of it")
    client.finish()
    assert app.verdict_after_end() == "ended"
    become(rig, "outbound", "leg_ended")
    client.reset()
    become(rig, "outbound", "reset")
    become(rig, "inbound", "reset")


# --- connections that come later


def test_connections_during_and_after_the_hold_reach_the_destination(rig: Rig) -> None:
    move = Move(rig)
    move.hold()
    early = [rig.connect() for _ in range(40)]  # the workload's own backlog is 16
    for sock in early:
        sock.sendall(b"early")
    move.restore()
    assert move.commit()["accepted"] == 40
    late = rig.connect()
    late.sendall(b"late")
    native = rig.connect(rigs.ADDRESS["b"], own_port=True)  # else to the workload it may be one with a relayed one
    native.sendall(b"native")
    eventually(lambda: asked_for(rig) == 41, "keepalive asks for the peers that the old address has")
    said = {}
    for _ in range(42):
        sock, peer = move.server.accept()
        said[peer] = sock.recv(10)
        sock.sendall(said[peer].upper())
        sock.close()
    for sock in (*early, late, native):
        assert sock.recv(10) == said[sock.getsockname()].upper()
        assert sock.recv(10) == b""
        sock.close()
    assert sorted(set(said.values())) == [b"early", b"late", b"native"]
    become(rig, "inbound", *["closed"] * 41)  # the native one is none of the proxy's business
    assert {line["direction"] for line in ledger(rig, "inbound")} == {"accepted"}


def asked_for(rig: Rig) -> int:
    """How many of the peers at the old address TCP's keepalive asks for."""
    listing = ("ss", "-tnoH", "state", "established", f"sport = :{rigs.PORT}")
    with rig.namespaces["a"].popen(*listing, stdout=subprocess.PIPE) as process:
        return process.communicate()[0].count(b"timer:(keepalive")


def test_a_connection_that_the_destination_refuses_is_reset(rig: Rig) -> None:
    move = Move(rig)
    move.hold()
    move.socks = []
    move.commit()  # nobody listens there
    with pytest.raises(ConnectionResetError), rig.connect() as sock:  # it may come while we still connect
        sock.recv(1)
    (line,) = ledger(rig, "outbound")
    assert "Connection refused" in line["error"]


# --- rollback


@pytest.mark.parametrize("how", ["agent", "api"])
def test_a_rollback_is_as_if_nothing_had_been(rig: Rig, how: str) -> None:
    move = Move(rig, clients=3)
    has_begun(move.clients)
    rig.prepare(links=3)
    move.freeze()
    own = [image.sock.dup() for image in move.images]
    move.adopt()
    waiting = rig.connect()
    waiting.sendall(b"q")
    move.restore()
    assert rig.b.ok("DELETE", f"/v1/inbound/{rig.migration}") == {"flows": 3}
    if how == "agent":
        assert move.agent.ask({"op": "release", "migration": rig.migration}) == {"released": 3}
        assert move.agent.ask({"op": "release", "migration": rig.migration}) == {"released": 0}
    else:
        assert rig.a.ok("DELETE", f"/v1/outbound/{rig.migration}") == {"flows": 3}
    assert rig.a.ok("GET", "/v1/flows") == []
    assert backlogs(own) == [16]
    for sock in own:
        sock.close()
    move.workload.thaw()
    goes_on(move.clients, 16 << 20)
    waiting.close()
    assert {client.verdict for client in move.clients} == {"open"}


def backlogs(socks: list[socket.socket]) -> list[int]:
    infos = [sock.getsockopt(6, 11, 104) for sock in socks if is_listener(sock)]
    return [int.from_bytes(info[28:32], "little") for info in infos]


def test_a_dead_agent_does_not_end_the_hold(rig: Rig) -> None:
    move = Move(rig, clients=1)
    has_begun(move.clients)
    move.hold()
    move.agent.close()
    move.restore()
    move.commit()
    goes_on([*move.clients, *move.apps])
    move.check_whole()
