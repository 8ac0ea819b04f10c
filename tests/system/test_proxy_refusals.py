"""What the proxy refuses, what it is allowed to do, and what it bounds: real processes, real sockets."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from proxy.api import MAX_BODY_BYTES, METRICS_PORT
from proxy.sys import repair
from tests.harness import proxy_rig as rigs
from tests.harness.proxy_image import KERNEL
from tests.harness.proxy_move import Move, become, goes_on, has_begun, ledger
from tests.harness.proxy_process import eventually
from tests.harness.proxy_rig import Rig

TOKEN = "ab" * 32
STRANGER = 65534


def test_bad_requests_are_answered_with_a_problem(rig: Rig) -> None:
    outbound = {"destination": [rigs.ADDRESS["b"], 15008], "token": TOKEN, "readdress": {}}
    cases: list[tuple[str, str, Any, int, str]] = [
        ("PUT", "/v1/inbound/m", b"{", 400, "bad_request"),
        ("PUT", "/v1/inbound/m", b"\xff\xfe", 400, "bad_request"),
        ("PUT", "/v1/inbound/m", {}, 400, "bad_request"),
        ("PUT", "/v1/inbound/m", {"token": TOKEN, "more": 1}, 400, "bad_request"),
        ("PUT", "/v1/inbound/m", {"token": "short"}, 400, "bad_request"),
        ("PUT", "/v1/inbound/m", {"token": "zz" * 32}, 400, "bad_request"),
        ("PUT", f"/v1/inbound/{'m' * 200}", {"token": TOKEN}, 400, "bad_request"),
        ("PUT", "/v1/outbound/m", {**outbound, "token": "short"}, 400, "bad_request"),
        ("PUT", "/v1/outbound/m", {**outbound, "destination": ["no address", 1]}, 400, "bad_request"),
        ("PUT", "/v1/outbound/m", {**outbound, "destination": [rigs.ADDRESS["b"], 70000]}, 400, "bad_request"),
        ("PUT", "/v1/outbound/m", {**outbound, "links": -1}, 400, "bad_request"),
        ("PUT", "/v1/outbound/m", {**outbound, "destination": [rigs.ADDRESS["b"], 1]}, 502, "link_failed"),
        ("PUT", "/v1/outbound/m", outbound, 502, "link_failed"),  # the destination does not know the token
        ("POST", "/v1/inbound/m/legs", b"x" * (MAX_BODY_BYTES + 1), 413, "too_large"),
        ("POST", "/v1/inbound/m/legs", {"legs": []}, 404, "unknown_migration"),
        ("POST", "/v1/inbound/m/resume", None, 404, "unknown_migration"),
        ("GET", "/v1/inbound/m/ledger", None, 404, "unknown_migration"),
        ("POST", "/v1/outbound/m/repoint", None, 404, "unknown_migration"),
        ("GET", "/v1/outbound/m/ledger", None, 404, "unknown_migration"),
        ("GET", "/v2/flows", None, 404, "not_found"),
        ("DELETE", "/v1/flows", None, 405, "method_not_allowed"),
    ]
    for method, path, body, status, code in cases:
        raw = body if isinstance(body, bytes) else None
        got, answer = rig.b.call(method, path, None if raw else body, raw)
        assert (got, answer["error"]["code"]) == (status, code), (method, path, str(body)[:80], answer)
        assert answer["error"]["hint"]
        assert answer["error"]["fault"] in {"request", "peer"}
    assert rig.b.ok("DELETE", "/v1/inbound/m") == {"flows": 0}
    assert rig.b.ok("DELETE", "/v1/outbound/m") == {"flows": 0}


def test_calls_in_the_wrong_state_change_nothing(rig: Rig) -> None:
    rig.prepare(links=2)
    assert rig.a.call("PUT", f"/v1/outbound/{rig.migration}", rig.plan(links=2))[1] == {"links": 2}
    assert rig.a.call("PUT", f"/v1/outbound/{rig.migration}", rig.plan(links=3))[1]["error"]["code"] == "conflict"
    assert rig.b.call("PUT", f"/v1/inbound/{rig.migration}", {"token": TOKEN})[1]["error"]["code"] == "conflict"
    assert rig.b.ok("PUT", f"/v1/inbound/{rig.migration}", {"token": rig.token})["links"] > 0
    for _ in range(2):
        assert rig.b.ok("POST", f"/v1/inbound/{rig.migration}/resume") == {"resumed": 0}
        assert rig.a.ok("POST", f"/v1/outbound/{rig.migration}/repoint") == {
            "flows": 0,
            "held_bytes": 0,
            "accepted": 0,
        }
    status, answer = rig.b.call("POST", f"/v1/inbound/{rig.migration}/legs", {"legs": []})
    assert (status, answer["error"]["code"]) == (409, "wrong_state")
    with contextlib.closing(rigs.Agent(rig.a)) as agent:
        answer = agent.ask({"op": "adopt", "migration": rig.migration, "sockets": []})
    assert answer["error"]["code"] == "wrong_state"


def test_each_step_may_be_said_twice(rig: Rig) -> None:
    move = Move(rig, clients=2)
    has_begun(move.clients)
    rig.prepare(links=2)
    move.freeze()
    again = [image.sock.dup() for image in move.images]
    move.adopt()
    for image, sock in zip(move.images, again, strict=True):
        image.sock = sock
    legs = move.legs
    move.adopt()
    assert move.legs == legs
    move.restore()
    assert rig.b.ok("POST", f"/v1/inbound/{rig.migration}/legs", {"legs": move.legs}) == {"built": 2}
    answer = move.commit()
    assert rig.repoint() == answer
    assert answer["flows"] == 2
    status, refusal = rig.a.call("DELETE", f"/v1/outbound/{rig.migration}")
    assert (status, refusal["error"]["code"]) == (409, "still_relayed")
    status, refusal = rig.b.call("DELETE", f"/v1/inbound/{rig.migration}")
    assert (status, refusal["error"]["code"]) == (409, "still_relayed")
    goes_on(move.clients)
    assert rig.a.ok("DELETE", f"/v1/outbound/{rig.migration}?force=1") == {"flows": 2}
    assert {client.verdict_after_end() for client in move.clients} == {"ConnectionResetError"}
    become(rig, "inbound", "reset", "reset")


def test_only_root_and_the_starter_may_call(rig: Rig) -> None:
    """The folder and the socket are closed to others already; open them, and the kernel's word is asked."""
    for path in (rig.a.directory, rig.a.directory / "control.sock", rig.a.directory / "adopt.sock"):
        path.chmod(0o777)
    control = "import socket; s = socket.socket(socket.AF_UNIX); s.connect('control.sock');"
    control += "s.sendall(b'GET /v1/flows HTTP/1.0\\r\\n\\r\\n'); print(s.makefile().read())"
    assert '"code":"forbidden"' in _as_stranger(rig.a.directory, control)
    adopt = "import socket; s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.connect('adopt.sock');"
    adopt += "print(s.recv(9999), s.recv(9999))"
    assert '"code":"forbidden"' in _as_stranger(rig.a.directory, adopt)
    rig.a.directory.chmod(0o700)
    assert "Permission denied" in _as_stranger(rig.a.directory, control)


def _as_stranger(directory: Path, program: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-c", program],
        preexec_fn=lambda: (os.chdir(directory), os.setuid(STRANGER)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return ran.stdout


def test_the_tcp_port_shows_health_and_metrics_only(rig: Rig) -> None:
    with rig.namespaces["c"].entered():
        root = f"http://{rigs.ADDRESS['b']}:{METRICS_PORT}"
        with urllib.request.urlopen(f"{root}/metrics", timeout=30) as answer:
            assert "midstream_proxy_held_bytes 0.0" in answer.read().decode()
        with urllib.request.urlopen(f"{root}/healthz", timeout=30) as answer:
            health = json.load(answer)
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{root}/v1/flows", timeout=30)
    assert refused.value.code == 404
    assert json.load(refused.value)["error"]["code"] == "not_found"
    refused.value.close()
    assert health["uid"] == 64901
    assert health["capabilities"] == ["NET_ADMIN"]


def test_bad_adoptions_are_refused_whole(rig: Rig) -> None:
    rig.prepare()
    with contextlib.ExitStack() as stack:
        agent = stack.enter_context(contextlib.closing(rigs.Agent(rig.a)))
        closed, datagrams = (stack.enter_context(socket.socket(type=kind)) for kind in (1, 2))
        file = stack.enter_context(open("/dev/null"))
        flow = {"flow": 1, "kind": "flow", "local": ["10.0.0.1", 1], "peer": ["10.0.0.2", 2]}
        cases: list[tuple[Any, list[int], str]] = [
            (b"{", [], "bad_request"),
            (b'{"op":"dance"}', [], "bad_request"),
            ({"op": "adopt", "migration": rig.migration, "sockets": [flow]}, [], "bad_request"),
            ({"op": "adopt", "migration": "nobody's", "sockets": []}, [], "unknown_migration"),
            ({"op": "adopt", "migration": rig.migration, "sockets": [flow]}, [file.fileno()], "socket_unusable"),
            (
                {"op": "adopt", "migration": rig.migration, "sockets": [{**flow, "kind": "listener"}]},
                [file.fileno()],
                "socket_unusable",
            ),
            ({"op": "adopt", "migration": rig.migration, "sockets": [flow]}, [datagrams.fileno()], "socket_unusable"),
            (
                {"op": "adopt", "migration": rig.migration, "sockets": [{**flow, "outq_seq": 9}]},
                [closed.fileno()],
                "ledger_violated",
            ),
            ({"op": "adopt", "migration": rig.migration, "sockets": [{**flow, "inq_seq": -1}]}, [], "bad_request"),
        ]
        for message, descriptors, code in cases:
            raw = message if isinstance(message, bytes) else None
            answer = agent.ask(message, descriptors, raw)
            assert answer["error"]["code"] == code, (message, answer)
        assert agent.ask({"op": "release", "migration": "nobody's"}) == {"released": 0}
    assert rig.a.ok("GET", "/healthz")["held_flows"] == 0


@pytest.mark.parametrize("number", ["outq_seq", "inq_seq", "inq_len"])
def test_a_ledger_that_does_not_balance_aborts(rig: Rig, number: str) -> None:
    move = Move(rig, clients=1)
    has_begun(move.clients)
    rig.prepare()
    move.freeze()
    message = {
        "op": "adopt",
        "migration": rig.migration,
        "sockets": [image.request() for image in move.images],
    }
    (flow,) = [item for item in message["sockets"] if item["kind"] == "flow"]  # type: ignore[attr-defined]
    flow[number] = (flow[number] + (1 if number != "inq_len" else 1 << 30)) % 2**32
    if number == "inq_seq":
        flow["inq_seq"] = (flow["inq_seq"] + (1 << 20)) % 2**32
    answer = move.agent.ask(message, [image.sock.fileno() for image in move.images])
    assert answer["error"]["code"] == "ledger_violated"
    assert rig.a.ok("DELETE", f"/v1/outbound/{rig.migration}") == {"flows": 0}
    for image in move.images:
        if not image.listener:
            repair.leave(KERNEL, image.sock)
        image.sock.close()
    move.workload.thaw()
    goes_on(move.clients)


def test_the_hold_bounds_what_peers_may_add(tmp_path: Path) -> None:
    """A megabyte for all: the windows shut, nobody is dropped, and after the repoint the flows are fast again."""
    with contextlib.closing(Rig(tmp_path)) as rig:
        rig.start_proxies()
        move = Move(rig, clients=2)
        eventually(lambda: all(client.got > 64 << 20 for client in move.clients), "buffers have grown")
        rig.prepare(links=2, policy={"max_held_bytes": 1 << 20})
        move.freeze()
        move.adopt()
        allowed = (1 << 20) + sum(image.live.offered for image in move.images if not image.listener)
        held = settled(lambda: rig.a.ok("GET", "/healthz")["held_bytes"])
        assert held <= allowed * 1.25, (held, allowed)
        move.restore()
        move.commit()
        goes_on([*move.clients, *move.apps], 64 << 20)
        move.check_whole()
        assert sum(line["held_bytes"] for line in ledger(rig, "outbound")) == held


def settled(read: Any) -> int:
    """A value that has not changed for a second."""
    last, since = read(), 0
    while since < 10:
        time.sleep(0.1)
        now = read()
        since = since + 1 if now == last else 0
        last = now
    return int(last)
