"""The way there: to the other agent's pod, with connections of every kind."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path
from typing import Any

from tests.harness.agent_rig import PORT, Rig, until
from tests.harness.solo_pod import PYTHON


def test_a_redis_moves_to_the_other_pod(rig: Rig) -> None:
    pid = rig.redis()
    with rig.pods[0].connect((rig.pods[0].address, PORT)) as client:
        client.sendall(b"SET k v\r\n")
        assert client.recv(100) == b"+OK\r\n"
    rig.prepare("m", "redis")
    sealed = rig.out("m", "stop", "dump", "adopt", "seal")
    restored = rig.restore("m", sealed)
    assert (restored["pid"], restored["processes"]) == (pid, 1)
    assert restored["verified_bytes"] == sealed["image_bytes"]
    assert rig.restore("m", sealed) == restored  # said twice, done once
    assert rig.pods[1].run(["cat", f"/proc/{pid}/stat"]).rsplit(")", 1)[1].split()[:2] == ["T", "1"]
    assert rig.out("m", "commit")["state"] == "committed"
    assert rig.out("m", "commit")["state"] == "committed"
    until(lambda: pid not in rig.pods[0].pids())
    assert rig.b.ask("POST", "/v1/inbound/m/resume")["state"] == "resumed"
    with rig.pods[1].connect((rig.pods[1].address, PORT)) as client:
        client.sendall(b"GET k\r\n")
        assert client.recv(100) == b"$1\r\nv\r\n"
    assert rig.state(rig.b, "redis") == "running"
    assert rig.a.ask("GET", "/v1/workloads") == []
    assert rig.a.refused("POST", "/v1/outbound/m/release")[:2] == (409, "wrong-state")


def test_connections_arrive_with_their_queues_and_states(rig: Rig) -> None:
    """Unread bytes, closed by the peer, closed by the workload: all are ESTABLISHED where they arrive."""
    source = (
        "import socket, time; s = socket.create_server(('', 7000)); c = [s.accept()[0] for _ in range(3)]; print('up',"
    )
    source += " flush=True)\nc[2].shutdown(socket.SHUT_WR)\nprint('shut', flush=True)\nwhile True: time.sleep(0.05)"
    rig.run("w", [PYTHON, "-I", "-S", "-c", source])
    log = rig.pods[0].directory / "w.log"
    with contextlib.ExitStack() as stack:
        until(lambda: _listens(rig, 7000))
        clients = [stack.enter_context(rig.pods[0].connect((rig.pods[0].address, 7000))) for _ in range(3)]
        until(lambda: "shut" in log.read_text())
        clients[0].sendall(b"unread bytes")
        clients[1].sendall(b"last words")
        clients[1].shutdown(socket.SHUT_WR)
        until(lambda: _states(rig, 0, 7000) == ["CLOSE-WAIT", "ESTAB", "FIN-WAIT-2"])
        rig.prepare("m", "w")
        rig.out("m", "stop", "dump")
        assert rig.out("m", "adopt")["flows"] == 3
        said = {tuple(one["peer"]): one for one in rig.adopter.said if one["kind"] == "flow"}
        mine = [said[client.getsockname()[:2]] for client in clients]
        assert [one["inq_len"] for one in mine] == [12, 10, 0]
        assert [(one["fin_received"], one["fin_sent"]) for one in mine] == [
            (False, False),
            (True, False),
            (False, True),
        ]
        sealed = rig.out("m", "seal")
        rig.restore("m", sealed)
        rig.out("m", "commit")
        # The one that had shut down its side does so again by itself: CRIU calls shutdown for it.
        assert _states(rig, 1, 7000) == ["ESTAB", "ESTAB", "FIN-WAIT-1"]
        queues = [line.split()[1] for line in rig.pods[1].run(["ss", "-Htn", "sport = :7000"]).splitlines()]
        assert sorted(queues) == ["0", "10", "12"]
        rig.b.ask("POST", "/v1/inbound/m/resume")


def _listens(rig: Rig, port: int) -> bool:
    return port in rig.a.ask("GET", "/v1/room")["listening_ports"]


def _states(rig: Rig, pod: int, port: int) -> list[str]:
    lines = rig.pods[pod].run(["ss", "-Htan", f"sport = :{port}"]).splitlines()
    return sorted(line.split()[0] for line in lines if not line.startswith("LISTEN"))


def test_a_tree_with_connections_inside_moves_whole(rig: Rig) -> None:
    """Parent and child talk over TCP: that connection is nobody else's, is not adopted, and goes on."""
    source = (
        "import os, socket, time\n"
        "l = socket.create_server(('', 0)); a = socket.create_connection((ADDRESS, l.getsockname()[1]))\n"
        "b, _ = l.accept()\n"
        "l.close()\n"
        "if os.fork() == 0:\n"
        "    while d := b.recv(100): b.sendall(d.upper())\n"
        "while True:\n"
        "    a.sendall(b'tick'); assert a.recv(100) == b'TICK'; print('tock', flush=True); time.sleep(0.02)\n"
    )
    for number, address in enumerate(("127.0.0.1", rig.pods[0].address)):
        name, migration = f"w{number}", f"m{number}"
        rig.run(name, [PYTHON, "-I", "-S", "-c", source.replace("ADDRESS", repr(address))])
        log = rig.pods[0].directory / f"{name}.log"
        until(lambda log=log: log.read_text().count("tock") > 2)  # type: ignore[misc]
        rig.prepare(migration, name)
        rig.out(migration, "stop", "dump")
        assert rig.out(migration, "adopt") == {"flows": 0, "listeners": 0, "legs": [], "paired": [], "cut": []}
        restored = rig.restore(migration, rig.out(migration, "seal"))
        assert restored["processes"] == 2
        rig.out(migration, "commit")
        rig.b.ask("POST", f"/v1/inbound/{migration}/resume")
        before = log.read_text().count("tock")
        until(lambda log=log, before=before: log.read_text().count("tock") > before + 2)  # type: ignore[misc]


def test_a_shared_descriptor_is_adopted_once(rig: Rig) -> None:
    source = (
        "import os, socket, time; s = socket.create_server(('', 7001)); c, _ = s.accept(); os.fork(); time.sleep(1000)"
    )
    rig.run("w", [PYTHON, "-I", "-S", "-c", source])
    until(lambda: _listens(rig, 7001))
    with rig.pods[0].connect((rig.pods[0].address, 7001)):
        until(lambda: len(rig.a.ask("GET", "/v1/workloads/w")["pids"]) == 2)
        rig.prepare("m", "w")
        rig.out("m", "stop", "dump")
        adopted = rig.out("m", "adopt")
        assert (adopted["flows"], adopted["listeners"]) == (1, 1)
        rig.out("m", "release")


def test_a_restore_that_waits_for_a_lock_can_be_broken_off(rig: Rig, tmp_path: Path) -> None:
    """The stopped source still holds the lock that the copy asks for; the inspection had said so."""
    lock = tmp_path / "lock"
    source = f"import fcntl, time; f = open('{lock}', 'w'); fcntl.flock(f, fcntl.LOCK_EX); print('up', flush=True)"
    pid = rig.run("w", [PYTHON, "-I", "-S", "-c", f"{source}; time.sleep(1000)"])
    until(lambda: "up" in (rig.pods[0].directory / "w.log").read_text())
    (held,) = rig.a.ask("GET", "/v1/workloads/w")["belongings"]["locks"]
    assert (held["file"], held["kind"]) == (str(lock), "flock")
    rig.prepare("m", "w")
    sealed = rig.out("m", "stop", "dump", "adopt", "seal")
    body = {"images": sealed["images"], "manifest_digest": sealed["manifest_digest"]}
    refusals: list[tuple[int, Any]] = []
    thread = threading.Thread(target=lambda: refusals.append(rig.b.call("POST", "/v1/inbound/m/restore", body)))
    thread.start()
    until(lambda: pid in rig.pods[1].pids())
    assert rig.b.ask("DELETE", "/v1/inbound/m")["state"] == "discarded"
    thread.join()
    ((_, answer),) = refusals
    words = "CRIU ended without an answer: signal 9 (Killed) has ended it"
    assert (answer["error"]["code"], answer["error"]["message"]) == ("criu-failed", words)
    until(lambda: pid not in rig.pods[1].pids())  # dead already; the pod's PID 1 still has to reap it
    rig.out("m", "release")
