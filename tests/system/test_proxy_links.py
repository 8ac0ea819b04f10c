"""Who comes to the link port, and links that cannot be had at once: real processes, real sockets."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
from collections.abc import Callable

from proxy.core.handshake import proof
from proxy.core.wire import Accepted, Challenge, Decoder, Frame, Hello, Join, Refused, Resume, encode
from tests.harness import proxy_rig as rigs
from tests.harness.proxy_move import Move, become, goes_on, has_begun, ledger
from tests.harness.proxy_process import eventually
from tests.harness.proxy_rig import Rig


def _challenge(sock: socket.socket) -> bytes:
    sock.settimeout(rigs.PATIENCE_SECONDS)
    (challenge,) = _frames(sock.recv(4096))
    assert isinstance(challenge, Challenge)
    return challenge.nonce


def _frames(data: bytes) -> list[Frame]:
    decoder, frames = Decoder(), []
    decoder.feed(data)
    while frame := decoder.next():
        frames.append(frame)
    return frames


def _answer(sock: socket.socket) -> list[Frame]:
    sock.settimeout(rigs.PATIENCE_SECONDS)
    heard = b""
    with contextlib.suppress(ConnectionResetError):
        while data := sock.recv(4096):
            heard += data
    return _frames(heard)


def test_strangers_on_the_link_port_are_turned_away_and_disturb_nobody(own_rig: Rig) -> None:
    """Each kind is logged once, and counted; what is relayed meanwhile goes on."""
    move = Move(own_rig, clients=2)
    has_begun(move.clients)
    move.run()
    token = bytes.fromhex(own_rig.token)
    heard: list[bytes] = []

    def hello(nonce: bytes, migration: str = own_rig.migration) -> bytes:
        heard.append(encode(Hello(migration, proof(token, nonce, migration))))
        return heard[-1]

    cases: list[tuple[Callable[[bytes], bytes], list[str]]] = [
        (lambda _: b"GET / HTTP/1.0\r\n\r\n", ["bad_request"]),
        (lambda _: b"\x16\x03\x01" + bytes(200), ["bad_request"]),
        (lambda _: b"MIDS\x01" + bytes(20), ["bad_request"]),
        (lambda _: b"MIDS\x05\x01\xff\xff", ["bad_request"]),
        (lambda _: encode(Join(5, 1)), ["bad_request"]),
        (lambda _: encode(Hello(own_rig.migration, token)), ["forbidden"]),
        (lambda _: hello(bytes(32)), ["forbidden"]),
        (lambda nonce: hello(nonce, "other"), ["forbidden"]),
        (lambda nonce: hello(nonce) + encode(Join(5, 1)), ["accepted", "conflict"]),
        (lambda nonce: hello(nonce) + encode(Resume(5, 1, 0)), ["accepted", "conflict"]),
        (lambda nonce: hello(nonce) + encode(Accepted()), ["accepted", "bad_request"]),
        (lambda _: heard[-1] + encode(Resume(1, 1, 0)), ["forbidden"]),  # replayed
    ]
    for number, (say, expected) in enumerate(cases):
        with own_rig.connect(rigs.ADDRESS["b"], 15008) as sock:
            sock.sendall(say(_challenge(sock)))
            answers = [frame.code if isinstance(frame, Refused) else "accepted" for frame in _answer(sock)]
            assert answers == expected, number
        goes_on([*move.clients, *move.apps], 1)
    metrics, log = own_rig.b.call("GET", "/metrics")[1], own_rig.b.log.read_text()
    for reason, times in {
        "wire_magic": 2,
        "wire_version": 1,
        "wire_length": 1,
        "wire_order": 2,
        "forbidden": 4,
        "conflict": 2,
    }.items():
        assert f'midstream_proxy_links_refused_total{{reason="{reason}"}} {times}.0' in metrics
    assert len(re.findall("link from .* refused: ", log)) == metrics.count("links_refused_total{")
    assert log.count("no migration here has that id and token") == 1
    move.check_whole()


def test_a_link_that_cannot_be_had_at_once_is_tried_again(rig: Rig) -> None:
    """The destination's link port is shut for a moment at the repoint; nothing has been sent, so nothing is lost."""
    move = Move(rig, clients=2)
    has_begun(move.clients)
    move.hold()
    move.restore()
    with rig.namespaces["b"].entered():
        subprocess.run(["nft", "-f", "-"], input=SHUT, text=True, check=True)
    move.commit()
    # one link is always dialled beforehand
    assert sorted(line["state"] for line in ledger(rig, "outbound")) == ["linking", "relaying"]
    with rig.namespaces["b"].entered():
        subprocess.run(["nft", "delete", "table", "inet", "shut"], check=True)
    goes_on([*move.clients, *move.apps])
    move.check_whole()


SHUT = """
table inet shut {
  chain input { type filter hook input priority 0; tcp dport 15008 tcp flags syn reject with tcp reset; }
}
"""


def tables(rig: Rig) -> str:
    with rig.namespaces["b"].entered():
        return subprocess.run(["nft", "list", "ruleset"], stdout=subprocess.PIPE, text=True, check=True).stdout


def test_the_routing_goes_with_the_last_flow_and_after_five_seconds_a_silent_stranger(own_rig: Rig) -> None:
    move = Move(own_rig, clients=1)
    has_begun(move.clients)
    move.run()
    assert f"{rigs.ADDRESS['b']} . {rigs.PORT} . {rigs.ADDRESS['c']}" in tables(own_rig)
    with own_rig.connect(rigs.ADDRESS["b"], 15008) as silent:
        move.check_whole()
        become(own_rig, "inbound", "closed")
        own_rig.b.ok("DELETE", f"/v1/inbound/{own_rig.migration}")
        eventually(lambda: "midstream" not in tables(own_rig), "the table is gone")
        assert [type(frame) for frame in _answer(silent)] == [Challenge, Refused]
    with own_rig.namespaces["b"].entered():
        rules = subprocess.run(["ip", "rule"], stdout=subprocess.PIPE, text=True, check=True).stdout
    assert "fwmark" not in rules


DEAF = f"""
table inet deaf {{
  chain input {{ type filter hook input priority 0; iif lo tcp dport {rigs.PORT} drop; }}
}}
"""


def test_the_routing_stays_until_the_workload_has_the_last_acknowledgement(own_rig: Rig) -> None:
    """The peer would say RST to the FIN that the workload sends again: it has no such connection."""
    move = Move(own_rig, clients=1)
    has_begun(move.clients)
    move.run()
    (client,), (app,) = move.clients, move.apps
    client.finish()
    assert app.verdict_after_end() == "ended"
    app.stop_writing()
    eventually(lambda: client.got == app.sent, "all of it")
    with own_rig.namespaces["b"].entered():
        subprocess.run(["nft", "-f", "-"], input=DEAF, text=True, check=True)
    app.shutdown()
    become(own_rig, "inbound", "closed")
    own_rig.b.ok("DELETE", f"/v1/inbound/{own_rig.migration}")
    eventually(lambda: said_again(own_rig) >= 2, "its FIN is sent again, and again")
    assert f"{rigs.ADDRESS['b']} . {rigs.PORT} . {rigs.ADDRESS['c']}" in tables(own_rig)
    with own_rig.namespaces["b"].entered():
        subprocess.run(["nft", "delete", "table", "inet", "deaf"], check=True)
    eventually(lambda: "midstream" not in tables(own_rig), "the table is gone")


def said_again(rig: Rig) -> int:
    """How often the workload has sent its FIN again: the last number in "timer:(on,400ms,1)", which may have run out
    just now."""
    listing = ("ss", "-tnoH", "state", "last-ack", f"sport = :{rigs.PORT}")
    with rig.namespaces["b"].entered():
        said = subprocess.run(listing, stdout=subprocess.PIPE, text=True, check=True).stdout
    timer = re.search(r"timer:\(.*,(\d+)\)", said)
    return int(timer[1]) if timer else 0
