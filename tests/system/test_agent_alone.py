"""The agent by itself: real CRIU, real namespaces, a real Redis; no proxy and no controller.

Two pods of the same machine; what is asked of the agent goes over its socket, as the controller asks it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import leaks
from tests.harness.adopter import Adopter
from tests.harness.solo_agent import SoloAgent
from tests.harness.solo_pod import PYTHON, SoloPod

PORT = 6379
REDIS = ["redis-server", "--port", str(PORT), "--save", "", "--protected-mode", "no"]
SLEEP = ["sleep", "1000"]
IMAGE_KEY = "0123456789abcdef" * 4


class Rig:
    """Two pods with an agent each; the first also has an adopter."""

    def __init__(self, home: Path, images: Path) -> None:
        with contextlib.ExitStack() as stack:
            self.images = images
            self.pods = [
                stack.enter_context(SoloPod(home / "a", "10.9.0.1", 20_000)),
                stack.enter_context(SoloPod(home / "b", "10.9.0.2", 30_000)),
            ]
            self.a = stack.enter_context(SoloAgent(self.pods[0], images))
            self.b = stack.enter_context(SoloAgent(self.pods[1], images))
            self.adopter = stack.enter_context(Adopter(self.a.adopt_path))
            self._stack = stack.pop_all()

    def close(self) -> None:
        self._stack.close()

    def run(self, name: str, argv: list[str], **more: Any) -> int:
        pid: int = self.a.ask("POST", "/v1/workloads", {"name": name, "argv": argv, **more})["pid"]
        return pid

    def redis(self) -> int:
        pid = self.run("redis", REDIS)
        until(lambda: "Ready to accept" in (self.pods[0].directory / "redis.log").read_text())
        return pid

    def prepare(self, migration: str, name: str, *, hold: float = 30.0) -> None:
        readdress = {self.pods[0].address: self.pods[1].address}
        body = {"workload": name, "readdress": readdress, "max_hold_seconds": hold, "image_key": IMAGE_KEY}
        assert self.a.ask("PUT", f"/v1/outbound/{migration}", body)["state"] == "prepared"
        body = {"workload": name, "argv": [], "image_key": IMAGE_KEY}
        assert self.b.ask("PUT", f"/v1/inbound/{migration}", body)["state"] == "waiting"

    def out(self, migration: str, *steps: str) -> Any:
        for step in steps:
            answer = self.a.ask("POST", f"/v1/outbound/{migration}/{step}")
        return answer

    def restore(self, migration: str, sealed: Any) -> Any:
        body = {"images": sealed["images"], "manifest_digest": sealed["manifest_digest"]}
        return self.b.ask("POST", f"/v1/inbound/{migration}/restore", body)

    def state(self, agent: SoloAgent, name: str) -> str:
        state: str = agent.ask("GET", f"/v1/workloads/{name}")["workload"]["state"]
        return state

    def clean(self) -> None:
        """End what a test left, so that the next one starts from nothing."""
        for agent in (self.a, self.b):
            for one in agent.ask("GET", "/v1/migrations"):
                side = "outbound" if one["side"] == "source" else "inbound"
                if side == "outbound" and one["state"] in ("stopped", "dumped", "adopted", "sealed"):
                    agent.ask("POST", f"/v1/outbound/{one['migration']}/release")
                agent.ask("DELETE", f"/v1/{side}/{one['migration']}")
            for one in agent.ask("GET", "/v1/workloads"):
                agent.ask("DELETE", f"/v1/workloads/{one['name']}")
        for sock in self.adopter.held:  # after a commit they are the proxy's for good
            sock.close()
        self.adopter.held.clear()
        for path in (*self.pods[0].directory.glob("*.log"), *self.pods[1].directory.glob("*.log")):
            if path.name != "agent.log":
                path.unlink()


@pytest.fixture(autouse=True)
def no_leaks() -> None:
    """The agents are killed and started anew inside the tests: the rig looks for what is left at its end."""


@pytest.fixture(scope="module")
def shared_rig() -> Iterator[Rig]:
    before = leaks.take(machine=True)
    home = leaks.fresh_home()
    images = Path("/dev/shm") / home.name
    rig = Rig(home, images)
    yield rig
    rig.close()
    assert not [name for name in (path.name for path in images.iterdir()) if not name.startswith("criu.kdat")]
    for path in images.iterdir():
        path.unlink()
    images.rmdir()
    home.rmdir()
    left = leaks.left_since(before, machine=True)
    assert not left, "left behind:\n" + "\n".join(left)


@pytest.fixture
def rig(shared_rig: Rig) -> Iterator[Rig]:
    yield shared_rig
    shared_rig.clean()


def until(what: Callable[[], object], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.01)


def ping(client: socket.socket) -> None:
    client.sendall(b"PING\r\n")
    assert client.recv(100) == b"+PONG\r\n"


def stopped(rig: Rig, pid: int) -> bool:
    stat = rig.pods[0].run(["cat", f"/proc/{pid}/stat"])
    return stat.rsplit(")", 1)[1].split()[0] == "T"


# -- workloads


def test_a_workload_starts_clean(rig: Rig) -> None:
    script = (
        "import os, json, time\n"
        "said = {'fds': sorted(os.listdir('/proc/self/fd')), 'env': dict(os.environ), 'cwd': os.getcwd()}\n"
        "said |= {'sid': os.getsid(0) == os.getpid(), 'ppid': os.getppid(), 'in': os.readlink('/proc/self/fd/0')}\n"
        "print(json.dumps(said), flush=True)\n"
        "time.sleep(1000)\n"
    )
    pid = rig.run("w", [PYTHON, "-I", "-S", "-c", script], environment={"A": "1"}, directory="/tmp")
    log = rig.pods[0].directory / "w.log"
    until(lambda: log.read_text().endswith("}\n"))
    said = json.loads(log.read_text())
    assert said["fds"] == ["0", "1", "2", "3"]  # 3 is the listing's own
    assert (said["env"]["A"], said["cwd"], said["sid"], said["ppid"], said["in"]) == ("1", "/tmp", True, 1, "/dev/null")
    seen = rig.a.ask("GET", "/v1/workloads/w")
    assert seen["workload"] == {
        "name": "w",
        "pid": pid,
        "argv": [PYTHON, "-I", "-S", "-c", script],
        "state": "running",
        "migration": "",
        "arrived_by": "",
    }
    assert (seen["pids"], seen["problems"]) == ([pid], [])
    assert seen["memory_bytes"] > 1_000_000


def test_a_command_that_is_not_there_is_named(rig: Rig) -> None:
    body = {"name": "w", "argv": ["no-such-command"]}
    assert rig.a.refused("POST", "/v1/workloads", body) == (422, "exec-failed", "command not found: no-such-command")
    body = {"name": "w", "argv": ["true"], "directory": "/nowhere"}
    assert rig.a.refused("POST", "/v1/workloads", body)[2] == "cannot enter /nowhere: No such file or directory"
    assert rig.a.ask("GET", "/v1/workloads") == []


def test_a_name_is_taken_only_while_its_workload_lives(rig: Rig) -> None:
    rig.run("w", SLEEP)
    assert rig.a.refused("POST", "/v1/workloads", {"name": "w", "argv": SLEEP})[:2] == (409, "workload-exists")
    assert rig.a.ask("DELETE", "/v1/workloads/w")["state"] == "exited"
    assert rig.a.refused("GET", "/v1/workloads/w")[:2] == (404, "no-workload")
    rig.run("w", SLEEP)


def test_inspection_names_a_descriptor_from_outside(rig: Rig) -> None:
    """A process started from outside the pod, as a shell would, with its output outside."""
    with open("/dev/null", "wb") as outside:
        own_session = "import os; os.setsid(); os.execvp('sleep', ['sleep', '1000'])"
        argv = [PYTHON, "-I", "-S", "-c", own_session]
        process = rig.pods[0].popen(argv, stdin=outside, stdout=outside, stderr=outside)
        until(lambda: Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())
        host_pid = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())
        try:
            status = Path(f"/proc/{host_pid}/status").read_text()
            pid = int(next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[-1])
            _smuggle(rig, "stray", pid)
            until(lambda: rig.a.ask("GET", "/v1/workloads/stray")["workload"]["state"] == "running")
            found = rig.a.ask("GET", "/v1/workloads/stray")["problems"]
            message = "the process has a descriptor opened outside the pod: /dev/null (fd 0)"
            assert message in [one["message"] for one in found]
            rig.prepare("m", "stray")
            rig.out("m", "stop")
            assert rig.a.refused("POST", "/v1/outbound/m/dump")[1:] == ("foreign-descriptor", message)
            assert rig.out("m", "release")["state"] == "released"
        finally:
            os.kill(host_pid, signal.SIGKILL)
            process.send_signal(signal.SIGCONT)  # nsenter stops whenever its child does
            process.wait()


def _smuggle(rig: Rig, name: str, pid: int) -> None:
    """Put a process that the agent did not start on its list, through its state file."""
    rig.a.kill()
    path = rig.pods[0].directory / "agent" / "state.json"
    state = json.loads(path.read_text().splitlines()[-1])
    stat = rig.pods[0].run(["cat", f"/proc/{pid}/stat"]).rsplit(")", 1)[1].split()
    root = {"pid": pid, "start_time": int(stat[19])}
    state["workloads"].append({"name": name, "root": root, "argv": SLEEP})
    path.write_text(json.dumps(state) + "\n")
    rig.a.start()


# -- the way back


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
        rig.out("m", "dump")
        adopted = rig.out("m", "adopt")
        assert (adopted["flows"], len(adopted["legs"]), adopted["listeners"]) == (5, 5, 2)
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


# -- the way there


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
        said = {tuple(one["peer"]): one for one in rig.adopter.requests[-1]["sockets"] if one["kind"] == "flow"}
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
        assert rig.out(migration, "adopt") == {"flows": 0, "listeners": 0, "legs": []}
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
    (problem,) = rig.a.ask("GET", "/v1/workloads/w")["problems"]
    message = f"the process holds a lock on a file, which the copy could not get: {lock} (fd 3)"
    assert (problem["code"], problem["message"]) == ("lock-held", message)
    rig.prepare("m", "w")
    sealed = rig.out("m", "stop", "dump", "adopt", "seal")
    body = {"images": sealed["images"], "manifest_digest": sealed["manifest_digest"]}
    refusals: list[tuple[int, str, str]] = []
    thread = threading.Thread(target=lambda: refusals.append(rig.b.refused("POST", "/v1/inbound/m/restore", body)))
    thread.start()
    until(lambda: pid in rig.pods[1].pids())
    assert rig.b.ask("DELETE", "/v1/inbound/m")["state"] == "discarded"
    thread.join()
    assert refusals[0][1] == "criu-failed", refusals
    assert pid not in rig.pods[1].pids()
    rig.out("m", "release")


# -- damage


@pytest.mark.parametrize("name", ["pages-1.img", "files.img", "manifest"])
def test_one_damaged_byte_is_found_and_nothing_survives(rig: Rig, name: str) -> None:
    pid = rig.run("w", SLEEP)
    rig.prepare("m", "w")
    sealed = rig.out("m", "stop", "dump", "adopt", "seal")
    with open(Path(sealed["images"]) / name, "r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    body = {"images": sealed["images"], "manifest_digest": sealed["manifest_digest"]}
    status, code, message = rig.b.refused("POST", "/v1/inbound/m/restore", body)
    assert (status, code) == (422, "image-damaged")
    assert name in message
    assert pid not in rig.pods[1].pids()
    rig.out("m", "release")
    assert rig.state(rig.a, "w") == "running"


def test_pages_damaged_in_a_large_image_are_found_beside_criu(rig: Rig) -> None:
    source = "import time; b = bytearray(b'x' * (80 << 20)); print('up', flush=True); time.sleep(1000)"
    pid = rig.run("w", [PYTHON, "-I", "-S", "-c", source])
    until(lambda: "up" in (rig.pods[0].directory / "w.log").read_text(), 30)
    rig.prepare("m", "w")
    sealed = rig.out("m", "stop", "dump", "adopt", "seal")
    with open(Path(sealed["images"]) / "pages-1.img", "r+b") as file:
        file.seek(40 << 20)
        file.write(b"y")
    body = {"images": sealed["images"], "manifest_digest": sealed["manifest_digest"]}
    refusal = (422, "image-damaged", "the file pages-1.img changed after it was sealed")
    assert rig.b.refused("POST", "/v1/inbound/m/restore", body) == refusal
    until(lambda: pid not in rig.pods[1].pids())
    rig.out("m", "release")


def test_the_agents_must_have_the_same_key_and_write_it_nowhere(rig: Rig) -> None:
    rig.run("w", SLEEP)
    body = {"workload": "w", "readdress": {}, "max_hold_seconds": 30, "image_key": IMAGE_KEY}
    rig.a.ask("PUT", "/v1/outbound/m", body)
    assert rig.a.ask("PUT", "/v1/outbound/m", body)["state"] == "prepared"
    other = {**body, "image_key": "f" * 64}
    status, code, message = rig.a.refused("PUT", "/v1/outbound/m", other)
    assert (status, code) == (409, "wrong-state")
    assert "f" * 64 not in message
    for bad in ("", "f" * 63, "f" * 65, "F" * 64, "f" * 64 + "\n", "x" * 64):
        assert rig.a.refused("PUT", "/v1/outbound/n", {**body, "image_key": bad})[:2] == (400, "bad-request")
    rig.b.ask("PUT", "/v1/inbound/m", {"workload": "w", "argv": [], "image_key": "f" * 64})
    sealed = rig.out("m", "stop", "dump", "adopt", "seal")
    body = {"images": sealed["images"], "manifest_digest": sealed["manifest_digest"]}
    assert rig.b.refused("POST", "/v1/inbound/m/restore", body)[:2] == (422, "image-damaged")
    for pod in rig.pods:
        kept = [path.read_text() for path in (pod.directory / "agent.log", pod.directory / "agent" / "state.json")]
        assert not [text for text in kept if IMAGE_KEY in text or "f" * 64 in text]
    raw = b"".join(path.read_bytes() for path in Path(sealed["images"]).iterdir())
    assert IMAGE_KEY.encode() not in raw
    assert bytes.fromhex(IMAGE_KEY) not in raw
    rig.out("m", "release")


def test_a_taken_pid_is_named(rig: Rig) -> None:
    pid = rig.run("w", SLEEP)
    rig.prepare("m", "w")
    sealed = rig.out("m", "stop", "dump", "adopt", "seal")
    script = f"import os, time; open('/proc/sys/kernel/ns_last_pid', 'w').write('{pid - 1}'); os.fork() and os._exit(0)"
    rig.pods[1].run([PYTHON, "-I", "-S", "-c", f"{script}; os.close(1); time.sleep(1000)"])
    assert pid in rig.pods[1].pids()
    body = {"images": sealed["images"], "manifest_digest": sealed["manifest_digest"]}
    refusal = (409, "pid-taken", f"the PID {pid} is taken in this pod")
    assert rig.b.refused("POST", "/v1/inbound/m/restore", body) == refusal
    assert pid in rig.pods[1].pids()  # whoever has it is none of ours
    rig.pods[1].run(["kill", "-9", str(pid)])
    rig.pods[1].write_last_pid(30_500)


# -- kill -9


@pytest.mark.parametrize(
    "steps", [(), ("stop",), ("stop", "dump"), ("stop", "dump", "adopt"), ("stop", "dump", "adopt", "seal")]
)
def test_a_killed_source_agent_lets_the_workload_go(rig: Rig, steps: tuple[str, ...]) -> None:
    pid = rig.redis()
    with rig.pods[0].connect((rig.pods[0].address, PORT)) as client:
        ping(client)
        rig.prepare("m", "redis")
        if steps:
            rig.out("m", *steps)
        rig.a.restart()
        (custody,) = rig.a.ask("GET", "/v1/migrations")
        assert (custody["state"], custody["reason"]) == ("released", "the agent was started anew")
        assert not stopped(rig, pid)
        assert rig.adopter.held == []
        ping(client)
        assert rig.state(rig.a, "redis") == "running"


def test_an_agent_killed_during_the_dump_waits_for_criu(rig: Rig) -> None:
    """A process with so much memory that the dump takes long enough to be met in its middle."""
    source = "import time; b = bytearray(b'x' * (400 << 20)); print('up', flush=True)\nwhile True: time.sleep(0.01)"
    pid = rig.run("w", [PYTHON, "-I", "-S", "-c", source])
    until(lambda: "up" in (rig.pods[0].directory / "w.log").read_text(), 30)
    rig.prepare("m", "w")
    rig.out("m", "stop")

    def dump() -> None:
        with contextlib.suppress(OSError, AssertionError, json.JSONDecodeError, Exception):
            rig.out("m", "dump")

    thread = threading.Thread(target=dump)
    thread.start()
    until(lambda: (rig.images / "m" / "images" / "pages-1.img").exists())
    rig.a.kill()
    thread.join()
    rig.a.start()
    assert rig.a.ask("GET", "/v1/migrations")[0]["state"] == "released"
    assert not stopped(rig, pid)
    assert rig.state(rig.a, "w") == "running"
    assert rig.a.ask("GET", "/v1/workloads/w")["problems"] == []


def test_an_agent_killed_in_the_commit_finishes_it(rig: Rig) -> None:
    pid = rig.run("w", SLEEP)
    rig.prepare("m", "w")
    rig.out("m", "stop", "dump", "adopt", "seal")
    rig.a.kill()
    path = rig.pods[0].directory / "agent" / "state.json"
    state = json.loads(path.read_text().splitlines()[-1])
    state["migrations"][0]["state"] = "committing"  # as it stands between the record and the signals
    path.write_text(json.dumps(state) + "\n")
    rig.a.start()
    assert rig.a.ask("GET", "/v1/migrations")[0]["state"] == "committed"
    until(lambda: pid not in rig.pods[0].pids())
    assert rig.out("m", "commit")["state"] == "committed"


def test_a_killed_destination_agent_keeps_a_restored_copy_stopped(rig: Rig) -> None:
    pid = rig.run("w", SLEEP)
    rig.prepare("m", "w")
    rig.restore("m", rig.out("m", "stop", "dump", "adopt", "seal"))
    rig.b.restart()
    assert rig.b.ask("GET", "/v1/migrations")[0]["state"] == "restored"
    assert pid in rig.pods[1].pids()
    rig.out("m", "commit")
    rig.b.ask("POST", "/v1/inbound/m/resume")
    assert rig.state(rig.b, "w") == "running"


def test_a_killed_destination_agent_has_no_key_and_restores_no_more(rig: Rig) -> None:
    pid = rig.run("w", SLEEP)
    rig.prepare("m", "w")
    sealed = rig.out("m", "stop", "dump", "adopt", "seal")
    rig.b.restart()
    (custody,) = rig.b.ask("GET", "/v1/migrations")
    assert (custody["state"], custody["reason"]) == ("discarded", "the agent was started anew")
    body = {"images": sealed["images"], "manifest_digest": sealed["manifest_digest"]}
    assert rig.b.refused("POST", "/v1/inbound/m/restore", body)[:2] == (409, "wrong-state")
    assert pid not in rig.pods[1].pids()
    rig.out("m", "release")
    assert rig.state(rig.a, "w") == "running"


def test_a_killed_destination_agent_leaves_no_partial_copy(rig: Rig) -> None:
    pid = rig.run("w", SLEEP)
    rig.prepare("m", "w")
    rig.restore("m", rig.out("m", "stop", "dump", "adopt", "seal"))
    rig.b.kill()
    path = rig.pods[1].directory / "agent" / "state.json"
    state = json.loads(path.read_text().splitlines()[-1])
    state["migrations"][0]["state"] = "restoring"  # as it stands while CRIU works
    path.write_text(json.dumps(state) + "\n")
    rig.b.start()
    assert rig.b.ask("GET", "/v1/migrations")[0]["state"] == "discarded"
    assert pid not in rig.pods[1].pids()


def test_a_discarded_copy_is_killed(rig: Rig) -> None:
    pid = rig.run("w", SLEEP)
    rig.prepare("m", "w")
    rig.restore("m", rig.out("m", "stop", "dump", "adopt", "seal"))
    assert rig.b.ask("DELETE", "/v1/inbound/m")["state"] == "discarded"
    until(lambda: pid not in rig.pods[1].pids())  # dead already; the pod's PID 1 still has to reap it
    rig.out("m", "release")
    assert rig.state(rig.a, "w") == "running"


# -- the API


def test_every_refusal_is_an_error_body(rig: Rig) -> None:
    a = rig.a
    assert a.refused("GET", "/nowhere")[:2] == (404, "not-found")
    assert a.refused("DELETE", "/healthz")[:2] == (405, "method-not-allowed")
    assert a.refused("POST", "/v1/workloads", b"{")[:2] == (400, "bad-request")
    assert a.refused("POST", "/v1/workloads", {"name": "../x", "argv": ["true"]})[:2] == (400, "bad-request")
    assert a.refused("POST", "/v1/workloads", {"name": "x", "argv": []})[:2] == (400, "bad-request")
    assert a.refused("POST", "/v1/workloads", b"x" * ((32 << 20) + 1))[:2] == (413, "too-large")
    assert a.refused("POST", "/v1/outbound/m/stop")[:2] == (404, "no-migration")
    body = {"workload": "w", "readdress": {}, "max_hold_seconds": 1, "image_key": IMAGE_KEY}
    assert a.refused("PUT", "/v1/outbound/m", body)[:2] == (404, "no-workload")
    assert a.refused("PUT", "/v1/outbound/%2e%2e", body)[0] in (400, 404)


def test_a_wrong_order_is_refused_and_changes_nothing(rig: Rig) -> None:
    pid = rig.run("w", SLEEP)
    rig.prepare("m", "w")
    for step in ("dump", "adopt", "seal", "commit"):
        assert rig.a.refused("POST", f"/v1/outbound/m/{step}")[:2] == (409, "wrong-state")
    assert rig.b.refused("POST", "/v1/inbound/m/resume")[:2] == (409, "wrong-state")
    assert rig.a.ask("GET", "/v1/migrations")[0]["state"] == "prepared"
    assert not stopped(rig, pid)
    body = {"workload": "w", "readdress": {}, "max_hold_seconds": 1, "image_key": IMAGE_KEY}
    assert rig.a.refused("PUT", "/v1/outbound/n", body)[:2] == (409, "already-migrating")
    assert rig.a.refused("DELETE", "/v1/workloads/w")[:2] == (409, "already-migrating")
    rig.out("m", "stop")
    assert rig.a.refused("DELETE", "/v1/outbound/m")[:2] == (409, "wrong-state")
    assert rig.out("m", "stop")["state"] == "stopped"
    rig.out("m", "release")


def test_another_user_may_not_call(rig: Rig) -> None:
    assert oct(rig.a.socket_path.stat().st_mode & 0o777) == "0o600"
    rig.a.socket_path.chmod(0o666)
    folder = rig.pods[0].directory
    try:
        script = (
            "import os, socket, sys; os.setgid(65534); os.setuid(65534); s = socket.socket(socket.AF_UNIX);"
            f"s.connect('{rig.a.socket_path}'); s.sendall(b'GET /healthz HTTP/1.0\\r\\n\\r\\n');"
            "print(s.recv(999).decode())"
        )
        for path in (folder, folder.parent):
            path.chmod(0o755)
        answer = rig.pods[0].run([PYTHON, "-I", "-S", "-c", script])
    finally:
        rig.a.socket_path.chmod(0o600)
    assert " 403 " in answer.splitlines()[0]
    assert "forbidden" in answer


def test_room_and_health(rig: Rig) -> None:
    health = rig.a.ask("GET", "/healthz")
    assert health["criu_version"].startswith("4.")
    room = rig.a.ask("GET", "/v1/room")
    assert room["memory_bytes"] > 0
    assert room["image_bytes"] > 0
    assert 1 in room["pids"]
    assert " /run/criu.kdat " in rig.pods[0].run(["cat", "/proc/self/mountinfo"])
