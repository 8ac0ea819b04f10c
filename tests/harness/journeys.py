"""Moves there and nowhere back: what workload and connection tests share."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from controller.core.phases import Phase
from controller.core.result import MigrationResult
from controller.lab.namespaces import in_network
from controller.lab.pod import Pod
from controller.migrate import Driver
from tests.harness.moving import Scene, end_workloads

PROGRAMS = Path(__file__).with_name("programs")
PYTHON = ("/usr/bin/python3", "-S")


def assert_nothing_lost(result: MigrationResult) -> None:
    assert result.outcome == "succeeded", result.error
    assert result.flows.lost == 0
    assert result.bytes.lost == 0
    assert all(row.offsets_equal for row in result.ledger), result.ledger


@asynccontextmanager
async def workload(stage: Scene, name: str, port: int, *argv: str) -> AsyncIterator[None]:
    """A workload that listens on `port`, ended with the block wherever it is then; port 0: it listens on none.

    The scene's client sockets are closed then, too.
    """
    await stage.run(name, *argv)
    try:
        if port:
            await stage.answers(port)
        yield
    finally:
        stage.close()
        for pod in (stage.a, stage.b):
            await end_workloads(pod)


async def moved(stage: Scene, name: str, prepare: Callable[[Driver], None] = lambda driver: None) -> MigrationResult:
    """From a to b, with nothing lost."""
    result = await stage.move(name, prepare=prepare)
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


class Cli(Lines):
    """A client program that is told lines, and answers with lines."""

    def __init__(self, pod: Pod, *argv: str) -> None:
        self.process = program(pod, *argv)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._in, self._out = self.process.stdin, self.process.stdout

    def say(self, *lines: str) -> None:
        self._in.write("".join(f"{line}\n" for line in lines))

    def hear(self) -> str:
        line = self._out.readline()
        assert line, "it has ended"
        return line.rstrip("\n")

    def close(self) -> None:
        self._in.close()
        self._out.close()
        self.process.wait(30)


def program(pod: Pod, *argv: str) -> subprocess.Popen[str]:
    """A client program in the pod's network, to be talked to by its pipes; the caller ends it."""

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
        )

    return in_network(pod, start)


class Puppet:
    """The program `puppet.py`, told what to do over a connection of its own, which moves with it."""

    PORT = 7200

    def __init__(self, lines: Lines) -> None:
        self._lines = lines

    def do(self, code: str) -> Any:
        """Run a statement or evaluate an expression in it; fails with the puppet's own error."""
        answer = self.attempt(code)
        assert "error" not in answer, f"{code}: {answer['error']}"
        return answer["value"]

    def attempt(self, code: str) -> dict[str, Any]:
        """The same, with the error as an answer."""
        answer: dict[str, Any] = json.loads(self._lines.ask(json.dumps(code)))
        return answer


async def start_puppet(stage: Scene, name: str = "puppet", pod: Pod | None = None, port: int = Puppet.PORT) -> Puppet:
    """One in pod a, or as told."""
    pod = pod or stage.a
    await stage.run(name, *PYTHON, str(PROGRAMS / "puppet.py"), str(port), pod=pod)
    await stage.answers(port, pod)
    return Puppet(Lines(stage.connect(stage.client, pod.address, port)))


def at_phase(phase: Phase, act: Callable[[], None]) -> Callable[[Driver], None]:
    """For `Scene.move`'s `prepare`: `act` when that phase begins."""

    def prepare(driver: Driver) -> None:
        started = driver.observer.phase_started

        def phase_started(name: str, at: float) -> None:
            started(name, at)
            if name == phase.value:
                act()

        driver.observer.phase_started = phase_started  # type: ignore[method-assign]

    return prepare


def cancelled_while_restoring(driver: Driver) -> None:
    at_phase(Phase.RESTORING, driver.cancel)(driver)
