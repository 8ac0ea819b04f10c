"""Two agents by themselves: real CRIU, real namespaces, a real Redis; no proxy and no controller.

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
from http.client import HTTPException
from pathlib import Path
from typing import Any

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

    def large(self, mebibytes: int) -> int:
        """A process of that size, called w, once it has written to all of it; it does nothing. With some hundreds its
        dump takes long enough to be met in its middle."""
        source = f"import time; b = bytearray(b'x' * ({mebibytes} << 20)); print('up', flush=True); time.sleep(1000)"
        pid = self.run("w", [PYTHON, "-I", "-S", "-c", source])
        until(lambda: "up" in (self.pods[0].directory / "w.log").read_text(), 30)
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

    def criu(self, pod: SoloPod) -> list[int]:
        """Every CRIU that dumps in the pod, or is about to, by its PID there."""
        found = pod.run(["sh", "-c", "grep -las '^criu: dum[p]' /proc/[0-9]*/cmdline || true"])
        return [int(path.split("/")[2]) for path in found.splitlines()]

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


@contextlib.contextmanager
def dumping(rig: Rig) -> Iterator[list[tuple[int, str, str]]]:
    """In the middle of the dump of the stopped migration m of `Rig.large`; gives, once it is over, how it was refused,
    unless its agent is gone."""
    refused: list[tuple[int, str, str]] = []

    def dump() -> None:
        with contextlib.suppress(OSError, HTTPException, json.JSONDecodeError):
            refused.append(rig.a.refused("POST", "/v1/outbound/m/dump"))

    thread = threading.Thread(target=dump)
    thread.start()
    try:
        until(lambda: (rig.images / "m" / "images" / "pages-1.img").exists())
        yield refused
    finally:
        thread.join()


def until(what: Callable[[], object], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.01)


def halt(pod: SoloPod, program: str) -> None:
    """Stop a program of that name in the pod as soon as it runs; from outside, for what is started in the pod to look
    may come too late."""
    deadline = time.monotonic() + 30
    while not any(_halted(pod, program, path) for path in Path("/proc").glob("[0-9]*")):
        assert time.monotonic() < deadline, f"{program} never ran"


def _halted(pod: SoloPod, program: str, path: Path) -> bool:
    with contextlib.suppress(OSError):
        if (path / "comm").read_text() == f"{program}\n" and (path / "ns/pid").samefile(f"/proc/{pod.pid1}/ns/pid"):
            os.kill(int(path.name), signal.SIGSTOP)
            return True
    return False


def ping(client: socket.socket) -> None:
    client.sendall(b"PING\r\n")
    assert client.recv(100) == b"+PONG\r\n"


def stopped(rig: Rig, pid: int) -> bool:
    stat = rig.pods[0].run(["cat", f"/proc/{pid}/stat"])
    return stat.rsplit(")", 1)[1].split()[0] == "T"
