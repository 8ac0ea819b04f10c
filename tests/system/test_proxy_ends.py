"""The end of a proxy, its own or the other one's, before and after the repoint: real processes, real sockets."""

from __future__ import annotations

import contextlib
from pathlib import Path

from tests.harness import proxy_rig as rigs
from tests.harness.proxy_move import Move, become, goes_on, has_begun
from tests.harness.proxy_process import eventually
from tests.harness.proxy_rig import Rig


def test_a_destination_that_dies_takes_its_flows_with_it(own_rig: Rig) -> None:
    move = Move(own_rig, clients=2)
    has_begun(move.clients)
    move.run()
    goes_on(move.clients)
    own_rig.b.process.kill()
    own_rig.b.process.wait()
    assert {client.verdict_after_end() for client in move.clients} <= {"ConnectionResetError", "ended"}
    eventually(lambda: not own_rig.a.ok("GET", "/v1/flows"), "nothing is relayed")


def test_nothing_is_imported_after_root_is_given_up(tmp_path: Path) -> None:
    with contextlib.closing(Rig(tmp_path)) as rig:
        rig.start_proxies(argv=("-m", "tests.harness.late_imports"))
        move = Move(rig, clients=1)
        has_begun(move.clients)
        rig.a.call("PUT", "/v1/outbound/x", {})
        rig.a.call("GET", "/nowhere")
        rig.a.call("GET", "/metrics")
        rig.a.call("GET", "/healthz")
        move.run()
        goes_on(move.clients)
        rig.a.call("GET", "/metrics")
        rig.a.call("GET", "/v1/flows")
        move.check_whole()
        become(rig, "inbound", "closed")
        for proxy in (rig.a, rig.b):
            proxy.stop()
            assert proxy.complaints() == []


def test_the_end_of_the_proxy_gives_held_flows_back(own_rig: Rig) -> None:
    move = Move(own_rig, clients=2)
    has_begun(move.clients)
    move.hold(2)
    own_rig.a.stop()
    assert move.agent.sock.recv(10) == b""  # the agent learns of it, and rolls back
    assert list(own_rig.a.directory.iterdir()) == []
    move.workload.thaw()
    goes_on(move.clients)


def test_the_end_of_the_proxy_waits_for_relayed_flows(tmp_path: Path) -> None:
    with contextlib.closing(Rig(tmp_path)) as rig:
        rig.start_proxies("--drain-seconds", "20")
        move = Move(rig, clients=1)
        has_begun(move.clients)
        move.run()
        rig.a.process.terminate()
        eventually(lambda: not (rig.a.directory / "control.sock").exists(), "the end has begun")
        goes_on(move.clients)
        move.check_whole()
        assert rig.a.process.wait(rigs.PATIENCE_SECONDS) == 0


def test_the_end_of_the_proxy_resets_what_is_relayed(own_rig: Rig) -> None:
    move = Move(own_rig, clients=1)
    has_begun(move.clients)
    move.run()
    own_rig.a.stop()
    assert move.clients[0].verdict_after_end() == "ConnectionResetError"
    assert move.apps[0].verdict_after_end() == "ConnectionResetError"
