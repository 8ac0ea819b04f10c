"""The way back: a rollback, a lease that runs out, a proxy that dies or refuses."""

from __future__ import annotations

import contextlib
import platform
import socket
import threading
import time
from pathlib import Path

import pytest

from tests.harness.agent_rig import IMAGE_KEY, PORT, SLEEP, Rig, dumping, halt, ping, stopped, until
from tests.harness.solo_pod import PYTHON


def test_rollback_leaves_connections_as_they_were(rig: Rig) -> None:
    pid = rig.redis()
    clients = [rig.pods[0].connect((rig.pods[0].address, PORT)) for _ in range(5)]
    with contextlib.ExitStack() as stack:
        for client in clients:
            stack.enter_context(client)
            ping(client)
        rig.prepare("m", "redis")
        assert rig.out("m", "stop")["state"] == "stopped"
        assert stopped(rig, pid)
        dumped, adopted = rig.out("m", "dump"), rig.out("m", "adopt")
        assert (adopted["flows"], len(dumped["legs"] + adopted["legs"]), adopted["listeners"]) == (5, 5, 2)
        clients[0].sendall(b"PING\r\n")  # during the hold
        custody = rig.out("m", "seal", "release")
        assert custody["state"] == "released"
        assert {"stop", "dump", "adopt", "seal", "release"} <= set(custody["seconds"])
        assert clients[0].recv(100) == b"+PONG\r\n"
        for client in clients:
            ping(client)
        with rig.pods[0].connect((rig.pods[0].address, PORT)) as late:
            ping(late)
    assert rig.adopter.held == []
    # SO_REUSEADDR is back: the port can be bound again although connections of it are in TIME_WAIT.
    assert rig.state(rig.a, "redis") == "running"
    rig.a.ask("DELETE", "/v1/workloads/redis")
    rig.redis()


def test_rollback_without_a_dump_and_without_anything(rig: Rig) -> None:
    pid = rig.run("w", SLEEP)
    rig.prepare("m", "w")
    rig.out("m", "stop", "release")
    assert not stopped(rig, pid)
    rig.prepare("n", "w")
    assert rig.out("n", "release")["state"] == "released"
    assert rig.out("n", "release")["state"] == "released"
    assert rig.a.refused("POST", "/v1/outbound/n/stop")[:2] == (409, "wrong-state")


def test_criu_waits_for_the_stop_and_has_touched_nothing(rig: Rig) -> None:
    pid = rig.redis()
    with rig.pods[0].connect((rig.pods[0].address, PORT)) as client:
        rig.prepare("m", "redis")
        assert rig.criu(rig.pods[0]) == []
        assert rig.out("m", "ready", "ready")["state"] == "prepared"
        (criu,) = rig.criu(rig.pods[0])
        ping(client)
        status = rig.pods[0].run(["cat", f"/proc/{pid}/status"])
        assert "TracerPid:\t0" in status
        assert rig.out("m", "release")["state"] == "released"
        until(lambda: criu not in rig.pods[0].pids())
        ping(client)
        assert rig.state(rig.a, "redis") == "running"


def test_criu_that_ends_before_the_stop_fails_the_dump(rig: Rig) -> None:
    rig.run("w", SLEEP)
    rig.prepare("m", "w")
    rig.out("m", "ready")
    (criu,) = rig.criu(rig.pods[0])
    rig.pods[0].run(["kill", "-9", str(criu)])
    rig.out("m", "stop")
    assert rig.a.refused("POST", "/v1/outbound/m/dump")[1] == "criu-failed"
    rig.out("m", "release")
    assert rig.state(rig.a, "w") == "running"


def test_who_is_killed_while_all_stand_still_keeps_nobody_stopped(rig: Rig) -> None:
    """Nor whoever has got its PID since."""
    source = "import os, signal, time; signal.signal(signal.SIGCHLD, signal.SIG_IGN); print(os.fork(), flush=True)"
    pid = rig.run("w", [PYTHON, "-I", "-S", "-c", f"{source}; time.sleep(1000)"])
    log = rig.pods[0].directory / "w.log"
    until(lambda: len(log.read_text().split()) == 2)
    (child,) = set(log.read_text().split()) - {"0"}
    rig.prepare("m", "w")
    rig.out("m", "stop")
    rig.pods[0].run(["kill", "-9", child])
    until(lambda: int(child) not in rig.pods[0].pids())
    with socket.socket() as sock, rig.pods[0].sleeper(int(child), sock.fileno()):
        assert rig.out("m", "release")["state"] == "released"
        assert not stopped(rig, pid)


def test_what_was_stopped_before_stays_stopped(rig: Rig) -> None:
    pid = rig.run("w", SLEEP)
    rig.pods[0].run(["kill", "-STOP", str(pid)])
    rig.prepare("m", "w")
    rig.out("m", "stop", "release")
    assert stopped(rig, pid)
    rig.prepare("n", "w")
    sealed = rig.out("n", "stop", "dump", "adopt", "seal")
    rig.restore("n", sealed)
    rig.out("n", "commit")
    rig.b.ask("POST", "/v1/inbound/n/resume")
    assert rig.state(rig.b, "w") == "stopped"


def test_the_lease_lets_the_workload_go_and_refuses_the_commit(rig: Rig) -> None:
    pid = rig.run("w", SLEEP)
    rig.prepare("m", "w", hold=0.3)
    rig.out("m", "stop")
    until(lambda: rig.a.ask("GET", "/v1/migrations")[0]["state"] == "released")
    assert not stopped(rig, pid)
    assert rig.a.ask("GET", "/v1/migrations")[0]["reason"] == "the lease ran out"
    status, code, message = rig.a.refused("POST", "/v1/outbound/m/commit")
    assert (status, code, message) == (409, "lease-expired", "the hold was promised to last 0.3 s at most")


def test_a_release_breaks_off_a_dump(rig: Rig) -> None:
    pid = rig.large(400)
    rig.prepare("m", "w")
    rig.out("m", "stop")
    with dumping(rig) as refused:
        assert rig.out("m", "release")["state"] == "released"
        assert not stopped(rig, pid)
    assert refused == [(409, "wrong-state", "the dump was broken off: the controller asked for it")]
    assert rig.state(rig.a, "w") == "running"
    rig.a.ask("DELETE", "/v1/outbound/m")
    rig.prepare("n", "w")
    assert rig.out("n", "stop", "dump")["processes"] == 1, "nothing of CRIU's was left in it"
    rig.out("n", "release")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="its registers")
def test_a_thread_that_waits_in_poll_goes_on_waiting(rig: Rig) -> None:
    """It has got no signal that it knows of. (Python would hide EINTR: so it is libc that is asked.)"""
    source = (
        "import ctypes, threading, time\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "def wait():\n"
        "    print('begins', flush=True)\n"
        "    print(libc.poll(None, 0, 1500), ctypes.get_errno(), flush=True)\n"
        "threading.Thread(target=wait).start()\n"
        "wait()\n"
        "time.sleep(1000)\n"
    )
    pid = rig.run("w", [PYTHON, "-I", "-S", "-c", source])
    log = rig.pods[0].directory / "w.log"
    until(lambda: log.read_text().count("begins") == 2)
    rig.prepare("m", "w")
    rig.out("m", "stop", "dump", "release")
    assert not stopped(rig, pid)
    until(lambda: len(log.read_text().splitlines()) == 4)
    assert log.read_text().splitlines()[2:] == ["0 0", "0 0"]


def test_a_lease_breaks_off_the_packing_of_files(rig: Rig, tmp_path: Path) -> None:
    """However long that would take: here for ever."""
    file = tmp_path / "file"
    file.write_bytes(b"at first")
    pid = rig.run("w", SLEEP)
    body = {"workload": "w", "readdress": {}, "max_hold_seconds": 3, "image_key": IMAGE_KEY}
    rig.a.ask("PUT", "/v1/outbound/m", body | {"files": {"named": [str(tmp_path)]}})
    assert rig.out("m", "pack")["files"] == 1
    file.write_bytes(b"x" * (256 << 20))
    began = time.monotonic()
    rig.out("m", "stop")
    refused: list[tuple[int, str, str]] = []
    thread = threading.Thread(target=lambda: refused.append(rig.a.refused("POST", "/v1/outbound/m/dump")))
    thread.start()
    halt(rig.pods[0], "tar")
    until(lambda: rig.a.ask("GET", "/v1/migrations")[0]["state"] == "released")
    assert not stopped(rig, pid)
    assert time.monotonic() - began > 2.9
    thread.join()
    assert refused == [(409, "lease-expired", "the dump was broken off: the lease ran out")]
    assert "tar" not in rig.pods[0].run(["ps", "-eo", "comm="]).split()


def test_a_proxy_that_dies_during_the_hold_releases_the_workload(rig: Rig) -> None:
    rig.redis()
    with rig.pods[0].connect((rig.pods[0].address, PORT)) as client:
        ping(client)
        rig.prepare("m", "redis")
        rig.out("m", "stop", "dump", "adopt")
        rig.adopter.die()
        try:
            until(lambda: rig.a.ask("GET", "/v1/migrations")[0]["state"] == "released")
            assert rig.a.ask("GET", "/v1/migrations")[0]["reason"] == "the proxy died"
            ping(client)
            rig.prepare("n", "redis")
            rig.out("n", "stop", "dump")
            assert rig.a.refused("POST", "/v1/outbound/n/adopt")[:2] == (502, "proxy-unreachable")
            rig.out("n", "release")
            ping(client)
        finally:
            rig.adopter.__init__(rig.a.adopt_path)  # type: ignore[misc]


def test_a_proxy_that_refuses_is_quoted(rig: Rig) -> None:
    rig.redis()
    rig.adopter.die()
    rig.adopter.__init__(rig.a.adopt_path, refuse="the ledger disagrees")  # type: ignore[misc]
    try:
        rig.prepare("m", "redis")
        rig.out("m", "stop", "dump")
        refusal = (502, "proxy-refused", "the proxy refused: the ledger disagrees")
        assert rig.a.refused("POST", "/v1/outbound/m/adopt") == refusal
        rig.out("m", "release")
    finally:
        rig.adopter.die()
        rig.adopter.__init__(rig.a.adopt_path)  # type: ignore[misc]


def test_what_criu_said_of_a_restore_that_failed_outlives_its_images(rig: Rig, tmp_path: Path) -> None:
    """Before anything is deleted it is kept elsewhere: the images go with the migration."""
    path = tmp_path / "open"
    path.touch()
    source = f"import time; f = open('{path}'); print('up', flush=True); time.sleep(1000)"
    rig.run("w", [PYTHON, "-I", "-S", "-c", source])
    until(lambda: "up" in (rig.pods[0].directory / "w.log").read_text())
    rig.prepare("m", "w")
    sealed = rig.out("m", "stop", "dump", "adopt", "seal")
    path.unlink()
    body = {"images": sealed["images"], "manifest_digest": sealed["manifest_digest"]}
    status, answer = rig.b.call("POST", "/v1/inbound/m/restore", body)
    assert (status, answer["error"]["code"]) == (422, "file-missing")
    kept = Path(answer["criu_log"]["path"])
    assert answer["error"]["hint"].endswith(f"at the same paths. CRIU's log: {kept}")
    assert rig.b.ask("DELETE", "/v1/inbound/m")["state"] == "discarded"
    rig.out("m", "release")
    assert kept == rig.pods[1].directory / "agent" / "criu" / "m.restore.log"
    assert f"Can't open file {str(path)[1:]} on restore" in kept.read_text()
    assert kept.stat().st_mode & 0o777 == 0o600
    assert "running" in rig.state(rig.a, "w")
