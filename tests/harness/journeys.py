"""One scene for a whole test module, and moves there and nowhere back: what workload and connection tests share."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from controller.clients import AgentClient
from controller.core.result import MigrationResult
from controller.lab.namespaces import in_network
from controller.lab.pod import Pod
from tests.harness.moving import Scene

PROGRAMS = Path(__file__).with_name("programs")
PYTHON = ("/usr/bin/python3", "-S")


def assert_nothing_lost(result: MigrationResult) -> None:
    assert result.outcome == "succeeded", result.error
    assert result.flows.lost == 0
    assert result.bytes.lost == 0
    assert all(row.offsets_equal for row in result.ledger), result.ledger


async def forget(stage: Scene, name: str) -> None:
    """Ends a workload wherever it is now."""
    for pod in (stage.a, stage.b):
        async with AgentClient(f"agent of {pod.name}", pod.agent_socket) as agent:
            if name in {one.name for one in await agent.workloads()}:
                await agent.kill(name)


@asynccontextmanager
async def workload(stage: Scene, name: str, port: int, *argv: str) -> AsyncIterator[None]:
    """A workload that listens on `port`, ended with the block wherever it is then; port 0: it listens on none."""
    await stage.run(name, *argv)
    try:
        if port:
            await stage.answers(port)
        yield
    finally:
        await forget(stage, name)


async def moved(stage: Scene, name: str) -> MigrationResult:
    """From a to b, with nothing lost."""
    result = await stage.move(name)
    assert_nothing_lost(result)
    return result


class Lines:
    """A line protocol over a socket: say a line, hear a line."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._rest = b""

    def say(self, *lines: str) -> None:
        self.sock.sendall("".join(f"{line}\r\n" for line in lines).encode())

    def hear(self) -> str:
        while b"\n" not in self._rest:
            data = self.sock.recv(65536)
            assert data, f"ended within {self._rest!r}"
            self._rest += data
        line, _, self._rest = self._rest.partition(b"\n")
        return line.decode().rstrip("\r")

    def ask(self, line: str) -> str:
        self.say(line)
        return self.hear()

    def close(self) -> None:
        self.sock.close()


def program(pod: Pod, *argv: str) -> subprocess.Popen[str]:
    """A client program in the pod's network, to be talked to by its pipes; the caller ends it."""

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
        )

    return in_network(pod, start)
